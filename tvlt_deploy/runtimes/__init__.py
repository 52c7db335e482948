"""One way to open any engine on a bundle: the backend asked for is the backend that runs."""

from __future__ import annotations

import importlib
import re
from typing import Any

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.runtimes.base import Runtime
from tvlt_deploy.tasks import PRECISIONS

PAIRS: dict[str, dict[str, tuple[str, ...]]] = {
    "torch": {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")},
    "onnxruntime": {"cpu": ("fp32", "fp16", "int8"), "cuda": ("fp32", "fp16", "int8")},
    "openvino": {"cpu": ("fp32", "bf16", "int8"), "cuda": ()},
    "tensorrt": {"cpu": (), "cuda": ("fp16", "bf16", "int8", "fp8", "fp32")},
    "tensorrt-rtx": {"cpu": (), "cuda": ("fp16", "bf16", "int8", "fp8", "fp32")},
}
"""Backend -> kind of device -> the precisions it runs."""

GRAPHS = {("openvino", "bf16"): "fp32"}
"""(backend, precision) -> precision of the graph it reads, where that is another: OpenVINO computes fp32 in bf16."""

BACKENDS = tuple(PAIRS)
AUTO = "auto"
"""Stands for the backend and precision that `tvlt_deploy.inference.selection` chooses."""
DEFAULT_BACKEND = "onnxruntime"
DEFAULT_DEVICE = "cpu"
DEFAULT_PRECISION = "fp32"

ENGINE_BACKENDS = ("tensorrt", "tensorrt-rtx")
"""Backends that run compiled engines, not graphs."""

_MODULES = {backend: f"tvlt_deploy.runtimes.{backend}" for backend in PAIRS}
_MODULES["tensorrt-rtx"] = _MODULES["tensorrt"]


def parse_device(device: str) -> tuple[str, int]:
    """("cpu", 0) or ("cuda", N) from `cpu`, `cuda` or `cuda:N`. Raises `UsageError`."""
    match = re.fullmatch(r"(cpu)|(?:cuda)(?::(\d+))?", device)
    if match is None:
        raise UsageError(f"device is {device!r}; wanted cpu, cuda or cuda:N")
    return ("cpu", 0) if match[1] else ("cuda", int(match[2] or 0))


def _kind(backend: str, device: str) -> str:
    """The kind of a device, for a backend there is. Raises `UsageError`."""
    if backend not in PAIRS:
        raise UsageError(f"backend is {backend!r}; wanted one of {', '.join(BACKENDS)}")
    return parse_device(device)[0]


def check_pair(backend: str, device: str, precision: str) -> None:
    """Refuse what no runtime offers: `UsageError` for unknown names, `EnvironmentLackError` for a pair that is not."""
    kind = _kind(backend, device)
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; wanted one of {', '.join(PRECISIONS)}")
    if precision in PAIRS[backend][kind]:
        return
    elsewhere = [
        f"{other} on {other_kind}"
        for other, kinds in sorted(PAIRS.items(), key=lambda item: item[0] != backend)  # the same one first
        for other_kind, precisions in kinds.items()
        if precision in precisions
    ]
    here = PAIRS[backend][kind]
    ways = [f"use --precision {here[0]}" if here else "use another --device"]
    ways += [f"{precision} runs with {elsewhere[0]}"] if elsewhere else []
    raise EnvironmentLackError(
        f"{backend} on {kind} does not run {precision}; it runs {', '.join(here) or 'nothing there'}",
        hint="; ".join(ways),
    )


def held_precisions(bundle: Bundle, backend: str, device: str = DEFAULT_DEVICE) -> tuple[str, ...]:
    """The precisions that a backend can run of this bundle, in the order of `PAIRS`. Raises `UsageError`."""
    kind = _kind(backend, device)
    if backend == "torch":
        return PAIRS[backend][kind] if bundle.has_weights else ()
    if backend in ENGINE_BACKENDS:
        return tuple(
            p for p in PAIRS[backend][kind] if (backend, p) in {(e.engine, e.precision) for e in bundle.engines}
        )
    return tuple(p for p in PAIRS[backend][kind] if GRAPHS.get((backend, p), p) in bundle.precisions)


def present_backends(bundle: Bundle, device: str = DEFAULT_DEVICE) -> tuple[str, ...]:
    """The backends besides torch that are installed and have something of this bundle to run."""
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
    **options: Any,
) -> Runtime:
    """The runtime of a backend on a bundle, ready to run.

    options: `threads` (CPU threads, default all cores), `allow_fallback` (accept the CPU when a device cannot be had);
    `cuda_graphs` (engines and ONNX Runtime on CUDA); for engines `trust_engine` (the SHA-256 of one that was not built
    here); for ONNX Runtime `form` and `provider` (see `tvlt_deploy.runtimes.onnxruntime.open`).
    Raises `UsageError` and `EnvironmentLackError` as `check_pair` does, `EnvironmentLackError` for a package or device
    that is missing, and `BundleError` for files that do not match the manifest.
    """
    check_pair(backend, device, precision)
    threads = options.get("threads")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise UsageError(f"threads is {threads!r}; wanted an int of at least 1")
    if backend in ENGINE_BACKENDS:
        options["backend"] = backend
    elif options.pop("trust_engine", None) is not None:
        raise UsageError(f"trust_engine is for {' and '.join(ENGINE_BACKENDS)}; the backend is {backend}")
    runtime: Runtime = importlib.import_module(_MODULES[backend]).open(bundle, device, precision, **options)
    return runtime
