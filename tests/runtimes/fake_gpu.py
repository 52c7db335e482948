"""A GPU of dictionaries: CUDA calls and TensorRT objects that note every call and do the work in numpy.

Its model: `logits[b, k] = mean(pixel_values[b]) + mean(audio_values[b]) * k + share of valid patches`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class FakeCuda:
    """Stands in for `tvlt_deploy.tensorrt.cuda.Cuda`."""

    capability = 89
    version = 13000

    def __init__(self, index: int = 0, memory: int = 10**9) -> None:
        self.index, self.calls = index, []  # type: ignore[var-annotated]
        self.left = memory
        self.ids = itertools.count(1000, 8)
        self.device: dict[int, np.ndarray] = {}
        self.pinned: dict[int, np.ndarray] = {}
        self.streams: set[int] = set()
        self.graphs: set[int] = set()
        self.recording: dict[int, list[Callable[[], None]]] = {}
        self.work: dict[int, list[Callable[[], None]]] = {}

    def note(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def do(self, stream: int, work: Callable[[], None]) -> None:
        """Now, or when a recording is launched."""
        assert stream in self.streams
        if stream in self.recording:
            self.recording[stream].append(work)
        else:
            work()

    def use(self) -> None:
        self.note("use")

    def allocate(self, size: int) -> int:
        if size > self.left:
            raise MemoryError(size)
        self.left -= size
        pointer = next(self.ids)
        self.device[pointer] = np.zeros(size // 4, np.float32)
        self.note("allocate", size)
        return pointer

    def free(self, pointer: int) -> None:
        self.left += self.device.pop(pointer).nbytes
        self.note("free")

    def allocate_pinned(self, count: int) -> tuple[int, np.ndarray]:
        pointer = next(self.ids)
        self.pinned[pointer] = np.zeros(count, np.float32)
        self.note("allocate_pinned", count)
        return pointer, self.pinned[pointer]

    def free_pinned(self, pointer: int) -> None:
        del self.pinned[pointer]
        self.note("free_pinned")

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        self.note("copy_to_device", size)
        assert stream not in self.recording
        self.device[target][: size // 4] = self.pinned[source][: size // 4]

    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None:
        self.note("copy_to_host", size)
        assert stream not in self.recording
        self.pinned[target][: size // 4] = self.device[source][: size // 4]

    def create_stream(self) -> int:
        stream = next(self.ids)
        self.streams.add(stream)
        self.note("create_stream")
        return stream

    def destroy_stream(self, stream: int) -> None:
        self.streams.remove(stream)
        self.note("destroy_stream")

    def wait(self, stream: int) -> None:
        assert stream in self.streams
        self.note("wait")

    def wait_for_all(self) -> None:
        self.note("wait_for_all")

    def begin_capture(self, stream: int) -> None:
        self.recording[stream] = []
        self.note("begin_capture")

    def end_capture(self, stream: int) -> int:
        graph = next(self.ids)
        self.work[graph] = self.recording.pop(stream)
        self.graphs.add(graph)
        self.note("end_capture")
        return graph

    def launch(self, graph: int, stream: int) -> None:
        assert graph in self.graphs
        self.note("launch")
        for work in self.work[graph]:
            work()

    def destroy_graph(self, graph: int) -> None:
        self.graphs.remove(graph)
        self.note("destroy_graph")


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.cuda = engine, engine.cuda
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.profile: int | None = None

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.cuda.note("set_optimization_profile_async", profile)
        self.profile, self.shapes = profile, {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.cuda.note("set_input_shape", name, tuple(shape))
        self.shapes[name] = tuple(shape)
        return name != self.engine.refused

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.cuda.note("set_tensor_address", name)
        self.addresses[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert self.profile is not None
        assert stream
        self.cuda.note("execute_async_v3")
        # a recording keeps the shapes and addresses it was made with
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        self.cuda.do(stream, lambda: self._compute(shapes, addresses))
        return not self.engine.fails

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        memory = self.cuda.device
        feeds = {name: memory[addresses[name]][: int(np.prod(shape))].reshape(shape) for name, shape in shapes.items()}
        answer = fake_logits(feeds)
        memory[addresses["logits"]][: answer.size] = answer.reshape(-1)

    def __del__(self) -> None:
        self.cuda.note("context gone", len(self.cuda.device))


def fake_logits(feeds: dict[str, np.ndarray]) -> np.ndarray:
    rows = [
        [pixel.mean() + sound.mean() * k + pixel_mask.mean() - audio_mask.mean() for k in range(2)]
        for pixel, sound, pixel_mask, audio_mask in zip(
            *(feeds[name] for name in ("pixel_values", "audio_values", "pixel_mask", "audio_mask")), strict=True
        )
    ]
    return np.float32(rows)


class FakeEngine:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.refused, self.fails, self.full = cuda, "", False, False
        self.contexts = 0

    def create_execution_context(self, config: Any = None) -> FakeContext | None:
        self.contexts += 1
        self.cuda.note("create_execution_context", config)
        return None if self.full else FakeContext(self)

    def create_runtime_config(self) -> FakeConfig:
        return FakeConfig()


class FakeCache:
    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, content: bytes) -> bool:
        self.content = bytes(content)
        return True

    def serialize(self) -> bytes:
        return self.content + b"+kernels"


class FakeConfig:
    def __init__(self) -> None:
        self.cache: FakeCache | None = None
        self.cuda_graph_strategy = None

    def create_runtime_cache(self) -> FakeCache:
        return FakeCache()

    def set_runtime_cache(self, cache: FakeCache) -> None:
        self.cache = cache


class FakeLibrary(SimpleNamespace):
    """The module `tensorrt`, or `tensorrt_rtx` with a runtime cache; `given` holds the engines it was shown."""

    def __init__(self, cuda: FakeCuda, rtx: bool, version: str) -> None:
        given: list[bytes] = []
        engine = FakeEngine(cuda)
        library = self

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
                given.append(bytes(content))
                if library.refuses:
                    self.logger.log(SimpleNamespace(name="ERROR"), "magic tag does not match")
                    return None
                return engine

        super().__init__(
            __name__=f"fake {id(self)}",
            __version__=version,
            ILogger=object,
            IRuntimeConfig=FakeConfig if rtx else object,
            Runtime=Runtime,
            CudaGraphStrategy=SimpleNamespace(DISABLED="off", WHOLE_GRAPH_CAPTURE="whole"),
            given=given,
            engine=engine,
            refuses=False,
        )
