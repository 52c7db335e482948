"""Files and directories are written atomically."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tvlt_deploy._internal import atomic as files
from tvlt_deploy._internal.atomic import sha256_of, staged_directory, staged_file, write_json, write_text


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_file_is_replaced_whole_or_left(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "a" / "file.txt"
    write_text(target, "old")
    with pytest.raises(failure), staged_file(target) as temporary:  # noqa: PT012 - the write precedes the failure
        temporary.write_text("half of the n")
        assert target.read_text() == "old"
        raise failure
    assert target.read_text() == "old"
    write_text(target, "nëw")
    assert target.read_bytes() == "nëw".encode()
    assert names(target.parent) == ["file.txt"]


def test_files_get_the_permissions_that_the_user_s_mask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "")
        with staged_directory(tmp_path / "directory"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "directory").stat().st_mode & 0o777 == 0o750


def test_a_writer_that_replaces_the_file_does_not_change_its_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with staged_file(tmp_path / "file") as temporary:
            other = tmp_path / "other"
            other.write_text("content")
            other.chmod(0o600)
            other.replace(temporary)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "file").read_text() == "content"


def test_the_umask_of_the_process_is_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def umask(mask: int) -> int:
        raise AssertionError("files of other threads would be created without a umask")

    monkeypatch.setattr(files.os, "umask", umask)
    write_text(tmp_path / "file", "")
    with staged_directory(tmp_path / "directory"):
        pass
    assert names(tmp_path) == ["directory", "file"]


def test_json_is_readable_and_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": None})
    assert (tmp_path / "a.json").read_text().endswith("}\n")
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, 2.5], "a": None}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, 2.5], "a": None}
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_directory_is_replaced_whole_or_left(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "place"
    with staged_directory(target) as stage:
        (stage / "old").write_text("1")
        assert not target.exists()
    with pytest.raises(failure), staged_directory(target, replace=True) as stage:  # noqa: PT012
        (stage / "new").write_text("2")
        raise failure
    assert names(target) == ["old"]
    with staged_directory(target, replace=True) as stage:
        (stage / "deep").mkdir()
        (stage / "deep" / "new").write_text("2")
        assert names(target) == ["old"]
    assert names(target) == ["deep"]
    assert names(tmp_path) == ["place"]


@pytest.mark.parametrize("failing_move", [0, 1])
def test_an_exchange_that_fails_puts_the_old_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_move: int
) -> None:
    target = tmp_path / "place"
    target.mkdir()
    (target / "old").write_text("1")
    moves, replace = [], os.replace

    def move(source: str, destination: str) -> None:
        moves.append(destination)
        if len(moves) == failing_move + 1:
            raise OSError("no")
        replace(source, destination)

    monkeypatch.setattr(files.os, "replace", move)
    with pytest.raises(OSError, match="no"), staged_directory(target, replace=True) as stage:
        (stage / "new").write_text("2")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["place"]


def test_what_stands_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    for name in ("taken", "taken/file"):
        with pytest.raises(FileExistsError, match="already exists"), staged_directory(tmp_path / name):
            pass
    (tmp_path / "empty").mkdir()
    with staged_directory(tmp_path / "empty") as stage:
        (stage / "new").write_text("")
    assert names(tmp_path / "empty") == ["new"]


def test_what_has_come_to_stand_there_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "late"
    with pytest.raises(OSError, match="not empty"), staged_directory(target) as stage:  # noqa: PT012
        (stage / "mine").write_text("")
        target.mkdir()
        (target / "theirs").write_text("")
    assert names(target) == ["theirs"]
    assert names(tmp_path) == ["late"]


def test_hashes_are_those_of_hashlib(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
