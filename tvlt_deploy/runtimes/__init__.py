"""One way to open any engine on a bundle: the backend asked for is the backend that runs."""

from __future__ import annotations

import importlib
from typing import Any

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.runtimes.base import Runtime
from tvlt_deploy.runtimes.options import check_options
from tvlt_deploy.runtimes.pairs import (
    AUTO,
    BACKENDS,
    DEFAULT_BACKEND,
    DEFAULT_DEVICE,
    DEFAULT_PRECISION,
    ENGINE_BACKENDS,
    GRAPHS,
    PAIRS,
    check_pair,
    held_precisions,
    parse_device,
)

__all__ = [
    "AUTO",
    "BACKENDS",
    "DEFAULT_BACKEND",
    "DEFAULT_DEVICE",
    "DEFAULT_PRECISION",
    "ENGINE_BACKENDS",
    "GRAPHS",
    "PAIRS",
    "check_pair",
    "held_precisions",
    "open_runtime",
    "parse_device",
    "present_backends",
]

_MODULES = {backend: f"tvlt_deploy.runtimes.{backend}" for backend in PAIRS}
_MODULES["tensorrt-rtx"] = _MODULES["tensorrt"]


def present_backends(bundle: Bundle, device: str = DEFAULT_DEVICE) -> tuple[str, ...]:
    """The backends other than torch that are installed and that the bundle has something for.

    Raises:
        UsageError: The device is not `cpu`, `cuda` or `cuda:N`.
    """
    present = []
    for backend in BACKENDS:
        if backend != "torch" and held_precisions(bundle, backend, device):
            try:
                importlib.import_module(_MODULES[backend])
            except EnvironmentLackError:
                continue
            present.append(backend)
    return tuple(present)


def open_runtime(
    bundle: Bundle,
    backend: str = DEFAULT_BACKEND,
    device: str = DEFAULT_DEVICE,
    precision: str = DEFAULT_PRECISION,
    *,
    threads: int | None = None,
    allow_fallback: bool = False,
    trust_engine: str | None = None,
    **options: Any,
) -> Runtime:
    """Open a backend on a bundle, ready to run.

    Args:
        bundle: The bundle whose files are run. Each file is hashed before it is opened.
        backend: One of `BACKENDS`.
        device: `cpu`, `cuda` or `cuda:N`.
        precision: A precision that the backend runs on the device; see `PAIRS`.
        threads: CPU threads of the engine; by default all cores. A TensorRT engine has none.
        allow_fallback: Use the CPU if the device is not available. The backend stays the same. TensorRT engines run on
            a GPU only, so they refuse it.
        trust_engine: For TensorRT, the SHA-256 of an engine, or of the manifest of a bundle, that was not built here.
        options: Options of the backend; see `tvlt_deploy.runtimes.options.OPTIONS`.

    Returns:
        The runtime. Close it, or use it with `with`.

    Raises:
        UsageError: An unknown name or option, or a value that the backend does not accept.
        EnvironmentLackError: The backend does not run this precision on this device, or a package or device is missing.
        BundleError: A file does not match the manifest.
    """
    device = _device(backend, device, precision, allow_fallback)
    check_options(backend, options)
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise UsageError(f"threads is {threads!r}; expected an int of at least 1")
    if backend in ENGINE_BACKENDS:
        options |= {"backend": backend, "trust_engine": trust_engine}
    elif trust_engine is not None:
        raise UsageError(f"trust_engine is for {' and '.join(ENGINE_BACKENDS)}; the backend is {backend}")
    else:
        options |= {"threads": threads, "allow_fallback": allow_fallback}
    runtime: Runtime = importlib.import_module(_MODULES[backend]).open(bundle, device, precision, **options)
    return runtime


def _device(backend: str, device: str, precision: str, allow_fallback: bool) -> str:
    """The device to open, which is the CPU where the backend runs on nothing else and a fallback is allowed."""
    if allow_fallback and backend in ENGINE_BACKENDS:
        raise UsageError(
            f"allow_fallback is True, but {backend} runs on a GPU only: there is no device to fall back to",
            hint="leave allow_fallback out, or use --backend onnxruntime",
        )
    try:
        check_pair(backend, device, precision)
    except EnvironmentLackError:
        if not allow_fallback:
            raise
        device = DEFAULT_DEVICE
        check_pair(backend, device, precision)
    return device
