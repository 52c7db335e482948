"""`preprocessor_config.json`: one flat file that transformers reads, with each part's own settings nested inside.

transformers 4.40.2 keeps image and audio settings in one file, where the part saved last overwrites the other and
`patch_size` can only mean one of the two. Here the flat keys stay for its sake and the sections `image_processor`
and `feature_extractor` hold what each part really is.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from tvlt_deploy._internal.atomic import write_json
from tvlt_deploy._internal.hub import local_path
from tvlt_deploy.config import CONFIG_FILE
from tvlt_deploy.errors import ConfigError, FileRefusedError

PREPROCESSOR_FILE = "preprocessor_config.json"


def preprocessor_path(path: str | os.PathLike[str], name: str = PREPROCESSOR_FILE) -> Path:
    """The JSON file meant by a directory, a model on the hub, or the file itself."""
    found = local_path(path, required=name, optional=(CONFIG_FILE,))
    return found / name if found.is_dir() else found


def read_preprocessor(file: Path, name: str = PREPROCESSOR_FILE) -> dict[str, Any]:
    """The content of a preprocessor file, which goes by `name`.

    Raises `FileRefusedError` (a `ValueError`) naming the file when it is missing or not a JSON object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileRefusedError(
            f"cannot read the preprocessor settings {file}: {error}",
            hint=f"wanted a directory with a {name}, or that file",
        ) from error
    if not isinstance(values, dict):
        raise FileRefusedError(f"{file} holds a JSON {type(values).__name__}; wanted an object")
    return values


class Saved:
    """Something `to_dict` describes completely: its JSON text, its file, equality and repr follow from that."""

    file_name = PREPROCESSOR_FILE
    """Of the file that `save_pretrained` writes."""

    def to_dict(self) -> dict[str, Any]:
        """The settings in Hugging Face's keys, in types that JSON holds."""
        raise NotImplementedError

    def to_json_string(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write the file into a directory, which is made when missing.

        A file already there is replaced, with all it says: to keep both parts, save a `TvltProcessor`.
        """
        write_json(Path(directory) / self.file_name, self.to_dict())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Saved) and type(self) is type(other) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.to_dict().items())})"


class Part(Saved):
    """One half of `preprocessor_config.json`."""

    section: str
    """Name of the part's own section in a merged file."""

    type_key: str
    """The key by which transformers marks a file of this part."""

    @classmethod
    def settings_in(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a file's content says about this part: its own section when there is one, else the flat keys."""
        own = values.get(cls.section)
        return dict(own) if isinstance(own, Mapping) else dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """Build from a file's content; unknown keys are ignored, keyword arguments replace settings."""
        return cls(**{**cls.settings_in(values), **overrides})

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """Read `preprocessor_config.json` from a directory or a model on the hub, or the JSON file itself.

        Raises `FileRefusedError` for a missing or broken file, `ConfigError` for an impossible value (both are
        `ValueError`), naming the file.
        """
        with naming(preprocessor_path(path)) as values:
            return cls.from_dict(values, **overrides)


@contextlib.contextmanager
def naming(file: Path, name: str = PREPROCESSOR_FILE) -> Iterator[dict[str, Any]]:
    """Yield the content of a file that goes by `name`; a `ConfigError` raised over it names the file."""
    values = read_preprocessor(file, name)
    try:
        yield values
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}", hint=error.hint) from error


def positive_int(name: str, value: Any) -> int:
    """`value` as an int of at least 1, or `ConfigError`."""
    try:
        whole = int(value)
        if whole != value or whole < 1 or isinstance(value, bool):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name} is {value!r}; wanted an int of at least 1") from None
    return whole


def patch_pair(value: Any) -> list[int]:
    """A patch size as two ints; a single int stands for a square."""
    sides = [value, value] if isinstance(value, int) else value
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        raise ConfigError(f"patch_size is {value!r}; wanted an int or a pair of ints")
    return [positive_int("patch_size", side) for side in sides]
