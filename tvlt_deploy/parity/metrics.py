"""How far two arrays are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Outputs = Mapping[str, np.ndarray]


LONG_ROW = 64
"""Rows of this many values and more are compared by cosine."""


def max_difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest absolute difference; infinity where `found` is not finite or the shapes differ."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - wanted).max(initial=0.0))


def least_cosine(found: np.ndarray, wanted: np.ndarray) -> float:
    """Smallest cosine between rows (last axis); -1 where `found` is not finite or the shapes differ.

    A row of zeros agrees (1) with a row of zeros only, and is at right angles (0) to all others.
    """
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return -1.0
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)
    norms, equal = lengths[0] * lengths[1], (lengths[0] == lengths[1]).astype(np.float64)
    cosine = np.divide((a * b).sum(axis=-1), norms, out=equal, where=norms > 0)
    return float(cosine.min(initial=1.0))


def label_agreement(found: np.ndarray, wanted: np.ndarray, exclusive: bool, tie: float) -> float:
    """Share of equal labels: of the largest logit when `exclusive`, else of each logit's sign.

    Rows whose reference decides by less than `tie` are left out; 1.0 when none remains.
    """
    if exclusive:
        ordered = np.sort(wanted, axis=-1)
        decided = ordered[:, -1] - ordered[:, -2] > tie
        equal = found.argmax(axis=-1) == wanted.argmax(axis=-1)
    else:
        decided = np.abs(wanted) > tie
        equal = (found >= 0) == (wanted >= 0)
    return float(equal[decided].mean()) if decided.any() else 1.0


def is_hidden(name: str) -> bool:
    """Whether an output is neither logits nor a mask."""
    return name not in ("logits", "matching_logits") and not name.endswith("_label_mask")


def deviation(outputs: Sequence[Outputs], name: str) -> float:
    """Standard deviation of an output over all cases, in double precision.

    An output that hardly varies counts as varying by a twentieth of its magnitude: float32 itself is no finer.
    """
    values = np.concatenate([output[name].reshape(-1) for output in outputs]).astype(np.float64)
    magnitude = float(np.sqrt(np.square(values).mean()))
    return max(float(values.std()), magnitude / 20, float(np.finfo(np.float32).tiny))
