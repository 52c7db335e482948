"""TensorRT and TensorRT-RTX engines, without torch: one execution context and one stream for each calling thread.

Nothing is allocated during a call: a thread's buffers have the size of the largest profile. Inputs go through pinned
memory; arrays that are on the device already (`__cuda_array_interface__`) are read in place.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvlt_deploy._internal.atomic import staged_file
from tvlt_deploy._internal.cache import user_cache
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import Engine
from tvlt_deploy.bundle.trust import check_trust
from tvlt_deploy.errors import BundleError, EnvironmentLackError, InputError
from tvlt_deploy.runtimes.base import Closing, check_feeds
from tvlt_deploy.tensorrt.cuda import Cuda
from tvlt_deploy.tensorrt.library import find_engine, listening, load_library
from tvlt_deploy.tensorrt.profiles import Profile, axis_sizes, shape_of

MAX_GRAPHS = 8
"""CUDA graphs kept by each thread, one for each set of sizes; the least recently used one is dropped first."""

Sizes = tuple[int, int, int]
"""(batch, frames, rows)."""


@dataclass
class _Buffer:
    """Memory of one input or output at its largest size: on the device, and pinned on the host."""

    device: int
    pinned: int
    host: np.ndarray


class _Lane:
    """What one thread runs on: a context, a stream, buffers, and its recorded CUDA graphs."""

    def __init__(self, cuda: Cuda, context: Any, largest: Mapping[str, int], graphs: bool) -> None:
        self.cuda, self.context, self.record = cuda, context, graphs
        self.stream = 0
        self.buffers: dict[str, _Buffer] = {}
        self.profile: int | None = None
        self.graphs: OrderedDict[Sizes, Any] = OrderedDict()
        self.seen: Sizes | None = None
        try:
            self.stream = cuda.create_stream()
            for name, count in largest.items():
                device = cuda.allocate(count * 4)
                self.buffers[name] = _Buffer(device, 0, np.empty(0, np.float32))
                pinned, host = cuda.allocate_pinned(count)
                self.buffers[name] = _Buffer(device, pinned, host)
        except BaseException:
            self.close()
            raise

    def run(
        self,
        profile: int,
        sizes: Sizes,
        inputs: Mapping[str, np.ndarray | _OnDevice],
        outputs: Mapping[str, tuple[int, ...]],
    ) -> dict[str, np.ndarray]:
        """The outputs of one batch."""
        self.cuda.use()
        here = all(isinstance(value, np.ndarray) for value in inputs.values())
        if not here:
            self.cuda.wait_for_all()  # they may still be written on another stream
        if profile != self.profile:
            self._select(profile)
        for name, value in inputs.items():
            self._bind(name, value)
        for name in outputs:
            self._address(name, self.buffers[name].device)
        self._start(sizes, replay=self.record and here)
        for name, shape in outputs.items():
            buffer = self.buffers[name]
            self.cuda.copy_to_host(buffer.pinned, buffer.device, math.prod(shape) * 4, self.stream)
        self.cuda.wait(self.stream)
        return {
            name: self.buffers[name].host[: math.prod(shape)].reshape(shape).copy() for name, shape in outputs.items()
        }

    def _select(self, profile: int) -> None:
        if not self.context.set_optimization_profile_async(profile, self.stream):
            raise EnvironmentLackError(f"the engine refuses its profile {profile}", hint="build the engine again")
        self.cuda.wait(self.stream)
        self.profile, self.seen = profile, None
        self._forget_graphs()

    def _bind(self, name: str, value: np.ndarray | _OnDevice) -> None:
        if not self.context.set_input_shape(name, value.shape):
            raise EnvironmentLackError(
                f"the engine refuses {name} of shape {value.shape}, which its profile contains",
                hint="build the engine again",
            )
        if isinstance(value, _OnDevice):
            self._address(name, value.pointer)
            return
        buffer = self.buffers[name]
        np.copyto(buffer.host[: value.size], value.reshape(-1))
        self.cuda.copy_to_device(buffer.device, buffer.pinned, value.nbytes, self.stream)
        self._address(name, buffer.device)

    def _address(self, name: str, pointer: int) -> None:
        if not self.context.set_tensor_address(name, pointer):
            raise EnvironmentLackError(f"the engine refuses the memory of {name}", hint="build the engine again")

    def _start(self, sizes: Sizes, replay: bool) -> None:
        """Run once on the stream; with `replay`, sizes that come a second time are recorded and then replayed."""
        if replay and sizes in self.graphs:
            self.graphs.move_to_end(sizes)
            self.cuda.launch(self.graphs[sizes], self.stream)
            return
        if replay and self.seen == sizes:  # the first run did all one-time initialization
            self.cuda.begin_capture(self.stream)
            try:
                self._enqueue()
            finally:
                graph = self.cuda.end_capture(self.stream)
            self.graphs[sizes] = graph
            if len(self.graphs) > MAX_GRAPHS:
                self.cuda.destroy_graph(self.graphs.popitem(last=False)[1])
            self.cuda.launch(graph, self.stream)
            return
        self._enqueue()
        self.seen = sizes

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self.stream):
            raise EnvironmentLackError("the engine failed to run", hint="tvlt-deploy verify BUNDLE shows at which size")

    def _forget_graphs(self) -> None:
        while self.graphs:
            self.cuda.destroy_graph(self.graphs.popitem()[1])

    def close(self) -> None:
        """Release everything; the context before the memory it points to."""
        self.cuda.use()
        if self.stream:
            self.cuda.wait(self.stream)
        self._forget_graphs()
        self.context = None
        for buffer in self.buffers.values():
            self.cuda.free(buffer.device)
            if buffer.pinned:
                self.cuda.free_pinned(buffer.pinned)
        self.buffers = {}
        if self.stream:
            self.cuda.destroy_stream(self.stream)
            self.stream = 0


@dataclass(frozen=True)
class _OnDevice:
    """A float32 array on the device, kept alive by `owner`."""

    shape: tuple[int, ...]
    pointer: int
    owner: Any


def _on_device(name: str, value: Any) -> _OnDevice | None:
    """The object as a device array, if it is one: torch, cupy and numba arrays have `__cuda_array_interface__`."""
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        return None
    if interface["typestr"] != "<f4":
        raise InputError(f"{name} on the device is {interface['typestr']}; expected float32 ('<f4')")
    shape = tuple(interface["shape"])
    strides = interface.get("strides")
    dense = tuple(4 * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    if strides is not None and tuple(strides) != dense:
        raise InputError(f"{name} on the device has strides {tuple(strides)}; expected a contiguous array, {dense}")
    return _OnDevice(shape, int(interface["data"][0]), value)


class TensorRtRuntime(Closing):
    """One engine; see `tvlt_deploy.runtimes.base.Runtime`. Calls from several threads run side by side.

    Attributes:
        path: Path of the engine file in the bundle.
        profiles: The ranges of sizes that the engine accepts.
    """

    def __init__(
        self,
        bundle: Bundle,
        record: Engine,
        engine: Any,
        cuda: Cuda,
        device: str,
        *,
        configure: Callable[[Any], Any] | None = None,
        finish: Callable[[], None] = lambda: None,
        cuda_graphs: bool = False,
    ) -> None:
        self.task, self.config = bundle.task, bundle.config
        self.backend, self.device, self.precision = record.engine, device, record.precision
        self.path = record.path
        self.inputs, self.outputs = self.task.inputs(self.config), self.task.outputs(self.config)
        self.profiles = tuple(Profile.from_entry(profile) for profile in record.profiles)
        self._engine, self._cuda, self._cuda_graphs = engine, cuda, cuda_graphs
        self._configure, self._finish = configure, finish
        self._lanes: dict[threading.Thread, _Lane] = {}
        self._lock = threading.Lock()
        self._largest = self._largest_sizes()

    def _largest_sizes(self) -> dict[str, int]:
        sizes = [profile.sizes(self.config)[2] for profile in self.profiles]
        specs = {**self.inputs, **self.outputs}
        return {name: max(math.prod(shape_of(spec.shape, point)) for point in sizes) for name, spec in specs.items()}

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """See `Runtime.run`. Arrays on the device are read in place.

        Raises:
            InputError: As `Runtime.run`, and for sizes that no profile contains.
        """
        if self._engine is None:
            raise InputError("this runtime is closed", hint="open it again")
        on_device = {name: array for name, value in feeds.items() if (array := _on_device(name, value)) is not None}
        stand_ins = {name: np.empty(array.shape, np.float32) for name, array in on_device.items()}  # for their shape
        arrays: dict[str, Any] = {**check_feeds({**feeds, **stand_ins}, self.inputs, self.config), **on_device}
        batch, frames = arrays["pixel_values"].shape[:2]
        sizes = (batch, frames, arrays["audio_values"].shape[2])
        profile = self._pick(sizes)
        points = axis_sizes(self.config, *sizes)
        outputs = {name: shape_of(spec.shape, points) for name, spec in self.outputs.items()}
        return self._lane().run(profile, sizes, arrays, outputs)

    def _pick(self, sizes: Sizes) -> int:
        """The profile that contains these sizes and is optimized for the sizes nearest to them."""
        fitting = [index for index, profile in enumerate(self.profiles) if profile.contains(*sizes)]
        if not fitting:
            accepted = "; ".join(str(profile) for profile in self.profiles)
            raise InputError(
                f"the engine accepts no batch of {sizes[0]} with {sizes[1]} frames and {sizes[2]} rows; "
                f"expected {accepted}",
                hint="build an engine with a wider --profile",
            )
        return min(fitting, key=lambda index: self.profiles[index].distance(*sizes))

    def _lane(self) -> _Lane:
        """The lane of the calling thread; lanes of threads that have ended are released."""
        me = threading.current_thread()
        with self._lock:
            for thread in [thread for thread in self._lanes if not thread.is_alive()]:
                self._lanes.pop(thread).close()
            if me not in self._lanes:
                self._cuda.use()
                self._lanes[me] = _Lane(self._cuda, self._context(), self._largest, self._cuda_graphs)
            return self._lanes[me]

    def _context(self) -> Any:
        if self._configure is None:
            context = self._engine.create_execution_context()
        else:
            context = self._engine.create_execution_context(self._configure(self._engine))
        if context is None:
            raise EnvironmentLackError(
                f"no execution context for {self.path}: not enough GPU memory",
                hint="close other programs on the GPU, or build with a smaller --profile",
            )
        return context

    def close(self) -> None:
        """Release the lanes of all threads and the engine. No call may be running."""
        with self._lock:
            lanes, self._lanes = list(self._lanes.values()), {}
            for lane in lanes:
                lane.close()
            if self._engine is not None:
                self._finish()
            self._engine = None


# Opening -------------------------------------------------------------------------------------------------------------


def open(
    bundle: Bundle,
    device: str,
    precision: str,
    backend: str = "tensorrt",
    trust_engine: str | None = None,
    cuda_graphs: bool = False,
) -> TensorRtRuntime:
    """Load the engine of a precision that fits this machine.

    All checks are made before the library reads the engine.

    Args:
        bundle: The bundle.
        device: `cuda` or `cuda:N`.
        precision: Precision of the engine.
        backend: `tensorrt` or `tensorrt-rtx`.
        trust_engine: The SHA-256 of an engine, or of the manifest of a bundle, that was not built here.
        cuda_graphs: Record the work of repeated sizes and replay it.

    Raises:
        UsageError: The bundle has no engine of this backend and precision.
        EnvironmentLackError: The library or a GPU is missing, or no engine is for this library, system and GPU.
        FileRefusedError: The engine is not trusted.
        BundleError: The engine does not match the manifest, or the library refuses it.
    """
    library = load_library(backend)
    find_engine(bundle, backend, precision, library.__version__)
    cuda = Cuda(int(device.partition(":")[2] or 0))
    record = find_engine(bundle, backend, precision, library.__version__, cuda.capability)
    check_trust(bundle, record.path, trust_engine)
    bundle.check([record.path])
    content = bundle.path(record.path).read_bytes()
    return load(bundle, record, content, library, cuda, device, cuda_graphs)


def load(
    bundle: Bundle, record: Engine, content: bytes, library: Any, cuda: Cuda, device: str, cuda_graphs: bool
) -> TensorRtRuntime:
    """Deserialize an engine.

    Args:
        bundle: The bundle it belongs to.
        record: Its entry in the manifest.
        content: The bytes of its file, checked already.
        library: The module `tensorrt` or `tensorrt_rtx`.
        cuda: The device.
        device: `cuda` or `cuda:N`.
        cuda_graphs: Record the work of repeated sizes and replay it.

    Raises:
        BundleError: The library refuses the engine; the message contains its reasons.
    """
    messages: list[str] = []

    def collect(severity: str, message: str) -> None:
        if severity in ("WARNING", "ERROR", "INTERNAL_ERROR"):
            messages.append(message)

    with listening(library, collect) as logger:
        runtime = library.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        reasons = "; ".join(messages) or "no reason given"
        raise BundleError(
            f"{record.engine} {record.version} refuses {bundle.path(record.path)}: {reasons}",
            hint=f"tvlt-deploy build {bundle.directory} --engine {record.engine} --precision {record.precision}",
        )
    if not hasattr(library.IRuntimeConfig, "create_runtime_cache"):
        return TensorRtRuntime(bundle, record, engine, cuda, device, cuda_graphs=cuda_graphs)
    digest = bundle.manifest.files[record.path].sha256
    name = f"{digest}-sm{cuda.capability}-{record.version}-cuda{cuda.version}.bin"
    kernels = _KernelCache(library, engine, user_cache("kernels") / name, cuda_graphs)
    return TensorRtRuntime(
        bundle, record, engine, cuda, device, configure=kernels.configure, finish=kernels.save
    )  # TensorRT-RTX records CUDA graphs by itself


class _KernelCache:
    """TensorRT-RTX compiles kernels on the GPU that runs them. The user's cache keeps them for the next start."""

    def __init__(self, library: Any, engine: Any, path: Path, cuda_graphs: bool) -> None:
        self.path = path
        self.config = engine.create_runtime_config()
        self.cache = self.config.create_runtime_cache()
        self.before = path.read_bytes() if path.is_file() else b""
        if self.before:
            self.cache.deserialize(self.before)  # a cache that does not fit is ignored
        self.config.set_runtime_cache(self.cache)
        strategies = library.CudaGraphStrategy
        self.config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if cuda_graphs else strategies.DISABLED

    def configure(self, engine: Any) -> Any:
        """The configuration of a new context."""
        return self.config

    def save(self) -> None:
        """Write what was compiled since the start."""
        content = bytes(self.cache.serialize())
        if content != self.before:
            with staged_file(self.path) as temporary:
                temporary.write_bytes(content)
