"""ONNX Runtime on the CPU and on CUDA, where its TensorRT provider can be had too. What was asked for is what runs."""

from __future__ import annotations

import importlib.metadata
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.cache import bundle_cache
from tvlt_deploy.bundle.manifest import FP16_TWIN_FORM, FUSED_FORM, ONNXRUNTIME_CPU_FORM, STANDARD_FORM, Variant
from tvlt_deploy.errors import BundleError, EnvironmentLackError, InputError, UsageError
from tvlt_deploy.runtimes.base import Closing, check_feeds, shape_text
from tvlt_deploy.tasks import RAW_INPUTS
from tvlt_deploy.tensorrt.profiles import axis_sizes, shape_of

_INSTALL = "pip install 'tvlt-deploy[cpu]', or 'tvlt-deploy[gpu]' for CUDA; never both in one environment"

try:
    import onnxruntime as ort
except ImportError as error:
    raise EnvironmentLackError("onnxruntime is not installed", hint=_INSTALL) from error

ort.disable_telemetry_events()

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
PROVIDERS = {"cuda": CUDA_PROVIDER, "tensorrt": TENSORRT_PROVIDER}
"""What `provider` may be, on a CUDA device."""

MAX_GRAPHS = 16
"""Shapes whose work is recorded by one session; it keeps their buffers, and graphs cannot be given back one by one."""
NO_GRAPH = "-1"  # https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html, gpu_graph_id


Shapes = tuple[tuple[int, ...], ...]


def installed_packages() -> dict[str, str]:
    """Which of the two ONNX Runtime packages are installed, with their versions. Both share one folder."""
    found = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def shared_library() -> Path:
    """The library inside the installed package, which a C++ program can load.

    Raises `EnvironmentLackError` for a build of the package that has none.
    """
    folder = Path(ort.__file__).parent / "capi"
    found = sorted(folder.glob("libonnxruntime.so*"))
    if not found:
        raise EnvironmentLackError(f"{folder} holds no libonnxruntime.so", hint=_INSTALL)
    return found[0]


def _cuda_lacking(found: str) -> EnvironmentLackError:
    """Why CUDA cannot be had, with the packages at fault."""
    packages = installed_packages()
    installed = ", ".join(f"{name} {version}" for name, version in packages.items()) or "no package of that name"
    if len(packages) == 2:
        hint = (
            "both packages share one folder and break each other: pip uninstall onnxruntime onnxruntime-gpu, "
            "then pip install 'tvlt-deploy[gpu]'"
        )
    elif "onnxruntime-gpu" in packages:
        hint = "check the driver with nvidia-smi and the CUDA and cuDNN libraries (onnxruntime-gpu[cuda,cudnn])"
    else:
        hint = "pip uninstall onnxruntime, then pip install 'tvlt-deploy[gpu]'"
    return EnvironmentLackError(f"CUDA cannot be had: {found} ({installed} installed)", hint=hint)


def check_cuda_provider(name: str = CUDA_PROVIDER) -> None:
    """Raise `EnvironmentLackError` when the installed ONNX Runtime has no provider of that name for CUDA devices."""
    if name not in ort.get_available_providers():
        kind = "CUDA provider" if name == CUDA_PROVIDER else name
        raise _cuda_lacking(f"this ONNX Runtime has no {kind}")


def _session_options(threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # A memory pattern is planned and kept for each new input shape; without it, memory stays flat over mixed shapes.
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_graph(content: bytes, folder: str | os.PathLike[str], threads: int | None = None) -> ort.InferenceSession:
    """A CPU session on an altered graph: a serialized model whose external weights lie in `folder`."""
    options = _session_options(threads)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.fspath(folder))
    return ort.InferenceSession(content, sess_options=options, providers=[CPU_PROVIDER])


@dataclass(frozen=True)
class _Recorded:
    """What a CUDA graph of one set of shapes reads and writes: its buffers must neither move nor go."""

    inputs: dict[str, ort.OrtValue]
    outputs: list[ort.OrtValue]
    binding: ort.IOBinding
    options: ort.RunOptions


def _graph_options(graph: str) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options


class OnnxRuntime(Closing):
    """One session; see `tvlt_deploy.runtimes.base.Runtime`. Calls from several threads are safe."""

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
        """As `Runtime.run`; on CUDA the inputs are copied once to the device and the outputs once back."""
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
        """Known shapes are repeated in buffers that stay where they are; new ones recorded while there is room."""
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
        """Release the session and what it recorded."""
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
    """A session on `form`, by default the one that suits the device.

    provider: on a CUDA device, `cuda` (the default) or, for those who know it, `tensorrt`: ONNX Runtime then builds
    engines of its own for each new range of shapes, minutes at a time, and keeps them in the user's cache.
    cuda_graphs: record the work of shapes that come again (at most `MAX_GRAPHS`), and repeat it; with `cuda` only.

    Raises `EnvironmentLackError` when the provider that runs is not the one asked for, unless `allow_fallback`, and
    `UsageError` for a provider that cannot be.
    """
    if provider is not None and (provider not in PROVIDERS or device == "cpu"):
        raise UsageError(f"provider is {provider!r} on {device}; wanted {' or '.join(PROVIDERS)}, on a CUDA device")
    name = PROVIDERS[provider or "cuda"]
    if cuda_graphs and (device == "cpu" or name != CUDA_PROVIDER):
        raise UsageError("cuda_graphs want a CUDA device and its own provider")
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
    # TF32 would answer fp32 with ten bits of mantissa.
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
        suited = ONNXRUNTIME_CPU_FORM if on_cpu else FP16_TWIN_FORM
        form = suited if suited in forms else STANDARD_FORM
    if form == FUSED_FORM:
        raise UsageError("the fused graph takes frames and sound", hint="open it with open_fused")
    session = _session(bundle, bundle.variant(precision, form), _providers(bundle, device, name, cuda_graphs), threads)
    return OnnxRuntime(bundle, session, device, precision, cuda_graphs)


def _session(bundle: Bundle, variant: Variant, providers: list[Any], threads: int | None) -> ort.InferenceSession:
    """A session on the first of `providers`, and on no other in its place."""
    name = providers[0] if isinstance(providers[0], str) else providers[0][0]
    bundle.check(variant.files)
    try:
        session = ort.InferenceSession(
            str(bundle.path(variant.path)),
            sess_options=_session_options(threads),
            providers=providers,
            enable_fallback=0,  # or a provider that fails later is exchanged for another without a word
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        if name != CPU_PROVIDER and ("CUDA" in str(error) or name in str(error)):
            raise _cuda_lacking(f"the {name.removesuffix('ExecutionProvider')} provider failed: {error}") from error
        raise BundleError(
            f"ONNX Runtime {ort.__version__} cannot load {bundle.path(variant.path)}: {error}",
            hint="wanted: onnxruntime 1.22 or newer",
        ) from error
    if session.get_providers()[0] != name:
        raise _cuda_lacking(f"the session runs on {session.get_providers()[0]}")
    return session


# The fused graph -----------------------------------------------------------------------------------------------------


class FusedRuntime(Closing):
    """A session on a bundle's fused graph, on the CPU: one clip a call. Calls from several threads are safe."""

    def __init__(self, bundle: Bundle, session: ort.InferenceSession) -> None:
        self.task, self.config = bundle.task, bundle.config
        self.inputs, self.outputs = RAW_INPUTS, self.task.outputs(self.config)
        self.session: ort.InferenceSession | None = session

    def run(
        self, frames: NDArray[np.uint8] | None = None, waveform: NDArray[np.float32] | None = None
    ) -> dict[str, np.ndarray]:
        """The task's outputs of one clip, with a batch axis of 1; outputs per token have those that are valid.

        frames: (frames, height, width, 3) uint8, RGB, of any size. waveform: (samples,) float32, mono at 44100 Hz,
        finite. Either may be None, but not both.

        Raises `InputError` for other arrays, for more frames than the model takes, and for an empty clip. Sound that
        is shorter than a hop counts as none, which the feature extractor refuses.
        """
        if self.session is None:
            raise InputError("this runtime is closed", hint="open it again")
        if frames is None and waveform is None:
            raise InputError("frames and waveform are both None; wanted at least one of them")
        feeds: dict[str, NDArray[Any]] = {
            "frames": np.zeros((0, *self.config.image_shape, 3), np.uint8) if frames is None else frames,
            "waveform": np.zeros(0, np.float32) if waveform is None else waveform,
        }
        for name, spec in self.inputs.items():
            array = feeds[name] = np.ascontiguousarray(feeds[name])
            fits = array.ndim == len(spec.shape) and (name != "frames" or array.shape[-1] == spec.shape[-1])
            if array.dtype != spec.dtype or not fits:
                wanted = f"{spec.dtype} {shape_text(spec)}"
                raise InputError(f"{name} is {array.dtype} of shape {array.shape}; wanted {wanted}")
        if len(feeds["frames"]) > self.config.num_frames:
            raise InputError(f"frames has {len(feeds['frames'])} frames; wanted at most {self.config.num_frames}")
        if 0 in feeds["frames"].shape[1:]:
            raise InputError(f"frames has shape {feeds['frames'].shape}, which holds no pixels")
        if not np.isfinite(feeds["waveform"]).all():
            raise InputError("waveform holds NaN or infinite samples; wanted finite numbers")
        values = self.session.run(list(self.outputs), feeds)
        return dict(zip(self.outputs, values, strict=True))

    def close(self) -> None:
        """Release the session."""
        self.session = None


def open_fused(bundle: Bundle, threads: int | None = None) -> FusedRuntime:
    """A session on a bundle's fused graph. Raises `UsageError` where it has none."""
    return FusedRuntime(bundle, _session(bundle, bundle.variant("fp32", FUSED_FORM), [CPU_PROVIDER], threads))
