"""The window of a clip, and which frames are chosen from it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from tvlt_deploy.errors import InputError
from tvlt_deploy.media import Limits
from tvlt_deploy.media.window import LONGEST_SOUND, Window, numbered, shown

LIMITS = Limits()
STEADY = [40 * index for index in range(50)]  # 25 frames per second, in milliseconds


def window(start: Any = 0.0, duration: Any = None, max_seconds: Any = LONGEST_SOUND) -> Window:
    return Window.of(start, duration, max_seconds, LIMITS)


def test_the_window_is_as_long_as_the_shorter_of_both_lengths() -> None:
    assert window() == Window(Fraction(0), Fraction(2377, 100))
    assert window(1, 2) == Window(Fraction(1), Fraction(3))
    assert window(0.12, 100, 10) == Window(Fraction(3, 25), Fraction(3, 25) + 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": -1}, "start is -1; expected a finite number of seconds, zero or more"),
        ({"start": float("nan")}, "start is nan"),
        ({"start": True}, "start is True"),
        ({"start": "soon"}, "start is 'soon'"),
        ({"start": 1e10}, r"start is 1e\+10|start is 10000000000\.0"),
        ({"duration": 0}, "duration is 0; expected a finite number of seconds, more than zero"),
        ({"duration": 1e-9}, "duration is 1e-09; expected at least a microsecond"),
        ({"max_seconds": None}, "max_seconds is None"),
        ({"max_seconds": 601}, "the window is 601 s long; at most 600 s can be read in one call"),
    ],
)
def test_values_that_are_no_window_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        window(**arguments)


def test_frames_shown_at_even_times_of_a_constant_rate() -> None:
    for count in (1, 3, 8, 50):
        assert shown(STEADY, Fraction(0), Fraction(2000), count) == [50 * k // count for k in range(count)]
    assert shown(STEADY, Fraction(0), Fraction(2000), 60) == list(range(50))  # each once


def test_a_frame_is_shown_until_the_next_one() -> None:
    stamps = [0, 900, 910]
    assert shown(stamps, Fraction(500), Fraction(880), 8) == [0]
    assert shown(stamps, Fraction(500), Fraction(1500), 4) == [0, 2]
    assert shown([500], Fraction(0), Fraction(1000), 2) == [0]


def test_frames_by_number_ignore_how_long_each_is_shown() -> None:
    stamps = [0, 10, 20, 1000]
    assert numbered(stamps, Fraction(0), None, 4) == [0, 1, 2, 3]
    assert numbered(STEADY, Fraction(0), None, 8) == [50 * k // 8 for k in range(8)]
    assert numbered(STEADY, Fraction(400), Fraction(800), 5) == [10, 12, 14, 16, 18]


def test_by_number_excludes_a_frame_that_the_end_cuts() -> None:
    assert numbered(STEADY, Fraction(0), Fraction(80), 8) == [0, 1]
    assert numbered(STEADY, Fraction(0), Fraction(100), 8) == [0, 1]


def test_a_window_chooses_by_time_or_by_number() -> None:
    stamps, end = [0, 10, 20, 1000], Fraction(2000)
    by_time, by_number = (Window(Fraction(0), Fraction(2), by_number=flag) for flag in (False, True))
    assert by_time.choose(stamps, Fraction(0), end, 2, to_end=True) == [0, 3]
    assert by_number.choose(stamps, Fraction(0), end, 2, to_end=True) == [0, 2]
