"""The TensorRT runtime on a GPU of dictionaries: order of calls, shapes, addresses, memory, refusals."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.runtimes.fake_gpu import FakeCuda, FakeLibrary, fake_logits
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import NOT_RUN, Engine, StoredVerdict
from tvlt_deploy.bundle.receipts import EngineReceipt
from tvlt_deploy.bundle.trust import trust
from tvlt_deploy.bundle.writer import add_engine, record_verdict
from tvlt_deploy.errors import BundleError, EnvironmentLackError, FileRefusedError, InputError, UsageError
from tvlt_deploy.inference.pipeline import load as load_pipeline
from tvlt_deploy.parity.cases import stack_clips, synthetic_clip
from tvlt_deploy.runtimes import open_runtime, tensorrt
from tvlt_deploy.tensorrt.library import operating_system
from tvlt_deploy.tensorrt.profiles import Profile

SMALL, LARGE = Profile((1, 1, 2), (1, 1, 4), (16, 16, 112)), Profile((2, 4, 4), (2, 4, 4), (48, 112, 112))
RECEIPT = EngineReceipt(2, 2, {"Half": 9}, 0, 0, 1 << 20, 30)
CONTENT = b"an engine, as far as anyone here can tell"


def record(path: str = "fp16/tensorrt-11.4-sm89.engine", **changes: Any) -> Engine:
    values: dict[str, Any] = {
        "engine": "tensorrt", "version": "11.4", "target": "sm89", "os": operating_system(), "precision": "fp16",
        "path": path, "source": "0" * 64, "profiles": (SMALL.to_entry(), LARGE.to_entry()), "receipt": RECEIPT,
        "verdict": NOT_RUN, **changes,
    }  # fmt: skip
    return Engine(**values)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bundle(classification: Bundle, copy_of: Callable[[Bundle], Path]) -> Bundle:
    return Bundle(copy_of(classification))


@pytest.fixture
def with_engine(bundle: Bundle) -> Bundle:
    add_engine(bundle, record(), CONTENT)
    trust(bundle.manifest.files[record().path].sha256)
    return bundle


class Machine:
    """The fakes that `open_runtime` meets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cuda = FakeCuda()
        self.library = FakeLibrary(self.cuda, rtx=False, version="11.4")
        monkeypatch.setattr(tensorrt, "Cuda", lambda index: self.cuda)
        monkeypatch.setattr(tensorrt, "load_library", lambda name: self.library)

    def open(self, bundle: Bundle, backend: str = "tensorrt", **options: Any) -> Any:
        return open_runtime(bundle, backend, "cuda", "fp16", **options)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def clips(bundle: Bundle, batch: int, frames: int, steps: int, seed: int = 1) -> dict[str, np.ndarray]:
    return stack_clips([synthetic_clip(bundle.config, frames, steps, seed + n) for n in range(batch)])


# Answers -------------------------------------------------------------------------------------------------------------


def test_answers_and_the_order_of_calls(with_engine: Bundle, machine: Machine) -> None:
    with machine.open(with_engine) as runtime:
        assert machine.cuda.calls == []  # nothing is taken before the first call
        feeds = clips(with_engine, 1, 2, 3)
        assert runtime.run(feeds)["logits"] == pytest.approx(fake_logits(feeds))
        inputs = list(with_engine.task.inputs(with_engine.config))
        assert machine.cuda.names() == [
            "use", "create_execution_context", "create_stream",
            *["allocate", "allocate_pinned"] * 5,
            "use", "set_optimization_profile_async", "wait",
            *["set_input_shape", "copy_to_device", "set_tensor_address"] * 4,
            "set_tensor_address", "execute_async_v3", "copy_to_host", "wait",
        ]  # fmt: skip
        shapes = {call[1]: call[2] for call in machine.cuda.calls if call[0] == "set_input_shape"}
        assert shapes == {name: feeds[name].shape for name in inputs}
        copied = [call[1] for call in machine.cuda.calls if call[0] == "copy_to_device"]
        assert copied == [feeds[name].nbytes for name in inputs]


def test_buffers_are_those_of_the_largest_profile_and_taken_once(with_engine: Bundle, machine: Machine) -> None:
    with machine.open(with_engine) as runtime:
        for batch, frames, steps in ((1, 1, 1), (4, 4, 7), (2, 3, 5), (2, 4, 7), (1, 4, 7), (4, 4, 7)):
            feeds = clips(with_engine, batch, frames, steps)
            assert runtime.run(feeds)["logits"] == pytest.approx(fake_logits(feeds))
        largest = clips(with_engine, 4, 4, 7)
        sizes = [call[1] for call in machine.cuda.calls if call[0] == "allocate"]
        assert sizes == [*(values.nbytes for values in largest.values()), 4 * 2 * 4]
        assert machine.library.engine.contexts == 1


def test_the_profile_fastest_nearest_is_picked_and_changed_only_when_it_must(
    with_engine: Bundle, machine: Machine
) -> None:
    with machine.open(with_engine) as runtime:
        for batch, frames, steps in ((1, 1, 1), (1, 4, 7), (2, 4, 7), (4, 2, 3), (2, 2, 3), (2, 1, 1)):
            runtime.run(clips(with_engine, batch, frames, steps))
    picked = [call[1] for call in machine.cuda.calls if call[0] == "set_optimization_profile_async"]
    assert picked == [0, 1, 0]


def test_masks_of_other_types_and_answers_of_ones_own(with_engine: Bundle, machine: Machine) -> None:
    with machine.open(with_engine) as runtime:
        feeds = clips(with_engine, 2, 1, 1)
        bools = {**feeds, "pixel_mask": feeds["pixel_mask"] > 0.5, "audio_mask": feeds["audio_mask"].astype(np.int64)}
        first = runtime.run(bools)["logits"]
        kept = first.copy()
        runtime.run(clips(with_engine, 2, 1, 1, seed=9))
        assert np.array_equal(first, kept)


def test_sizes_outside_every_profile_are_refused_before_any_call(with_engine: Bundle, machine: Machine) -> None:
    with machine.open(with_engine) as runtime:
        with pytest.raises(
            InputError, match=r"no batch of 3 with 1 frames and 16 rows; expected batch=1:1:2,.* \(build"
        ):
            runtime.run(clips(with_engine, 3, 1, 1))
        with pytest.raises(InputError, match=r"pixel_mask has shape \(1, 3\)"):
            runtime.run({**clips(with_engine, 1, 1, 1), "pixel_mask": np.ones((1, 3), np.float32)})
        assert machine.cuda.calls == []


# Threads -------------------------------------------------------------------------------------------------------------


def test_each_thread_has_a_lane_and_gives_it_back_when_it_ends(with_engine: Bundle, machine: Machine) -> None:
    with machine.open(with_engine) as runtime:
        wrong: list[Any] = []
        together = threading.Barrier(3)

        def work(seed: int) -> None:
            together.wait()
            for n in range(20):
                feeds = clips(with_engine, 1 + n % 2, 1, 1, seed + n)
                if not np.allclose(runtime.run(feeds)["logits"], fake_logits(feeds), atol=1e-6):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert machine.library.engine.contexts == 3
        runtime.run(clips(with_engine, 1, 1, 1))
        assert len(machine.cuda.streams) == 1


# CUDA graphs ---------------------------------------------------------------------------------------------------------


def test_sizes_that_come_again_are_recorded_and_repeated(with_engine: Bundle, machine: Machine) -> None:
    with machine.open(with_engine, cuda_graphs=True) as runtime:
        for n in range(4):
            feeds = clips(with_engine, 1, 1, 1, seed=50 + n)
            assert runtime.run(feeds)["logits"] == pytest.approx(fake_logits(feeds))
        names = machine.cuda.names()
        assert names.count("execute_async_v3") == 2  # once as it is, once recorded
        assert (names.count("end_capture"), names.count("launch")) == (1, 3)
        assert names.index("begin_capture") < len(names) - names[::-1].index("execute_async_v3") - 1
        runtime.run(clips(with_engine, 4, 4, 7))  # the other profile: recordings are of the first
        assert machine.cuda.graphs == set()
    assert machine.cuda.graphs == set()


def test_recordings_are_few(with_engine: Bundle, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "MAX_GRAPHS", 2)
    with machine.open(with_engine, cuda_graphs=True) as runtime:
        for steps in (1, 2, 3):
            for _ in range(3):
                feeds = clips(with_engine, 1, 1, steps)
                assert runtime.run(feeds)["logits"] == pytest.approx(fake_logits(feeds))
        assert len(machine.cuda.graphs) == 2


# Arrays on the device ------------------------------------------------------------------------------------------------


def on_device(cuda: FakeCuda, values: np.ndarray, **changes: Any) -> Any:
    pointer = cuda.allocate(values.nbytes)
    cuda.device[pointer][:] = values.reshape(-1)
    interface = {"shape": values.shape, "typestr": "<f4", "data": (pointer, False), "strides": None, "version": 2}
    return SimpleNamespace(__cuda_array_interface__={**interface, **changes})


def test_arrays_on_the_device_are_read_where_they_are(with_engine: Bundle, machine: Machine) -> None:
    with machine.open(with_engine, cuda_graphs=True) as runtime:
        feeds = clips(with_engine, 1, 2, 2)
        there = {name: on_device(machine.cuda, feeds[name]) for name in ("pixel_values", "audio_values")}
        for _ in range(3):
            assert runtime.run({**feeds, **there})["logits"] == pytest.approx(fake_logits(feeds))
        names = machine.cuda.names()
        assert names.count("copy_to_device") == 3 * 2
        assert names.count("wait_for_all") == 3
        assert "begin_capture" not in names  # the next call's arrays may lie elsewhere
        context_names = [call[1] for call in machine.cuda.calls if call[0] == "set_input_shape"][:4]
        assert context_names == list(feeds)


def test_arrays_on_the_device_are_checked(with_engine: Bundle, machine: Machine) -> None:
    with machine.open(with_engine) as runtime:
        feeds = clips(with_engine, 1, 1, 1)
        half = on_device(machine.cuda, feeds["pixel_values"], typestr="<f2")
        with pytest.raises(InputError, match=r"pixel_values on the device is <f2; expected float32"):
            runtime.run({**feeds, "pixel_values": half})
        turned = on_device(machine.cuda, feeds["audio_mask"], strides=(4, 16))
        with pytest.raises(InputError, match=r"audio_mask on the device has strides \(4, 16\); expected a contiguous"):
            runtime.run({**feeds, "audio_mask": turned})
        short = on_device(machine.cuda, feeds["audio_mask"][:, :1])
        with pytest.raises(InputError, match=r"audio_mask has shape \(1, 1\)"):
            runtime.run({**feeds, "audio_mask": short})


# Ending --------------------------------------------------------------------------------------------------------------


def test_everything_is_given_back_and_the_context_first(with_engine: Bundle, machine: Machine) -> None:
    runtime = machine.open(with_engine)
    runtime.run(clips(with_engine, 1, 1, 1))
    runtime.close()
    runtime.close()
    cuda = machine.cuda
    assert (cuda.device, cuda.pinned, cuda.streams) == ({}, {}, set())
    gone = next(call for call in cuda.calls if call[0] == "context gone")
    assert gone[1] == 5  # buffers it pointed to still stood
    with pytest.raises(InputError, match="this runtime is closed"):
        runtime.run(clips(with_engine, 1, 1, 1))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_has_no_device_to_fall_back_to(backend: str, with_engine: Bundle) -> None:
    with pytest.raises(UsageError, match=f"allow_fallback is True, but {backend} runs on a GPU only"):
        open_runtime(with_engine, backend, "cuda", "fp16", allow_fallback=True)


def test_a_gpu_that_is_too_small_gives_back_what_was_taken(with_engine: Bundle, machine: Machine) -> None:
    machine.cuda.left = 30_000
    with machine.open(with_engine) as runtime:
        with pytest.raises(MemoryError):
            runtime.run(clips(with_engine, 1, 1, 1))
        assert (machine.cuda.device, machine.cuda.pinned, machine.cuda.streams) == ({}, {}, set())
        machine.library.engine.full = True
        with pytest.raises(EnvironmentLackError, match=r"no execution context for fp16/.*: not enough GPU memory"):
            runtime.run(clips(with_engine, 1, 1, 1))
    gc.collect()


def test_refusals_of_the_engine_are_errors(with_engine: Bundle, machine: Machine) -> None:
    with machine.open(with_engine) as runtime:
        machine.library.engine.refused = "audio_mask"
        with pytest.raises(EnvironmentLackError, match=r"the engine refuses audio_mask of shape \(1, 2\)"):
            runtime.run(clips(with_engine, 1, 1, 1))
        machine.library.engine.refused, machine.library.engine.fails = "", True
        with pytest.raises(EnvironmentLackError, match="the engine failed to run"):
            runtime.run(clips(with_engine, 1, 1, 1))


# TensorRT-RTX --------------------------------------------------------------------------------------------------------


def test_kernels_of_tensorrt_rtx_are_kept_for_the_next_start(bundle: Bundle, machine: Machine, tmp_path: Path) -> None:
    machine.library = FakeLibrary(machine.cuda, rtx=True, version="1.7")
    made = record("fp16/rtx.engine", engine="tensorrt-rtx", version="1.7", target="portable")
    add_engine(bundle, made, CONTENT)
    digest = bundle.manifest.files[made.path].sha256
    trust(digest)
    contents = []
    for _ in range(2):
        with machine.open(bundle, "tensorrt-rtx") as runtime:
            runtime.run(clips(bundle, 1, 1, 1))
        files = list((tmp_path / "cache/tvlt-deploy/kernels").iterdir())
        assert [file.name for file in files] == [f"{digest}-sm89-1.7-cuda13000.bin"]
        contents.append(files[0].read_bytes())
    assert contents == [b"+kernels", b"+kernels+kernels"]
    configs = [call[1] for call in machine.cuda.calls if call[0] == "create_execution_context"]
    assert [config.cuda_graph_strategy for config in configs] == ["off", "off"]
    assert all(config.cache is not None for config in configs)


def test_tensorrt_rtx_records_graphs_itself(bundle: Bundle, machine: Machine) -> None:
    machine.library = FakeLibrary(machine.cuda, rtx=True, version="1.7")
    made = record("fp16/rtx.engine", engine="tensorrt-rtx", version="1.7", target="sm86-sm89")
    add_engine(bundle, made, CONTENT)
    trust(bundle.manifest.files[made.path].sha256)
    with machine.open(bundle, "tensorrt-rtx", cuda_graphs=True) as runtime:
        for _ in range(3):
            runtime.run(clips(bundle, 1, 1, 1))
    assert "begin_capture" not in machine.cuda.names()
    config = next(call[1] for call in machine.cuda.calls if call[0] == "create_execution_context")
    assert config.cuda_graph_strategy == "whole"


# Refusals before the library sees a byte -----------------------------------------------------------------------------

MISFITS = {
    "version": ({"version": "10.13"}, r"was built by tensorrt 10\.13; installed is 11\.4 \(build one for this machine"),
    "target": ({"target": "sm90"}, r"was built for sm90; this GPU is sm89"),
    "targets": ({"target": "sm86-sm120"}, r"was built for sm86-sm120; this GPU is sm89"),
    "system": ({"os": "windows-amd64"}, r"was built for windows-amd64; this is "),
}


@pytest.mark.parametrize("name", MISFITS)
def test_engines_of_another_machine_are_refused_by_name(bundle: Bundle, machine: Machine, name: str) -> None:
    changes, message = MISFITS[name]
    add_engine(bundle, record(**changes), CONTENT)
    with pytest.raises(EnvironmentLackError, match=message):
        machine.open(bundle)
    assert machine.library.given == []


def test_the_engine_that_fits_is_found_among_others(bundle: Bundle, machine: Machine) -> None:
    for n, changes in enumerate(({"target": "sm90"}, {"version": "10.13"}, {}, {"os": "other"})):
        add_engine(bundle, record(f"fp16/{n}.engine", **changes), CONTENT + bytes([n]))
    trust(bundle.manifest.files["fp16/2.engine"].sha256)
    with machine.open(bundle) as runtime:
        assert runtime.path == "fp16/2.engine"
    assert machine.library.given == [CONTENT + b"\x02"]


def test_an_engine_is_built_first(bundle: Bundle, machine: Machine) -> None:
    with pytest.raises(UsageError, match=r"has no tensorrt engine in fp16; it has none \(tvlt-deploy build .*fp16\)"):
        machine.open(bundle)


def test_an_engine_from_elsewhere_is_run_only_for_its_hash(bundle: Bundle, machine: Machine) -> None:
    add_engine(bundle, record(), CONTENT)
    digest = bundle.manifest.files[record().path].sha256
    with pytest.raises(FileRefusedError, match=rf"was not built here, .* pass --trust-engine {digest}") as refused:
        machine.open(bundle)
    assert refused.value.exit_code == 5
    with pytest.raises(FileRefusedError, match=rf"has SHA-256 {digest}; expected {'0' * 64}"):
        machine.open(bundle, trust_engine="0" * 64)
    assert machine.library.given == []
    for vouched in (digest, digest.upper(), bundle.digest):
        machine.open(bundle, trust_engine=vouched).close()
    load_pipeline(bundle, "tensorrt", "cuda", "fp16", trust_engine=digest).close()


def test_a_flipped_byte_is_refused(with_engine: Bundle, machine: Machine) -> None:
    path = with_engine.path(record().path)
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"has SHA-256 .*; the manifest says .* \(the file was altered"):
        machine.open(with_engine)
    assert machine.library.given == []


def test_an_engine_that_the_library_refuses_gives_its_reason(with_engine: Bundle, machine: Machine) -> None:
    machine.library.refuses = True
    with pytest.raises(BundleError, match=r"tensorrt 11\.4 refuses .*: magic tag does not match \(tvlt-deploy build"):
        machine.open(with_engine)


def test_trust_is_for_engines(classification: Bundle) -> None:
    with pytest.raises(UsageError, match="trust_engine is for tensorrt and tensorrt-rtx; the backend is onnxruntime"):
        open_runtime(classification, "onnxruntime", trust_engine="0" * 64)


def test_engines_run_on_a_gpu_only(with_engine: Bundle) -> None:
    with pytest.raises(EnvironmentLackError, match="tensorrt on cpu does not run fp16; it runs nothing there"):
        open_runtime(with_engine, "tensorrt", precision="fp16")


def test_without_a_gpu_the_driver_is_named(bundle: Bundle) -> None:
    library = pytest.importorskip("tensorrt_rtx")
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if int(runtime.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("there is a GPU")
    made = record("fp16/rtx.engine", engine="tensorrt-rtx", version=library.__version__)
    add_engine(bundle, made, CONTENT)
    with pytest.raises(
        EnvironmentLackError, match=r"no CUDA device is available: .* \(check the driver with nvidia-smi"
    ):
        open_runtime(bundle, "tensorrt-rtx", "cuda", "fp16")


def test_a_library_that_is_missing_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    add_engine(bundle, record(), CONTENT)
    with pytest.raises(
        EnvironmentLackError, match=r"tensorrt is not installed: .* \(pip install 'tvlt-deploy\[tensorrt\]'"
    ):
        open_runtime(bundle, "tensorrt", "cuda", "fp16")
    old = SimpleNamespace(__version__="10.3")
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(EnvironmentLackError, match=r"tensorrt 10\.3 has no IRuntimeConfig \(install tensorrt 10\.13"):
        open_runtime(bundle, "tensorrt", "cuda", "fp16")


# The bundle ----------------------------------------------------------------------------------------------------------


def test_an_engine_replaces_one_of_the_same_path_and_survives_other_changes(with_engine: Bundle) -> None:
    add_engine(with_engine, record(), CONTENT + b"!")
    assert len(with_engine.engines) == 1
    again = Bundle(with_engine.directory)
    again.check()
    assert again.engines == (record(),)
    entry = again.manifest.to_dict()["engines"][0]
    assert entry["size"] == len(CONTENT) + 1
    assert entry["sha256"] == again.manifest.files[record().path].sha256
    record_verdict(again, record().path, StoredVerdict("pass", "tensorrt", "cuda", "fp16"))
    assert Bundle(again.directory).engines[0].verdict == StoredVerdict("pass", "tensorrt", "cuda", "fp16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "../x.engine"}, "names '../x.engine', which is outside the bundle"),
        ({"path": "fp16/x.engine"}, "uses 'fp16/x.engine' but lists no hash for it"),
        ({"profiles": 1}, r"engines\[0\].profiles is 1; expected a list"),
        (
            {"profiles": [{"batch": [1, 1, 4], "frames": [1, 4], "rows": [16, 16, 16]}]},
            r"frames is \[1, 4\]; expected a l",
        ),
        ({"profiles": [{}]}, r"engines\[0\].profiles\[0\].batch is missing; expected a list of 3 values"),
        ({"receipt": None}, r"engines\[0\].receipt is null; expected an object"),
    ],
)
def test_entries_that_are_no_engines_are_refused(with_engine: Bundle, changes: dict[str, Any], message: str) -> None:
    path = with_engine.directory / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["engines"][0].update(changes)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message):
        Bundle(with_engine.directory)
