"""Links resolve, lines are short, and pages name what there is in the code."""

from __future__ import annotations

import re

import pytest

import tvlt_deploy
from tests.docs.markdown import ROOT, markdown_files
from tvlt_deploy import errors

WIDTH = 120
FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+?)(?: \{ #(\S+) \})?$", re.MULTILINE)
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TvltError)]


def text_of(path: str) -> str:
    """The text outside fenced blocks."""
    return FENCED.sub("", (ROOT / path).read_text(encoding="utf-8"))


def anchors(path: str) -> set[str]:
    """The anchors of a page's headings, by the rules that hosting pages and the site share."""
    found = set()
    for title, given in HEADING.findall(text_of(path)):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title)
        found.add(given or re.sub(r"[^\w\- ]", "", plain).strip().lower().replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", markdown_files())
def test_relative_links_and_anchors_resolve(path: str) -> None:
    broken = []
    for link in LINK.findall(text_of(path)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = ((ROOT / path).parent / target if target else ROOT / path).resolve()
        if not file.exists() or (anchor and anchor not in anchors(str(file.relative_to(ROOT)))):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("path", markdown_files())
def test_lines_are_short(path: str) -> None:
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    assert not [f"{path}:{number}" for number, line in enumerate(lines, 1) if len(line) > WIDTH]


def test_every_error_has_an_entry_under_its_own_name() -> None:
    assert {kind.__name__ for kind in ERRORS} <= anchors("docs/reference/errors.md")


def test_every_public_name_is_on_the_python_page() -> None:
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    missing = [name for name in tvlt_deploy.__all__ if f"::: tvlt_deploy.{name}\n" not in page]
    assert set(missing) <= {"__version__", "TvltError"}


@pytest.mark.parametrize("path", [path for path in markdown_files() if path.startswith("docs/")])
def test_tests_that_a_page_names_exist(path: str) -> None:
    named = set(re.findall(r"\btest_\w+(?=`)", (ROOT / path).read_text(encoding="utf-8")))
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name in named if f"def {name}(" not in code]
