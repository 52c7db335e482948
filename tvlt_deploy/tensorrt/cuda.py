"""The CUDA calls that an engine needs, through `cuda.bindings.runtime`; no other module calls CUDA."""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any, Self

import numpy as np

from tvlt_deploy.errors import EnvironmentLackError

_INSTALL = "pip install 'tvlt-deploy[tensorrt]' or 'tvlt-deploy[tensorrt-rtx]'"


class Cuda:
    """One CUDA device. Pointers and streams are integers, graphs are opaque handles.

    The current device is a state of each thread: call `use` before the first call in another thread.

    Args:
        index: Number of the device, from 0 on.

    Attributes:
        index: Number of the device.

    Raises:
        EnvironmentLackError: The bindings, the driver or the device is missing. Every method raises it for a call that
            failed.
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
                f"no CUDA device is available: {self._text(status)}",
                hint="check the driver with nvidia-smi, or use --device cpu",
            )
        if index >= count:
            raise EnvironmentLackError(
                f"device is cuda:{index}; expected one of {count} CUDA device(s), from cuda:0 on",
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
        """Compute capability of the device, such as 89."""
        attributes = self._runtime.cudaDeviceAttr
        major = self._call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMajor, self.index)
        minor = self._call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMinor, self.index)
        return int(major) * 10 + int(minor)

    @property
    def version(self) -> int:
        """Version of the CUDA runtime, such as 13000."""
        return int(self._call("cudaRuntimeGetVersion"))

    def use(self) -> None:
        """Make this the current device of the calling thread."""
        self._call("cudaSetDevice", self.index)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes of device memory and return their address."""
        return int(self._call("cudaMalloc", size))

    def free(self, pointer: int) -> None:
        """Free device memory."""
        self._call("cudaFree", pointer)

    def allocate_pinned(self, count: int) -> tuple[int, np.ndarray]:
        """Allocate pinned host memory. Returns its address and a (count,) float32 array on it."""
        pointer = int(self._call("cudaMallocHost", count * 4))
        return pointer, np.ctypeslib.as_array((ctypes.c_float * count).from_address(pointer))

    def free_pinned(self, pointer: int) -> None:
        """Free pinned host memory; arrays on it may not be used afterwards."""
        self._call("cudaFreeHost", pointer)

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Start copying `size` bytes from pinned host memory to the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Start copying `size` bytes from the device to pinned host memory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default stream."""
        return int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", stream)

    def wait(self, stream: int) -> None:
        """Wait until all work of a stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def wait_for_all(self) -> None:
        """Wait until all work on the device is done, of all streams."""
        self._call("cudaDeviceSynchronize")

    def begin_capture(self, stream: int) -> None:
        """Record the following work of a stream into a graph instead of running it."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> Any:
        """Stop recording and return the graph, ready to be launched."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: int) -> None:
        """Start the work of a graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Destroy a graph."""
        self._call("cudaGraphExecDestroy", graph)
