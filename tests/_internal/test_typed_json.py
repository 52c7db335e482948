"""JSON values as dataclasses: what is accepted, what is refused and where, and the way back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pytest

from tvlt_deploy._internal.typed_json import Count, FieldError, Sha256, Size, decode, encode, one_of


@dataclass(frozen=True)
class Part:
    name: Annotated[str, one_of("a", "b")]
    size: Size | None
    note: str | None = None


@dataclass(frozen=True)
class Whole:
    WRITTEN_ONLY: ClassVar = {"total": Count}

    parts: tuple[Part, ...]
    axes: tuple[int | str, ...]
    pair: tuple[Count, Count]
    ratio: float
    on: bool
    digests: Mapping[str, Sha256]
    extra: tuple[str, ...] = ()


VALUES: dict[str, Any] = {
    "parts": [{"name": "a", "size": None}, {"name": "b", "size": 2, "note": "c"}],
    "axes": [1, "batch"],
    "pair": [0, 1],
    "ratio": 1,
    "on": True,
    "digests": {"x": "0" * 64},
    "total": 3,
}


def test_values_become_dataclasses_and_back() -> None:
    whole = decode(Whole, VALUES)
    assert whole.parts == (Part("a", None), Part("b", 2, "c"))
    assert (whole.axes, whole.pair, whole.extra) == ((1, "batch"), (0, 1), ())
    assert encode(whole) == {**{k: v for k, v in VALUES.items() if k != "total"}, "extra": []}


def test_optional_fields_that_are_none_are_left_out() -> None:
    assert encode(Part("a", None)) == {"name": "a", "size": None}


def test_unknown_fields_are_ignored() -> None:
    assert decode(Part, {"name": "a", "size": 1, "later": {}}) == Part("a", 1)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_text(value: float) -> None:
    text = encode(value)
    assert isinstance(text, str)
    assert str(decode(float, text)) == str(value)


def test_integers_beyond_a_float_are_refused() -> None:
    assert decode(float, 10**300) == 10**300
    with pytest.raises(FieldError, match="expected a number"):
        decode(float, 10**400)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"parts": None}, "parts is null; expected a list"),
        ({"parts": [{"name": "c", "size": 1}]}, 'parts[0].name is "c"; expected one of a, b'),
        ({"parts": [{"name": "a"}]}, "parts[0].size is missing; expected an integer of at least 1 or null"),
        ({"parts": [{"name": "a", "size": 0}]}, "parts[0].size is 0; expected an integer of at least 1 or null"),
        ({"parts": [{"name": "a", "size": 1, "note": 1}]}, "parts[0].note is 1; expected a string or null"),
        ({"axes": [1.5]}, "axes[0] is 1.5; expected an integer or a string"),
        ({"axes": [True]}, "axes[0] is true; expected an integer or a string"),
        ({"pair": [1]}, "pair is [1]; expected a list of 2 values"),
        ({"pair": [1, -1]}, "pair[1] is -1; expected an integer of at least 0"),
        ({"ratio": "1"}, 'ratio is "1"; expected a number'),
        ({"ratio": False}, "ratio is false; expected a number"),
        ({"on": 1}, "on is 1; expected true or false"),
        ({"digests": []}, "digests is []; expected an object"),
        ({"digests": {"x": "0" * 63}}, f"digests['x'] is \"{'0' * 63}\"; expected 64 hexadecimal digits"),
        ({"digests": {"x": "0" * 63 + "\n"}}, "expected 64 hexadecimal digits"),
        ({"total": -1}, "total is -1; expected an integer of at least 0"),
        ({"on": "x" * 200}, 'on is "' + "x" * 76 + "...; expected true or false"),
    ],
)
def test_wrong_values_are_named_with_their_place(change: dict[str, Any], says: str) -> None:
    with pytest.raises(FieldError) as caught:
        decode(Whole, {**VALUES, **change})
    assert says in str(caught.value)


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(FieldError, match=r"the content is \[\]; expected an object"):
        decode(Whole, [])
