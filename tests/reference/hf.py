"""The Hugging Face side of the comparison: transformers 4.40.2, tiny configurations, one seed for both models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tvlt_deploy import reference
from tvlt_deploy.reference import TvltConfig
from tvlt_deploy.reference.base import PretrainedModule

transformers = pytest.importorskip("transformers", "4.40.2")
modeling = pytest.importorskip("transformers.models.tvlt.modeling_tvlt")

TINY: dict[str, Any] = {
    "image_size": 32,
    "spectrogram_length": 64,
    "frequency_length": 32,
    "image_patch_size": [16, 16],
    "audio_patch_size": [16, 16],
    "num_frames": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
CLASSES = ("TvltModel", "TvltForPreTraining", "TvltForAudioVisualClassification")


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Fill every parameter, so that none hides behind a zero or a one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        gain = name.endswith("weight") and parameter.ndim == 1
        scale = parameter[0].numel() ** -0.5 if name.endswith("weight") and parameter.ndim > 1 else 0.15
        parameter.data = ((1.0 if gain else 0.0) + scale * values).to(parameter.dtype)


def hf_config(**changes: Any) -> Any:
    return transformers.TvltConfig(**{**TINY, **changes})


def our_config(**changes: Any) -> TvltConfig:
    return TvltConfig(**{**TINY, **changes})


def pair(name: str, seed: int = 0, **changes: Any) -> tuple[PretrainedModule, Any]:
    """(ours, theirs) of one class with the same weights, both in evaluation mode."""
    theirs = getattr(transformers, name)(hf_config(**changes)).eval()
    randomise(theirs, seed)
    ours = getattr(reference, name)(our_config(**changes)).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def clip(
    batch: int = 2,
    frames: int = 3,
    rows: int = 48,
    config: TvltConfig | None = None,
    seed: int = 1,
    padded: bool = True,
) -> dict[str, Tensor]:
    """Random inputs; when padded, the last clip lacks its last frame and the first its last spectrogram rows."""
    config = config or our_config()
    generator = torch.Generator().manual_seed(seed)
    uniform = lambda *shape: 2 * torch.rand(shape, generator=generator) - 1  # noqa: E731 - the processors' range
    inputs = {
        "pixel_values": uniform(batch, frames, config.num_image_channels, *config.image_shape),
        "audio_values": uniform(batch, config.num_audio_channels, rows, config.frequency_length),
        "pixel_mask": torch.ones(batch, frames * config.patches_per_frame),
        "audio_mask": torch.ones(batch, rows // config.audio_patch[0] * config.frequency_patches),
    }
    if padded:
        inputs["pixel_mask"][-1, -config.patches_per_frame :] = 0
        inputs["audio_mask"][0, -config.frequency_patches :] = 0
    return inputs


def training_clip(batch: int = 2, frames: int = 3, rows: int = 48, **options: Any) -> dict[str, Tensor]:
    inputs = clip(batch, frames, rows, **options)
    other = clip(batch, frames, rows, **{**options, "seed": 2})
    inputs["pixel_values_mixed"], inputs["pixel_mask_mixed"] = other["pixel_values"], other["pixel_mask"]
    inputs["labels"] = (torch.arange(batch) % 2).float()
    return inputs


def noises(inputs: dict[str, Tensor], config: TvltConfig, seed: int = 3) -> dict[str, Tensor]:
    """Noise without ties, so that transformers' unstable sort has nothing to decide."""
    generator = torch.Generator().manual_seed(seed)
    batch, frames = inputs["pixel_values"].shape[:2]
    steps = inputs["audio_values"].shape[2] // config.audio_patch[0]
    frequency = config.frequency_patches
    audio = torch.rand(batch, steps, generator=generator).repeat_interleave(frequency, dim=1)
    return {
        "pixel_noise": torch.rand(batch, frames * config.patches_per_frame, generator=generator),
        "audio_noise": audio + 1e-5 * torch.arange(frequency).repeat(steps),
    }


@contextlib.contextmanager
def injected(monkeypatch: pytest.MonkeyPatch, noise: dict[str, Tensor]) -> Iterator[None]:
    """Make transformers use this noise in place of the one it draws."""

    def replaced(original: Callable[..., Any], values: Tensor) -> Callable[..., Any]:
        def draw(*args: Any, **kwargs: Any) -> tuple[Tensor, int]:
            return values, original(*args, **kwargs)[1]

        return draw

    with monkeypatch.context() as patch:
        for kind in ("pixel", "audio"):
            name = f"generate_{kind}_mask_noise"
            patch.setattr(modeling, name, replaced(getattr(modeling, name), noise[f"{kind}_noise"]))
        yield


def assert_same(ours: Any, theirs: Any, limit: float = 1e-6, name: str = "output") -> float:
    """Compare tensors, tuples and dictionaries leaf by leaf; returns the largest difference."""
    if theirs is None:
        assert ours is None, f"{name}: transformers gives None"
        return 0.0
    if isinstance(theirs, Tensor):
        assert isinstance(ours, Tensor), f"{name} is {ours!r}"
        assert ours.shape == theirs.shape, f"{name}: {tuple(ours.shape)} against {tuple(theirs.shape)}"
        assert ours.isfinite().all(), f"{name} is not finite"
        difference = (ours.double() - theirs.double()).abs().max().item() if ours.numel() else 0.0
        assert difference <= limit, f"{name}: largest difference {difference}"
        return difference
    if isinstance(theirs, tuple):
        assert isinstance(ours, tuple)
        assert len(ours) == len(theirs), f"{name}: {len(ours)} entries against {len(theirs)}"
        pairs = enumerate(zip(ours, theirs, strict=True))
        return max((assert_same(a, b, limit, f"{name}[{i}]") for i, (a, b) in pairs), default=0.0)
    return max(assert_same(ours[key], theirs[key], limit, f"{name}.{key}") for key in theirs)
