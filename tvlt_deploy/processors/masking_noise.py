"""The randomness of masked reconstruction, as an input."""

from __future__ import annotations

import numpy as np

from tvlt_deploy.config import TvltConfig


def _ranked(values: np.ndarray) -> np.ndarray:
    """(rank + 0.5) / length: no two are equal, so every sort agrees."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ((ranks + 0.5) / len(values)).astype(np.float32)


def masking_noise(config: TvltConfig, frames: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(pixel_noise (pixel patches,), audio_noise (audio patches,)) float32 of one clip, without ties.

    With frame-level masking one draw serves all frequency patches of a time step, in the order of their index.
    """
    generator = np.random.default_rng(seed)
    pixel = generator.random(frames * config.patches_per_frame)
    steps, bands = rows // config.audio_patch[0], config.frequency_patches
    if config.audio_mask_type == "frame-level":
        audio = np.repeat(generator.random(steps), bands)
    else:
        audio = generator.random(steps * bands)
    return _ranked(pixel), _ranked(audio)
