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
"""(setting, value found, value that the model needs)."""


class Processor(Saved):
    """Both halves of one recipe of pre-processing, and how media files are read for it.

    frames_by_number: the frames of a file are spaced evenly by their number, else by time. resampler: turns sound of
    another rate, (samples,) and Hz, into the extractor's; None where the recipe asks for none in particular.
    """

    image_processor: TvltImageProcessor | OriginalImageProcessor
    feature_extractor: TvltFeatureExtractor | OriginalFeatureExtractor
    frames_by_number = False
    resampler: Callable[[NDArray[np.floating[Any]], int], NDArray[np.float32]] | None = None

    @classmethod
    def from_config(cls, config: TvltConfig) -> Self:
        """The processors that feed a model of this configuration.

        Raises `ConfigError` for channel counts other than 3 (images) and 1 (sound).
        """
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Self:
        """Read the recipe's file from a directory, or the JSON file itself.

        Raises `FileRefusedError` for a missing or broken file, `ConfigError` for an impossible value (both are
        `ValueError`), naming the file.
        """
        raise NotImplementedError

    def misfits(self, config: TvltConfig, sampling_rate: int) -> Iterator[Misfit]:
        """Every setting that does not fit a model of this configuration, or sound at `sampling_rate` Hz."""
        image, sound = self.image_processor, self.feature_extractor
        wanted: dict[str, tuple[Any, Any]] = {
            "image patch_size": (list(image.patch_size), list(config.image_patch)),
            "audio patch_size": (list(sound.patch_size), list(config.audio_patch)),
            "feature_size": (sound.feature_size, config.frequency_length),
            "sampling_rate": (sound.sampling_rate, sampling_rate),
        }
        at_most = {
            "num_frames": (image.num_frames, config.num_frames),
            "spectrogram_length": (sound.spectrogram_length, config.spectrogram_length),
        }
        wanted |= {name: (found, most) for name, (found, most) in at_most.items() if found > most}
        yield from ((name, found, needed) for name, (found, needed) in wanted.items() if found != needed)

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

        images, images_mixed: as `videos` of the image processor. audio, sampling_rate: as of the feature extractor.
        mask_audio, mask_pixel: accepted for the signature's sake; masking happens in the model. Keyword arguments go
        to the part that knows them: `return_tensors` to both, `return_attention_mask` to the sound, all others to the
        images.

        Returns the keys `audio_values`, `audio_mask`, `pixel_values`, `pixel_mask`, `pixel_values_mixed`,
        `pixel_mask_mixed`, in this order, as far as asked for. Raises `InputError` (a `ValueError`) when both
        `images` and `audio` are None, and as the parts do.
        """
        if images is None and audio is None:
            raise InputError("images and audio are both None; wanted at least one of them")
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
    """Both halves of TVLT's pre-processing. Source: transformers 4.40.2 `TvltProcessor`."""

    image_processor: TvltImageProcessor
    feature_extractor: TvltFeatureExtractor

    def __init__(self, image_processor: TvltImageProcessor, feature_extractor: TvltFeatureExtractor) -> None:
        self.image_processor = image_processor
        self.feature_extractor = feature_extractor

    def misfits(self, config: TvltConfig, sampling_rate: int) -> Iterator[Misfit]:
        """As of `Processor`."""
        image, (height, width) = self.image_processor, config.image_shape
        if image.crop_size != {"height": height, "width": width}:
            yield "crop_size", image.crop_size, {"height": height, "width": width}
        yield from super().misfits(config, sampling_rate)
        if not image.do_center_crop:
            yield "do_center_crop", False, True

    @classmethod
    def from_config(cls, config: TvltConfig) -> Self:
        """The processors that feed a model of this configuration.

        Raises `ConfigError` for channel counts other than 3 (images) and 1 (sound).
        """
        return cls(TvltImageProcessor.from_config(config), TvltFeatureExtractor.from_config(config))

    def to_dict(self) -> dict[str, Any]:
        """The merged file: flat keys that transformers reads for either part, and a section for each part.

        The flat `patch_size` is the sound's, as in the files transformers writes.
        """
        image, sound = self.image_processor.to_dict(), self.feature_extractor.to_dict()
        sections = {TvltImageProcessor.section: image, TvltFeatureExtractor.section: sound}
        return {**image, **sound, **sections, "processor_class": "TvltProcessor"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], config: TvltConfig | None = None) -> Self:
        """Build from a file's content: ours, or one that transformers wrote for both parts or for one of them.

        A part of which the file says nothing comes from `config` when given, else from the defaults.
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

        transformers 4.40.2 loses one part's settings when it saves both; a `config.json` beside the file then tells
        the sizes of the lost part. Raises `FileRefusedError` for a missing or broken file, `ConfigError` for an
        impossible value (both are `ValueError`), naming the file.
        """
        file = preprocessor_path(path)
        beside = file.parent / CONFIG_FILE
        with naming(file) as values:
            return cls.from_dict(values, TvltConfig.from_pretrained(beside) if beside.is_file() else None)


def _describes(values: Mapping[str, Any], part: type[Part]) -> bool:
    """Whether a file was written for this part, or for none in particular."""
    other = TvltFeatureExtractor if part is TvltImageProcessor else TvltImageProcessor
    return part.section in values or part.type_key in values or other.type_key not in values
