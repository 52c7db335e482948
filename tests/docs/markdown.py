"""The Markdown files of the project, their fenced blocks, and what HTML comments say about running them.

<!-- snippets: slow, without bundle/ -->    at the top of a page: its test is slow; names it creates itself
<!-- snippet: skip, needs a CUDA device --> above a block: why it is not run
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

PYTHON = ("python",)
SHELL = ("bash", "sh", "console")
SHOWN = ("text", "c", "cpp", "cmake", "json", "toml", "yaml")
"""Languages of blocks that are shown and not run."""

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)$")
COMMENT = re.compile(r"^ *<!-- snippet: (?P<command>\w+), (?P<reason>.+) -->$")
PAGE_COMMENT = re.compile(r"^<!-- snippets: (?P<options>.+) -->$")

PENDING = ("docs/reference/bundle.md",)
"""Pages whose next version is in work; they join with it."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, code, the line of its first line of code, and why it is skipped."""

    language: str
    code: str
    line: int
    skip: str | None = None


@dataclass(frozen=True)
class Page:
    """A Markdown file: its path from the root, and what its `snippets` comment says."""

    path: str
    slow: bool = False
    without: tuple[str, ...] = ()


@cache
def markdown_files() -> tuple[str, ...]:
    """Paths of all Markdown files that git knows or would add, from the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return tuple(path for path in listed.stdout.splitlines() if (ROOT / path).exists() and path not in PENDING)


def _lines(path: str) -> list[str]:
    return (ROOT / path).read_text(encoding="utf-8").splitlines()


def read_page(path: str) -> Page:
    """The page at a path from the root. Words of its comment that mean nothing are refused."""
    found = [match["options"] for line in _lines(path) if (match := PAGE_COMMENT.match(line))]
    words = found[0].split(", ") if found else []
    without = tuple(name for word in words if word.startswith("without ") for name in word.split()[1:])
    assert all(word == "slow" or word.startswith("without ") for word in words), f"{path}: {words}"
    return Page(path, "slow" in words, without)


def read_blocks(path: str) -> Iterator[Block]:
    """The fenced blocks of a page. Fails on one without a language that is known, and on a comment that is not."""
    lines = _lines(path)
    numbered = enumerate(lines, 1)
    for number, line in numbered:
        if (fence := FENCE.match(line)) is None:
            assert not line.lstrip().startswith("```"), f"{path}:{number}: cannot read the fence {line!r}"
            continue
        language, indent = fence["language"], fence["indent"]
        known = (*PYTHON, *SHELL, *SHOWN)
        assert language in known, f"{path}:{number}: language is {language!r}; expected one of {', '.join(known)}"
        above = COMMENT.match(lines[number - 2]) if number > 1 else None
        assert above is None or above["command"] == "skip", f"{path}:{number - 1}: cannot read {lines[number - 2]!r}"
        code = []
        for _, inner in numbered:
            if inner == f"{indent}```":
                break
            code.append(inner.removeprefix(indent))
        else:
            raise AssertionError(f"{path}:{number}: the block does not end")
        yield Block(language, "\n".join(code) + "\n", number + 1, above["reason"] if above else None)
