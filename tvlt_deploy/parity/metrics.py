"""Metrics of the difference between two arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Outputs = Mapping[str, np.ndarray]
"""Arrays by the name of the model output."""

LONG_ROW = 64
"""Rows of at least this many values are compared by cosine."""


def max_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference, computed in float64.

    Args:
        actual: values of any shape.
        expected: values of the same shape.

    Returns:
        The difference in the unit of the values; infinity where `actual` is not finite or the shapes differ.
    """
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    return float(np.abs(actual.astype(np.float64) - expected).max(initial=0.0))


def min_cosine(actual: np.ndarray, expected: np.ndarray) -> float:
    """Smallest cosine similarity between corresponding rows, computed in float64.

    Args:
        actual: (..., values).
        expected: values of the same shape.

    Returns:
        A number in [-1, 1]; -1 where `actual` is not finite or the shapes differ. The cosine of two rows of zeros is
        1, and that of a row of zeros and any other row is 0.
    """
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return -1.0
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)
    norms, equal = lengths[0] * lengths[1], (lengths[0] == lengths[1]).astype(np.float64)
    cosine = np.divide((a * b).sum(axis=-1), norms, out=equal, where=norms > 0)
    return float(cosine.min(initial=1.0))


def label_agreement(actual: np.ndarray, expected: np.ndarray, exclusive: bool, tie: float) -> float:
    """Share of equal labels among the rows whose reference is not a tie.

    Args:
        actual: (clips, labels) logits.
        expected: logits of the same shape, from the reference.
        exclusive: compare the index of the largest logit of a row; otherwise the sign of each logit.
        tie: margin below which a reference row (or, without `exclusive`, a reference logit) is ignored.

    Returns:
        A number in [0, 1]; 1 where every reference is a tie.
    """
    if exclusive:
        ordered = np.sort(expected, axis=-1)
        decided = ordered[:, -1] - ordered[:, -2] > tie
        equal = actual.argmax(axis=-1) == expected.argmax(axis=-1)
    else:
        decided = np.abs(expected) > tie
        equal = (actual >= 0) == (expected >= 0)
    return float(equal[decided].mean()) if decided.any() else 1.0


def is_hidden(name: str) -> bool:
    """Whether an output is neither logits of labels nor a mask: hidden states and reconstructed patches."""
    return name not in ("logits", "matching_logits") and not name.endswith("_label_mask")


def deviation(outputs: Sequence[Outputs], name: str) -> float:
    """Standard deviation of one output over all cases, computed in float64.

    Args:
        outputs: the outputs of each case.
        name: the output to measure.

    Returns:
        A positive number. An output that hardly varies counts as varying by 5 % of its root mean square: its rounding
        errors are proportional to that.
    """
    values = np.concatenate([output[name].reshape(-1) for output in outputs]).astype(np.float64)
    magnitude = float(np.sqrt(np.square(values).mean()))
    return max(float(values.std()), magnitude / 20, float(np.finfo(np.float32).tiny))
