"""The attention masks of the original TVLT code, which derives them from the values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def original_masks(
    pixel_values: NDArray[Any],
    audio_values: NDArray[Any],
    image_patch: Sequence[int] = (16, 16),
    audio_patch: Sequence[int] = (16, 16),
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The masks of normalized inputs: 0 for a patch in which every value is -1.

    Black and silent patches are masked as padding is. Source: zinengtang/TVLT, `model/modules/tvlt.py`.

    Args:
        pixel_values: (batch, frames, channels, height, width).
        audio_values: (batch, channels, rows, bins).
        image_patch: (height, width) of an image patch.
        audio_patch: (rows, bins) of an audio patch.

    Returns:
        The pixel mask (batch, frames * patches) and the audio mask (batch, patches), float32, in the model's order of
        patches.
    """
    return visible_patches(pixel_values, image_patch), visible_patches(audio_values[:, None], audio_patch)


def visible_patches(images: NDArray[Any], patch: Sequence[int]) -> NDArray[np.float32]:
    """1 for every patch of (batch, images, channels, height, width) with a value other than -1: (batch, patches)."""
    batch, count, _, height, width = images.shape
    rows, columns = patch
    visible: NDArray[np.bool_] = (images != -1).any(axis=2)
    patches = visible.reshape(batch, count, height // rows, rows, width // columns, columns).any(axis=(3, 5))
    return patches.reshape(batch, -1).astype(np.float32)
