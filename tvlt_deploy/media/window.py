"""The one stretch of time that frames and sound are read from, and which frames stand for it."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tvlt_deploy.errors import InputError
from tvlt_deploy.media.limits import Limits

LONGEST_SOUND = 23.77
"""Seconds of sound that the default model takes: 2048 spectrogram rows of 512 samples at 44100 Hz."""

_MICROSECONDS = 10**6
_LATEST = 10**9  # seconds; some thirty years, so that ticks stay within 64 bits


def _seconds(name: str, value: object, *, zero: bool = False) -> Fraction:
    """`value` to the microsecond, so that 0.12 means 3/25 and not the double just below it."""
    wanted = "a finite number of seconds, " + ("zero or more" if zero else "more than zero")
    if isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; wanted {wanted}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {value!r}; wanted {wanted}") from None
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero) or number > _LATEST:
        raise InputError(f"{name} is {value!r}; wanted {wanted}")
    exact = Fraction(round(number * _MICROSECONDS), _MICROSECONDS)
    if not exact and not zero:
        raise InputError(f"{name} is {value!r}; wanted at least a microsecond")
    return exact


@dataclass(frozen=True)
class Window:
    """Seconds [start, end) from the start of a file."""

    start: Fraction
    end: Fraction
    by_number: bool = False
    """Frames are spaced evenly by their number, else by time."""

    @classmethod
    def of(
        cls, start: float, duration: float | None, max_seconds: float, limits: Limits, by_number: bool = False
    ) -> Window:
        """[start, start + min(duration, max_seconds)). Raises `InputError` for values that mean no window."""
        begin = _seconds("start", start, zero=True)
        length = _seconds("max_seconds", max_seconds)
        if duration is not None:
            length = min(length, _seconds("duration", duration))
        if length > limits.max_duration:
            raise InputError(
                f"the window is {float(length):g} s long; at most {limits.max_duration:g} s are read in one call",
                hint="ask for a shorter window, or raise Limits.max_duration",
            )
        return cls(begin, begin + length, by_number)

    def choose(self, stamps: Sequence[int], begin: Fraction, end: Fraction, count: int, *, whole: bool) -> list[int]:
        """`shown` or `numbered`, as the window asks for; `whole`: the pictures end with `end`, the window does not."""
        if self.by_number:
            return numbered(stamps, begin, None if whole else end, count)
        return shown(stamps, begin, end, count)


def shown(stamps: Sequence[int], begin: Fraction, end: Fraction, count: int) -> list[int]:
    """Indices of the frames on show at `count` times `begin + k * (end - begin) / count`, each index once.

    `stamps` are the ascending times at which frames appear, in ticks, as are `begin` and `end`; a frame is on show
    until the next one appears. At a constant rate the indices are `floor(k * n / count)` of the n frames on show.
    """
    first = max(bisect_right(stamps, begin) - 1, 0)
    inside = max(bisect_left(stamps, end) - first, 1)
    # Containers round stamps to their tick: a frame one tick late is on time, unless ticks are as long as frames.
    slack = min(Fraction(1), (end - begin) / (8 * inside))
    moments = (begin + k * (end - begin) / count + slack for k in range(count))
    return sorted({max(bisect_right(stamps, moment) - 1, 0) for moment in moments})


def numbered(stamps: Sequence[int], begin: Fraction, end: Fraction | None, count: int) -> list[int]:
    """Indices of `count` of the frames on show from `begin` on, spaced evenly by number, each index once.

    Arguments are those of `shown`. A frame that `end` cuts does not count; where `end` is None, all do. Source:
    zinengtang/TVLT, `RawVideoExtractor.video_to_tensor`.
    """
    # Behind the end some may be missing: packets come in the order of decoding.
    last = len(stamps) if end is None else bisect_left(stamps, end)
    spacing = Fraction(stamps[last - 1] - stamps[0], max(last - 1, 1))
    slack = min(Fraction(1), spacing / 8)  # containers round stamps to their tick
    first = max(bisect_right(stamps, begin + slack) - 1, 0)
    if end is not None:
        last -= stamps[last - 1] + spacing - slack > end
    places = np.linspace(first, max(last, first + 1), count, endpoint=False).astype(int)
    return sorted(set(places.tolist()))
