"""Read the sound that a caller passes: which clips there are, and each as checked float32 samples."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvlt_deploy.errors import InputError

logger = logging.getLogger(__name__)

MAX_AMPLITUDE = 64
"""Absolute value of a floating-point sample: sound within [-1, 1] never exceeds it, integer samples as floats do."""

# Full scale and the value of silence for each PCM sample type.
_PCM: dict[str, tuple[float, float]] = {
    "int8": (2.0**7, 0.0),
    "uint8": (2.0**7, 2.0**7),
    "int16": (2.0**15, 0.0),
    "int32": (2.0**31, 0.0),
}


def check_rate(sampling_rate: int | None, expected: int, resample: bool, resampler: str) -> None:
    """Check the rate of sound in Hz; None assumes the expected one, with a warning in the log.

    Raises:
        InputError: The rate is another one, or `resample` is true and the rate is None.
    """
    hint = f"resample to {expected} Hz first, for example with {resampler}"
    if sampling_rate is None:
        if resample:
            raise InputError("resample is true but the sampling_rate of the sound is not given", hint=hint)
        logger.warning("sampling_rate is not given; %d Hz is assumed", expected)
    elif sampling_rate != expected:
        raise InputError(f"sampling_rate is {sampling_rate}; expected {expected}", hint=hint)


def named_clips(raw_speech: Any) -> list[tuple[str, Any]]:
    """(name for messages, clip) of one clip, a 1-D array or list of numbers, or of each clip of a list.

    Raises:
        InputError: The list is empty, or an array has several dimensions.
    """
    if isinstance(raw_speech, list | tuple):
        if not raw_speech:
            raise InputError("the audio is an empty list; expected at least one clip")
        if any(np.ndim(clip) for clip in raw_speech[:1]):
            return [(f"audio[{index}]", clip) for index, clip in enumerate(raw_speech)]
    elif len(getattr(raw_speech, "shape", ())) > 1:
        raise InputError(
            f"the audio is an array of shape {tuple(raw_speech.shape)}, which may be a batch or channels",
            hint="pass a list of 1-D arrays, one per clip; average the channels of stereo sound",
        )
    return [("the audio", raw_speech)]


def read_waveform(waveform: Any, name: str, min_samples: int, sampling_rate: int) -> NDArray[np.float32]:
    """One clip as 1-D float32 samples.

    Args:
        waveform: Floats within [-1, 1] or PCM of `_PCM`, of one dimension.
        name: What error messages call it.
        min_samples: Minimum number of samples.
        sampling_rate: In Hz, for messages.

    Raises:
        InputError: It is something else, too short, or has NaN or infinite samples.
    """
    try:
        wave = np.asarray(waveform)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is not an array: {error}", hint="pass a 1-D numpy array of samples") from error
    if wave.dtype.name not in _PCM and wave.dtype.kind != "f":
        raise InputError(
            f"{name} has dtype {wave.dtype}; expected floats within [-1, 1] or PCM of {', '.join(_PCM)}",
            hint="integers in a list have no scale: use an int16 array for 16-bit samples"
            if wave.dtype.kind in "iu"
            else "pass a 1-D array of samples; files are read with tvlt_deploy.media",
        )
    if wave.ndim == 2 and 1 in wave.shape:
        wave = wave.reshape(-1)
    if wave.ndim != 1:
        hint = "average the channels of stereo sound: wave.mean(axis=...)" if wave.ndim == 2 else ""
        raise InputError(f"{name} has shape {wave.shape}; expected one channel, a 1-D array", hint=hint)
    if wave.dtype.name in _PCM:
        full_scale, silence = _PCM[wave.dtype.name]
        wave = ((wave.astype(np.float64) - silence) / full_scale).astype(np.float32)
    if len(wave) < min_samples:
        raise InputError(
            f"{name} has {len(wave)} samples; expected at least {min_samples} "
            f"({1000 * min_samples / sampling_rate:.1f} ms, one row of the spectrogram)",
            hint="pad it with zeros, or pass the clip without sound",
        )
    with np.errstate(over="ignore"):
        wave = np.ascontiguousarray(wave, dtype=np.float32)
    peak = max(float(wave.max()), -float(wave.min()))
    if not np.isfinite(peak):
        raise InputError(f"{name} has NaN or infinite samples; expected finite numbers")
    if peak > MAX_AMPLITUDE:
        raise InputError(
            f"{name} reaches {peak:g}; expected floats within [-1, 1]", hint="divide 16-bit samples by 32768"
        )
    return wave
