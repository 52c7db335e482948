"""OpenVINO on the CPU, with an explicit precision of computation.

By default, its CPU plugin computes an fp32 graph in bf16 on processors with bf16 instructions.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.cache import bundle_cache
from tvlt_deploy.bundle.manifest import ONNXRUNTIME_CPU_FORM, STANDARD_FORM
from tvlt_deploy.errors import BundleError, EnvironmentLackError, InputError
from tvlt_deploy.runtimes.base import Closing, check_feeds
from tvlt_deploy.runtimes.pairs import GRAPHS

try:
    import openvino
except ImportError as error:
    raise EnvironmentLackError("openvino is not installed", hint="pip install 'tvlt-deploy[openvino]'") from error

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}
"""Precision asked for -> type in which OpenVINO computes the floating-point part of the graph."""


class OpenVinoRuntime(Closing):
    """One compiled model; see `tvlt_deploy.runtimes.base.Runtime`. Each calling thread has its own request."""

    backend = "openvino"
    device = "cpu"

    def __init__(self, bundle: Bundle, compiled: openvino.CompiledModel, precision: str) -> None:
        self.task, self.config, self.precision = bundle.task, bundle.config, precision
        self.inputs, self.outputs = self.task.inputs(self.config), self.task.outputs(self.config)
        self._compiled: openvino.CompiledModel | None = compiled
        self._requests = threading.local()

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """See `Runtime.run`."""
        compiled = self._compiled
        if compiled is None:
            raise InputError("this runtime is closed", hint="open it again")
        arrays = check_feeds(feeds, self.inputs, self.config)
        if not hasattr(self._requests, "own"):
            self._requests.own = compiled.create_infer_request()
        request = self._requests.own
        request.infer(arrays, share_inputs=True)
        return {name: request.get_tensor(name).data.copy() for name in self.outputs}

    def close(self) -> None:
        """Release the model and every thread's request."""
        self._compiled, self._requests = None, threading.local()


def open(
    bundle: Bundle,
    device: str,
    precision: str,
    threads: int | None = None,
    allow_fallback: bool = False,
    graph: str | None = None,
) -> OpenVinoRuntime:
    """Compile the graph of a precision, or load it from the user's cache if this machine compiled it before.

    Args:
        bundle: The bundle.
        device: `cpu`: OpenVINO runs on nothing else here. `open_runtime` decides about a fallback to it.
        precision: Precision of computation.
        threads: CPU threads; by default all cores.
        allow_fallback: As for every backend; without effect, since the device is the CPU.
        graph: Precision of the bundle's graph to read; by default the one in `GRAPHS`.

    Raises:
        UsageError: The bundle has no such graph.
        BundleError: A file does not match the manifest, or OpenVINO cannot compile the graph.
    """
    form = ONNXRUNTIME_CPU_FORM if precision == "int8" else STANDARD_FORM
    variant = bundle.variant(graph or GRAPHS.get(("openvino", precision), precision), form)
    bundle.check(variant.files)
    # OpenVINO 2026.4 names a cached model without its precision of computation: an fp32 model used as bf16 returns NaN
    # or crashes. So each precision has its own folder.
    folder = f"{variant.precision}-as-{precision}-{threads or 'all'}-threads"
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    with contextlib.suppress(OSError):  # without a writable cache the graph is compiled each time
        settings["CACHE_DIR"] = str(bundle_cache(bundle, "openvino", folder))
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.Core().compile_model(str(bundle.path(variant.path)), "CPU", settings)
    except RuntimeError as error:
        raise BundleError(
            f"OpenVINO {openvino.__version__} cannot compile {bundle.path(variant.path)}: {error}",
            hint="use --backend onnxruntime",
        ) from error
    return OpenVinoRuntime(bundle, compiled, precision)
