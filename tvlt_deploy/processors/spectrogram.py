"""Waveforms to log-mel spectrograms in [-1, 1], for all recipes."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tvlt_deploy.processors.mel import mel_filter_bank

_CHUNK = 64  # frames processed at once: their buffers (about 1 MB) stay in a core's cache
_BAND = 16  # mel filters per matrix product: neighbors share a narrow range of bins, the rest of the bank is zeros
MIN_POWER = 1e-10
"""Smaller mel power is raised to this."""
DYNAMIC_RANGE = 1e-8
"""Mel power below this share of the clip's loudest, 80 dB, is raised to it."""

_Band = tuple[int, int, int, int, NDArray[np.float32]]


@functools.lru_cache(maxsize=8)
def _bands(filters: int, n_fft: int, sampling_rate: int) -> tuple[_Band, ...]:
    """The filter bank in bands (first filter, end, first part, end, weights (parts, filters)) without its zeros.

    The parts are the real and imaginary parts of the bins alternately, so that the weights also add their squares.
    """
    bank = mel_filter_bank(filters, n_fft, sampling_rate)
    bands = []
    for start in range(0, filters, _BAND):
        rows = bank[start : start + _BAND]
        used = np.flatnonzero(rows.any(axis=0))
        low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
        weights = np.repeat(rows[:, low:high].T.astype(np.float32), 2, axis=0)
        bands.append((start, start + len(rows), 2 * low, 2 * high, weights))
    return tuple(bands)


@functools.lru_cache(maxsize=8)
def hann_window(n_fft: int) -> NDArray[np.float64]:
    """The periodic Hann window."""
    return np.hanning(n_fft + 1)[:-1]


def _mirrored(wave: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
    """wave[start:stop] with both ends mirrored about their last sample, as often as needed."""
    if start >= 0 and stop <= len(wave):
        return wave[start:stop]
    period = 2 * (len(wave) - 1)
    index = np.arange(start, stop) % period
    return wave[np.minimum(index, period - index)]


def _silent(wave: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
    """wave[start:stop] with silence beyond both ends."""
    inside = wave[max(start, 0) : max(stop, 0)]
    return np.pad(inside, (max(-start, 0), stop - start - max(-start, 0) - len(inside)))


@dataclass(frozen=True)
class LogMel:
    """A log-mel spectrogram.

    Attributes:
        filters: Number of mel filters.
        n_fft: Samples of a frame.
        hop_length: Samples between frames.
        sampling_rate: In Hz.
        mirrored: The sound continues with its mirror image beyond its ends, as in transformers; otherwise with
            silence, as in librosa since 0.9.
    """

    filters: int
    n_fft: int
    hop_length: int
    sampling_rate: int
    mirrored: bool

    def frames(self, samples: int) -> int:
        """Number of frames of a waveform: one is centered on every hop, starting at the first sample."""
        return 1 + (samples - self.n_fft % 2) // self.hop_length

    def __call__(self, wave: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
        """The spectrogram of a waveform.

        The dynamic range of 80 dB is relative to the loudest frame of the complete waveform, whether or not it is
        returned. Source: transformers 4.40.2 `audio_utils.spectrogram`; librosa 0.9.2 `feature.melspectrogram` and
        `power_to_db`.

        Args:
            wave: (samples,) float32.
            rows: Maximum number of frames to return.

        Returns:
            The first frames, (at most rows, filters) float32 in [-1, 1]; 1 is 20 dB and more, -1 is -60 dB and less.
        """
        frames = self.frames(len(wave))
        power = np.empty((min(frames, rows), self.filters), dtype=np.float32)
        loudest = 0.0
        for start in range(0, frames, _CHUNK):
            chunk = self.mel(wave, start, min(_CHUNK, frames - start))
            loudest = max(loudest, float(chunk.max()))
            kept = max(0, min(len(chunk), len(power) - start))
            power[start : start + kept] = chunk[:kept]
        # clip((10 log10(power) - 20) / 40, -2, 0) + 1
        np.maximum(power, np.float32(max(MIN_POWER, loudest * DYNAMIC_RANGE)), out=power)
        np.log10(power, out=power)
        power *= np.float32(0.25)
        power += np.float32(0.5)
        return np.clip(power, -1.0, 1.0, out=power)

    def spectrum(self, wave: NDArray[np.float32], start: int, count: int) -> NDArray[np.complex64]:
        """The transform (count, n_fft // 2 + 1) complex64 of `count` windowed frames from frame `start`."""
        n_fft, hop = self.n_fft, self.hop_length
        first = start * hop - n_fft // 2
        # Double precision up to the spectrum, as in transformers and librosa, which also round it to complex64:
        # a single-precision transform loses quiet filters next to a loud tone.
        cut = _mirrored if self.mirrored else _silent
        samples = cut(wave, first, first + (count - 1) * hop + n_fft).astype(np.float64)
        step = samples.itemsize
        views = np.ndarray((count, n_fft), np.float64, samples, strides=(hop * step, step))
        transform: NDArray[np.complex64] = scipy.fft.rfft(views * hann_window(n_fft), overwrite_x=True).astype(
            np.complex64
        )
        return transform

    def mel(self, wave: NDArray[np.float32], start: int, count: int) -> NDArray[np.float32]:
        """Mel power (count, filters) float32 of `count` frames from frame `start`."""
        squares = self.spectrum(wave, start, count).view(np.float32)
        np.square(squares, out=squares)
        power = np.empty((count, self.filters), dtype=np.float32)
        for low, high, first_part, end_part, weights in _bands(self.filters, self.n_fft, self.sampling_rate):
            np.matmul(squares[:, first_part:end_part], weights, out=power[:, low:high])
        return power
