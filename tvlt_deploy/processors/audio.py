"""`TvltFeatureExtractor`: waveforms to log-mel spectrograms in [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError
from tvlt_deploy.processors.mel import mel_filter_bank
from tvlt_deploy.processors.output import BatchFeature
from tvlt_deploy.processors.serialization import Part, patch_pair, positive_int
from tvlt_deploy.processors.spectrogram import LogMel
from tvlt_deploy.processors.waveform import check_rate, named_clips, read_waveform


class TvltFeatureExtractor(Part):
    """Converts mono sound to `audio_values` and `audio_mask`. Source: transformers 4.40.2 `TvltFeatureExtractor`.

    Args:
        spectrogram_length: Maximum number of rows (hops of time) of a spectrogram; longer sound is cut.
        num_channels: Kept for the file; the output has one channel.
        patch_size: (rows, filters) of an audio patch, or one number for both.
        feature_size: Number of mel filters.
        sampling_rate: In Hz.
        hop_length_to_sampling_rate: The hop is `sampling_rate // hop_length_to_sampling_rate` samples; default 86.
        n_fft: Samples of a frame.
        padding_value: Fills rows after the sound, in the units of the output, where silence is -1.
        hop_length: The hop in samples, instead of `hop_length_to_sampling_rate`.
        **kwargs: Ignored.

    Raises:
        ConfigError: A setting is invalid. It is a `ValueError`.
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
            raise ConfigError(f"padding_value is {padding_value!r}; expected a finite number")
        self.hop_length, self.hop_length_to_sampling_rate = self._hop(hop_length, hop_length_to_sampling_rate)
        self.freq_len = self.feature_size // self.patch_size[1]
        if self.freq_len < 1 or self.feature_size % self.patch_size[1]:
            raise ConfigError(
                f"feature_size {self.feature_size} is not a multiple of the patch size of {self.patch_size[1]} filters"
            )
        self.max_rows = self.spectrogram_length // self.patch_size[0] * self.patch_size[0]
        """Maximum number of rows of an output: `spectrogram_length` in complete patches."""
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
                    hint="set one of the two",
                )
        return hop, ratio

    @classmethod
    def from_config(cls, config: TvltConfig) -> Self:
        """The feature extractor for a model of this configuration.

        Raises:
            ConfigError: `num_audio_channels` is not 1.
        """
        if config.num_audio_channels != 1:
            raise ConfigError(f"num_audio_channels is {config.num_audio_channels}; a mono spectrogram has 1")
        return cls(
            spectrogram_length=config.spectrogram_length,
            patch_size=config.audio_patch,
            feature_size=config.frequency_length,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """Build from the content of a file.

        transformers writes `hop_length` only, and ignores it when it reads the file; here it is used.

        Args:
            values: The content; unknown keys are ignored.
            **overrides: Settings that replace those of the file.

        Raises:
            ConfigError: A setting is invalid.
        """
        settings = cls.settings_in(values)
        if overrides.keys() & {"hop_length_to_sampling_rate", "sampling_rate"}:
            settings.pop("hop_length", None)
        if "hop_length" in overrides or settings.get("hop_length_to_sampling_rate") is None:
            settings.pop("hop_length_to_sampling_rate", None)
        return cls(**{**settings, **overrides})

    def to_dict(self) -> dict[str, Any]:
        """The settings under Hugging Face's keys, and `hop_length_to_sampling_rate`, in JSON types."""
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
    def max_samples(self) -> int:
        """Samples of the longest sound that is not cut."""
        return self.spectrogram_length * self.hop_length

    @property
    def log_mel(self) -> LogMel:
        """The spectrogram of one waveform, step by step."""
        return LogMel(self.feature_size, self.n_fft, self.hop_length, self.sampling_rate, mirrored=True)

    @property
    def min_samples(self) -> int:
        """Samples of the shortest sound with one row."""
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

        Args:
            raw_speech: One clip (a 1-D array, tensor or list of numbers) or a list of clips. Floats are samples within
                [-1, 1]; int8, uint8, int16 and int32 are PCM and scaled to that range.
            return_tensors: None or "np" for arrays, "pt" for torch tensors.
            return_attention_mask: Return `audio_mask`.
            sampling_rate: The clips' rate in Hz, which must be the extractor's; None assumes that it is.
            resample: Sound is never resampled here; true without the extractor's `sampling_rate` is an error.
            mask_audio: Accepted for compatibility; masking happens in the model.
            **kwargs: Ignored.

        Returns:
            `audio_values` (batch, 1, rows, feature_size) float32 in [-1, 1] and `audio_mask` (batch, rows / patch rows
            * patches per row) float32, 1 for a patch with sound. rows is that of the longest clip, in complete patches.

        Raises:
            InputError: Another rate, NaN or infinite samples, a clip shorter than one hop, stereo, or an array of two
                dimensions. It is a `ValueError`.
        """
        check_rate(sampling_rate, self.sampling_rate, resample, "tvlt_deploy.media.resample (soxr)")
        clips = [self.features(clip, name) for name, clip in named_clips(raw_speech)]
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

    def features(self, waveform: Any, name: str = "the audio") -> NDArray[np.float32]:
        """The log-mel spectrogram of one clip, without padding.

        The dynamic range of 80 dB is relative to the loudest frame of the complete clip, whether or not it is among
        the returned rows. Source: transformers 4.40.2 `TvltFeatureExtractor` and `audio_utils.spectrogram`.

        Args:
            waveform: As one clip of `__call__`.
            name: What error messages call it.

        Returns:
            (rows, feature_size) float32 in [-1, 1]. rows is samples // hop, at most `max_rows`.

        Raises:
            InputError: As `__call__`.
        """
        wave = read_waveform(waveform, name, max(2, self.min_samples), self.sampling_rate)
        log_mel = self.log_mel
        return log_mel(wave, min(log_mel.frames(len(wave)) - 1, self.max_rows))
