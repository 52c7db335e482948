"""`Processor`: an image processor and a feature extractor behind one call; `TvltProcessor`: those of transformers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tvlt_deploy.config import CONFIG_FILE, TvltConfig
from tvlt_deploy.errors import InputError
from tvlt_deploy.processors.audio import TvltFeatureExtractor
from tvlt_deploy.processors.image import TvltImageProcessor
from tvlt_deploy.processors.original.audio import OriginalFeatureExtractor
from tvlt_deploy.processors.original.image import OriginalImageProcessor
from tvlt_deploy.processors.serialization import Part, Saved, naming, preprocessor_path

Misfit = tuple[str, Any, Any]
"""(setting, its value, the value that the model needs)."""


class Processor(Saved):
    """The image processor and the feature extractor of one recipe, and how media files are read for it.

    Attributes:
        image_processor: The image processor.
        feature_extractor: The feature extractor.
        frames_by_number: The frames of a file are spaced evenly by number; otherwise by time.
        resampler: Converts sound (samples,) of another rate in Hz to that of the extractor; None where the recipe does
            not define one.
    """

    image_processor: TvltImageProcessor | OriginalImageProcessor
    feature_extractor: TvltFeatureExtractor | OriginalFeatureExtractor
    frames_by_number = False
    resampler: Callable[[NDArray[np.floating[Any]], int], NDArray[np.float32]] | None = None

    @classmethod
    def from_config(cls, config: TvltConfig) -> Self:
        """The processors for a model of this configuration.

        Raises:
            ConfigError: The number of channels is not 3 (images) or 1 (sound).
        """
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Self:
        """Read the recipe's file from a directory, or the JSON file itself.

        Raises:
            FileRefusedError: The file is missing or damaged. It is a `ValueError`, as is the next.
            ConfigError: A value is invalid; the message names the file.
        """
        raise NotImplementedError

    def misfits(self, config: TvltConfig, sampling_rate: int) -> Iterator[Misfit]:
        """Every setting that does not fit a model of this configuration, or sound at `sampling_rate` Hz."""
        image, sound = self.image_processor, self.feature_extractor
        settings: dict[str, tuple[Any, Any]] = {
            "image patch_size": (list(image.patch_size), list(config.image_patch)),
            "audio patch_size": (list(sound.patch_size), list(config.audio_patch)),
            "feature_size": (sound.feature_size, config.frequency_length),
            "sampling_rate": (sound.sampling_rate, sampling_rate),
        }
        at_most = {
            "num_frames": (image.num_frames, config.num_frames),
            "spectrogram_length": (sound.spectrogram_length, config.spectrogram_length),
        }
        settings |= {name: (value, limit) for name, (value, limit) in at_most.items() if value > limit}
        yield from ((name, value, needed) for name, (value, needed) in settings.items() if value != needed)

    @property
    def model_input_names(self) -> list[str]:
        """The names of everything a call can return."""
        return [*self.image_processor.model_input_names, *self.feature_extractor.model_input_names]

    def __call__(
        self,
        images: Any = None,
        audio: Any = None,
        images_mixed: Any = None,
        sampling_rate: int | None = None,
        mask_audio: bool = False,
        mask_pixel: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pixels of `images`, spectrograms of `audio`, pixels of `images_mixed`, in one dict.

        Args:
            images: As `videos` of the image processor.
            audio: As of the feature extractor.
            images_mixed: As `images`.
            sampling_rate: As of the feature extractor.
            mask_audio: Accepted for compatibility; masking happens in the model.
            mask_pixel: As `mask_audio`.
            **kwargs: `return_tensors` for both parts, `return_attention_mask` for the sound, all others for the images.

        Returns:
            `audio_values`, `audio_mask`, `pixel_values`, `pixel_mask`, `pixel_values_mixed`, `pixel_mask_mixed`, in
            this order, those that were requested.

        Raises:
            InputError: `images` and `audio` are both None, or as the parts. It is a `ValueError`.
        """
        if images is None and audio is None:
            raise InputError("images and audio are both None; expected at least one of them")
        for_audio = {name: kwargs[name] for name in ("return_tensors", "return_attention_mask") if name in kwargs}
        for_images = {name: value for name, value in kwargs.items() if name != "return_attention_mask"}
        output: dict[str, Any] = {}
        if audio is not None:
            output |= self.feature_extractor(audio, sampling_rate=sampling_rate, mask_audio=mask_audio, **for_audio)
        if images is not None:
            output |= self.image_processor(images, mask_pixel=mask_pixel, **for_images)
        if images_mixed is not None:
            output |= self.image_processor(images_mixed, is_mixed=True, **for_images)
        return output


class TvltProcessor(Processor):
    """The pre-processing of transformers 4.40.2 `TvltProcessor`.

    Args:
        image_processor: The image processor.
        feature_extractor: The feature extractor.
    """

    image_processor: TvltImageProcessor
    feature_extractor: TvltFeatureExtractor

    def __init__(self, image_processor: TvltImageProcessor, feature_extractor: TvltFeatureExtractor) -> None:
        self.image_processor = image_processor
        self.feature_extractor = feature_extractor

    def misfits(self, config: TvltConfig, sampling_rate: int) -> Iterator[Misfit]:
        """As `Processor.misfits`."""
        image, (height, width) = self.image_processor, config.image_shape
        if image.crop_size != {"height": height, "width": width}:
            yield "crop_size", image.crop_size, {"height": height, "width": width}
        yield from super().misfits(config, sampling_rate)
        if not image.do_center_crop:
            yield "do_center_crop", False, True

    @classmethod
    def from_config(cls, config: TvltConfig) -> Self:
        """The processors for a model of this configuration.

        Raises:
            ConfigError: The number of channels is not 3 (images) or 1 (sound).
        """
        return cls(TvltImageProcessor.from_config(config), TvltFeatureExtractor.from_config(config))

    def to_dict(self) -> dict[str, Any]:
        """The content of the file: flat keys that transformers reads for either part, and a section for each part.

        The flat `patch_size` is that of the sound, as in the files that transformers writes.
        """
        image, sound = self.image_processor.to_dict(), self.feature_extractor.to_dict()
        sections = {TvltImageProcessor.section: image, TvltFeatureExtractor.section: sound}
        return {**image, **sound, **sections, "processor_class": "TvltProcessor"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], config: TvltConfig | None = None) -> Self:
        """Build from the content of a file, written by this package or by transformers for both parts or one.

        Args:
            values: The content.
            config: The source of a part that is not in the file; the defaults when None.

        Raises:
            ConfigError: A setting is invalid.
        """
        return cls(
            TvltImageProcessor.from_config(config)
            if config and not _describes(values, TvltImageProcessor)
            else TvltImageProcessor.from_dict(values),
            TvltFeatureExtractor.from_config(config)
            if config and not _describes(values, TvltFeatureExtractor)
            else TvltFeatureExtractor.from_dict(values),
        )

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Self:
        """Read `preprocessor_config.json` from a directory or a model on the hub, or the JSON file itself.

        transformers 4.40.2 loses the settings of one part when it saves both; its sizes then come from a `config.json`
        in the same directory.

        Raises:
            FileRefusedError: The file is missing or damaged. It is a `ValueError`, as is the next.
            ConfigError: A value is invalid; the message names the file.
        """
        file = preprocessor_path(path)
        beside = file.parent / CONFIG_FILE
        with naming(file) as values:
            return cls.from_dict(values, TvltConfig.from_pretrained(beside) if beside.is_file() else None)


def _describes(values: Mapping[str, Any], part: type[Part]) -> bool:
    """Whether a file was written for this part, or does not name a part."""
    other = TvltFeatureExtractor if part is TvltImageProcessor else TvltImageProcessor
    return part.section in values or part.type_key in values or other.type_key not in values
