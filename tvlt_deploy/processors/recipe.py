"""The two recipes of pre-processing: which one a directory describes, and which one a configuration implies."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.config import CONFIG_FILE, TvltConfig
from tvlt_deploy.errors import ConfigError, FileRefusedError
from tvlt_deploy.processors.original.processor import OriginalProcessor
from tvlt_deploy.processors.processor import Processor, TvltProcessor

RECIPES: dict[str, type[Processor]] = {kind.file_name: kind for kind in (TvltProcessor, OriginalProcessor)}
"""File name -> the class of the processor that the file describes."""


def recipe_file(directory: Path, names: Collection[str] | None = None) -> Path | None:
    """The file of a directory that describes its pre-processing.

    Args:
        directory: The directory.
        names: The only files of the directory that count; all by default.

    Returns:
        The path, or None where there is no such file.

    Raises:
        FileRefusedError: There are two.
    """
    found = [name for name in RECIPES if (name in names if names is not None else (directory / name).is_file())]
    if len(found) > 1:
        raise FileRefusedError(f"{directory} has {' and '.join(found)}; expected one of them", hint="remove one")
    return directory / found[0] if found else None


def read_recipe(file: Path) -> Processor:
    """The processor that a file found by `recipe_file` describes; raises as its `from_pretrained`."""
    return RECIPES[file.name].from_pretrained(file)


def fitting_recipe(
    file: Path | None, config: TvltConfig, sampling_rate: int, progress: Progress = silent
) -> Processor | None:
    """The pre-processing of a checkpoint: the one its file describes, or else the one its configuration implies.

    Args:
        file: The file that describes it; None where there is none.
        config: The model's configuration.
        sampling_rate: The rate in Hz of the sound that it is given.
        progress: Receives a line of text where no recipe fits the configuration.

    Returns:
        The processor; None where there is no file and no recipe makes the arrays that the model needs.

    Raises:
        ConfigError: The file's recipe makes arrays that the model does not accept.
        FileRefusedError: The file cannot be read.
    """
    if file is None:
        try:
            return (OriginalProcessor if config.lineage == "original" else TvltProcessor).from_config(config)
        except ConfigError as error:
            progress(f"no pre-processing in the bundle: {error}")
            return None
    processor = read_recipe(file)
    for name, actual, expected in processor.misfits(config, sampling_rate):
        raise ConfigError(
            f"{file} sets {name} to {actual}; {CONFIG_FILE} needs {expected}",
            hint=f"correct {file.name}, or remove it to derive it from {CONFIG_FILE}",
        )
    return processor
