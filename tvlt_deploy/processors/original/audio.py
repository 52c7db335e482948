"""`OriginalFeatureExtractor`: waveforms to spectrograms as in the original TVLT code."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError
from tvlt_deploy.processors.original.masks import visible_patches
from tvlt_deploy.processors.original.resample import LOWPASS_FILTER_WIDTH, ROLLOFF
from tvlt_deploy.processors.output import BatchFeature
from tvlt_deploy.processors.serialization import patch_pair, positive_int
from tvlt_deploy.processors.spectrogram import LogMel
from tvlt_deploy.processors.waveform import check_rate, named_clips, read_waveform


@dataclass
class OriginalFeatureExtractor:
    """Converts mono sound to `audio_values` and `audio_mask`, as the original TVLT code does.

    All other numbers are fixed: 44100 Hz, frames of 2048 samples every 512. Source: zinengtang/TVLT,
    `model/data/datasets/rawvideo_utils.py`, on librosa 0.9.2.

    Attributes:
        spectrogram_length: Maximum number of rows of a spectrogram; more are cut.
        feature_size: Number of mel filters.
        patch_size: (rows, filters) of an audio patch.

    Raises:
        ConfigError: A setting is invalid. It is a `ValueError`.
    """

    spectrogram_length: int = 1024
    feature_size: int = 128
    patch_size: tuple[int, int] = (16, 16)

    model_input_names: ClassVar = ("audio_values", "audio_mask")
    sampling_rate: ClassVar = 44100
    n_fft: ClassVar = 2048
    hop_length: ClassVar = 512
    padding_value: ClassVar = -1.0
    min_samples: ClassVar = 1

    def __post_init__(self) -> None:
        self.spectrogram_length = positive_int("spectrogram_length", self.spectrogram_length)
        self.feature_size = positive_int("feature_size", self.feature_size)
        rows, filters = patch_pair(self.patch_size)
        self.patch_size = rows, filters
        if self.feature_size % filters:
            raise ConfigError(
                f"feature_size {self.feature_size} is not a multiple of the patch size of {filters} filters"
            )
        if self.spectrogram_length % rows:
            raise ConfigError(
                f"spectrogram_length {self.spectrogram_length} is not a multiple of the patch size of {rows} rows"
            )

    @classmethod
    def from_config(cls, config: TvltConfig) -> Self:
        """The feature extractor for a model of this configuration: at most 1024 rows, as in training.

        Raises:
            ConfigError: `num_audio_channels` is not 1.
        """
        if config.num_audio_channels != 1:
            raise ConfigError(f"num_audio_channels is {config.num_audio_channels}; a mono spectrogram has 1")
        rows = config.time_patches * config.audio_patch[0]
        return cls(min(cls.spectrogram_length, rows), config.frequency_length, config.audio_patch)

    def to_dict(self) -> dict[str, Any]:
        """The settings and the fixed numbers, in JSON types."""
        return {
            **asdict(self),
            "patch_size": list(self.patch_size),
            "sampling_rate": self.sampling_rate,
            "resampling": {"lowpass_filter_width": LOWPASS_FILTER_WIDTH, "rolloff": ROLLOFF, "window": "hann"},
            "subtract_mean": True,
            "n_fft": self.n_fft,
            "hop_length": self.hop_length,
            "edges": "zeros",
            "keep_last_frame": True,
            "dynamic_range_db": 80,
            "padding_value": self.padding_value,
            "padding_rows": "to the next whole patch, and one more patch when it is whole already",
        }

    @property
    def max_samples(self) -> int:
        """Samples of the longest sound that is not cut."""
        return (self.spectrogram_length - 1) * self.hop_length + self.n_fft // 2

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
        """Spectrograms of one clip or a list of clips, padded with -1 to the longest.

        Args:
            raw_speech: As for `TvltFeatureExtractor`, and so are the other arguments.
            return_tensors: None or "np" for arrays, "pt" for torch tensors.
            return_attention_mask: Return `audio_mask`.
            sampling_rate: In Hz.
            resample: Must be false without a `sampling_rate`.
            mask_audio: Accepted for compatibility.
            **kwargs: Ignored.

        Returns:
            `audio_values` (batch, 1, rows, feature_size) float32 in [-1, 1] and `audio_mask` (batch, rows / patch rows
            * patches per row) float32, 0 for a patch in which every value is -1.

        Raises:
            InputError: Another rate, NaN or infinite samples, no samples, stereo, or an array of two dimensions.
        """
        check_rate(sampling_rate, self.sampling_rate, resample, "tvlt_deploy.processors.resample")
        clips = [self.features(clip, name) for name, clip in named_clips(raw_speech)]
        longest = max(len(clip) for clip in clips)
        values = np.full((len(clips), 1, longest, self.feature_size), self.padding_value, np.float32)
        for row, clip in zip(values, clips, strict=True):
            row[0, : len(clip)] = clip
        arrays = {"audio_values": values}
        if return_attention_mask:
            arrays["audio_mask"] = visible_patches(values[:, None], self.patch_size)
        return BatchFeature.of(arrays, return_tensors)

    def features(self, waveform: Any, name: str = "the audio") -> NDArray[np.float32]:
        """The log-mel spectrogram of one clip, followed by rows of -1.

        A spectrogram of t = 1 + samples // 512 rows is padded to the next complete patch, or by one more patch when it
        is complete; then it is cut to `spectrogram_length`. The mean that is subtracted and the dynamic range of 80 dB
        are those of the complete clip, also where rows are cut.

        Args:
            waveform: As one clip of `__call__`.
            name: What error messages call it.

        Returns:
            (rows, feature_size) float32.

        Raises:
            InputError: As `__call__`.
        """
        wave = read_waveform(waveform, name, self.min_samples, self.sampling_rate)
        log_mel = LogMel(self.feature_size, self.n_fft, self.hop_length, self.sampling_rate, mirrored=False)
        features = log_mel(wave - wave.mean(), self.spectrogram_length)
        patch_rows = self.patch_size[0]
        rows = min((len(features) // patch_rows + 1) * patch_rows, self.spectrogram_length)
        padding = np.full((rows - len(features), self.feature_size), self.padding_value, np.float32)
        return np.concatenate([features, padding])
