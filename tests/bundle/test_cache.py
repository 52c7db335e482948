"""Files derived from a bundle: one directory per manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.cache import bundle_cache
from tvlt_deploy.bundle.manifest import NOT_RUN
from tvlt_deploy.bundle.writer import record_verdict


def test_each_manifest_has_a_directory_of_its_own(
    classification: Bundle, copy_of: Callable[[Bundle], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = Bundle(copy_of(classification))
    first = bundle_cache(copy, "scores")
    assert first.is_dir()
    assert first == tmp_path / "cache" / "tvlt-deploy" / "bundles" / copy.digest / "scores"
    assert bundle_cache(classification, "scores") == first  # the same bundle in another place
    record_verdict(copy, "fp32/model.onnx", NOT_RUN)
    assert bundle_cache(copy, "scores") != first
