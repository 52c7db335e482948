"""Engines run only where they were built, or with their hash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundle.test_manifest import engine
from tvlt_deploy._internal.atomic import sha256_of
from tvlt_deploy._internal.cache import user_cache
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.trust import check_trust, trust
from tvlt_deploy.bundle.writer import add_engine
from tvlt_deploy.errors import FileRefusedError

PATH = engine().path


@pytest.fixture
def bundle(
    classification: Bundle, copy_of: Callable[[Bundle], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bundle:
    """A bundle with an engine from elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = Bundle(copy_of(classification))
    add_engine(copy, engine(), b"code")
    return copy


def test_an_engine_from_elsewhere_is_refused(bundle: Bundle) -> None:
    digest = sha256_of(bundle.path(PATH))
    with pytest.raises(FileRefusedError, match=rf"was not built here, .*--trust-engine {digest}") as caught:
        check_trust(bundle, PATH)
    assert caught.value.exit_code == 5


def test_an_engine_that_was_built_here_may_run(bundle: Bundle) -> None:
    trust(sha256_of(bundle.path(PATH)))
    check_trust(bundle, PATH)
    add_engine(bundle, engine(), b"other code")
    with pytest.raises(FileRefusedError, match="was not built here"):
        check_trust(bundle, PATH)


@pytest.mark.parametrize("of", ["engine", "manifest"])
def test_a_hash_from_the_builder_is_enough(bundle: Bundle, of: str) -> None:
    digest = bundle.manifest.files[PATH].sha256 if of == "engine" else bundle.digest
    check_trust(bundle, PATH, digest)
    check_trust(bundle, PATH, digest.upper())
    with pytest.raises(FileRefusedError, match="was not built here"):  # nothing is recorded
        check_trust(bundle, PATH)


def test_another_hash_is_refused_even_for_an_engine_that_was_built_here(bundle: Bundle) -> None:
    digest = sha256_of(bundle.path(PATH))
    trust(digest)
    with pytest.raises(FileRefusedError, match=rf"has SHA-256 {digest}; expected {'0' * 64} \(ask whoever built"):
        check_trust(bundle, PATH, "0" * 64)


def test_trust_does_not_depend_on_the_manifest(bundle: Bundle) -> None:
    trust(bundle.manifest.files[PATH].sha256)
    before = bundle.digest
    add_engine(bundle, engine("fp16/another.engine"), b"more code")
    assert bundle.digest != before
    check_trust(bundle, PATH)
    assert {path.name for path in user_cache("trusted-engines").iterdir()} == {bundle.manifest.files[PATH].sha256}
