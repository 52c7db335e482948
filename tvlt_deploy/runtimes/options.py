"""The options of each backend, for `open_runtime`, `load(options=...)` and `--engine-option`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tvlt_deploy.errors import UsageError


@dataclass(frozen=True)
class EngineOption:
    """One option of a backend.

    Attributes:
        kind: Type of the value.
        text: What it does, in one line.
    """

    kind: type[bool] | type[str]
    text: str


_TYPE_NAMES: dict[type, str] = {bool: "true or false", str: "text"}
_CUDA_GRAPHS = EngineOption(bool, "record the work of repeated sizes on the GPU and replay it")

OPTIONS: dict[str, dict[str, EngineOption]] = {
    "torch": {},
    "onnxruntime": {
        "cuda_graphs": _CUDA_GRAPHS,
        "form": EngineOption(str, "form of the graph to run, as `inspect` lists it"),
        "provider": EngineOption(str, "execution provider on CUDA: cuda or tensorrt"),
    },
    "openvino": {"graph": EngineOption(str, "precision of the graph to read")},
    "tensorrt": {"cuda_graphs": _CUDA_GRAPHS},
    "tensorrt-rtx": {"cuda_graphs": _CUDA_GRAPHS},
}
"""Backend -> name -> option."""


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Options from texts of the form `KEY=VALUE`.

    Args:
        texts: `true` and `false` become a bool, integers an int, anything else is text. The last value of a key wins.

    Raises:
        UsageError: A text is not of this form.
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"the engine option is {text!r}; expected KEY=VALUE", hint="for example cuda_graphs=true")
        if value in ("true", "false"):
            options[name] = value == "true"
        else:
            options[name] = int(value) if re.fullmatch(r"-?\d+", value) else value
    return options


def check_options(backend: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a backend does not have.

    Args:
        backend: One backend; `auto` has no options.
        options: Values by name.

    Raises:
        UsageError: An unknown name, with those that exist, or a value of another type.
    """
    if backend not in OPTIONS:
        raise UsageError(f"options are {', '.join(options)} for backend {backend!r}; expected {' or '.join(OPTIONS)}")
    known = OPTIONS[backend]
    for name, value in options.items():
        if name not in known:
            raise UsageError(
                f"option {name!r} for {backend}; expected {' or '.join(known) or 'none: it has no options'}",
                hint=_others(name),
            )
        if type(value) is not known[name].kind:
            raise UsageError(f"{name} is {value!r}; expected {_TYPE_NAMES[known[name].kind]}")


def _others(name: str) -> str:
    backends = [backend for backend, options in OPTIONS.items() if name in options]
    return f"{', '.join(backends)} {'have' if len(backends) > 1 else 'has'} it" if backends else ""


def options_text() -> str:
    """All options in one line: `onnxruntime: cuda_graphs, form, provider; openvino: ...`."""
    return "; ".join(f"{backend}: {', '.join(options)}" for backend, options in OPTIONS.items() if options) + "."
