"""The noise of masked reconstruction, which is an input of the model."""

from __future__ import annotations

import numpy as np

from tvlt_deploy.config import TvltConfig


def _ranked(values: np.ndarray) -> np.ndarray:
    """(rank + 0.5) / length: no two values are equal, so every sort returns the same order."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ((ranks + 0.5) / len(values)).astype(np.float32)


def masking_noise(config: TvltConfig, frames: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The noise of one clip, without ties.

    With frame-level masking all frequency patches of a time step share one random number, ranked by index.

    Args:
        config: The model's configuration.
        frames: Number of frames.
        rows: Rows of the spectrogram, in complete patches.
        seed: Seed of numpy's default generator.

    Returns:
        pixel_noise (pixel patches,) and audio_noise (audio patches,), float32 in (0, 1).
    """
    generator = np.random.default_rng(seed)
    pixel = generator.random(frames * config.patches_per_frame)
    steps, bands = rows // config.audio_patch[0], config.frequency_patches
    if config.audio_mask_type == "frame-level":
        audio = np.repeat(generator.random(steps), bands)
    else:
        audio = generator.random(steps * bands)
    return _ranked(pixel), _ranked(audio)
