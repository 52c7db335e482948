"""The masks that the TVLT authors' code derives from the values themselves."""

from __future__ import annotations

import numpy as np

from tvlt_deploy.errors import InputError

SQUARE_16 = (16, 16)


def original_masks(
    pixel_values: np.ndarray,
    audio_values: np.ndarray,
    image_patch: tuple[int, int] = SQUARE_16,
    audio_patch: tuple[int, int] = SQUARE_16,
) -> tuple[np.ndarray, np.ndarray]:
    """(pixel_mask (batch, pixel patches), audio_mask (batch, audio patches)) float32: 0 where a patch is all -1.

    That is silence and black as well as padding. pixel_values: (batch, frames, channels, height, width).
    audio_values: (batch, channels, rows, bins). image_patch: (height, width) in pixels; audio_patch: (rows, bins).
    The order is that of the model's tokens: frame by frame and row by row; time first, then frequency.

    Source: zinengtang/TVLT, which compares the mean of a patch with -1 in float32. That is the same but for values
    that differ from -1 by a few of its rounding steps. Raises `InputError` for arrays that are not whole patches.
    """
    for name, values, axes, patch in (
        ("pixel_values", pixel_values, 5, image_patch),
        ("audio_values", audio_values, 4, audio_patch),
    ):
        shape = np.shape(values)
        if len(shape) != axes or shape[-2] % patch[0] or shape[-1] % patch[1]:
            raise InputError(f"{name} has shape {shape}; wanted {axes} axes and whole patches of {patch[0]}x{patch[1]}")
    return _mask(np.asarray(pixel_values), image_patch), _mask(np.asarray(audio_values)[:, None], audio_patch)


def _mask(pictures: np.ndarray, patch: tuple[int, int]) -> np.ndarray:
    """(batch, steps, channels, height, width) to (batch, steps * patches) float32."""
    batch, steps, channels, height, width = pictures.shape
    grid = pictures.reshape(batch, steps, channels, height // patch[0], patch[0], width // patch[1], patch[1])
    valid: np.ndarray = (grid != -1).any(axis=(2, 4, 6))
    return valid.reshape(batch, -1).astype(np.float32)
