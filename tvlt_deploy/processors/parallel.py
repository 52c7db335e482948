"""Independent pieces of one call, shared among a few threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tvlt_deploy._internal.machine import usable_cores

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_MOST_THREADS = 4


def parallel_map(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """`work` of every item, in order. It pays where the work leaves the interpreter's lock, as numpy and Pillow do.

    The pool lasts for the call only: nothing survives into a forked process.
    """
    pieces = list(items)
    threads = min(_MOST_THREADS, usable_cores(), len(pieces))
    if threads < 2:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, pieces))
