"""JSON values as frozen dataclasses: every value is checked against the annotation of its field."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

_NAMES: dict[Any, str] = {
    str: "a string", int: "an integer", float: "a number", bool: "true or false", type(None): "null"
}  # fmt: skip
_NOT_FINITE = ("inf", "-inf", "nan")
"""JSON has no such numbers; they are written as text."""

NOT_JSON = {"json": False}
"""`dataclasses.field(metadata=NOT_JSON)`: a field that is no part of the JSON value."""


class FieldError(ValueError):
    """A JSON value has the wrong type: `variants[0].opset is "20"; expected an integer`."""

    def __init__(self, place: str, actual: str, expected: str) -> None:
        super().__init__(f"{place or 'the content'} {actual}; expected {expected}")


@dataclass(frozen=True)
class Rule:
    """A condition beyond the type, for `typing.Annotated[type, Rule(...)]`.

    Attributes:
        accepts: Whether a value of the type is accepted.
        expected: What is accepted, in words, for error messages.
    """

    accepts: Callable[[Any], bool]
    expected: str


def one_of(*choices: str) -> Rule:
    """A rule that accepts these strings only."""
    return Rule(choices.__contains__, f"one of {', '.join(choices)}")


Sha256 = Annotated[str, Rule(lambda text: re.fullmatch("[0-9a-f]{64}", text) is not None, "64 hexadecimal digits")]
Count = Annotated[int, Rule(lambda number: number >= 0, "an integer of at least 0")]
Size = Annotated[int, Rule(lambda number: number >= 1, "an integer of at least 1")]


def decode(kind: Any, value: Any, place: str = "") -> Any:
    """Check a JSON value against a type and convert it.

    An object becomes the dataclass or a dict, a list becomes a tuple. Fields with a default may be missing; fields
    that the dataclass does not have are ignored, after a check of those in its class variable `WRITTEN_ONLY`. A
    `float` may also be written as `"inf"`, `"-inf"` or `"nan"`.

    Args:
        kind: A dataclass, `str`, `int`, `float`, `bool`, `None`, a union of these, `tuple[X, ...]`, `tuple[X, Y]`,
            `Mapping[str, X]`, or one of them in `Annotated` with `Rule`s.
        value: What `json.loads` returned.
        place: Where the value is in the document, for error messages.

    Returns:
        The value as `kind`.

    Raises:
        FieldError: The value or one inside it has the wrong type, breaks a rule or is missing.
    """
    if dataclasses.is_dataclass(kind):
        return _object(kind, value, place)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if not _is_scalar(kind, value):
            raise FieldError(place, _text(value), _name(kind))
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [option for option in arguments if option is not type(None)]
        fitting = [option for option in options if _is_scalar(option, value)]
        if len(options) == 1 and isinstance(value, (dict, list)):  # names the field inside that is wrong
            return decode(options[0], value, place)
        if not fitting:
            raise FieldError(place, _text(value), _name(kind))
        return decode(fitting[0], value, place)
    if origin is tuple:
        return _list(kind, value, place)
    if origin is Mapping or origin is dict:
        if not isinstance(value, dict):
            raise FieldError(place, _text(value), _name(kind))
        return {key: decode(arguments[1], item, f"{place}[{key!r}]") for key, item in value.items()}
    if not _is_scalar(kind, value):
        raise FieldError(place, _text(value), _name(kind))
    return float(value) if kind is float and isinstance(value, str) else value


def encode(value: Any) -> Any:
    """The JSON value of a dataclass or of what its fields contain; the inverse of `decode`.

    Args:
        value: A dataclass, scalar, sequence or mapping. An optional field (its default is None) that is None is left
            out.

    Returns:
        A value for `json.dumps`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: encode(content)
            for item in dataclasses.fields(value)
            if item.metadata != NOT_JSON
            and ((content := getattr(value, item.name)) is not None or item.default is not None)
        }
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    return value


@functools.cache
def fields_of(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The JSON fields of a dataclass: type and whether it is required, by name."""
    hints = get_type_hints(kind, include_extras=True)
    known = {
        item.name: (
            hints[item.name],
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING,
        )
        for item in dataclasses.fields(kind)
        if item.metadata != NOT_JSON
    }
    return {**known, **{name: (hint, True) for name, hint in getattr(kind, "WRITTEN_ONLY", {}).items()}}


def _object(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise FieldError(place, _text(value), _name(kind))
    known = fields_of(kind)
    inside = lambda name: f"{place}.{name}" if place else name  # noqa: E731
    for name, (hint, required) in known.items():
        if required and name not in value:
            raise FieldError(inside(name), "is missing", _name(hint))
    decoded = {name: decode(hint, value[name], inside(name)) for name, (hint, _) in known.items() if name in value}
    return kind(**{item.name: decoded[item.name] for item in dataclasses.fields(kind) if item.name in decoded})


def _list(kind: Any, value: Any, place: str) -> tuple[Any, ...]:
    kinds = get_args(kind)
    many = kinds[-1] is Ellipsis
    if not isinstance(value, list) or not (many or len(value) == len(kinds)):
        raise FieldError(place, _text(value), _name(kind))
    return tuple(
        decode(kinds[0] if many else kinds[index], item, f"{place}[{index}]") for index, item in enumerate(value)
    )


def _is_scalar(kind: Any, value: Any) -> bool:
    """Whether a value is of a scalar type; a union is not one."""
    if get_origin(kind) is Annotated:
        base, *rules = get_args(kind)
        return _is_scalar(base, value) and all(rule.accepts(value) for rule in rules)
    if kind is float:
        in_range = type(value) is int and abs(value) < 2**1023  # JSON's integers have no limit
        return type(value) is float or in_range or (isinstance(value, str) and value in _NOT_FINITE)
    return type(value) is kind


def _name(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return str(arguments[1].expected)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_name, arguments))
    if origin is tuple:
        return "a list" if arguments[-1] is Ellipsis else f"a list of {len(arguments)} values"
    return _NAMES.get(kind, "an object")


def _text(value: Any) -> str:
    text = json.dumps(value)
    return f"is {text if len(text) <= 80 else text[:77] + '...'}"
