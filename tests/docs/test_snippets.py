"""Every python and shell block of the documentation runs, page by page and in order, or says why it does not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.docs.markdown import PYTHON, ROOT, SHELL, Block, Page, markdown_files, read_blocks, read_page

pytest.importorskip("av")
pytest.importorskip("onnxruntime")

PAGES = [read_page(path) for path in markdown_files()]
SECONDS = 900


def run_python(page: Page, block: Block, names: dict[str, Any]) -> None:
    """Run a block in the page's namespace; a traceback shows the lines of the Markdown file."""
    path = str(ROOT / page.path)
    exec(compile("\n" * (block.line - 1) + block.code, path, "exec"), names)


def run_shell(page: Page, block: Block) -> None:
    """Run a block in bash; the first command that fails ends it."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        said = f"{page.path}:{block.line} exited with {done.returncode}\n{block.code}\n{done.stdout}"
        pytest.fail(said, pytrace=False)


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.path, marks=pytest.mark.slow if page.slow else ()) for page in PAGES]
)
def test_snippets_run(page: Page, subtests: pytest.Subtests, request: pytest.FixtureRequest) -> None:
    blocks = [block for block in read_blocks(page.path) if block.language in (*PYTHON, *SHELL)]
    if any(block.skip is None for block in blocks):
        workplace = request.getfixturevalue("workplace")
        for name in page.without:
            shutil.rmtree(workplace / name, ignore_errors=True)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        with subtests.test(f"{page.path}:{block.line}"):
            if block.skip is not None:
                pytest.skip(block.skip)
            if block.language in PYTHON:
                run_python(page, block, names)
            else:
                run_shell(page, block)


def test_blocks_without_a_language_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("text\n\n```\nls\n```\n")
    with pytest.raises(AssertionError, match="expected one of"):
        list(read_blocks(str(tmp_path / "page.md")))


def test_a_failing_command_shows_its_output() -> None:
    block = Block("bash", "echo before; false | cat; echo after\n", 3)
    with pytest.raises(pytest.fail.Exception, match=r"page.md:3 exited with 1\n(.*\n)*before"):
        run_shell(Page("page.md"), block)
