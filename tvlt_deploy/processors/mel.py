"""The mel filter bank of TVLT: Slaney's scale and area norm, as in librosa's default."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

# Slaney's Auditory Toolbox: linear below 1 kHz (200/3 Hz per mel), then 27 mels per factor of 6.4.
_LINEAR_HZ = 200 / 3
_BREAK_HZ, _BREAK_MEL = 1000.0, 15.0
_LOG_STEP = np.log(6.4) / 27

MAX_FREQUENCY = 22050.0
"""Upper edge of the last filter in Hz; lower sampling rates end at half the rate."""


def hertz_to_mel(hertz: float) -> float:
    """Slaney's mel of a frequency in Hz."""
    return float(hertz / _LINEAR_HZ if hertz < _BREAK_HZ else _BREAK_MEL + np.log(hertz / _BREAK_HZ) / _LOG_STEP)


def mel_to_hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frequencies in Hz of an array of mels."""
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ, _BREAK_HZ * np.exp((mel - _BREAK_MEL) * _LOG_STEP))


@functools.lru_cache(maxsize=8)
def mel_filter_bank(filters: int = 128, n_fft: int = 2048, sampling_rate: int = 44100) -> NDArray[np.float64]:
    """Triangular filters from 0 Hz to min(22050, sampling_rate / 2) Hz, each of area 1 in Hz.

    Source: transformers 4.40.2 `mel_filter_bank` with norm and scale "slaney"; librosa's `filters.mel`.

    Args:
        filters: Number of filters.
        n_fft: Samples of a frame.
        sampling_rate: In Hz.

    Returns:
        (filters, n_fft // 2 + 1) float64, read-only.
    """
    top = min(MAX_FREQUENCY, sampling_rate / 2)
    edges = mel_to_hertz(np.linspace(0.0, hertz_to_mel(top), filters + 2))
    bins = np.linspace(0, sampling_rate // 2, n_fft // 2 + 1)
    left, center, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.maximum(0.0, np.minimum((bins - left) / (center - left), (right - bins) / (right - center)))
    bank: NDArray[np.float64] = triangles * (2.0 / (right - left))
    bank.setflags(write=False)
    return bank
