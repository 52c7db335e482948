"""The user's cache: where it is, and who may read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvlt_deploy._internal.cache import user_cache


def test_it_is_below_xdg_cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache("a", "b") == tmp_path / "tvlt-deploy" / "a" / "b"
    assert user_cache() == tmp_path / "tvlt-deploy"
    assert user_cache("a", "b").is_dir()


@pytest.mark.parametrize("value", [None, "", "relative/cache"])
def test_without_an_absolute_path_it_is_in_the_home_directory(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert user_cache("a") == tmp_path / ".cache" / "tvlt-deploy" / "a"
    assert not (tmp_path / "relative").exists()


def test_other_users_cannot_read_new_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache("private").stat().st_mode & 0o077 == 0
