"""`OriginalProcessor`: the pre-processing of the original TVLT code in one call, and its file `preprocessing.json`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Self

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError
from tvlt_deploy.processors.original.audio import OriginalFeatureExtractor
from tvlt_deploy.processors.original.image import OriginalImageProcessor
from tvlt_deploy.processors.original.resample import resample
from tvlt_deploy.processors.processor import Misfit, Processor
from tvlt_deploy.processors.serialization import naming, preprocessor_path

RECIPE_FILE = "preprocessing.json"
"""Not `preprocessor_config.json`: transformers would read that, and pre-process wrongly without an error."""
RECIPE = "tvlt-original"

_SECTIONS: dict[str, type[OriginalImageProcessor | OriginalFeatureExtractor]] = {
    "image": OriginalImageProcessor,
    "sound": OriginalFeatureExtractor,
}


class OriginalProcessor(Processor):
    """The pre-processing of the original code. Source: zinengtang/TVLT, commit 7cb83db.

    Args:
        image_processor: The image processor.
        feature_extractor: The feature extractor.
    """

    image_processor: OriginalImageProcessor
    feature_extractor: OriginalFeatureExtractor
    file_name = RECIPE_FILE
    frames_by_number = True
    resampler = staticmethod(resample)

    def __init__(self, image_processor: OriginalImageProcessor, feature_extractor: OriginalFeatureExtractor) -> None:
        self.image_processor = image_processor
        self.feature_extractor = feature_extractor

    @classmethod
    def from_config(cls, config: TvltConfig) -> Self:
        """The processors for a model of this configuration.

        Raises:
            ConfigError: The number of channels is not 3 (images) or 1 (sound), or frames are not square.
        """
        return cls(OriginalImageProcessor.from_config(config), OriginalFeatureExtractor.from_config(config))

    def misfits(self, config: TvltConfig, sampling_rate: int) -> Iterator[Misfit]:
        """As `Processor.misfits`."""
        size = self.image_processor.image_size
        if (size, size) != config.image_shape:
            yield "image_size", size, config.image_shape
        yield from super().misfits(config, sampling_rate)

    def to_dict(self) -> dict[str, Any]:
        """The name of the recipe, and the settings and fixed numbers of each part."""
        return {
            "recipe": RECIPE,
            "image": self.image_processor.to_dict(),
            "sound": self.feature_extractor.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from the content of a file.

        Raises:
            ConfigError: The recipe is another one, or a fixed number differs from that of the recipe.
        """
        if values.get("recipe") != RECIPE:
            raise ConfigError(f"recipe is {values.get('recipe')!r}; expected {RECIPE!r}")
        parts: dict[str, Any] = {}
        for name, kind in _SECTIONS.items():
            section = values.get(name)
            if not isinstance(section, Mapping):
                raise ConfigError(f"{name} is {section!r}; expected an object with its settings")
            part = kind(**{item.name: section[item.name] for item in fields(kind) if item.name in section})
            fixed = part.to_dict()
            for key in sorted(fixed.keys() | section.keys()):
                if key not in fixed or section.get(key) != fixed[key]:
                    raise ConfigError(f"{name}.{key} is {section.get(key)!r}; the recipe needs {fixed.get(key)!r}")
            parts[name] = part
        return cls(parts["image"], parts["sound"])

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Self:
        """Read `preprocessing.json` from a directory, or the JSON file itself.

        Raises:
            FileRefusedError: The file is missing or damaged. It is a `ValueError`, as is the next.
            ConfigError: A value is invalid; the message names the file.
        """
        with naming(preprocessor_path(path, RECIPE_FILE), RECIPE_FILE) as values:
            return cls.from_dict(values)
