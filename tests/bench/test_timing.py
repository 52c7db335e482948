from __future__ import annotations

import random

import pytest

from tvlt_deploy.bench.timing import Statistics, is_stable, warm_up


def test_percentiles_of_a_ladder() -> None:
    ladder = [float(value) for value in range(101)]
    random.Random(0).shuffle(ladder)
    assert Statistics.of(ladder) == Statistics(101, median=50, p90=90, p99=99, mean=50, minimum=0)


def test_percentiles_lie_between_neighbours() -> None:
    found = Statistics.of([1.0, 2.0, 3.0, 10.0])
    assert (found.repeats, found.median, found.mean, found.minimum) == (4, 2.5, 4.0, 1.0)
    assert found.p90 == pytest.approx(3 + 0.7 * 7)
    assert found.p99 == pytest.approx(3 + 0.97 * 7)


def test_one_sample_is_all_there_is() -> None:
    assert Statistics.of([0.25]) == Statistics(1, 0.25, 0.25, 0.25, 0.25, 0.25)


def test_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Statistics.of([])


@pytest.mark.parametrize(
    ("samples", "stable"),
    [
        ([1, 1, 1, 1, 1], False),
        ([1, 1, 1, 1, 1, 1], True),
        ([9, 1, 1, 1, 9, 1], True),
        ([1, 1, 1, 1.1, 1.1, 1.1], False),
        ([5, 4, 3, 1, 1, 1, 1.04, 1.04, 1.04], True),
    ],
)
def test_stable_when_two_windows_agree(samples: list[float], stable: bool) -> None:
    assert is_stable(samples) is stable


class FakeTime:
    """A clock that each call moves on by the next duration."""

    def __init__(self, *durations: float) -> None:
        self.now, self.durations = 0.0, list(durations)

    def call(self) -> None:
        self.now += self.durations.pop(0)

    def perf_counter(self) -> float:
        return self.now


def test_warm_up_ends_when_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime(9, 5, 2, 1, 1, 1, 1, 1, 1, 1)
    monkeypatch.setattr("tvlt_deploy.bench.timing.time.perf_counter", fake.perf_counter)
    assert warm_up(fake.call, seconds=100) == (8, True)


def test_warm_up_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime(4, 3, 2, 1, 0.5, 0.2)
    monkeypatch.setattr("tvlt_deploy.bench.timing.time.perf_counter", fake.perf_counter)
    assert warm_up(fake.call, seconds=8) == (3, False)


def test_warm_up_makes_the_min_number_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime(40, 30, 20)
    monkeypatch.setattr("tvlt_deploy.bench.timing.time.perf_counter", fake.perf_counter)
    assert warm_up(fake.call, seconds=8, min_calls=2) == (2, False)
