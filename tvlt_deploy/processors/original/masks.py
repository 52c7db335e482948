"""Attention masks of the original TVLT code, which reads them off the values."""

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
    """(pixel mask, audio mask) of normalised inputs: 0 for a patch in which every value is -1.

    pixel_values: (batch, frames, channels, height, width). audio_values: (batch, channels, rows, bins). Returns
    (batch, frames * patches) and (batch, patches) float32, in the model's order of patches. Black and silent patches
    are masked like those that padding added. Source: zinengtang/TVLT, `model/modules/tvlt.py`.
    """
    return visible_patches(pixel_values, image_patch), visible_patches(audio_values[:, None], audio_patch)


def visible_patches(pictures: NDArray[Any], patch: Sequence[int]) -> NDArray[np.float32]:
    """1 for every patch of (batch, pictures, channels, height, width) that holds more than -1: (batch, patches)."""
    batch, count, _, height, width = pictures.shape
    rows, columns = patch
    seen: NDArray[np.bool_] = (pictures != -1).any(axis=2)
    patches = seen.reshape(batch, count, height // rows, rows, width // columns, columns).any(axis=(3, 5))
    return patches.reshape(batch, -1).astype(np.float32)
