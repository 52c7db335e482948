"""Limits of one file: values that are accepted, and the error of each limit with its actual and allowed value."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tvlt_deploy.errors import InputError, MediaError
from tvlt_deploy.media import Limits
from tvlt_deploy.media.limits import Watch

FILE = Path("clip.mp4")


@pytest.mark.parametrize("name", [item.name for item in fields(Limits)])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), True, "10", None])
def test_every_limit_is_a_positive_finite_number(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"limit {name} is .*; expected a positive, finite number"):
        Limits(**{name: value})


def test_a_value_equal_to_a_limit_passes() -> None:
    watch = Watch(FILE, Limits(max_pixels=12, max_packets=3, max_decoded_bytes=2**20))
    watch.check_time()
    watch.check_packets(3)
    watch.check_pixels(4, 3)
    watch.check_decoded(2**20, "frames")


def test_a_value_over_a_limit_is_refused_with_the_file_and_the_limit() -> None:
    watch = Watch(FILE, Limits(max_pixels=12, max_packets=3, max_decoded_bytes=2**20))
    with pytest.raises(MediaError, match=r"clip\.mp4: more than 3 packets"):
        watch.check_packets(4)
    with pytest.raises(MediaError, match=r"clip\.mp4: frames are 13x1 pixels; at most 12 pixels are allowed"):
        watch.check_pixels(13, 1)
    with pytest.raises(MediaError, match=r"clip\.mp4: frames are 0x9 pixels"):
        watch.check_pixels(0, 9)
    with pytest.raises(MediaError, match=r"decoded sound would take 2 MiB; at most 1 MiB are allowed"):
        watch.check_decoded(2**21, "sound")


def test_time_counts_from_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("tvlt_deploy.media.limits.time.monotonic", lambda: now)
    watch = Watch(FILE, Limits(timeout=5))
    now = 105.0
    watch.check_time()
    now = 105.1
    for check in (watch.check_time, lambda: watch.check_packets(1)):
        with pytest.raises(MediaError, match=r"clip\.mp4: reading took longer than 5 s .*Limits\.timeout"):
            check()
