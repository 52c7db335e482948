"""`preprocessor_config.json`: one flat file that transformers reads, with each part's own settings nested inside.

transformers 4.40.2 keeps image and audio settings in one file, where the part saved last overwrites the other and
`patch_size` can only be that of one part. Here the flat keys remain for transformers, and the sections
`image_processor` and `feature_extractor` contain the settings of each part.
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
    """The JSON file of a directory or of a model on the hub, or the file itself."""
    found = local_path(path, required=name, optional=(CONFIG_FILE,))
    return found / name if found.is_dir() else found


def read_preprocessor(file: Path, name: str = PREPROCESSOR_FILE) -> dict[str, Any]:
    """Read the content of a preprocessor file, which is called `name`.

    Raises:
        FileRefusedError: The file is missing or not a JSON object. It is a `ValueError`.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileRefusedError(
            f"cannot read the preprocessor settings {file}: {error}",
            hint=f"pass a directory with a {name}, or that file",
        ) from error
    if not isinstance(values, dict):
        raise FileRefusedError(f"{file} contains a JSON {type(values).__name__}; expected an object")
    return values


class Saved:
    """An object that `to_dict` describes completely; its JSON text, its file, equality and repr follow from that."""

    file_name = PREPROCESSOR_FILE
    """The name of the file that `save_pretrained` writes."""

    def to_dict(self) -> dict[str, Any]:
        """The settings under Hugging Face's keys, in JSON types."""
        raise NotImplementedError

    def to_json_string(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write the file into a directory, which is created when missing.

        An existing file is replaced completely: to keep both parts, save a `TvltProcessor`.
        """
        write_json(Path(directory) / self.file_name, self.to_dict())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Saved) and type(self) is type(other) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.to_dict().items())})"


class Part(Saved):
    """One of the two parts of `preprocessor_config.json`."""

    section: str
    """The name of the part's section in the file."""

    type_key: str
    """The key by which transformers marks a file of this part."""

    @classmethod
    def settings_in(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of this part in the content of a file: its section where there is one, else the flat keys."""
        own = values.get(cls.section)
        return dict(own) if isinstance(own, Mapping) else dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """Build from the content of a file.

        Args:
            values: The content; unknown keys are ignored.
            **overrides: Settings that replace those of the file.

        Raises:
            ConfigError: A setting is invalid.
        """
        return cls(**{**cls.settings_in(values), **overrides})

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """Read `preprocessor_config.json` from a directory or a model on the hub, or the JSON file itself.

        Args:
            path: The directory, the name of the model, or the file.
            **overrides: Settings that replace those of the file.

        Raises:
            FileRefusedError: The file is missing or damaged. It is a `ValueError`, as is the next.
            ConfigError: A value is invalid; the message names the file.
        """
        with naming(preprocessor_path(path)) as values:
            return cls.from_dict(values, **overrides)


@contextlib.contextmanager
def naming(file: Path, name: str = PREPROCESSOR_FILE) -> Iterator[dict[str, Any]]:
    """Yield the content of a file that is called `name`; a `ConfigError` raised inside names the file."""
    values = read_preprocessor(file, name)
    try:
        yield values
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}", hint=error.hint) from error


def positive_int(name: str, value: Any) -> int:
    """`value` as an int of at least 1.

    Raises:
        ConfigError: It is something else.
    """
    try:
        whole = int(value)
        if whole != value or whole < 1 or isinstance(value, bool):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name} is {value!r}; expected an int of at least 1") from None
    return whole


def patch_pair(value: Any) -> list[int]:
    """A patch size as two ints; a single int is a square.

    Raises:
        ConfigError: It is something else.
    """
    sides = [value, value] if isinstance(value, int) else value
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        raise ConfigError(f"patch_size is {value!r}; expected an int or a pair of ints")
    return [positive_int("patch_size", side) for side in sides]
