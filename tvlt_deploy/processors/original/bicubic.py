"""Bicubic interpolation of 8-bit frames without antialiasing, as torchvision 0.11 resizes uint8 tensors."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

A = np.float32(-0.75)
"""The parameter of the cubic in torch; in Pillow it is -0.5."""


def resize_bicubic(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a frame with four neighbors per axis, whatever the ratio.

    Source: torch `interpolate(mode="bicubic", align_corners=False)` in float32, then clamped and rounded half to even.

    Args:
        frame: (H, W, C) uint8.
        height: New height.
        width: New width.

    Returns:
        (height, width, C) uint8.
    """
    channels = frame.shape[2]
    rows, row_weights = _taps(frame.shape[0], height)
    columns, column_weights = _taps(frame.shape[1], width)
    # Pixels and channels are one axis: numpy would loop over each pixel for an inner axis of three channels.
    places = (columns[..., None] * channels + np.arange(channels)).reshape(len(columns), -1)
    lines = _weighted(frame.reshape(frame.shape[0], -1), rows, row_weights[..., None], axis=0)
    levels = _weighted(lines, places, np.repeat(column_weights, channels, axis=1), axis=1)
    np.clip(levels, 0, 255, out=levels)
    return np.rint(levels, out=levels).astype(np.uint8).reshape(height, width, channels)


def _weighted(
    values: NDArray[np.generic], taps: NDArray[np.intp], weights: NDArray[np.float32], axis: int
) -> NDArray[np.float32]:
    """The weighted sum over taps of `values` (two axes) along an axis."""
    total: NDArray[np.float32] = values.take(taps[0], axis) * weights[0]
    for tap, weight in zip(taps[1:], weights[1:], strict=True):
        total += values.take(tap, axis) * weight
    return total


@functools.lru_cache(maxsize=64)
def _taps(size: int, resized: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The four input samples of each output sample and their weights, both (4, resized).

    Single precision, step by step as torch computes it on AVX2, where compilers fuse some of the steps: a difference of
    one bit in a weight can change a level.
    """
    one, half = np.float32(1), np.float32(0.5)
    step = np.float32(size) / np.float32(resized)
    centers = _multiply_add(np.arange(resized, dtype=np.float32) + half, step, -half)
    first = np.minimum(np.floor(centers), np.float32(size - 1))
    t = np.clip(centers - first, 0, one)
    weights = np.stack([_outer(t + one), _inner(t), _inner(one - t), _outer(one - t + one)])
    taps = np.clip(first.astype(np.intp) + np.arange(-1, 3)[:, None], 0, size - 1)
    return taps, weights


def _inner(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cubic within 1 of its center."""
    return ((A + np.float32(2)) * x - (A + np.float32(3))) * x * x + np.float32(1)


def _outer(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cubic from 1 to 2 from its center."""
    return _multiply_add(A * x - np.float32(5) * A, x, np.float32(8) * A) * x - np.float32(4) * A


def _multiply_add(x: NDArray[np.float32], y: NDArray[np.float32] | np.float32, z: np.float32) -> NDArray[np.float32]:
    """x * y + z, rounded once."""
    return (x.astype(np.float64) * y + z).astype(np.float32)
