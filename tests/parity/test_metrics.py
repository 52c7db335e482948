"""Metrics on known arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tvlt_deploy.parity.metrics import label_agreement, max_difference, min_cosine

NAN, INF = float("nan"), float("inf")


def array(*values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_largest_difference() -> None:
    assert max_difference(array(1, 2, 3), array(1, 2.5, 2.75)) == 0.5
    assert max_difference(array(), array()) == 0
    assert max_difference(array(1, NAN), array(1, 2)) == INF
    assert max_difference(array(1, INF), array(1, 2)) == INF
    assert max_difference(array(1, 2), array([1, 2])) == INF
    # in double precision: a float32 difference of these would overflow
    assert max_difference(array(3e38), array(-3e38)) == pytest.approx(6e38)


def test_the_min_cosine() -> None:
    rows = array([1, 0], [1, 1])
    assert min_cosine(rows, array([2, 0], [1, 0])) == pytest.approx(2**-0.5)
    assert min_cosine(rows, 3 * rows) == pytest.approx(1)
    assert min_cosine(rows, -rows) == pytest.approx(-1)
    assert min_cosine(array([0, 0]), array([0, 0])) == 1
    assert min_cosine(array([0, 0]), array([1, 0])) == 0
    assert min_cosine(array([1, 0]), array([0, 0])) == 0
    assert min_cosine(array([NAN, 0]), array([1, 0])) == -1
    assert min_cosine(array([1, 0, 0]), array([1, 0])) == -1


def test_agreement_of_exclusive_labels() -> None:
    expected = array([1, 0], [0, 1], [0, 1], [0.5, 0.5001])
    assert label_agreement(array([1, 0], [1, 0], [0, 1], [1, 0]), expected, True, 0.001) == pytest.approx(2 / 3)
    assert label_agreement(array([1, 0], [1, 0], [0, 1], [1, 0]), expected, True, 0.0) == pytest.approx(1 / 2)
    assert label_agreement(array([1, 0]), array([1, 1]), True, 0.0) == 1


def test_agreement_of_signs() -> None:
    assert label_agreement(array([1, -1], [2, 1e-6]), array([1, 1], [1, -1e-6]), False, 1e-5) == pytest.approx(2 / 3)
    assert label_agreement(array([1, -1], [2, 1e-6]), array([1, 1], [1, -1e-6]), False, 0.0) == pytest.approx(1 / 2)
