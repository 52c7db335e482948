"""A histogram of magnitudes that needs one pass over the data, and the methods that choose where to clip it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from tvlt_deploy.errors import UsageError

BINS = 8192
_LEVELS = 128
"""The number of magnitudes of symmetric int8, zero included."""
_MIN_EXPONENT = -20
"""Magnitudes below 2**-20 are in the first bin."""


class Histogram:
    """Counts of magnitudes in `BINS` equal bins from 0 to `range`, a power of two above the largest magnitude.

    When a larger magnitude is added, the range doubles and neighboring bins merge: the size is constant, no count is
    lost, and the order of the data does not matter.

    Attributes:
        exponent: `range` is 2**exponent.
        counts: The count of each bin, (BINS,) int64.
        largest: The largest magnitude added.
    """

    def __init__(self) -> None:
        self.exponent = _MIN_EXPONENT
        self.counts = np.zeros(BINS, np.int64)
        self.largest = 0.0

    @property
    def range(self) -> float:
        """The upper edge of the last bin."""
        return math.ldexp(1.0, self.exponent)

    def add(self, magnitudes: np.ndarray) -> None:
        """Count magnitudes: float32 of any shape, finite and not negative."""
        largest = float(magnitudes.max(initial=0.0))
        self.largest = max(self.largest, largest)
        self._widen(math.frexp(largest)[1])
        index = (magnitudes.reshape(-1) * np.float32(BINS / self.range)).astype(np.int32)
        self.counts += np.bincount(index, minlength=BINS)

    def _widen(self, exponent: int) -> None:
        if exponent <= self.exponent:
            return
        merged = min(1 << min(exponent - self.exponent, 62), BINS)
        sums = self.counts.reshape(-1, merged).sum(axis=1)
        self.counts = np.pad(sums, (0, BINS - len(sums)))
        self.exponent = exponent


def percentile(histogram: Histogram, share: float) -> float:
    """The magnitude that `share` percent of the data do not exceed, to the precision of a bin."""
    reached = np.cumsum(histogram.counts)
    index = int(np.searchsorted(reached, reached[-1] * (share / 100)))
    return min((index + 1) * histogram.range / BINS, histogram.largest)


def min_square_error(histogram: Histogram) -> float:
    """The limit with the smallest mean squared error of int8, rounding and clipping together.

    Values are assumed to be uniform inside a bin, and the error is integrated over it.
    """
    edges = np.arange(BINS + 1) * (histogram.range / BINS)
    limits = histogram.largest * np.arange(1, _LEVELS + 1) / _LEVELS

    def error(limit: float) -> float:
        scale = limit / (_LEVELS - 1)
        code = np.minimum(np.floor(edges / scale + 0.5), _LEVELS - 1)
        # the integral of (x - scale * code)^2 from 0 to each edge: scale^3 / 12 for each complete cell, and the rest
        integral = code * scale**3 / 12 + (edges - scale * code) ** 3 / 3
        return float(histogram.counts @ np.diff(integral))

    return float(min(limits, key=error)) if histogram.largest else 0.0


def min_divergence(histogram: Histogram) -> float:
    """The limit with the smallest Kullback-Leibler divergence of int8.

    For each limit, the distribution clipped to it (values beyond it are in its last bin) is compared with the same
    distribution in 128 levels. Source: S. Migacz, "8-bit Inference with TensorRT", 2017.
    """
    used = int(np.flatnonzero(histogram.counts).max(initial=0)) + 1
    best, divergence = _LEVELS, math.inf
    for kept in range(_LEVELS, -(-used // _LEVELS) * _LEVELS + 1, _LEVELS):
        inside = histogram.counts[:kept].astype(np.float64)
        levels, filled = inside.reshape(_LEVELS, -1), inside.reshape(_LEVELS, -1) > 0
        mean = levels.sum(axis=1, keepdims=True) / np.maximum(filled.sum(axis=1, keepdims=True), 1)
        coarse = (filled * mean).reshape(-1)
        inside[-1] += histogram.counts[kept:].sum()
        candidate = _divergence(inside, coarse)
        if candidate < divergence:
            best, divergence = kept, candidate
    return min(best * histogram.range / BINS, histogram.largest)


def _divergence(actual: np.ndarray, model: np.ndarray) -> float:
    """Kullback-Leibler divergence of two counts, each normalized; a bin that is empty in the model counts as 1e-12."""
    total = actual.sum()
    if not total or not model.sum():
        return math.inf
    some = actual > 0
    p, q = actual[some] / total, np.maximum(model[some] / model.sum(), 1e-12)
    return float((p * np.log(p / q)).sum())


METHODS: Mapping[str, Callable[[Histogram, float], float]] = {
    "minmax": lambda histogram, share: histogram.largest,
    "percentile": percentile,
    "entropy": lambda histogram, share: min_divergence(histogram),
    "mse": lambda histogram, share: min_square_error(histogram),
}
"""(histogram, percentile) -> the magnitude that becomes the largest code."""
PERCENTILES = (99.9, 99.999)


def check_method(method: str, share: float) -> None:
    """Check the name of a method and, for `percentile`, its percentage.

    Raises:
        UsageError: The method is unknown, or the percentage is outside `PERCENTILES`.
    """
    if method not in METHODS:
        raise UsageError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    low, high = PERCENTILES
    if method == "percentile" and not low <= share <= high:
        raise UsageError(f"percentile is {share}; expected {low} to {high}")
