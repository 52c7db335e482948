"""`TvltFeatureExtractor`: waveforms to log-mel spectrograms in [-1, 1]."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError, InputError
from tvlt_deploy.processors.mel import mel_filter_bank
from tvlt_deploy.processors.output import BatchFeature
from tvlt_deploy.processors.serialization import Part, patch_pair, positive_int

logger = logging.getLogger(__name__)

_CHUNK = 64  # frames worked on at once: their buffers (about 1 MB) stay in a core's cache
_BAND = 16  # mel filters per matrix product: neighbours share a narrow range of bins, the rest of the bank is zeros
_FLOOR = 1e-10  # least mel power
_DYNAMIC_RANGE = 1e-8  # 80 dB below the loudest value of the clip
_LOUDEST = 64.0  # no floating-point sound within [-1, 1] by convention gets here; integer samples as floats do

# Full scale and the value of silence for each PCM sample type.
_PCM: dict[str, tuple[float, float]] = {
    "int8": (2.0**7, 0.0),
    "uint8": (2.0**7, 2.0**7),
    "int16": (2.0**15, 0.0),
    "int32": (2.0**31, 0.0),
}

_Band = tuple[int, int, int, int, NDArray[np.float32]]


@functools.lru_cache(maxsize=8)
def _bands(filters: int, n_fft: int, sampling_rate: int) -> tuple[_Band, ...]:
    """The filter bank cut into (first filter, end, first part, end, weights (parts, filters)) without its zeros.

    The parts are the real and imaginary halves of the bins in turn, so that the weights sum their squares as well.
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
def _window(n_fft: int) -> NDArray[np.float64]:
    """The periodic Hann window."""
    return np.hanning(n_fft + 1)[:-1]


def _samples(wave: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
    """wave[start:stop] with both ends mirrored about their last sample, as often as needed."""
    if start >= 0 and stop <= len(wave):
        return wave[start:stop]
    period = 2 * (len(wave) - 1)
    index = np.arange(start, stop) % period
    return wave[np.minimum(index, period - index)]


class TvltFeatureExtractor(Part):
    """Turns mono sound into `audio_values` and `audio_mask`.

    spectrogram_length: most rows (hops of time) of a spectrogram; more sound is cut off. feature_size: mel filters.
    patch_size: (rows, filters) of an audio patch. sampling_rate: in Hz. hop_length_to_sampling_rate: the hop is
    `sampling_rate // hop_length_to_sampling_rate` samples (512); `hop_length` gives it directly instead.
    padding_value: fills rows after the sound, in the units of the output, where silence is -1. num_channels is kept
    for the file's sake; the output has one channel. Unknown keyword arguments are ignored.

    Raises `ConfigError` (a `ValueError`) for impossible settings. Source: transformers 4.40.2 `TvltFeatureExtractor`.
    """

    model_input_names = ("audio_values", "audio_mask")
    section = "feature_extractor"
    type_key = "feature_extractor_type"

    def __init__(
        self,
        spectrogram_length: int = 2048,
        num_channels: int = 1,
        patch_size: int | Sequence[int] = (16, 16),
        feature_size: int = 128,
        sampling_rate: int = 44100,
        hop_length_to_sampling_rate: int | None = None,
        n_fft: int = 2048,
        padding_value: float = 0.0,
        hop_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.spectrogram_length = positive_int("spectrogram_length", spectrogram_length)
        self.num_channels = positive_int("num_channels", num_channels)
        self.patch_size = patch_pair(patch_size)
        self.feature_size = positive_int("feature_size", feature_size)
        self.sampling_rate = positive_int("sampling_rate", sampling_rate)
        self.n_fft = positive_int("n_fft", n_fft)
        self.padding_value = float(padding_value)
        if not np.isfinite(self.padding_value):
            raise ConfigError(f"padding_value is {padding_value!r}; wanted a finite number")
        self.hop_length, self.hop_length_to_sampling_rate = self._hop(hop_length, hop_length_to_sampling_rate)
        self.freq_len = self.feature_size // self.patch_size[1]
        if self.freq_len < 1 or self.feature_size % self.patch_size[1]:
            raise ConfigError(f"feature_size {self.feature_size} is not whole patches of {self.patch_size[1]} filters")
        self.max_rows = self.spectrogram_length // self.patch_size[0] * self.patch_size[0]
        """Most rows of an output: `spectrogram_length` in whole patches."""
        if not self.max_rows:
            raise ConfigError(
                f"spectrogram_length {self.spectrogram_length} is shorter than one patch of {self.patch_size[0]} rows"
            )

    def _hop(self, hop_length: int | None, ratio: int | None) -> tuple[int, int]:
        if ratio is None and hop_length is None:
            ratio = 86
        if ratio is None:
            hop = positive_int("hop_length", hop_length)
            ratio = max(1, self.sampling_rate // hop)
        else:
            ratio = positive_int("hop_length_to_sampling_rate", ratio)
            hop = positive_int("the hop in samples", self.sampling_rate // ratio)
            if hop_length is not None and hop_length != hop:
                raise ConfigError(
                    f"hop_length is {hop_length!r}, but sampling_rate {self.sampling_rate} over "
                    f"hop_length_to_sampling_rate {ratio} is {hop}",
                    hint="give one of the two",
                )
        return hop, ratio

    @classmethod
    def from_config(cls, config: TvltConfig) -> Self:
        """The feature extractor that feeds a model of this configuration."""
        if config.num_audio_channels != 1:
            raise ConfigError(f"num_audio_channels is {config.num_audio_channels}; a mono spectrogram has 1")
        return cls(
            spectrogram_length=config.spectrogram_length,
            patch_size=config.audio_patch,
            feature_size=config.frequency_length,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """Build from a file's content; unknown keys are ignored, keyword arguments replace settings.

        transformers writes `hop_length` only, and forgets it when it reads the file; here it counts.
        """
        settings = cls.settings_in(values)
        if overrides.keys() & {"hop_length_to_sampling_rate", "sampling_rate"}:
            settings.pop("hop_length", None)
        if "hop_length" in overrides or settings.get("hop_length_to_sampling_rate") is None:
            settings.pop("hop_length_to_sampling_rate", None)
        return cls(**{**settings, **overrides})

    def to_dict(self) -> dict[str, Any]:
        """The settings in Hugging Face's keys, and `hop_length_to_sampling_rate`, in types that JSON holds."""
        values: dict[str, Any] = {
            "feature_extractor_type": type(self).__name__,
            "feature_size": self.feature_size,
            "freq_len": self.freq_len,
            "hop_length": self.hop_length,
            "n_fft": self.n_fft,
            "num_channels": self.num_channels,
            "padding_side": "right",
            "padding_value": self.padding_value,
            "patch_size": list(self.patch_size),
            "return_attention_mask": True,
            "sampling_rate": self.sampling_rate,
            "spectrogram_length": self.spectrogram_length,
        }
        if self.sampling_rate // self.hop_length_to_sampling_rate == self.hop_length:
            values["hop_length_to_sampling_rate"] = self.hop_length_to_sampling_rate
        return values

    @property
    def mel_filters(self) -> NDArray[np.float64]:
        """The mel filter bank, (feature_size, n_fft // 2 + 1) float64."""
        return mel_filter_bank(self.feature_size, self.n_fft, self.sampling_rate)

    @property
    def min_samples(self) -> int:
        """Samples of the shortest sound that fills one row."""
        return self.hop_length + self.n_fft % 2

    def __call__(
        self,
        raw_speech: Any,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = True,
        sampling_rate: int | None = None,
        resample: bool = False,
        mask_audio: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Spectrograms of one clip or a list of clips, padded to the longest.

        raw_speech: one clip (a 1-D array, tensor or list of numbers) or a list of clips. Floats are samples within
        [-1, 1]; int8, uint8, int16 and int32 are PCM and scaled to that range.
        sampling_rate: the clips' rate in Hz, which must be the extractor's; None trusts the caller.
        resample: sound is never resampled here; true without the right `sampling_rate` is an error.
        mask_audio: accepted for the signature's sake; masking happens in the model.

        Returns `audio_values` (batch, 1, rows, feature_size) float32 in [-1, 1] and, unless `return_attention_mask`
        is false, `audio_mask` (batch, rows / patch rows * patches per row) float32, 1 for a patch that holds sound.
        rows is the longest clip's, rounded up to whole patches.

        Raises `InputError` (a `ValueError`) for another rate, NaN or infinite samples, clips shorter than one hop,
        stereo, and arrays of two dimensions. Source: transformers 4.40.2 `TvltFeatureExtractor.__call__`.
        """
        self._check_rate(sampling_rate, resample)
        clips = [self.features(clip, name) for name, clip in self._clips(raw_speech)]
        patch_rows, per_row = self.patch_size[0], self.freq_len
        steps = [-(-len(clip) // patch_rows) for clip in clips]
        values = np.full(
            (len(clips), 1, max(steps) * patch_rows, self.feature_size), self.padding_value, dtype=np.float32
        )
        mask = np.zeros((len(clips), max(steps) * per_row), dtype=np.float32)
        for row, (clip, count) in enumerate(zip(clips, steps, strict=True)):
            values[row, 0, : len(clip)] = clip
            mask[row, : count * per_row] = 1
        arrays: dict[str, NDArray[Any]] = {"audio_values": values}
        if return_attention_mask:
            arrays["audio_mask"] = mask
        return BatchFeature.of(arrays, return_tensors)

    def _check_rate(self, sampling_rate: int | None, resample: bool) -> None:
        resampler = f"resample to {self.sampling_rate} Hz first, for example with tvlt_deploy.media.resample (soxr)"
        if sampling_rate is None:
            if resample:
                raise InputError("resample is true but the sampling_rate of the sound is not given", hint=resampler)
            logger.warning("sampling_rate is not given; the sound is taken to be at %d Hz", self.sampling_rate)
        elif sampling_rate != self.sampling_rate:
            raise InputError(f"sampling_rate is {sampling_rate}; wanted {self.sampling_rate}", hint=resampler)

    def _clips(self, raw_speech: Any) -> list[tuple[str, Any]]:
        """(name for messages, clip) of each clip."""
        if isinstance(raw_speech, list | tuple):
            if not raw_speech:
                raise InputError("the audio is an empty list; wanted at least one clip")
            if any(np.ndim(clip) for clip in raw_speech[:1]):
                return [(f"audio[{index}]", clip) for index, clip in enumerate(raw_speech)]
        elif len(getattr(raw_speech, "shape", ())) > 1:
            raise InputError(
                f"the audio is an array of shape {tuple(raw_speech.shape)}, which may be a batch or channels",
                hint="pass a list of 1-D arrays, one per clip; average the channels of stereo sound",
            )
        return [("the audio", raw_speech)]

    def features(self, waveform: Any, name: str = "the audio") -> NDArray[np.float32]:
        """The log-mel spectrogram of one clip, unpadded: (rows, feature_size) float32 in [-1, 1].

        waveform: as one clip of `__call__`. rows is samples // hop, at most `max_rows`. `name` is what errors call it.

        The dynamic range of 80 dB counts from the loudest frame of the whole clip, whether or not it is among the
        rows returned. Source: transformers 4.40.2 `TvltFeatureExtractor` and `audio_utils.spectrogram`.
        """
        wave = self._waveform(waveform, name)
        frames = 1 + (len(wave) - self.n_fft % 2) // self.hop_length
        power = np.empty((min(frames - 1, self.max_rows), self.feature_size), dtype=np.float32)
        loudest = 0.0
        for start in range(0, frames, _CHUNK):
            chunk = self._mel_power(wave, start, min(_CHUNK, frames - start))
            loudest = max(loudest, float(chunk.max()))
            kept = max(0, min(len(chunk), len(power) - start))  # the last frame never is, nor any beyond the limit
            power[start : start + kept] = chunk[:kept]
        # clip((10 log10(power) - 20) / 40, -2, 0) + 1
        np.maximum(power, np.float32(max(_FLOOR, loudest * _DYNAMIC_RANGE)), out=power)
        np.log10(power, out=power)
        power *= np.float32(0.25)
        power += np.float32(0.5)
        return np.clip(power, -1.0, 1.0, out=power)

    def _waveform(self, waveform: Any, name: str) -> NDArray[np.float32]:
        """One clip as 1-D float32 samples within [-1, 1] by convention, checked."""
        try:
            wave = np.asarray(waveform)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{name} is no array: {error}", hint="pass a 1-D numpy array of samples") from error
        if wave.dtype.name not in _PCM and wave.dtype.kind != "f":
            raise InputError(
                f"{name} has dtype {wave.dtype}; wanted floats within [-1, 1] or PCM of {', '.join(_PCM)}",
                hint="whole numbers in a list have no scale: make an int16 array of 16-bit samples"
                if wave.dtype.kind in "iu"
                else "pass a 1-D array of samples; files are read with tvlt_deploy.media",
            )
        if wave.ndim == 2 and 1 in wave.shape:
            wave = wave.reshape(-1)
        if wave.ndim != 1:
            hint = "average the channels of stereo sound: wave.mean(axis=...)" if wave.ndim == 2 else ""
            raise InputError(f"{name} has shape {wave.shape}; wanted one channel, a 1-D array", hint=hint)
        if wave.dtype.name in _PCM:
            full_scale, silence = _PCM[wave.dtype.name]
            wave = ((wave.astype(np.float64) - silence) / full_scale).astype(np.float32)
        if len(wave) < max(2, self.min_samples):
            needed = max(2, self.min_samples)
            raise InputError(
                f"{name} has {len(wave)} samples; wanted at least {needed} "
                f"({1000 * needed / self.sampling_rate:.1f} ms, one row of the spectrogram)",
                hint="pad it with zeros, or leave the clip's sound out",
            )
        with np.errstate(over="ignore"):
            wave = np.ascontiguousarray(wave, dtype=np.float32)
        peak = max(float(wave.max()), -float(wave.min()))
        if not np.isfinite(peak):
            raise InputError(f"{name} holds NaN or infinite samples; wanted finite numbers")
        if peak > _LOUDEST:
            raise InputError(
                f"{name} reaches {peak:g}; wanted floats within [-1, 1]", hint="divide 16-bit samples by 32768"
            )
        return wave

    def _mel_power(self, wave: NDArray[np.float32], start: int, count: int) -> NDArray[np.float32]:
        """Mel power (count, filters) of the frames from `start` on."""
        n_fft, hop = self.n_fft, self.hop_length
        first = start * hop - n_fft // 2
        # Double precision up to the spectrum, as in transformers, which rounds it to complex64 as well: quiet filters
        # beside a loud tone are lost in a single-precision transform.
        samples = _samples(wave, first, first + (count - 1) * hop + n_fft).astype(np.float64)
        step = samples.itemsize
        views = np.ndarray((count, n_fft), np.float64, samples, strides=(hop * step, step))
        spectrum = scipy.fft.rfft(views * _window(n_fft), overwrite_x=True).astype(np.complex64)
        squares = spectrum.view(np.float32)
        np.square(squares, out=squares)
        power = np.empty((count, self.feature_size), dtype=np.float32)
        for low, high, first_part, end_part, weights in _bands(self.feature_size, n_fft, self.sampling_rate):
            np.matmul(squares[:, first_part:end_part], weights, out=power[:, low:high])
        return power
