import math

import numpy as np
import pytest

from tvlt_deploy.errors import UsageError
from tvlt_deploy.exporters.quantization.histogram import (
    BINS,
    METHODS,
    Histogram,
    check_method,
    min_divergence,
    min_square_error,
    percentile,
)


def histogram_of(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(np.abs(part).astype(np.float32))
    return histogram


def test_the_range_is_the_power_of_two_above_the_largest() -> None:
    for largest, expected in ((0.75, 1.0), (1.0, 2.0), (3.9, 4.0), (100.0, 128.0), (2**-30, 2**-20)):
        assert histogram_of(np.array([largest])).range == expected


def test_widening_keeps_every_count_where_it_belongs() -> None:
    # one value in the middle of each bin of [0, 1)
    middles = (np.arange(BINS) + 0.5) / BINS
    histogram = histogram_of(middles)
    assert (histogram.counts == 1).all()
    histogram.add(np.array([7.0], np.float32))  # to [0, 8): eight bins become one
    assert histogram.range == 8
    assert (histogram.counts[: BINS // 8] == 8).all()
    assert histogram.counts[BINS // 8 :].sum() == 1
    assert histogram.counts[BINS * 7 // 8] == 1
    histogram.add(np.array([1e30], np.float32))  # everything so far is nothing beside this
    assert histogram.counts[0] == BINS + 1
    assert histogram.counts.sum() == BINS + 2


def test_order_and_grouping_do_not_matter() -> None:
    random = np.random.default_rng(0)
    parts = [random.normal(scale=scale, size=1000) for scale in (0.01, 3, 0.5, 40)]
    whole = histogram_of(np.concatenate(parts))
    for other in (histogram_of(*parts), histogram_of(*parts[::-1])):
        assert other.range == whole.range
        assert other.largest == whole.largest
        np.testing.assert_array_equal(other.counts, whole.counts)


def test_minmax_is_exact() -> None:
    assert METHODS["minmax"](histogram_of(np.array([0.1, -3.25, 2.0])), 0) == 3.25


@pytest.mark.parametrize("share", [99.9, 99.99, 99.999])
def test_percentile_of_a_ramp_is_its_share(share: float) -> None:
    ramp = np.linspace(0, 5, 1_000_001)
    found = percentile(histogram_of(ramp), share)
    assert abs(found - 5 * share / 100) <= 8 / BINS
    assert found <= 5


def test_percentile_ignores_what_is_rare() -> None:
    values = np.concatenate([np.linspace(0, 1, 99_995), np.full(5, 500.0)])
    assert percentile(histogram_of(values), 99.9) < 1.1
    assert percentile(histogram_of(values), 99.999) == 500


def test_mse_leaves_a_ramp_alone_and_clips_a_long_tail() -> None:
    assert min_square_error(histogram_of(np.linspace(0, 1, 100_000))) == pytest.approx(1, abs=0.02)
    normal = np.random.default_rng(0).normal(size=1_000_000)
    limit = min_square_error(histogram_of(normal))
    assert limit == pytest.approx(best_of(normal), rel=0.03)
    assert limit < np.abs(normal).max()
    # n rounded values cost n (limit / 127)^2 / 12, one clipped outlier (1000 - limit)^2
    expected = 1000 / (1 + len(normal) / (12 * 127**2))
    assert min_square_error(histogram_of(normal, np.array([1000.0]))) == pytest.approx(expected, rel=0.05)


def best_of(values: np.ndarray) -> float:
    """The limit of least squared error found by rounding every value."""

    def error(limit: float) -> float:
        step = limit / 127
        return float(np.square(values - step * np.clip(np.rint(values / step), -127, 127)).mean())

    return min(np.abs(values).max() * np.arange(40, 129) / 128, key=error)


def test_entropy_keeps_a_ramp_whole_and_cuts_an_outlier() -> None:
    assert min_divergence(histogram_of(np.linspace(0, 0.999, 500_000))) == pytest.approx(0.999, abs=0.02)
    normal = np.random.default_rng(1).normal(size=500_000)
    assert min_divergence(histogram_of(normal, np.array([60.0]))) < 8
    assert 2 < min_divergence(histogram_of(normal)) < 6


@pytest.mark.parametrize("method", METHODS)
def test_zeros_have_no_limit_and_do_no_harm(method: str) -> None:
    found = METHODS[method](histogram_of(np.zeros(100)), 99.99)
    assert found == 0
    assert math.isfinite(found)


def test_refusals() -> None:
    with pytest.raises(UsageError, match=r"method is 'best'; expected one of minmax, percentile, entropy, mse"):
        check_method("best", 99.99)
    with pytest.raises(UsageError, match=r"percentile is 90; expected 99\.9 to 99\.999"):
        check_method("percentile", 90)
    check_method("mse", 90)
