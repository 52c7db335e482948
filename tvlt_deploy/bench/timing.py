"""Warm-up until times are stable, and statistics of a series of times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 3
"""Number of calls whose median is compared with that of the same number of calls before."""
TOLERANCE = 0.05
"""Two windows agree if their medians differ by at most this share."""


@dataclass(frozen=True)
class Statistics:
    """A series of times in seconds; percentiles are interpolated linearly between the sorted values."""

    repeats: int
    median: float
    p90: float
    p99: float
    mean: float
    minimum: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Statistics:
        """Statistics of times in seconds.

        Raises:
            ValueError: There are no samples.
        """
        if not samples:
            raise ValueError("no samples; expected at least one")
        median, p90, p99 = (float(value) for value in np.percentile(samples, (50, 90, 99)))
        return cls(len(samples), median, p90, p99, statistics.fmean(samples), min(samples))


def is_stable(samples: Sequence[float]) -> bool:
    """Whether the medians of the last two windows agree."""
    if len(samples) < 2 * WINDOW:
        return False
    before = statistics.median(samples[-2 * WINDOW : -WINDOW])
    after = statistics.median(samples[-WINDOW:])
    return abs(after - before) <= TOLERANCE * before


def warm_up(call: Callable[[], object], seconds: float, min_calls: int = 2) -> tuple[int, bool]:
    """Call until times are stable, or until the time has passed.

    Args:
        call: What is measured.
        seconds: Time after which to stop, if at least `min_calls` calls were made.
        min_calls: Minimum number of calls.

    Returns:
        The number of calls, and whether their times became stable.
    """
    samples: list[float] = []
    begin = time.perf_counter()
    while not is_stable(samples):
        if len(samples) >= min_calls and time.perf_counter() - begin >= seconds:
            return len(samples), False
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return len(samples), True
