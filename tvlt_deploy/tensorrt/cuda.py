"""The few CUDA calls that an engine needs, through NVIDIA's own `cuda.bindings.runtime`; nothing else calls CUDA."""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any, Self

import numpy as np

from tvlt_deploy.errors import EnvironmentLackError

_INSTALL = "pip install 'tvlt-deploy[tensorrt]' or 'tvlt-deploy[tensorrt-rtx]'"


class Cuda:
    """One device. Pointers, streams and graphs are plain integers or opaque handles; every failure raises.

    Raises `EnvironmentLackError` without the bindings, a driver or the device. Current device is a state of each
    thread: call `use` before the first call on another one.
    """

    def __init__(self, index: int) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise EnvironmentLackError("cuda-bindings is not installed", hint=_INSTALL) from error
        self._runtime: Any = runtime
        self.index = index
        status, count = runtime.cudaGetDeviceCount()
        if int(status) != 0 or not count:
            raise EnvironmentLackError(
                f"no CUDA device can be used: {self._text(status)}",
                hint="check the driver with nvidia-smi; --device cpu needs none",
            )
        if index >= count:
            raise EnvironmentLackError(
                f"device cuda:{index} was asked for, but there are {count} CUDA device(s), from cuda:0 on",
                hint="nvidia-smi lists them",
            )
        self.use()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def _text(self, error: Any) -> str:
        try:
            return str(self._runtime.cudaGetErrorString(error)[1].decode())
        except Exception:  # without a driver even this may fail
            return str(error)

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._runtime, name)(*arguments)
        if int(error) != 0:
            raise EnvironmentLackError(
                f"{name} failed: {self._text(error)}",
                hint="close other programs on the GPU, or build with a smaller --profile",
            )
        return values[0] if values else None

    @property
    def capability(self) -> int:
        """Compute capability, as 89."""
        attributes = self._runtime.cudaDeviceAttr
        major = self._call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMajor, self.index)
        minor = self._call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMinor, self.index)
        return int(major) * 10 + int(minor)

    @property
    def version(self) -> int:
        """Version of the CUDA runtime, as 13000."""
        return int(self._call("cudaRuntimeGetVersion"))

    def use(self) -> None:
        """Make this the calling thread's device."""
        self._call("cudaSetDevice", self.index)

    def allocate(self, size: int) -> int:
        """Device memory of `size` bytes."""
        return int(self._call("cudaMalloc", size))

    def free(self, pointer: int) -> None:
        """Return device memory."""
        self._call("cudaFree", pointer)

    def allocate_pinned(self, count: int) -> tuple[int, np.ndarray]:
        """Host memory that the device reads directly: its address, and (count,) float32 on it."""
        pointer = int(self._call("cudaMallocHost", count * 4))
        return pointer, np.ctypeslib.as_array((ctypes.c_float * count).from_address(pointer))

    def free_pinned(self, pointer: int) -> None:
        """Return pinned memory; no array on it may be used any more."""
        self._call("cudaFreeHost", pointer)

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Start copying from pinned memory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Start copying to pinned memory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def create_stream(self) -> int:
        """A stream that waits for no other."""
        return int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Return a stream."""
        self._call("cudaStreamDestroy", stream)

    def wait(self, stream: int) -> None:
        """Block until all work of a stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def wait_for_all(self) -> None:
        """Block until all work on the device is done, whoever started it."""
        self._call("cudaDeviceSynchronize")

    def begin_capture(self, stream: int) -> None:
        """Record what the stream is given from here on, instead of doing it."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> Any:
        """The recorded work, ready to be launched."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: int) -> None:
        """Start recorded work."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Return recorded work."""
        self._call("cudaGraphExecDestroy", graph)
