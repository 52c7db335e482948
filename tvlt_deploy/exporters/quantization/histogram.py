"""A histogram of magnitudes that never needs to see the data twice, and where to clip it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from tvlt_deploy.errors import UsageError

BINS = 8192
_LEVELS = 128
"""Magnitudes that symmetric int8 tells apart, zero included."""
_SMALLEST_EXPONENT = -20
"""Magnitudes below 2**-20 all count as zero."""


class Histogram:
    """Counts of magnitudes in `BINS` equal bins from 0 to `range`, a power of two above the largest one seen.

    When a larger magnitude comes, the range doubles and neighbouring bins merge: the state never grows, no count is
    lost, and the order in which the data comes does not matter.
    """

    def __init__(self) -> None:
        self.exponent = _SMALLEST_EXPONENT
        self.counts = np.zeros(BINS, np.int64)
        self.largest = 0.0

    @property
    def range(self) -> float:
        """The upper edge of the last bin."""
        return math.ldexp(1.0, self.exponent)

    def add(self, magnitudes: np.ndarray) -> None:
        """Count float32 magnitudes, all finite and none negative."""
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
    """The magnitude that `share` percent do not exceed, to a bin."""
    reached = np.cumsum(histogram.counts)
    index = int(np.searchsorted(reached, reached[-1] * (share / 100)))
    return min((index + 1) * histogram.range / BINS, histogram.largest)


def least_square_error(histogram: Histogram) -> float:
    """The limit whose int8 grid has the least mean squared error, rounding and clipping together.

    Values are taken as spread evenly inside a bin, and the error integrated there.
    """
    edges = np.arange(BINS + 1) * (histogram.range / BINS)
    limits = histogram.largest * np.arange(1, _LEVELS + 1) / _LEVELS

    def error(limit: float) -> float:
        step = limit / (_LEVELS - 1)
        code = np.minimum(np.floor(edges / step + 0.5), _LEVELS - 1)
        # the integral of (x - step * code)^2 from 0 to each edge: step^3 / 12 for each whole cell, and the rest
        integral = code * step**3 / 12 + (edges - step * code) ** 3 / 3
        return float(histogram.counts @ np.diff(integral))

    return float(min(limits, key=error)) if histogram.largest else 0.0


def least_divergence(histogram: Histogram) -> float:
    """The limit whose int8 grid loses the least information: least Kullback-Leibler divergence.

    For each limit: the clipped distribution, what is beyond the limit counted into its last bin, against the same
    distribution told apart in 128 levels only. Source: S. Migacz, "8-bit Inference with TensorRT", 2017.
    """
    used = int(np.flatnonzero(histogram.counts).max(initial=0)) + 1
    best, divergence = _LEVELS, math.inf
    for kept in range(_LEVELS, -(-used // _LEVELS) * _LEVELS + 1, _LEVELS):
        inside = histogram.counts[:kept].astype(np.float64)
        levels, filled = inside.reshape(_LEVELS, -1), inside.reshape(_LEVELS, -1) > 0
        mean = levels.sum(axis=1, keepdims=True) / np.maximum(filled.sum(axis=1, keepdims=True), 1)
        coarse = (filled * mean).reshape(-1)
        inside[-1] += histogram.counts[kept:].sum()
        found = _divergence(inside, coarse)
        if found < divergence:
            best, divergence = kept, found
    return min(best * histogram.range / BINS, histogram.largest)


def _divergence(found: np.ndarray, model: np.ndarray) -> float:
    """Kullback-Leibler divergence of two counts, each normalised; a bin the model thinks empty costs, not all."""
    total = found.sum()
    if not total or not model.sum():
        return math.inf
    some = found > 0
    p, q = found[some] / total, np.maximum(model[some] / model.sum(), 1e-12)
    return float((p * np.log(p / q)).sum())


METHODS: Mapping[str, Callable[[Histogram, float], float]] = {
    "minmax": lambda histogram, share: histogram.largest,
    "percentile": percentile,
    "entropy": lambda histogram, share: least_divergence(histogram),
    "mse": lambda histogram, share: least_square_error(histogram),
}
"""(histogram, percentile) -> the magnitude that becomes the largest code."""
PERCENTILES = (99.9, 99.999)


def check_method(method: str, share: float) -> None:
    """Raise `UsageError` for an unknown method, or a percentile outside `PERCENTILES`."""
    if method not in METHODS:
        raise UsageError(f"method is {method!r}; wanted one of {', '.join(METHODS)}")
    least, most = PERCENTILES
    if method == "percentile" and not least <= share <= most:
        raise UsageError(f"percentile is {share}; wanted {least} to {most}")
