"""Which recipe of pre-processing a directory holds: each has a file of its own name."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tvlt_deploy.errors import FileRefusedError
from tvlt_deploy.processors.original.processor import OriginalProcessor
from tvlt_deploy.processors.processor import Processor, TvltProcessor

RECIPES: dict[str, type[Processor]] = {kind.file_name: kind for kind in (TvltProcessor, OriginalProcessor)}
"""File name -> the processor that it describes."""


def recipe_file(directory: Path, names: Collection[str] | None = None) -> Path | None:
    """The file of a directory that describes its pre-processing, None where there is none.

    names: the only files of the directory that count; None for all. Raises `FileRefusedError` when there are two.
    """
    found = [name for name in RECIPES if (name in names if names is not None else (directory / name).is_file())]
    if len(found) > 1:
        raise FileRefusedError(
            f"{directory} holds {' and '.join(found)}; wanted one of them", hint="remove the one that is not meant"
        )
    return directory / found[0] if found else None


def read_recipe(file: Path) -> Processor:
    """The processor that a file found by `recipe_file` describes. Raises as its `from_pretrained`."""
    return RECIPES[file.name].from_pretrained(file)
