"""How long work reports what it is doing: a callable that receives one line of text at each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Self, TypeVar

T = TypeVar("T")

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


def counted(items: Sequence[T], label: str, progress: Progress, name: Callable[[T], str] = str) -> Iterator[T]:
    """Report each item before it is worked on.

    Args:
        items: the items of a loop.
        label: what the loop does, the start of each line.
        progress: receives a `Step` such as `reading 1/3: clip.mp4` for each item.
        name: the text for an item.

    Yields:
        The items.
    """
    for index, item in enumerate(items):
        progress(Step(f"{label} {index + 1}/{len(items)}: {name(item)}", index, len(items)))
        yield item
