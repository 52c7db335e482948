"""The time window that frames and sound are read from, and the choice of frames in it."""

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
"""Seconds of sound that the default model accepts: 2048 spectrogram rows of 512 samples at 44100 Hz."""

_MICROSECONDS = 10**6
_LATEST = 10**9  # seconds; about 30 years, so that ticks fit into 64 bits


def _seconds(name: str, value: object, *, zero: bool = False) -> Fraction:
    """`value` rounded to microseconds, so that 0.12 is 3/25 and not the double just below it."""
    expected = "a finite number of seconds, " + ("zero or more" if zero else "more than zero")
    if isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; expected {expected}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {value!r}; expected {expected}") from None
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero) or number > _LATEST:
        raise InputError(f"{name} is {value!r}; expected {expected}")
    exact = Fraction(round(number * _MICROSECONDS), _MICROSECONDS)
    if not exact and not zero:
        raise InputError(f"{name} is {value!r}; expected at least a microsecond")
    return exact


@dataclass(frozen=True)
class Window:
    """A time window [start, end), in seconds from the start of a file."""

    start: Fraction
    end: Fraction
    by_number: bool = False
    """Space frames evenly by their index instead of by time."""

    @classmethod
    def of(
        cls, start: float, duration: float | None, max_seconds: float, limits: Limits, by_number: bool = False
    ) -> Window:
        """The window [start, start + min(duration, max_seconds)). Raises `InputError` for invalid values."""
        begin = _seconds("start", start, zero=True)
        length = _seconds("max_seconds", max_seconds)
        if duration is not None:
            length = min(length, _seconds("duration", duration))
        if length > limits.max_duration:
            raise InputError(
                f"the window is {float(length):g} s long; at most {limits.max_duration:g} s can be read in one call",
                hint="request a shorter window, or raise Limits.max_duration",
            )
        return cls(begin, begin + length, by_number)

    def choose(self, stamps: Sequence[int], begin: Fraction, end: Fraction, count: int, *, to_end: bool) -> list[int]:
        """Indices by `shown` or `numbered`. `to_end`: the video ends at `end`, before the window does."""
        if self.by_number:
            return numbered(stamps, begin, None if to_end else end, count)
        return shown(stamps, begin, end, count)


def shown(stamps: Sequence[int], begin: Fraction, end: Fraction, count: int) -> list[int]:
    """Frames shown at `count` times `begin + k * (end - begin) / count`.

    A frame is shown until the next one appears. At a constant rate the indices are `floor(k * n / count)` of the n
    frames in the window.

    Args:
        stamps: Ascending times at which frames appear, in ticks.
        begin: Start of the window in ticks.
        end: End of the window in ticks.
        count: Number of times.

    Returns:
        Ascending indices into `stamps`, each once.
    """
    first = max(bisect_right(stamps, begin) - 1, 0)
    inside = max(bisect_left(stamps, end) - first, 1)
    # Containers round stamps to ticks: accept a frame one tick late, unless a tick is as long as a frame.
    slack = min(Fraction(1), (end - begin) / (8 * inside))
    moments = (begin + k * (end - begin) / count + slack for k in range(count))
    return sorted({max(bisect_right(stamps, moment) - 1, 0) for moment in moments})


def numbered(stamps: Sequence[int], begin: Fraction, end: Fraction | None, count: int) -> list[int]:
    """`count` of the frames shown from `begin` on, spaced evenly by index.

    Source: zinengtang/TVLT, `RawVideoExtractor.video_to_tensor`.

    Args:
        stamps: Ascending times at which frames appear, in ticks.
        begin: Start of the window in ticks.
        end: End of the window in ticks. A frame that lasts beyond it is excluded. None includes all frames.
        count: Number of frames.

    Returns:
        Ascending indices into `stamps`, each once.
    """
    # Stamps after the end may be incomplete: packets come in decoding order.
    last = len(stamps) if end is None else bisect_left(stamps, end)
    spacing = Fraction(stamps[last - 1] - stamps[0], max(last - 1, 1))
    slack = min(Fraction(1), spacing / 8)  # containers round stamps to their tick
    first = max(bisect_right(stamps, begin + slack) - 1, 0)
    if end is not None:
        last -= stamps[last - 1] + spacing - slack > end
    places = np.linspace(first, max(last, first + 1), count, endpoint=False).astype(int)
    return sorted(set(places.tolist()))
