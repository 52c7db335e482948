"""Checks of configuration values: what passes, and the message of what does not."""

from __future__ import annotations

from typing import Any

import pytest

from tvlt_deploy._internal.fields import check_choice, check_int, check_number, check_type, label_map, pair_of
from tvlt_deploy.errors import ConfigError


def test_values_that_fit_pass() -> None:
    check_int("size", 1, minimum=1)
    check_number("share", 0, lambda value: value >= 0, "of at least 0")
    check_choice("kind", "a", ("a", "b"))
    check_type("name", None, str | None, "a name")
    assert pair_of("side", 16) == (16, 16)
    assert pair_of("side", [2, 3]) == (2, 3)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_int("size", True, minimum=1), "size is True; expected an int of at least 1"),
        (lambda: check_int("size", 0, minimum=1), "size is 0; expected an int of at least 1"),
        (lambda: check_number("share", True, bool, "above 0"), "share is True; expected a number above 0"),
        (lambda: check_number("share", 0.0, bool, "above 0"), r"share is 0\.0; expected a number above 0"),
        (lambda: check_choice("kind", [], ("a", "b")), r"kind is \[\]; expected one of a, b"),
        (lambda: check_type("flag", 1, bool, "true or false"), "flag is 1; expected true or false"),
        (lambda: pair_of("side", (1, 2, 3)), r"side is \(1, 2, 3\); expected an int or a pair of ints"),
        (lambda: pair_of("side", -1), "side is -1; expected positive sizes"),
        (lambda: label_map(3, {0: "a"}), "num_labels is 3 but id2label names 1 labels"),
        (lambda: label_map(True, {1: "a"}), r"id2label has the indices \[1\]; expected 0\.\.n-1"),
    ],
)
def test_values_that_do_not_fit_are_named(check: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check()


def test_labels_are_sorted_and_default_to_numbered_names() -> None:
    assert label_map(None, None) == {0: "LABEL_0", 1: "LABEL_1"}
    assert label_map(1, None) == {0: "LABEL_0"}
    assert list(label_map(None, {"1": "b", 0: "a"}).items()) == [(0, "a"), (1, "b")]  # type: ignore[dict-item]
