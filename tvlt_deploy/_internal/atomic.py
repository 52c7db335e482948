"""Writing files so that a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path, files: bool = True) -> None:
    """Wait until a directory's names are on disk, and with `files` the content of every file below it first."""
    for file in directory.rglob("*") if files else ():
        if file.is_file():
            _fsync(file)
    _fsync(directory)


@contextlib.contextmanager
def staged_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over `path`, otherwise removed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        sync_directory(target.parent, files=False)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_directory(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success it takes the place of `path`, otherwise it is removed.

    Raises FileExistsError when `path` is taken (a non-empty directory or a file) and `replace` is false.
    """
    target = Path(os.path.abspath(path))
    if not replace and (target.is_file() or (target.is_dir() and any(target.iterdir()))):
        raise FileExistsError(f"{target} already exists")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    os.chmod(temporary, 0o777 & ~_umask())
    try:
        yield temporary
        sync_directory(temporary)
        if replace and target.exists():
            _swap(temporary, target)
        else:
            os.replace(temporary, target)  # fails where something has come to stand there meanwhile
        sync_directory(target.parent, files=False)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, old: Path) -> None:
    """Put `new` in the place of `old` and remove `old`; on any failure `old` stands where it stood."""
    retired = Path(tempfile.mkdtemp(prefix=f".{old.name}.old.", dir=old.parent))
    try:
        os.replace(old, retired / "content")
        os.replace(new, old)
    except BaseException:
        if not old.exists():
            os.replace(retired / "content", old)
        shutil.rmtree(retired, ignore_errors=True)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text in one piece."""
    with staged_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON in the order given, with two-space indent and a final newline."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Lower-case hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
