"""How long work reports what it is doing: a callable that receives one line of text at each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

Progress = Callable[[str], None]
"""Called with one line of text at each step; a `Step` where the step is one of a known number."""


class Step(str):
    """A line of progress that is number `done` of `total`, so that a progress bar can show the time left."""

    done: int
    total: int

    def __new__(cls, text: str, done: int, total: int) -> Self:
        """Text with a count. done: steps finished before this line, from 0. total: steps in all, at least 1."""
        step = super().__new__(cls, text)
        step.done, step.total = done, total
        return step


def silent(message: str) -> None:
    """Report nothing."""
