"""Checks of the tensors that the reference models accept."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import InputError

NO_PIXELS = "for sound only pass one frame of zeros and a pixel_mask of zeros"


def _check_tensor(name: str, values: Any, expected: str, hint: str) -> None:
    if values is None:
        raise InputError(f"{name} is None; expected a tensor {expected}", hint=hint)
    if not isinstance(values, Tensor):
        raise InputError(f"{name} is a {type(values).__name__}; expected a torch.Tensor {expected}")
    if not values.is_floating_point():
        raise InputError(
            f"{name} is {values.dtype}; expected floating point", hint="normalize with the processor first"
        )


def check_pixels(config: TvltConfig, values: Tensor | None, name: str = "pixel_values") -> Tensor:
    """Check frames (batch, frames, channels, height, width), float, and return them.

    Raises:
        InputError: They are something else.
    """
    channels, (height, width), max_frames = config.num_image_channels, config.image_shape, config.num_frames
    expected = f"(batch, 1 to {max_frames} frames, {channels}, {height}, {width})"
    _check_tensor(name, values, expected, NO_PIXELS)
    assert values is not None
    shape = tuple(values.shape)
    hint = ""
    if len(shape) == 4:
        hint = f"the frames axis is missing: {name}[:, None] for images, {name}[None] for one clip"
    elif len(shape) == 5 and shape[1] > max_frames:
        hint = f"the model has {max_frames} temporal positions: sample fewer frames"
    elif len(shape) == 5 and shape[1] == 0:
        hint = NO_PIXELS
    if len(shape) != 5 or not 1 <= shape[1] <= max_frames or shape[2:] != (channels, height, width):
        raise InputError(f"{name} has shape {shape}; expected {expected}", hint=hint)
    return values


def check_audio(config: TvltConfig, values: Tensor | None) -> Tensor:
    """Check a spectrogram (batch, channels, rows, bins), float, and return it.

    Raises:
        InputError: It is something else.
    """
    channels, bins, patch = config.num_audio_channels, config.frequency_length, config.audio_patch[0]
    max_rows = config.time_patches * patch
    expected = f"(batch, {channels}, {patch} to {max_rows} rows in steps of {patch}, {bins})"
    _check_tensor(
        "audio_values", values, expected, "for frames only pass one patch of zeros and an audio_mask of zeros"
    )
    assert values is not None
    shape = tuple(values.shape)
    hint = ""
    if len(shape) == 4 and shape[2] > max_rows:
        hint = f"the model has {max_rows // patch} time positions: cut the sound"
    elif len(shape) == 4 and shape[2] % patch:
        hint = f"pad with zero rows to {-(-shape[2] // patch) * patch}"
    rows_fit = len(shape) == 4 and patch <= shape[2] <= max_rows and shape[2] % patch == 0
    if not rows_fit or (shape[1], shape[3]) != (channels, bins):
        raise InputError(f"audio_values has shape {shape}; expected {expected}", hint=hint)
    return values


def check_mask(name: str, mask: Tensor | None, batch: int, patches: int) -> Tensor | None:
    """A mask (batch, patches), bool, int or float, as bool: a patch is valid above 0.5.

    Raises:
        InputError: It is not a tensor of that shape.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or tuple(mask.shape) != (batch, patches):
        actual = f"has shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"is a {type(mask).__name__}"
        raise InputError(f"{name} {actual}; expected a tensor ({batch}, {patches}), one value for each patch")
    return mask > 0.5


def check_noise(name: str, noise: Tensor, batch: int, patches: int, repeats: int) -> Tensor:
    """Noise (batch, patches), or (batch, patches / repeats) that is repeated. NaN is an error: it cannot be ranked."""
    shapes = [(batch, patches)] + ([(batch, patches // repeats)] if repeats > 1 else [])
    if not isinstance(noise, Tensor) or tuple(noise.shape) not in shapes:
        actual = f"has shape {tuple(noise.shape)}" if isinstance(noise, Tensor) else f"is a {type(noise).__name__}"
        raise InputError(f"{name} {actual}; expected a tensor {' or '.join(map(str, shapes))}")
    if noise.isnan().any():
        raise InputError(f"{name} has NaN; expected numbers that can be ranked")
    return noise if noise.shape[1] == patches else noise.repeat_interleave(repeats, dim=1)
