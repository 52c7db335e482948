"""Checks of single configuration values. Each raises `ConfigError` with the name, the actual and the expected value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tvlt_deploy.errors import ConfigError


def check_int(name: str, value: Any, minimum: int) -> None:
    """`value` must be an int of at least `minimum`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{name} is {value!r}; expected an int of at least {minimum}")


def check_number(name: str, value: Any, allowed: Callable[[float], bool], expected: str) -> None:
    """`value` must be an int or float for which `allowed` is true; `expected` describes the range."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not allowed(value):
        raise ConfigError(f"{name} is {value!r}; expected a number {expected}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """`value` must be one of `choices`."""
    if value not in tuple(choices):
        raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(choices)}")


def check_type(name: str, value: Any, kind: Any, expected: str) -> None:
    """`value` must be an instance of `kind`; `expected` describes the type."""
    if not isinstance(value, kind):
        raise ConfigError(f"{name} is {value!r}; expected {expected}")


def pair_of(name: str, value: Any) -> tuple[int, int]:
    """`value` as a pair of positive ints: an int means a square."""
    sides = (value, value) if isinstance(value, int) else value
    if not isinstance(sides, (list, tuple)) or len(sides) != 2 or not all(type(side) is int for side in sides):
        raise ConfigError(f"{name} is {value!r}; expected an int or a pair of ints")
    first, second = sides
    if first < 1 or second < 1:
        raise ConfigError(f"{name} is {value!r}; expected positive sizes")
    return first, second


def label_map(count: Any, labels: Mapping[int, str] | None) -> dict[int, str]:
    """Labels by index, sorted: `labels`, or else `count` (by default 2) names `LABEL_0`, `LABEL_1`, ..."""
    if labels is None:
        number = 2 if count is None else count
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"num_labels is {number!r}; expected an int of at least 1")
        return {index: f"LABEL_{index}" for index in range(number)}
    try:
        named = {int(index): str(label) for index, label in labels.items()}
    except (AttributeError, TypeError, ValueError):
        raise ConfigError(f"id2label is {labels!r}; expected a map from index to label") from None
    if sorted(named) != list(range(len(named))) or not named:
        raise ConfigError(f"id2label has the indices {sorted(named)}; expected 0..n-1, each once")
    if count is not None and count != len(named):
        raise ConfigError(
            f"num_labels is {count} but id2label names {len(named)} labels",
            hint="set only one of the two, or make them agree",
        )
    return dict(sorted(named.items()))
