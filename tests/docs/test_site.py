"""The documentation site builds strictly and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")

LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//|<link\b[^>]*\bhref=\"?(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert not [page.name for page in pages if LOADED.search(page.read_text(encoding="utf-8"))]


def test_every_command_is_on_the_command_line_page(site: Path) -> None:
    from tvlt_deploy.cli import main

    page = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    assert not [name for name in main.commands if f'id="{name}"' not in page]


def test_root_pages_are_part_of_the_site(site: Path) -> None:
    for name in ("contributing", "security", "changelog"):
        assert (site / "project" / f"{name}.html").exists()
