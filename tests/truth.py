"""Outputs of transformers 4.40.2 for the feeds of a runtime, and feeds of many shapes and masks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.reference import hf
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.processors.masking_noise import masking_noise
from tvlt_deploy.tasks import TASKS

Feeds = dict[str, np.ndarray]

# batch, frames, steps of sound, which patches are valid, type of the masks
CASES = [
    (1, 1, 1, "all", "float32"),
    (1, 4, 7, "all", "float32"),
    (1, 1, 7, "all", "bool"),
    (1, 4, 1, "all", "int64"),
    (2, 3, 5, "padded video", "float32"),
    (3, 2, 4, "padded audio", "bool"),
    (5, 4, 7, "padded both", "int32"),
    (2, 2, 2, "padded both", "float64"),
    (1, 3, 6, "padded both", "uint8"),
    (1, 2, 3, "no video", "float32"),
    (3, 1, 5, "no video", "bool"),
    (2, 2, 3, "no audio", "int64"),
    (1, 4, 1, "no audio", "float32"),
    (2, 3, 2, "nothing", "float32"),
    (5, 1, 1, "nothing", "bool"),
    (5, 2, 6, "one row without anything", "float16"),
    (3, 3, 7, "scattered", "float32"),
    (2, 4, 4, "scattered", "int8"),
]


def feeds(
    config: TvltConfig, batch: int, frames: int, steps: int, valid: str = "all", mask: str = "float32", seed: int = 0
) -> Feeds:
    """Random values, and masks of the kind that `valid` names."""
    random = np.random.default_rng([seed, batch, frames, steps])
    per_frame, per_step = config.patches_per_frame, config.frequency_patches
    shape = (batch, frames, config.num_image_channels, *config.image_shape)
    sound = (batch, config.num_audio_channels, steps * config.audio_patch[0], config.frequency_length)
    pixel_mask, audio_mask = np.ones((batch, frames * per_frame)), np.ones((batch, steps * per_step))
    for row in range(batch):
        if valid in ("padded video", "padded both"):
            pixel_mask[row, random.integers(1, frames + 1) * per_frame :] = 0
        if valid in ("padded audio", "padded both"):
            audio_mask[row, random.integers(1, steps + 1) * per_step :] = 0
    if valid == "scattered":
        pixel_mask[:], audio_mask[:] = (random.random(m.shape) < 0.6 for m in (pixel_mask, audio_mask))
    if valid in ("no video", "nothing"):
        pixel_mask[:] = 0
    if valid in ("no audio", "nothing"):
        audio_mask[:] = 0
    if valid == "one row without anything":
        pixel_mask[1], audio_mask[1] = 0, 0
    return {
        "pixel_values": random.uniform(-1, 1, shape).astype(np.float32),
        "audio_values": random.uniform(-1, 1, sound).astype(np.float32),
        "pixel_mask": pixel_mask.astype(mask),
        "audio_mask": audio_mask.astype(mask),
    }


def with_noise(config: TvltConfig, values: Feeds) -> Feeds:
    """The feeds with another draw for every clip."""
    frames, rows = values["pixel_values"].shape[1], values["audio_values"].shape[2]
    draws = [masking_noise(config, frames, rows, seed) for seed in range(len(values["pixel_values"]))]
    pixel, audio = (np.stack(draw) for draw in zip(*draws, strict=True))
    return {**values, "pixel_noise": pixel, "audio_noise": audio}


@lru_cache(maxsize=8)
def hf_model(architecture: str, checkpoint: Path) -> Any:
    """transformers' model of a checkpoint directory, in evaluation mode."""
    return getattr(hf.transformers, architecture).from_pretrained(checkpoint).eval()


@torch.no_grad()
def hf_answers(task: str, checkpoint: Path, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """transformers' outputs under the names of the task table."""
    model = hf_model(TASKS[task].architecture, checkpoint)
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in values.items()}
    for name in ("pixel_mask", "audio_mask"):
        tensors[name] = tensors[name].float()  # transformers mixes no types of masks
    if task == "masked-reconstruction":
        output = _hf_reconstruction(model, tensors)
    elif task == "audio-visual-matching":
        labels = torch.zeros(len(tensors["pixel_values"]))
        output = model(
            **tensors,
            pixel_values_mixed=tensors["pixel_values"],
            pixel_mask_mixed=tensors["pixel_mask"],
            labels=labels,
        )
    else:
        output = model(**tensors)
    return {name: output[name].numpy() for name in TASKS[task].output_names}


def _hf_reconstruction(model: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers reconstructs in training only, with noise of its own: both are arranged for."""
    noise = {name: tensors.pop(name) for name in ("pixel_noise", "audio_noise")}
    # its constructor takes "patch_level" and its model "patch-level"
    model.config.audio_mask_type = model.tvlt.config.audio_mask_type = model.config.audio_mask_type.replace("_", "-")
    model.train()
    with pytest.MonkeyPatch.context() as patch, hf.injected(patch, noise):
        masks = model.tvlt(**tensors, mask_pixel=True, mask_audio=True)
        output = model(
            **tensors,
            pixel_values_mixed=tensors["pixel_values"],
            labels=torch.zeros(len(tensors["pixel_values"])),
        )
    model.eval()
    return {
        "pixel_logits": output.pixel_logits,
        "audio_logits": output.audio_logits,
        "pixel_label_mask": masks.pixel_label_masks,
        "audio_label_mask": masks.audio_label_masks,
    }


def assert_close(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Every output within 1e-4 (logits), 1e-3 (hidden states and pixels) or exactly (which patches were hidden)."""
    assert list(actual) == list(expected)
    for name, values in actual.items():
        exact, logits = name.endswith("_label_mask"), name in ("logits", "matching_logits")
        limit = 0 if exact else 1e-4 if logits else 1e-3
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=limit, err_msg=name)
