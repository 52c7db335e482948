"""OpenVINO on the CPU, with the precision it computes in said explicitly.

Left alone, its CPU plugin computes an fp32 graph in bf16 where the processor has such instructions.
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
from tvlt_deploy.runtimes import GRAPHS
from tvlt_deploy.runtimes.base import Closing, check_feeds

try:
    import openvino
except ImportError as error:
    raise EnvironmentLackError("openvino is not installed", hint="pip install 'tvlt-deploy[openvino]'") from error

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}
"""Precision asked for -> what OpenVINO computes the floating-point part of the graph in."""


class OpenVinoRuntime(Closing):
    """One compiled model; see `tvlt_deploy.runtimes.base.Runtime`. Each calling thread has a request of its own."""

    backend = "openvino"
    device = "cpu"

    def __init__(self, bundle: Bundle, compiled: openvino.CompiledModel, precision: str) -> None:
        self.task, self.config, self.precision = bundle.task, bundle.config, precision
        self.inputs, self.outputs = self.task.inputs(self.config), self.task.outputs(self.config)
        self._compiled: openvino.CompiledModel | None = compiled
        self._requests = threading.local()

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """As `Runtime.run`."""
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
    """Compile the graph of a precision, or take it from the user's cache where this machine compiled it before.

    graph: precision of the bundle's graph to read, by default the one that `GRAPHS` names.
    Raises `BundleError` when OpenVINO refuses the graph.
    """
    form = ONNXRUNTIME_CPU_FORM if precision == "int8" else STANDARD_FORM
    variant = bundle.variant(graph or GRAPHS.get(("openvino", precision), precision), form)
    bundle.check(variant.files)
    # OpenVINO 2026.4 names a cached model without the precision it was compiled for: an fp32 model taken for bf16 gives
    # NaN or a crash. So each precision has a folder of its own.
    folder = f"{variant.precision}-as-{precision}-{threads or 'all'}-threads"
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    with contextlib.suppress(OSError):  # a home that cannot be written costs the time of compiling, nothing else
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
