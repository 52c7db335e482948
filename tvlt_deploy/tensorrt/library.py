"""The TensorRT and TensorRT-RTX libraries, and whether an engine of a bundle runs on this machine.

The two libraries, and releases of TensorRT from 10.13 on, are distinguished by their attributes, not by version.
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
"""Python package of a backend."""
PORTABLE = "portable"
"""Target of an engine that is compiled for the GPU of the machine that runs it (TensorRT-RTX without a target)."""

_MIN_CAPABILITY = {"bf16": 80, "fp8": 89}
"""Minimum compute capability of a precision."""


def load_library(engine: str) -> ModuleType:
    """Import the package of an engine.

    Args:
        engine: `tensorrt` or `tensorrt-rtx`.

    Returns:
        The imported package.

    Raises:
        UsageError: The name is another.
        EnvironmentLackError: The package is not installed or too old.
    """
    if engine not in PACKAGES:
        raise UsageError(f"engine is {engine!r}; expected one of {', '.join(PACKAGES)}")
    try:
        library = importlib.import_module(PACKAGES[engine])
    except ImportError as error:
        raise EnvironmentLackError(
            f"{engine} is not installed: {error}", hint=f"pip install 'tvlt-deploy[{engine}]'"
        ) from error
    if not hasattr(library, "IRuntimeConfig"):
        raise EnvironmentLackError(
            f"{engine} {library.__version__} has no IRuntimeConfig", hint="install tensorrt 10.13 or newer"
        )
    return library


Listener = Callable[[str, str], None]
"""Receives (severity, message)."""

_loggers: dict[str, Any] = {}
_listeners: dict[str, list[Listener]] = {}


@contextmanager
def listening(library: Any, listener: Listener) -> Iterator[Any]:
    """Receive the messages of a library.

    All users of the process share one logger: TensorRT keeps the first logger that it gets and ignores others.

    Args:
        library: The package.
        listener: Called with every message meanwhile.

    Yields:
        The logger to pass to the library.
    """
    name = library.__name__
    listeners = _listeners.setdefault(name, [])
    if name not in _loggers:

        class Logger(library.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, message: str) -> None:
                for receive in tuple(listeners):
                    receive(severity.name, message)

        _loggers[name] = Logger()
    listeners.append(listener)
    try:
        yield _loggers[name]
    finally:
        listeners.remove(listener)


def builds_for_targets(library: Any) -> bool:
    """Whether the library builds for GPUs of other machines: TensorRT-RTX does, TensorRT does not."""
    return hasattr(library.IBuilderConfig, "set_compute_capability")


def operating_system() -> str:
    """Operating system and processor, as `linux-x86_64`."""
    return f"{platform.system()}-{platform.machine()}".lower()


def capabilities(targets: Sequence[str]) -> tuple[int, ...]:
    """Parse compute capabilities.

    Args:
        targets: Names such as `89`, `8.9` or `SM89`.

    Returns:
        Compute capabilities as integers such as 89, ascending, each once.

    Raises:
        UsageError: A name is not a compute capability.
    """
    numbers = set()
    for target in targets:
        match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", target.strip().lower())
        if match is None:
            raise UsageError(f"target is {target!r}; expected a compute capability such as 89 or SM89")
        numbers.add(int(match[1] + match[2]))
    return tuple(sorted(numbers))


def target_name(targets: Sequence[int]) -> str:
    """The manifest's name of compute capabilities: `sm86-sm89`, or `portable` for none."""
    return "-".join(f"sm{capability}" for capability in targets) or PORTABLE


def check_precision(precision: str, targets: Sequence[int]) -> None:
    """Check that GPUs compute a precision.

    Args:
        precision: The precision.
        targets: Compute capabilities such as 89.

    Raises:
        UsageError: One of them does not compute it.
    """
    lowest = _MIN_CAPABILITY.get(precision, 0)
    for capability in targets:
        if capability < lowest:
            raise UsageError(
                f"SM{capability} does not compute {precision}; expected SM{lowest} or newer",
                hint="use --precision fp16, which every GPU computes",
            )


def misfit(engine: Engine, version: str, capability: int | None = None) -> str | None:
    """Why an engine cannot run on this machine.

    Args:
        engine: The manifest's entry.
        version: Installed version of its library.
        capability: Compute capability of the GPU such as 89; None skips that check.

    Returns:
        The reason, to follow the engine's name in a sentence; None if it can run.
    """
    if engine.os != operating_system():
        return f"was built for {engine.os}; this is {operating_system()}"
    if engine.version != version:
        return f"was built by {engine.engine} {engine.version}; installed is {version}"
    names = engine.target.split("-")
    if capability is not None and engine.target != PORTABLE and f"sm{capability}" not in names:
        return f"was built for {engine.target}; this GPU is sm{capability}"
    return None


def find_engine(bundle: Bundle, engine: str, precision: str, version: str, capability: int | None = None) -> Engine:
    """The first engine of a bundle that runs on this machine.

    Args:
        bundle: The bundle.
        engine: `tensorrt` or `tensorrt-rtx`.
        precision: Precision of the engine.
        version: Installed version of the library.
        capability: Compute capability of the GPU such as 89; None skips that check.

    Returns:
        The manifest's entry.

    Raises:
        UsageError: The bundle has no such engine.
        EnvironmentLackError: None of them runs on this machine; the message names the reason for each.
    """
    build = f"tvlt-deploy build {bundle.directory} --engine {engine} --precision {precision}"
    engines = [item for item in bundle.engines if (item.engine, item.precision) == (engine, precision)]
    if not engines:
        listed = ", ".join(f"{item.engine} {item.precision}" for item in bundle.engines) or "none"
        raise UsageError(f"{bundle.directory} has no {engine} engine in {precision}; it has {listed}", hint=build)
    reasons = []
    for item in engines:
        reason = misfit(item, version, capability)
        if reason is None:
            return item
        reasons.append(f"{item.path} {reason}")
    raise EnvironmentLackError("; ".join(reasons), hint=f"build one for this machine: {build}")
