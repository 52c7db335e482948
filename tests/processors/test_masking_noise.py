"""Masking noise: without ties, the same for the same seed, one draw per time step at frame level."""

from __future__ import annotations

import numpy as np
import pytest

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.processors.masking_noise import masking_noise


@pytest.mark.parametrize("kind", ["frame-level", "patch-level"])
@pytest.mark.parametrize(("frames", "rows"), [(1, 16), (8, 2048), (3, 432)])
def test_noise_holds_every_rank_once(kind: str, frames: int, rows: int) -> None:
    pixel, audio = masking_noise(TvltConfig(audio_mask_type=kind), frames, rows, seed=3)
    for noise, count in ((pixel, 196 * frames), (audio, rows // 16 * 8)):
        assert noise.dtype == np.float32
        assert noise.shape == (count,)
        assert len(np.unique(noise)) == count
        np.testing.assert_array_equal(np.sort(noise), ((np.arange(count) + 0.5) / count).astype(np.float32))


def test_frame_level_noise_keeps_the_bands_of_a_step_together_in_order() -> None:
    config = TvltConfig()
    _, audio = masking_noise(config, 1, 2048, seed=0)
    ranks = np.round(audio * 1024 - 0.5).astype(int).reshape(128, 8)
    assert (np.diff(ranks, axis=1) == 1).all()
    assert (ranks[:, 0] % 8 == 0).all()
    assert not (np.diff(ranks[:, 0]) == 8).all()
    _, patches = masking_noise(config.replace(audio_mask_type="patch-level"), 1, 2048, seed=0)
    assert not (np.diff(np.round(patches * 1024 - 0.5).astype(int).reshape(128, 8), axis=1) == 1).all()


def test_the_seed_decides() -> None:
    first, again, other = (masking_noise(TvltConfig(), 2, 64, seed) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


def test_every_patch_is_as_likely_as_any_other() -> None:
    config = TvltConfig(image_size=32, frequency_length=32)
    first = np.mean([masking_noise(config, 4, 64, seed)[0] for seed in range(2000)], axis=0)
    # the mean of 2000 uniform draws has a deviation of 0.0065
    assert np.abs(first - 0.5).max() < 0.03
