"""The engines: the same numbers from each, the provider that was asked for, and nothing that grows."""

from __future__ import annotations

import importlib.metadata
import resource
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from tests import truth
from tests.conftest import FORMS
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.changes import with_file
from tvlt_deploy.bundle.manifest import STANDARD_FORM
from tvlt_deploy.bundle.writer import file_entry, update_manifest
from tvlt_deploy.errors import BundleError, EnvironmentLackError, InputError, UsageError
from tvlt_deploy.parity.cases import synthetic_clip
from tvlt_deploy.runtimes import onnxruntime as engine
from tvlt_deploy.runtimes import open_runtime
from tvlt_deploy.tasks import TASKS

CUDA, CPU, TENSORRT = "CUDAExecutionProvider", "CPUExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture
def runtime(classification: Bundle) -> Iterator[Any]:
    with open_runtime(classification, "onnxruntime", threads=2) as opened:
        yield opened


def feeds_of(bundle: Bundle, *case: Any) -> truth.Feeds:
    values = truth.feeds(bundle.config, *case)
    return truth.with_noise(bundle.config, values) if bundle.task.needs_noise else values


# Numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_torch_and_onnx_runtime_give_the_same_numbers(task: str, bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of(task)
    with open_runtime(bundle, "torch") as ours, open_runtime(bundle, "onnxruntime") as other:
        assert ours.inputs == other.inputs
        assert ours.outputs == other.outputs
        assert (ours.backend, ours.device, ours.precision) == ("torch", "cpu", "fp32")
        assert (other.backend, other.device, other.precision) == ("onnxruntime", "cpu", "fp32")
        for case in ((1, 4, 7, "all"), (3, 2, 4, "padded both", "bool"), (2, 2, 2, "nothing", "int64")):
            values = feeds_of(bundle, *case)
            truth.assert_close(other.run(values), ours.run(values))


def test_bf16_runs_in_torch_near_fp32(classification: Bundle) -> None:
    values = truth.feeds(classification.config, 3, 4, 7, "padded both")
    with open_runtime(classification, "torch", precision="bf16") as half, open_runtime(classification, "torch") as full:
        actual, expected = half.run(values)["logits"], full.run(values)["logits"]
    assert actual.dtype == np.float32
    assert 0 < np.abs(actual - expected).max() < 0.1


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_arrays_belong_to_the_caller(backend: str, features: Bundle) -> None:
    values = truth.feeds(features.config, 1, 2, 3)
    for array in values.values():
        array.setflags(write=False)
    with open_runtime(features, backend) as opened, warnings.catch_warnings():
        warnings.simplefilter("error")
        first = opened.run(values)
        kept = {name: array.copy() for name, array in first.items()}
        opened.run(truth.feeds(features.config, 1, 2, 3, seed=9))
        for name, array in first.items():
            np.testing.assert_array_equal(array, kept[name])
        first["last_hidden_state"][:] = 0
        np.testing.assert_array_equal(first["last_pixel_hidden_state"], kept["last_pixel_hidden_state"])
        assert opened.run(values)["last_hidden_state"].any()


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_closed_runtime_says_so(backend: str, classification: Bundle) -> None:
    with open_runtime(classification, backend) as opened:
        opened.run(truth.feeds(classification.config, 1, 1, 1))
    with pytest.raises(InputError, match=r"this runtime is closed \(open it again\)"):
        opened.run(truth.feeds(classification.config, 1, 1, 1))
    opened.close()


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_runtimes_check_what_they_are_fed(backend: str, classification: Bundle) -> None:
    with open_runtime(classification, backend) as opened, pytest.raises(InputError, match="missing inputs"):
        opened.run({})


def test_threads_share_a_runtime(runtime: Any) -> None:
    work = [truth.feeds(runtime.config, 1 + i % 3, 1 + i % 4, 1 + i % 7, "padded both", seed=i) for i in range(40)]
    serial = [runtime.run(values)["logits"] for values in work]
    found: list[Any] = [None] * len(work)

    def run(first: int) -> None:
        for index in range(first, len(work), 8):
            found[index] = runtime.run(work[index])["logits"]

    threads = [threading.Thread(target=run, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, serial, strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_does_not_grow_with_the_shapes_seen(runtime: Any) -> None:
    random = np.random.default_rng(0)
    sizes = [(random.integers(1, 6), random.integers(1, 5), random.integers(1, 8)) for _ in range(200)]
    for size in [(5, 4, 7), *sizes[:20]]:
        runtime.run(truth.feeds(runtime.config, *map(int, size)))
    before = resident()
    for size in sizes:
        runtime.run(truth.feeds(runtime.config, *map(int, size)))
    assert resident() - before < 32 * 1024 * 1024


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# ONNX Runtime --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_form_can_be_chosen(form: str, classification: Bundle) -> None:
    path = str(classification.path(classification.variant("fp32", form).path))
    with open_runtime(classification, "onnxruntime", form=form) as opened:
        assert opened.session._model_path == path
        assert opened.session.get_providers() == [CPU]


def test_the_cpu_gets_its_own_form(runtime: Any) -> None:
    assert runtime.session._model_path.endswith("fp32/model.onnxruntime-cpu.onnx")


def test_bound_inputs_and_outputs_give_the_same_answers(runtime: Any) -> None:
    # the path that CUDA takes, with the CPU as the device
    for case in ((1, 1, 1), (3, 4, 7, "padded both"), (2, 2, 3)):
        arrays = engine.check_feeds(truth.feeds(runtime.config, *case), runtime.inputs, runtime.config)
        bound = dict(zip(runtime.outputs, runtime._run_bound(runtime.session, arrays), strict=True))
        np.testing.assert_array_equal(bound["logits"], runtime.run(arrays)["logits"])


def test_recorded_work_gives_the_same_answers(classification: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    # the path of CUDA graphs, with the CPU as the device: buffers stay, contents change
    monkeypatch.setattr(engine, "MAX_GRAPHS", 2)
    options: list[str] = []
    graph_options = engine._graph_options
    monkeypatch.setattr(engine, "_graph_options", lambda graph: options.append(graph) or graph_options(graph))
    with open_runtime(classification, "onnxruntime", form=STANDARD_FORM, threads=1) as plain:
        recorded = engine.OnnxRuntime(classification, plain.session, "cpu", "fp32", cuda_graphs=True)
        first = None
        for seed in (1, 2, 3):
            for size in ((1, 1, 1), (3, 4, 7), (2, 2, 3)):
                feeds = synthetic_clip(classification.config, *size[1:], seed)
                answers = recorded.run(feeds)["logits"]
                np.testing.assert_array_equal(answers, plain.run(feeds)["logits"])
                first = answers if first is None else first
        np.testing.assert_array_equal(  # an earlier answer is the caller's own
            first, plain.run(synthetic_clip(classification.config, 1, 1, 1))["logits"]
        )
        assert options == ["1", "2", "-1", "-1", "-1"]  # the third shape finds no room, each time
        assert len(recorded._recorded) == 2


def test_options_of_cuda_elsewhere_are_refused(classification: Bundle) -> None:
    for options, says in (
        ({"provider": "tensorrt"}, "provider is 'tensorrt' on cpu; expected cuda or tensorrt, on a CUDA device"),
        ({"cuda_graphs": True}, "cuda_graphs needs a CUDA device"),
    ):
        with pytest.raises(UsageError, match=says):
            open_runtime(classification, "onnxruntime", **options)
    with pytest.raises(UsageError, match="provider is 'rocm' on cuda"):
        open_runtime(classification, "onnxruntime", "cuda", provider="rocm")
    with pytest.raises(UsageError, match="cuda_graphs needs"):
        open_runtime(classification, "onnxruntime", "cuda", provider="tensorrt", cuda_graphs=True)


def test_a_graph_that_onnx_runtime_cannot_read_is_the_bundle_s_fault(
    classification: Bundle, copy_of: Callable[[Bundle], Path]
) -> None:
    directory = copy_of(classification)
    graph = directory / "fp32/model.onnx"
    graph.write_bytes(b"not a graph")

    bundle = Bundle(directory)
    update_manifest(bundle, lambda manifest: with_file(manifest, "fp32/model.onnx", file_entry(graph)))
    with pytest.raises(BundleError, match=r"ONNX Runtime \S+ cannot load .*model.onnx: .*expected onnxruntime 1.22"):
        open_runtime(bundle, "onnxruntime", form="standard")


# Devices that are not there ------------------------------------------------------------------------------------------


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that these packages are installed."""

    def pretend(**versions: str) -> None:
        installed = {name.replace("_", "-"): version for name, version in versions.items()}

        def version(name: str) -> str:
            if name not in installed:
                raise importlib.metadata.PackageNotFoundError(name)
            return installed[name]

        monkeypatch.setattr(importlib.metadata, "version", version)

    return pretend


@pytest.fixture
def claims_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a CUDA provider on a machine where its sessions end up on the CPU."""
    session = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(
        ort, "InferenceSession", lambda *args, **options: session(*args, **{**options, "providers": [CPU]})
    )


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(
    ("installed", "says"),
    [
        (
            {"onnxruntime": "1.31.0"},
            r"no CUDA provider \(onnxruntime 1.31.0 installed\) \(pip uninstall onnxruntime, then pip install "
            r"'tvlt-deploy\[gpu\]'\)",
        ),
        (
            {"onnxruntime": "1.31.0", "onnxruntime_gpu": "1.30.0"},
            r"\(onnxruntime 1.31.0, onnxruntime-gpu 1.30.0 installed\) \(both packages share one folder and break each "
            r"other: pip uninstall onnxruntime onnxruntime-gpu, then pip install 'tvlt-deploy\[gpu\]'\)",
        ),
        ({"onnxruntime_gpu": "1.30.0"}, r"\(onnxruntime-gpu 1.30.0 installed\) \(check the driver with nvidia-smi"),
        ({}, r"\(no package of that name installed\)"),
    ],
    ids=["cpu package", "both", "gpu package", "neither"],
)
def test_cuda_that_is_not_there_is_an_error_with_the_package_at_fault(
    installed: dict[str, str], says: str, packages: Callable[..., None], classification: Bundle
) -> None:
    packages(**installed)
    with pytest.raises(EnvironmentLackError, match=says) as caught:
        open_runtime(classification, "onnxruntime", "cuda")
    assert caught.value.exit_code == 4


@pytest.mark.usefixtures("claims_cuda")
def test_a_session_that_ends_up_elsewhere_is_an_error(packages: Callable[..., None], classification: Bundle) -> None:
    packages(onnxruntime_gpu="1.31.0")
    with pytest.raises(
        EnvironmentLackError,
        match=r"the session runs on CPUExecutionProvider \(onnxruntime-gpu 1.31.0 installed\) \(check the driver",
    ):
        open_runtime(classification, "onnxruntime", "cuda:1")


@pytest.mark.parametrize("machine", ["claims_cuda", "no_cuda"])
def test_falling_back_is_for_those_who_asked(
    machine: str, request: pytest.FixtureRequest, classification: Bundle
) -> None:
    request.getfixturevalue(machine)
    with open_runtime(classification, "onnxruntime", "cuda", allow_fallback=True) as opened:
        assert opened.device == "cpu"
        assert opened.session.get_providers() == [CPU]
        assert opened.session._model_path.endswith("model.onnxruntime-cpu.onnx")
        assert opened.run(truth.feeds(classification.config, 1, 1, 1))["logits"].shape == (1, 2)


def test_a_provider_that_fails_to_start_is_an_error_or_the_cpu(
    monkeypatch: pytest.MonkeyPatch, classification: Bundle
) -> None:
    session = ort.InferenceSession
    options_seen: list[dict[str, Any]] = []

    def start(*args: Any, **options: Any) -> Any:
        options_seen.append(options)
        if options["providers"][0] != CPU:
            raise RuntimeError("CUDA failure 35: driver too old")
        return session(*args, **options)

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", start)
    with pytest.raises(EnvironmentLackError, match=r"the CUDA provider failed: CUDA failure 35: driver too old"):
        open_runtime(classification, "onnxruntime", "cuda:2")
    assert options_seen[0]["providers"] == [(CUDA, {"device_id": 2, "use_tf32": 0}), CPU]
    with open_runtime(classification, "onnxruntime", "cuda", allow_fallback=True) as opened:
        assert opened.device == "cpu"
    # ONNX Runtime's own way of going on with another provider is off
    assert all(options["enable_fallback"] == 0 for options in options_seen)


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"cuda_graphs": True}, (CUDA, {"device_id": 1, "use_tf32": 0, "enable_cuda_graph": 1})),
        ({"provider": "cuda"}, (CUDA, {"device_id": 1, "use_tf32": 0})),
        ({"provider": "tensorrt"}, TENSORRT),
    ],
)
def test_providers_get_their_options(
    options: dict[str, Any], first: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classification: Bundle
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked: list[Any] = []

    def start(*args: Any, **options: Any) -> Any:
        asked.extend(options["providers"])
        raise RuntimeError(f"{asked[0][0]} failed: no driver")

    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", start)
    with pytest.raises(EnvironmentLackError, match=r"provider failed: .* failed: no driver"):
        open_runtime(classification, "onnxruntime", "cuda:1", **options)
    if first == TENSORRT:
        name, values = asked.pop(0)
        assert (name, values["device_id"], values["trt_engine_cache_enable"]) == (TENSORRT, 1, True)
        assert Path(values["trt_engine_cache_path"]).is_relative_to(tmp_path)
        first = (CUDA, {"device_id": 1, "use_tf32": 0})
    assert asked == [first, CPU]


@pytest.mark.usefixtures("claims_cuda")
def test_a_tensorrt_provider_that_is_not_there_is_an_error(
    packages: Callable[..., None], classification: Bundle
) -> None:
    packages(onnxruntime_gpu="1.31.0")
    with pytest.raises(EnvironmentLackError, match="this ONNX Runtime has no TensorrtExecutionProvider"):
        open_runtime(classification, "onnxruntime", "cuda", provider="tensorrt")


def test_torch_without_cuda_is_an_error_or_the_cpu(monkeypatch: pytest.MonkeyPatch, classification: Bundle) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentLackError, match=r"device is cuda, but torch \S+ sees no CUDA device \(ch"):
        open_runtime(classification, "torch", "cuda")
    with open_runtime(classification, "torch", "cuda", allow_fallback=True) as opened:
        assert opened.device == "cpu"
    with pytest.raises(EnvironmentLackError, match="torch on cpu does not run fp16"):
        open_runtime(classification, "torch", "cuda", "fp16", allow_fallback=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(EnvironmentLackError, match=r"device is cuda:2, but torch sees 2 CUDA device"):
        open_runtime(classification, "torch", "cuda:2")


# CUDA ----------------------------------------------------------------------------------------------------------------

needs_cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine"),
]
needs_cuda_provider = [
    *needs_cuda,
    pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="this ONNX Runtime has no CUDA provider"),
]


def assert_cuda_agrees(backend: str, bundle: Bundle) -> None:
    with open_runtime(bundle, backend, "cuda") as device, open_runtime(bundle, "torch") as reference:
        for case in truth.CASES:
            values = feeds_of(bundle, *case)
            truth.assert_close(device.run(values), reference.run(values))


@pytest.mark.parametrize("task", [pytest.param(task, marks=needs_cuda) for task in TASKS])
def test_torch_on_cuda_agrees(task: str, bundle_of: Callable[..., Bundle]) -> None:
    assert_cuda_agrees("torch", bundle_of(task))


@pytest.mark.parametrize("task", [pytest.param(task, marks=needs_cuda_provider) for task in TASKS])
def test_onnx_runtime_on_cuda_agrees(task: str, bundle_of: Callable[..., Bundle]) -> None:
    assert_cuda_agrees("onnxruntime", bundle_of(task))


@pytest.mark.parametrize("device", [pytest.param(name, marks=needs_cuda_provider) for name in ("cuda", "cuda:0")])
def test_cuda_really_is_cuda_and_inputs_are_bound_to_it(
    device: str, classification: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[str] = []
    make = ort.OrtValue.ortvalue_from_numpy

    def record(array: Any, kind: str, index: int) -> Any:
        value = make(array, kind, index)
        placed.append(value.device_name())
        return value

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", staticmethod(record))
    with open_runtime(classification, "onnxruntime", device) as opened:
        assert opened.session.get_providers()[0] == CUDA
        assert opened.session.get_provider_options()[CUDA]["use_tf32"] == "0"
        assert opened.session._model_path.endswith("fp32/model.onnx")
        opened.run(truth.feeds(classification.config, 2, 2, 3))
    assert placed == ["cuda"] * 4


@pytest.mark.parametrize("task", [pytest.param(task, marks=needs_cuda_provider) for task in TASKS])
def test_cuda_graphs_agree(task: str, bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of(task)
    with (
        open_runtime(bundle, "onnxruntime", "cuda", cuda_graphs=True) as device,
        open_runtime(bundle, "torch") as reference,
    ):
        for _ in range(3):  # run as it is, recorded, repeated
            for case in truth.CASES:
                values = feeds_of(bundle, *case)
                truth.assert_close(device.run(values), reference.run(values))
