"""Which backend runs which precision on which device."""

from __future__ import annotations

import re

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.errors import EnvironmentLackError, UsageError
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
"""(backend, precision) -> precision of the graph it reads, where they differ: OpenVINO computes fp32 in bf16."""

BACKENDS = tuple(PAIRS)
AUTO = "auto"
"""The backend and precision that `tvlt_deploy.inference.selection` chooses."""
DEFAULT_BACKEND = "onnxruntime"
DEFAULT_DEVICE = "cpu"
DEFAULT_PRECISION = "fp32"

ENGINE_BACKENDS = ("tensorrt", "tensorrt-rtx")
"""Backends that run compiled engines instead of graphs."""


def parse_device(device: str) -> tuple[str, int]:
    """Kind and index of a device.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.

    Returns:
        ("cpu", 0) or ("cuda", N).

    Raises:
        UsageError: The text is none of these.
    """
    match = re.fullmatch(r"(cpu)|(?:cuda)(?::(\d+))?", device)
    if match is None:
        raise UsageError(f"device is {device!r}; expected cpu, cuda or cuda:N")
    return ("cpu", 0) if match[1] else ("cuda", int(match[2] or 0))


def _kind(backend: str, device: str) -> str:
    """The kind of a device, for a known backend. Raises `UsageError`."""
    if backend not in PAIRS:
        raise UsageError(f"backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
    return parse_device(device)[0]


def check_pair(backend: str, device: str, precision: str) -> None:
    """Refuse a combination of backend, device and precision that does not exist.

    Raises:
        UsageError: An unknown name.
        EnvironmentLackError: The backend does not run this precision on this device; the hint names what it runs.
    """
    kind = _kind(backend, device)
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
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
    """The precisions of a bundle that a backend can run on a device, in the order of `PAIRS`.

    Raises:
        UsageError: An unknown backend or device.
    """
    kind = _kind(backend, device)
    if backend == "torch":
        return PAIRS[backend][kind] if bundle.has_weights else ()
    if backend in ENGINE_BACKENDS:
        built = {(engine.engine, engine.precision) for engine in bundle.engines}
        return tuple(precision for precision in PAIRS[backend][kind] if (backend, precision) in built)
    return tuple(p for p in PAIRS[backend][kind] if GRAPHS.get((backend, p), p) in bundle.precisions)
