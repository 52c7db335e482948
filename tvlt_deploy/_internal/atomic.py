"""Atomic writes: a reader sees the old content or the new content, never a part of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
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
    """Wait until a directory is on disk.

    Args:
        directory: The directory whose entries are synced.
        files: Sync the content of every file below it first.
    """
    for file in directory.rglob("*") if files else ():
        if file.is_file():
            _fsync(file)
    _fsync(directory)


def _temporary_name(target: Path) -> Path:
    """An unused hidden name beside `target`."""
    return target.parent / f".{target.name}.{secrets.token_hex(4)}"


@contextlib.contextmanager
def staged_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file atomically under a temporary name.

    The file gets the permissions of any new file of the process (0o666 without the bits of the umask).

    Args:
        path: The file to create or replace. Missing parent directories are created.

    Yields:
        An empty temporary file in the same directory. On success it is synced to disk and renamed to `path`; on any
        exception it is removed and `path` stays as it was.

    Raises:
        OSError: The directory cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(target)
    # The kernel applies the umask here. os.umask() reads it only by changing it for all threads of the process.
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    os.close(descriptor)
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.chmod(temporary, mode)  # safetensors 0.8 replaces the file by one of mode 0o600
        os.replace(temporary, target)
        sync_directory(target.parent, files=False)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_directory(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Create a directory atomically under a temporary name.

    Args:
        path: The directory to create.
        replace: Replace an existing directory. Without it, only an empty directory is replaced.

    Yields:
        A temporary directory beside `path`. On success it is synced to disk and takes the place of `path`; on any
        exception it is removed and `path` stays as it was.

    Raises:
        FileExistsError: `path` is a file or a directory that is not empty, and `replace` is false.
        OSError: The parent directory cannot be written.
    """
    target = Path(os.path.abspath(path))
    if not replace and (target.is_file() or (target.is_dir() and any(target.iterdir()))):
        raise FileExistsError(f"{target} already exists")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(target)
    temporary.mkdir()
    try:
        yield temporary
        sync_directory(temporary)
        if replace and target.exists():
            _swap(temporary, target)
        else:
            os.replace(temporary, target)  # fails if a non-empty directory was created there meanwhile
        sync_directory(target.parent, files=False)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, old: Path) -> None:
    """Put `new` in the place of `old` and remove `old`; on failure `old` is moved back."""
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


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with staged_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically, keys in the given order, with two-space indent and a final newline.

    Raises:
        ValueError: `value` contains NaN or infinity.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes as 64 lower-case hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
