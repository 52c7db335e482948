"""Independent parts of one call on a few threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tvlt_deploy._internal.machine import usable_cores

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_MAX_THREADS = 4


def parallel_map(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Apply a function to every item, on several threads.

    It saves time where the function releases the interpreter's lock, as numpy and Pillow do. The pool exists only
    during the call, so that a forked process has no threads left over.

    Args:
        work: The function.
        items: Its arguments.

    Returns:
        The results in order.
    """
    arguments = list(items)
    threads = min(_MAX_THREADS, usable_cores(), len(arguments))
    if threads < 2:
        return [work(argument) for argument in arguments]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, arguments))
