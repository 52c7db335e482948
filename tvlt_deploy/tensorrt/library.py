"""TensorRT and TensorRT-RTX by name: which package, which machine, and whether an engine fits here.

The two libraries, and TensorRT's releases from 10.13 on, are told apart by what they have (`hasattr`), never by number.
"""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import Engine
from tvlt_deploy.errors import EnvironmentLackError, UsageError

PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backend -> the Python package it is."""
PORTABLE = "portable"
"""Compiled on the machine that runs it, for whatever GPU is there (TensorRT-RTX without a target)."""

_OLDEST_WITH = {"bf16": 80, "fp8": 89}
"""The oldest compute capability that computes a type."""


def load_library(engine: str) -> ModuleType:
    """Import an engine's package. Raises `UsageError` for another name, `EnvironmentLackError` when it is missing."""
    if engine not in PACKAGES:
        raise UsageError(f"engine is {engine!r}; wanted one of {', '.join(PACKAGES)}")
    try:
        library = importlib.import_module(PACKAGES[engine])
    except ImportError as error:
        raise EnvironmentLackError(
            f"{engine} is not installed: {error}", hint=f"pip install 'tvlt-deploy[{engine}]'"
        ) from error
    if not hasattr(library, "IRuntimeConfig"):
        raise EnvironmentLackError(
            f"{engine} {library.__version__} has no IRuntimeConfig", hint="wanted: tensorrt 10.13 or newer"
        )
    return library


Listener = Callable[[str, str], None]
"""(severity, message)."""

_loggers: dict[str, Any] = {}
_listeners: dict[str, list[Listener]] = {}


@contextmanager
def listening(library: Any, listener: Listener) -> Iterator[Any]:
    """The library's logger, with `listener` hearing all that it is told meanwhile.

    There is one for the whole process: TensorRT keeps the first logger it is given, and a second goes unheard.
    """
    name = library.__name__
    listeners = _listeners.setdefault(name, [])
    if name not in _loggers:

        class Logger(library.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, message: str) -> None:
                for hear in tuple(listeners):
                    hear(severity.name, message)

        _loggers[name] = Logger()
    listeners.append(listener)
    try:
        yield _loggers[name]
    finally:
        listeners.remove(listener)


def builds_for_targets(library: Any) -> bool:
    """Whether the library builds for GPUs that are not here, as TensorRT-RTX does and TensorRT does not."""
    return hasattr(library.IBuilderConfig, "set_compute_capability")


def operating_system() -> str:
    """Operating system and processor, as `linux-x86_64`."""
    return f"{platform.system()}-{platform.machine()}".lower()


def capabilities(targets: Sequence[str]) -> tuple[int, ...]:
    """Compute capabilities, ascending, from names such as `89`, `8.9` or `SM89`. Raises `UsageError`."""
    found = set()
    for target in targets:
        match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", target.strip().lower())
        if match is None:
            raise UsageError(f"target is {target!r}; wanted a compute capability such as 89 or SM89")
        found.add(int(match[1] + match[2]))
    return tuple(sorted(found))


def target_name(found: Sequence[int]) -> str:
    """The target of a manifest's entry: `sm86-sm89`, or `portable` for none."""
    return "-".join(f"sm{capability}" for capability in found) or PORTABLE


def check_precision(precision: str, found: Sequence[int]) -> None:
    """Raise `UsageError` for a GPU that does not compute a precision."""
    oldest = _OLDEST_WITH.get(precision, 0)
    for capability in found:
        if capability < oldest:
            raise UsageError(
                f"SM{capability} does not compute {precision}; wanted SM{oldest} or newer",
                hint="use --precision fp16, which every GPU computes",
            )


def misfit(engine: Engine, version: str, capability: int | None = None) -> str | None:
    """Why an engine cannot run with this version of its library, here, on a GPU of this capability; None if it can."""
    if engine.os != operating_system():
        return f"was built for {engine.os}; this is {operating_system()}"
    if engine.version != version:
        return f"was built by {engine.engine} {engine.version}; installed is {version}"
    names = engine.target.split("-")
    if capability is not None and engine.target != PORTABLE and f"sm{capability}" not in names:
        return f"was built for {engine.target}; this GPU is sm{capability}"
    return None


def find_engine(bundle: Bundle, engine: str, precision: str, version: str, capability: int | None = None) -> Engine:
    """The first engine of a bundle that fits. Raises `UsageError` when there is none of that precision, and
    `EnvironmentLackError` naming each one's misfit when none fits this machine.
    """
    build = f"tvlt-deploy build {bundle.directory} --engine {engine} --precision {precision}"
    found = [item for item in bundle.engines if (item.engine, item.precision) == (engine, precision)]
    if not found:
        held = ", ".join(f"{item.engine} {item.precision}" for item in bundle.engines) or "none"
        raise UsageError(f"{bundle.directory} holds no {engine} engine in {precision}; it holds {held}", hint=build)
    reasons = []
    for item in found:
        reason = misfit(item, version, capability)
        if reason is None:
            return item
        reasons.append(f"{item.path} {reason}")
    raise EnvironmentLackError("; ".join(reasons), hint=f"build one for this machine: {build}")
