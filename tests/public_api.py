"""The public API as text: every name with its signature, and every command with its options.

    python -m tests.public_api

writes `tests/data/public_api.txt`, which `tests/test_public_api.py` compares with the code.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import click

SNAPSHOT = Path(__file__).parent / "data" / "public_api.txt"

MODULES: dict[str, tuple[str, ...]] = {
    "tvlt_deploy": (),
    "tvlt_deploy.errors": (),
    "tvlt_deploy.config": (),
    "tvlt_deploy.tasks": (),
    "tvlt_deploy.media": (),
    "tvlt_deploy.processors": (),
    "tvlt_deploy.reference": (),
    "tvlt_deploy.bundle": (),
    "tvlt_deploy.runtimes": (),
    "tvlt_deploy.runtimes.base": ("Closing", "Runtime"),
    "tvlt_deploy.runtimes.onnxruntime": ("open_fused",),
    "tvlt_deploy.runtimes.onnxruntime_fused": ("FusedRuntime",),
    "tvlt_deploy.inference.pipeline": (),
    "tvlt_deploy.tensorrt.build": ("build",),
    "tvlt_deploy.workflows.export": ("export",),
    "tvlt_deploy.workflows.fuse": ("fuse",),
    "tvlt_deploy.workflows.quantize": ("quantize",),
    "tvlt_deploy.workflows.retrieve": ("Ranking", "Retrieval", "retrieve"),
    "tvlt_deploy.workflows.verify": ("verify",),
    "tvlt_deploy.conformance": (),
    "tvlt_deploy.locate": (),
    "tvlt_deploy.embedding": (),
}
"""Public modules; their public names, by default `__all__` or else all that they define."""


class _Text(str):
    """An annotation that a signature shows without quotes."""

    def __repr__(self) -> str:
        return str(self)


def describe() -> str:
    """The complete API, one line per name."""
    from tvlt_deploy.cli import main

    described: dict[int, str] = {}
    lines: list[str] = []
    for name, public in MODULES.items():
        module = importlib.import_module(name)
        for member in public or _public_names(module):
            value, path = getattr(module, member), f"{name}.{member}"
            first = described.setdefault(id(value), path)
            lines += [f"{path} = {first}"] if first != path else _member(path, value, described)
    return "\n".join([*lines, *_command(main, "tvlt-deploy")]) + "\n"


def _public_names(module: Any) -> list[str]:
    """`__all__`, or the public names that the module defines, in alphabetical order."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    names: list[str] = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
    return sorted(name for name in names if not name.startswith("_"))


def _member(path: str, value: Any, described: Mapping[int, str]) -> Iterator[str]:
    if isinstance(value, type):
        yield from _class(path, value, described)
    elif inspect.isfunction(inspect.unwrap(value)):
        yield f"{path}{_signature(value)}"
    else:
        yield f"{path}{'' if path == 'tvlt_deploy.__version__' else _constant(value)}"


def _constant(value: Any) -> str:
    if isinstance(value, Mapping):
        return f": {', '.join(map(str, value))}"
    if isinstance(value, Set):
        return f": {', '.join(sorted(map(str, value)))}"
    plain = isinstance(value, str | int | float | tuple | list)
    return f" = {value!r}" if plain else f": {type(value).__name__}"


def _class(path: str, cls: type, described: Mapping[int, str]) -> Iterator[str]:
    """The class, its fields in order and its other members; not what a described base class has."""
    bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
    yield f"class {path}({bases})" if bases else f"class {path}"
    members: dict[str, Any] = {}
    annotations: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("tvlt_deploy") and (base is cls or id(base) not in described):
            members |= vars(base)
            annotations |= inspect.get_annotations(base)
    fields = {item.name: item for item in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    for name, item in fields.items():
        yield f"{path}.{name}: {item.type}{_default(item)}"
    if not fields and inspect.isfunction(members.get("__init__")) and not getattr(cls, "_is_protocol", False):
        yield f"{path}{_signature(members['__init__'])}"
    for name in sorted(key for key in members | annotations if _is_public(key) and key not in fields):
        yield f"{path}.{name}{_attribute(members.get(name), annotations.get(name))}"


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name == "__call__"


def _attribute(value: Any, annotation: Any) -> str:
    if isinstance(value, property | functools.cached_property):
        function = value.fget if isinstance(value, property) else value.func
        return f": {inspect.signature(function).return_annotation}  (property)"
    if isinstance(value, staticmethod | classmethod):
        return f"{_signature(value.__func__)}  ({type(value).__name__})"
    if inspect.isfunction(value):
        return _signature(value)
    return _constant(value) if value is not None or annotation is None else f": {annotation}"


def _default(item: dataclasses.Field[Any]) -> str:
    if item.default is not dataclasses.MISSING:
        return f" = {item.default!r}"
    return " = ..." if item.default_factory is not dataclasses.MISSING else ""


def _signature(function: Any) -> str:
    """The signature without quotes; functions and objects among the defaults by their name."""
    signature = inspect.signature(function)
    plain = lambda value: _Text(value) if isinstance(value, str) else value  # noqa: E731
    parameters = [each.replace(annotation=plain(each.annotation)) for each in signature.parameters.values()]
    text = str(signature.replace(parameters=parameters, return_annotation=plain(signature.return_annotation)))
    return re.sub(r"<(?:function |class )?'?([\w.]+)'?(?: object)?(?: at 0x[0-9a-f]+)?>", r"\1", text)


def _command(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    # click caches the help option under the names of the context that asked first.
    words = [_parameter(parameter) for parameter in command.get_params(context) if "--help" not in parameter.opts]
    arguments = [word for word in words if not word.startswith("-")]
    yield " ".join([path, *arguments])
    yield from (f"{path} {word}" for word in words if word.startswith("-"))
    if isinstance(command, click.Group):
        for name in sorted(command.list_commands(context)):
            child = command.get_command(context, name)
            assert child is not None
            yield from _command(child, f"{path} {name}")


def _parameter(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return parameter.make_metavar(click.Context(click.Command("any")))
    words = ["/".join([*parameter.opts, *parameter.secondary_opts])]
    choices = getattr(parameter.type, "choices", None)
    if not getattr(parameter, "is_flag", False):
        words.append("|".join(map(str, choices)) if choices else parameter.type.name.upper())
    words += [f"({note})" for note in ("multiple", "required") if getattr(parameter, note, False)]
    if isinstance(parameter.default, str | int | float) and parameter.default is not False:
        words.append(f"= {parameter.default}")
    return " ".join(words)


if __name__ == "__main__":
    SNAPSHOT.write_text(describe(), encoding="utf-8")
