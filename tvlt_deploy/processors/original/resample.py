"""Resampling of sound by a short windowed sinc, as torchaudio does it for the original TVLT code.

Models were trained with this filter. In sound from 16 kHz recordings it leaves mirror images of lower frequencies above
8 kHz, down to 60 dB, which better resamplers remove.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvlt_deploy.errors import InputError

LOWPASS_FILTER_WIDTH = 6
"""Zero crossings of the sinc on each side, at the cut-off."""
ROLLOFF = 0.99
"""The cut-off as a share of half the lower rate."""

_CHUNK = 1 << 16  # output samples processed at once: with their taps a few megabytes


def resample(waveform: NDArray[np.floating[Any]], from_rate: int, to_rate: int = 44100) -> NDArray[np.float32]:
    """Resample mono sound. Source: torchaudio 0.10 `functional.resample` with its defaults (Hann-windowed sinc).

    Args:
        waveform: (samples,) floating point.
        from_rate: Its rate in Hz, a positive int.
        to_rate: The new rate.

    Returns:
        (ceil(samples * to_rate / from_rate),) float32.

    Raises:
        InputError: The waveform has another shape or type, or NaN or infinite samples, or a rate is not a positive int.
    """
    sound = np.asarray(waveform)
    if sound.ndim != 1 or sound.dtype.kind != "f":
        raise InputError(
            f"the waveform is {sound.dtype} with shape {sound.shape}; expected floating point, (samples,)",
            hint="average the channels and divide integers by their full scale first",
        )
    for name, rate in (("from_rate", from_rate), ("to_rate", to_rate)):
        if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or rate < 1:
            raise InputError(f"{name} is {rate!r}; expected a positive int, in Hz")
    if not np.isfinite(sound).all():
        raise InputError("the waveform has NaN or infinite samples; expected finite ones")
    sound = np.ascontiguousarray(sound, np.float32)
    if from_rate == to_rate or not sound.size:
        return sound
    common = math.gcd(from_rate, to_rate)
    step, phases = from_rate // common, to_rate // common
    first, kernel = _kernel(step, phases)
    blocks, taps = -(-len(sound) // step), kernel.shape[1]
    padded = np.pad(sound, (-first[0], blocks * step - len(sound) + taps))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps)
    out = np.empty((blocks, phases), np.float32)
    size = max(1, _CHUNK // phases)
    for start in range(0, blocks, size):
        chunk = np.arange(start, min(start + size, blocks))
        places = chunk[:, None] * step + (first - first[0])
        np.einsum("bpt,pt->bp", windows[places], kernel, out=out[start : start + size])
    return out.reshape(-1)[: -(-len(sound) * phases // step)]


@functools.lru_cache(maxsize=8)
def _kernel(step: int, phases: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The first tap (phases,) and the weights (phases, taps) of the output samples of `step` input samples."""
    cutoff = min(step, phases) * ROLLOFF
    reach = LOWPASS_FILTER_WIDTH * step / cutoff
    centers = np.arange(phases) * (step / phases)
    first = np.ceil(centers - reach).astype(np.intp)
    taps = first[:, None] + np.arange(math.ceil(2 * reach) + 1)
    crossings = np.clip((taps - centers[:, None]) * (cutoff / step), -LOWPASS_FILTER_WIDTH, LOWPASS_FILTER_WIDTH)
    window = np.cos(crossings * (np.pi / 2 / LOWPASS_FILTER_WIDTH)) ** 2
    return first, (np.sinc(crossings) * window * (cutoff / step)).astype(np.float32)
