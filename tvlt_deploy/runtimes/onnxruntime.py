"""ONNX Runtime on the CPU and on CUDA, optionally with its TensorRT provider; no other provider runs in its place."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.cache import bundle_cache
from tvlt_deploy.bundle.manifest import FP16_TWIN_FORM, FUSED_FORM, ONNXRUNTIME_CPU_FORM, STANDARD_FORM
from tvlt_deploy.errors import EnvironmentLackError, InputError, UsageError
from tvlt_deploy.runtimes.base import Closing, check_feeds
from tvlt_deploy.runtimes.onnxruntime_fused import open_fused
from tvlt_deploy.runtimes.onnxruntime_session import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    check_cuda_provider,
    open_graph,
    open_session,
    ort,
    shared_library,
)
from tvlt_deploy.tensorrt.profiles import axis_sizes, shape_of

__all__ = ["OnnxRuntime", "open", "open_fused", "open_graph", "shared_library"]

TENSORRT_PROVIDER = "TensorrtExecutionProvider"
PROVIDERS = {"cuda": CUDA_PROVIDER, "tensorrt": TENSORRT_PROVIDER}
"""The values of `provider`, on a CUDA device."""

MAX_GRAPHS = 16
"""Shapes that one session records. It keeps their buffers, and a recorded graph cannot be released on its own."""
NO_GRAPH = "-1"  # https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html, gpu_graph_id

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Recorded:
    """What a CUDA graph of one set of shapes reads and writes: these buffers must stay at their addresses."""

    inputs: dict[str, ort.OrtValue]
    outputs: list[ort.OrtValue]
    binding: ort.IOBinding
    options: ort.RunOptions


def _graph_options(graph: str) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options


class OnnxRuntime(Closing):
    """One session; see `tvlt_deploy.runtimes.base.Runtime`. Calls from several threads are safe.

    Attributes:
        session: The session of ONNX Runtime; None when closed.
    """

    backend = "onnxruntime"

    def __init__(
        self,
        bundle: Bundle,
        session: ort.InferenceSession,
        device: str,
        precision: str,
        cuda_graphs: bool = False,
    ) -> None:
        self.task, self.config = bundle.task, bundle.config
        self.device, self.precision = device, precision
        self.inputs, self.outputs = self.task.inputs(self.config), self.task.outputs(self.config)
        self.session: ort.InferenceSession | None = session
        self._recorded: dict[Shapes, _Recorded] | None = {} if cuda_graphs else None
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """See `Runtime.run`. On CUDA each input is copied to the device once, and each output back once."""
        if self.session is None:
            raise InputError("this runtime is closed", hint="open it again")
        arrays = check_feeds(feeds, self.inputs, self.config)
        if self._recorded is not None:
            with self._lock:  # its buffers are shared
                values = self._run_recorded(self.session, self._recorded, arrays)
        elif self.device == "cpu":
            values = self.session.run(list(self.outputs), arrays)
        else:
            values = self._run_bound(self.session, arrays)
        return dict(zip(self.outputs, values, strict=True))

    @property
    def _place(self) -> tuple[str, int]:
        kind, _, index = self.device.partition(":")
        return kind, int(index or 0)

    def _run_bound(
        self, session: ort.InferenceSession, arrays: Mapping[str, np.ndarray], options: ort.RunOptions | None = None
    ) -> list[np.ndarray]:
        binding = session.io_binding()
        for name, array in arrays.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, *self._place))
        for name in self.outputs:
            binding.bind_output(name, *self._place)
        session.run_with_iobinding(binding, options)
        values: list[np.ndarray] = binding.copy_outputs_to_cpu()
        return values

    def _run_recorded(
        self, session: ort.InferenceSession, recorded: dict[Shapes, _Recorded], arrays: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        """Replay known shapes in their own buffers; record new ones up to `MAX_GRAPHS`."""
        shapes = tuple(array.shape for array in arrays.values())
        if shapes not in recorded:
            if len(recorded) == MAX_GRAPHS:
                return self._run_bound(session, arrays, _graph_options(NO_GRAPH))
            recorded[shapes] = self._record(session, arrays, graph=str(len(recorded) + 1))
        kept = recorded[shapes]
        for name, array in arrays.items():
            kept.inputs[name].update_inplace(array)
        session.run_with_iobinding(kept.binding, kept.options)
        return [np.array(value.numpy()) for value in kept.outputs]

    def _record(self, session: ort.InferenceSession, arrays: Mapping[str, np.ndarray], graph: str) -> _Recorded:
        batch, frames = arrays["pixel_values"].shape[:2]
        sizes = axis_sizes(self.config, batch, frames, arrays["audio_values"].shape[2])
        inputs = {name: ort.OrtValue.ortvalue_from_numpy(array, *self._place) for name, array in arrays.items()}
        outputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(shape_of(spec.shape, sizes), np.float32, *self._place)
            for name, spec in self.outputs.items()
        }
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return _Recorded(inputs, list(outputs.values()), binding, _graph_options(graph))

    def close(self) -> None:
        """Release the session and its recorded graphs."""
        self._recorded = None if self._recorded is None else {}
        self.session = None


def open(
    bundle: Bundle,
    device: str,
    precision: str,
    threads: int | None = None,
    allow_fallback: bool = False,
    form: str | None = None,
    provider: str | None = None,
    cuda_graphs: bool = False,
) -> OnnxRuntime:
    """Open a graph of a bundle.

    Args:
        bundle: The bundle.
        device: `cpu`, `cuda` or `cuda:N`.
        precision: Precision of the graph.
        threads: CPU threads; by default all cores.
        allow_fallback: Use the CPU if the CUDA provider is not available.
        form: Form of the graph; by default the one for the device.
        provider: On a CUDA device, `cuda` (the default) or `tensorrt`. With `tensorrt`, ONNX Runtime builds its own
            engines for each new range of shapes, which takes minutes, and keeps them in the user's cache.
        cuda_graphs: Record the work of repeated shapes (at most `MAX_GRAPHS`) and replay it; with provider `cuda` only.

    Raises:
        EnvironmentLackError: The provider is not available, and `allow_fallback` is False.
        UsageError: `provider` or `cuda_graphs` does not fit the device.
        BundleError: A file does not match the manifest, or ONNX Runtime cannot load it.
    """
    if provider is not None and (provider not in PROVIDERS or device == "cpu"):
        raise UsageError(f"provider is {provider!r} on {device}; expected {' or '.join(PROVIDERS)}, on a CUDA device")
    name = PROVIDERS[provider or "cuda"]
    if cuda_graphs and (device == "cpu" or name != CUDA_PROVIDER):
        raise UsageError("cuda_graphs needs a CUDA device and the provider cuda")
    if device != "cpu":
        try:
            return _open(bundle, device, precision, threads, form, name, cuda_graphs)
        except EnvironmentLackError:
            if not allow_fallback:
                raise
    return _open(bundle, "cpu", precision, threads, form, CPU_PROVIDER)


def _providers(bundle: Bundle, device: str, name: str, cuda_graphs: bool) -> list[Any]:
    """Providers in the order in which they take nodes, with their options."""
    if name == CPU_PROVIDER:
        return [CPU_PROVIDER]
    index = int(device.partition(":")[2] or 0)
    # TF32 computes fp32 products with 10 bits of mantissa.
    cuda = {"device_id": index, "use_tf32": 0, **({"enable_cuda_graph": 1} if cuda_graphs else {})}
    providers: list[Any] = [(CUDA_PROVIDER, cuda), CPU_PROVIDER]
    if name == TENSORRT_PROVIDER:
        cache = bundle_cache(bundle, "onnxruntime-tensorrt", ort.__version__)
        engines = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache)}
        providers.insert(0, (TENSORRT_PROVIDER, {"device_id": index, **engines}))
    return providers


def _open(
    bundle: Bundle,
    device: str,
    precision: str,
    threads: int | None,
    form: str | None,
    name: str,
    cuda_graphs: bool = False,
) -> OnnxRuntime:
    on_cpu = name == CPU_PROVIDER
    if not on_cpu:
        check_cuda_provider(name)
    if form is None:
        forms = {variant.form for variant in bundle.variants if variant.precision == precision}
        preferred = ONNXRUNTIME_CPU_FORM if on_cpu else FP16_TWIN_FORM
        form = preferred if preferred in forms else STANDARD_FORM
    if form == FUSED_FORM:
        raise UsageError("the inputs of the fused graph are frames and sound", hint="open it with open_fused")
    providers = _providers(bundle, device, name, cuda_graphs)
    session = open_session(bundle, bundle.variant(precision, form), providers, threads)
    return OnnxRuntime(bundle, session, device, precision, cuda_graphs)
