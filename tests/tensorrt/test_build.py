"""Engines: built for real by TensorRT-RTX, which needs no GPU for that; receipts, profiles, trust and refusals."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from tvlt_deploy import export
from tvlt_deploy._internal.cache import user_cache
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.changes import with_file
from tvlt_deploy.bundle.manifest import FP16_TWIN_FORM, NOT_RUN
from tvlt_deploy.bundle.receipts import EngineReceipt
from tvlt_deploy.bundle.writer import file_entry, update_manifest
from tvlt_deploy.cli import main
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import BundleError, EnvironmentLackError, UsageError, VerdictError
from tvlt_deploy.parity.cases import synthetic_clip
from tvlt_deploy.reference import init_checkpoint
from tvlt_deploy.tasks import TASKS
from tvlt_deploy.tensorrt import build as tensorrt
from tvlt_deploy.tensorrt.build import build
from tvlt_deploy.tensorrt.library import capabilities, operating_system, target_name
from tvlt_deploy.tensorrt.profiles import Profile
from tvlt_deploy.tensorrt.receipt import check_receipt, read_layers, read_receipt
from tvlt_deploy.workflows.quantize import quantize

NEEDS_RTX = "building needs tensorrt_rtx"
PRECISIONS = {"fp16": "Half", "bf16": "BFloat16", "int8": "Int8", "fp8": "FP8"}


@pytest.fixture(scope="module")
def whole(checkpoint_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small bundle in every precision."""
    checkpoint = checkpoint_of("TvltForAudioVisualClassification")
    place = tmp_path_factory.mktemp("engines") / "bundle"
    bundle = export(checkpoint, place, precisions=["fp32", "fp16", "bf16"], verify=False)
    clips = [synthetic_clip(bundle.config, frames, 2 + frames, frames) for frames in (1, 2, 4)]
    return quantize(bundle, clips, precisions=["int8", "fp8"], verify=False)


@pytest.fixture
def bundle(whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Bundle(shutil.copytree(whole.directory, tmp_path / "bundle"))


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason=NEEDS_RTX)


def rtx(bundle: Bundle, precision: str = "fp16", targets: tuple[str, ...] = ("89",), **options: Any) -> Any:
    return build(bundle, engine="tensorrt-rtx", precision=precision, targets=targets, **options)


# Engines -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_engines_compute_in_what_was_asked_for(bundle: Bundle, library: Any, precision: str) -> None:
    said: list[str] = []
    engine = rtx(bundle, precision, progress=said.append)
    assert engine.path.startswith(f"{precision}/tensorrt-rtx-{library.__version__}-sm89-")
    assert bundle.path(engine.path).read_bytes().startswith(b"vtrt") or bundle.path(engine.path).stat().st_size > 10**6
    receipt = engine.receipt
    assert (receipt.fused_attention, receipt.attention_blocks) == (2, 2)
    assert PRECISIONS[precision] in receipt.gemm_types
    assert set(receipt.gemm_types) <= {
        PRECISIONS[precision],
        "Half" if precision in ("int8", "fp8") else PRECISIONS[precision],
    }
    quantized = 8 if precision in ("int8", "fp8") else 0
    assert (receipt.quantized_products, receipt.quantized_expected) == (quantized, quantized)
    assert 0 < receipt.scratch_bytes < 50e6
    assert said[0].endswith(f"reading {bundle.path(bundle.variant(*source_of(precision)).path)}")
    again = Bundle(bundle.directory)
    again.check()
    entry = again.engines[0]
    assert entry == engine
    assert (entry.verdict, entry.os, entry.target) == (NOT_RUN, operating_system(), "sm89")
    assert entry.source == again.manifest.files[bundle.variant(*source_of(precision)).path].sha256
    assert (user_cache("trusted-engines") / again.manifest.files[engine.path].sha256).is_file()


@pytest.mark.parametrize("task", ["audio-visual-matching", "feature-extraction", "masked-reconstruction"])
def test_every_task_builds(
    task: str, library: Any, checkpoint_of: Any, traced_already: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = checkpoint_of(TASKS[task].architecture)
    bundle = export(checkpoint, tmp_path / "bundle", task=task, precisions=["fp16"], verify=False)
    engine = rtx(bundle, profiles=["batch=1", "batch=2:4:4"])
    receipt = engine.receipt
    assert receipt.fused_attention == receipt.attention_blocks == (4 if task == "masked-reconstruction" else 2)
    assert set(receipt.gemm_types) == {"Half"}


def source_of(precision: str) -> tuple[str, ...]:
    return (precision, FP16_TWIN_FORM) if precision == "int8" else (precision,)


def test_one_engine_for_several_profiles_and_gpus(bundle: Bundle, library: Any) -> None:
    profiles = ["batch=1,frames=1:2:4", Profile((2, 4, 4), (4, 4, 4), (16, 112, 112))]
    engine = rtx(bundle, targets=("SM120", "8.6"), profiles=profiles)
    assert engine.target == "sm86-sm120"
    assert [profile.batch for profile in engine.profiles] == [(1, 1, 1), (2, 4, 4)]
    assert engine.receipt.fused_attention == 2
    other = rtx(bundle, targets=(), profiles=profiles)
    assert (other.target, len(bundle.engines)) == ("portable", 2)
    assert other.path.rpartition("-")[2] == engine.path.rpartition("-")[2]


def test_building_again_replaces(bundle: Bundle, library: Any) -> None:
    first = rtx(bundle)
    second = rtx(bundle)
    assert first.path == second.path
    assert len(bundle.engines) == 1
    Bundle(bundle.directory).check()


def test_quantizing_anew_drops_engines_of_the_old_graphs(bundle: Bundle, library: Any) -> None:
    rtx(bundle, "int8")
    kept = rtx(bundle, "fp16")
    quantize(bundle, [synthetic_clip(bundle.config, 2, 3, 9)], verify=False)
    assert bundle.engines == (kept,)
    Bundle(bundle.directory).check()


def test_fp32_only_when_told_and_its_receipt_says_what_it_is(bundle: Bundle, library: Any) -> None:
    with pytest.raises(UsageError, match=r"fp32 engines compute attention unfused, .* \(use --precision fp16 or bf16"):
        rtx(bundle, "fp32")
    receipt = rtx(bundle, "fp32", allow_unfused=True).receipt
    assert receipt.fused_attention < receipt.attention_blocks == 2
    assert set(receipt.gemm_types) == {"Float"}


def test_the_command(bundle: Bundle, library: Any) -> None:
    arguments = ["build", str(bundle.directory), "--engine", "tensorrt-rtx", "--precision", "fp16", "--target", "89"]
    shown = CliRunner().invoke(main, [*arguments, "-q", "--profile", "batch=1:1:2,seconds=0:0.5:1.3"])
    assert shown.exit_code == 0, shown.output
    assert "attention 2 of 2 blocks fused; products" in shown.stdout
    assert "batch 1:1:2, frames 1:2:4, rows 16:48:112" in shown.stdout
    assert "verdict   not run" in shown.stdout
    as_json = CliRunner().invoke(main, [*arguments, "-q", "--json"])
    assert '"fused_attention": 2' in as_json.stdout
    inspected = CliRunner().invoke(main, ["inspect", str(bundle.directory)])
    assert inspected.stdout.count("engine   fp16/tensorrt-rtx-") == 2


def test_ctrl_c_stops_a_build_and_leaves_the_bundle_as_it_was(
    bundle: Bundle, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.name for path in bundle.directory.rglob("*"))
    digest = bundle.digest

    def interrupt(message: str) -> None:
        if "Building" in message:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        rtx(bundle, progress=interrupt)
    assert sorted(path.name for path in bundle.directory.rglob("*")) == before
    assert Bundle(bundle.directory).digest == digest
    assert "tvlt-deploy build" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_model_of_full_size_is_fused_and_frugal(
    precision: str, library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = tmp_path / "checkpoint"
    init_checkpoint(checkpoint, TvltConfig(), seed=1, architecture="TvltForAudioVisualClassification")
    bundle = export(checkpoint, tmp_path / "bundle", precisions=[precision], verify=False)
    receipt = rtx(bundle, precision).receipt
    assert (receipt.fused_attention, receipt.attention_blocks) == (12, 12)
    assert receipt.scratch_bytes < 200e6
    assert set(receipt.gemm_types) == {PRECISIONS[precision]}


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "target", "message"),
    [
        ("bf16", "75", r"SM75 does not compute bf16; expected SM80 or newer \(use --precision fp16"),
        ("fp8", "80", r"SM80 does not compute fp8; expected SM89 or newer"),
        ("fp16", "current", r"target is 'current'; expected a compute capability such as 89"),
    ],
)
def test_gpus_that_cannot(bundle: Bundle, precision: str, target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rtx(bundle, precision, targets=("89", target))


def test_gpus_that_the_library_does_not_know(bundle: Bundle, library: Any) -> None:
    with pytest.raises(UsageError, match=r"tensorrt_rtx .* does not build for SM70; it builds for SM75, SM80"):
        rtx(bundle, targets=("70",))


def test_profiles_are_checked_before_the_build(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "load_library", lambda name: pytest.fail("the library was asked"))
    with pytest.raises(UsageError, match="frames 1:4:5; expected 1 to 4"):
        rtx(bundle, profiles=["frames=1:4:5"])
    with pytest.raises(UsageError, match="24 rows; expected whole patches of 16"):
        rtx(bundle, profiles=[Profile((1, 1, 1), (1, 1, 1), (16, 24, 112))])
    with pytest.raises(UsageError, match="a profile is given twice"):
        rtx(bundle, profiles=["batch=1", "batch=1"])


def test_inputs_that_disagree_are_an_error_where_tensorrt_only_warns(
    bundle: Bundle, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Profile.input_shapes

    def disagreeing(self: Profile, *arguments: Any) -> Any:
        shapes = real(self, *arguments)
        least, best, most = shapes["audio_mask"]
        return {**shapes, "audio_mask": (least, best, (most[0], most[1] + 2))}

    monkeypatch.setattr(Profile, "input_shapes", disagreeing)
    with pytest.raises(
        VerdictError, match=r"warned: Profile kMAX values are not self-consistent.* \(the engine may fail"
    ):
        rtx(bundle)
    assert bundle.engines == ()


def test_a_graph_that_the_library_cannot_read(bundle: Bundle, library: Any) -> None:
    import onnx

    path = bundle.path("int8/model.fp16.onnx")
    model = onnx.load(path, load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    zero = next(x for x in model.graph.initializer if x.name == node.input[2])
    zero.ClearField("raw_data")
    zero.ClearField("external_data")
    zero.data_location = onnx.TensorProto.DEFAULT
    zero.int32_data[:] = [5]
    onnx.save(model, path)
    with pytest.raises(BundleError, match="the manifest says"):  # an altered graph is not even read
        rtx(bundle, "int8")
    update_manifest(bundle, lambda manifest: with_file(manifest, "int8/model.fp16.onnx", file_entry(path)))
    with pytest.raises(EnvironmentLackError, match=r"cannot read .*int8/model\.fp16\.onnx: .*[Zz]ero point"):
        rtx(bundle, "int8")


def test_arguments_that_cannot_be(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="engine is 'onnx'; expected one of tensorrt, tensorrt-rtx"):
        build(bundle, engine="onnx", precision="fp16")
    with pytest.raises(UsageError, match="precision is 'fp64'; expected one of"):
        build(bundle, engine="tensorrt", precision="fp64")
    here = SimpleNamespace(__name__="tensorrt", __version__="11.4", IBuilderConfig=object)
    monkeypatch.setattr(tensorrt, "load_library", lambda name: here)
    with pytest.raises(UsageError, match="tensorrt builds for the GPU of this machine; --target is for tensorrt-rtx"):
        build(bundle, engine="tensorrt", precision="fp16", targets=["89"])


def test_a_precision_that_the_bundle_lacks(classification: Bundle) -> None:
    with pytest.raises(UsageError, match=r"has no fp16 graph .*export again with --precision fp32 --precision fp16"):
        rtx(classification)
    with pytest.raises(UsageError, match=r"has no int8 graph .*tvlt-deploy quantize"):
        rtx(classification, "int8")


def test_targets_by_any_of_their_names() -> None:
    assert capabilities(["SM89", "8.6", "sm_120", "89"]) == (86, 89, 120)
    assert target_name((86, 89)) == "sm86-sm89"
    assert target_name(()) == "portable"


# TensorRT, which builds for the GPU that is there --------------------------------------------------------------------


def test_timings_are_kept_where_the_library_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    given: list[bytes] = []

    class Config:
        def create_timing_cache(self, content: bytes) -> str:
            given.append(content)
            return "cache"

        def set_timing_cache(self, cache: str, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            return True

        def get_timing_cache(self) -> Any:
            return SimpleNamespace(serialize=lambda: b"timings")

    library = SimpleNamespace(__name__="tensorrt", __version__="11.4", IBuilderConfig=Config)
    for _ in range(2):
        with tensorrt._timing_cache(library, Config(), (89,)):
            pass
    assert given == [b"", b"timings"]
    assert (tmp_path / "tvlt-deploy/timing/tensorrt-11.4-sm89.cache").read_bytes() == b"timings"


# Receipts ------------------------------------------------------------------------------------------------------------

TABLE = """Engine Layer Information:
Name: node_matmul_4+node_matmul_3+node_matmul_2_myl0_6, LayerType: gemm, Inputs: [ {{ Name: a, Dimensions: [-1,64], Datatype: {0}, Format: x }}], Constants: [], Outputs: [ {{ Name: b, Datatype: Half }}], TacticName: t
Name: _gemm_mha_v2_myl0_10, LayerType: kgen, Inputs: [ {{ Name: b, Dimensions: [-1,-1,32], Datatype: Half, Format: x }}], Constants: [], Outputs: [ {{ Name: c, Datatype: {0} }}], TacticName: t
Name: __myl_FcAdd_myl0_22, LayerType: runtime_fusion, Inputs: [ {{ Name: c, Datatype: {1} }}], Constants: [ {{ Name: w, Datatype: Half }}], Outputs: [ {{ Name: d, Datatype: Half }}], TacticName: t
Name: __myl_CastMean_myl0_23, LayerType: kgen, Inputs: [ {{ Name: d, Datatype: Float }}], Constants: [], Outputs: [ {{ Name: e, Datatype: Half }}], TacticName: t
"""  # noqa: E501
SCRATCH = "Max Scratch Memory: 8313856 bytes"


def receipt(first: str, second: str, precision: str, blocks: int = 1, quantized: int = 0) -> EngineReceipt:
    return read_receipt([TABLE.format(first, second), SCRATCH], precision, blocks, quantized)


def test_the_table_is_read() -> None:
    layers = read_layers([TABLE.format("Int8", "Half")])
    assert [(layer.kind, layer.inputs, layer.products) for layer in layers if layer.is_product] == [
        ("gemm", ("Int8",), 3),
        ("runtime_fusion", ("Half",), 1),
    ]
    assert [layer.name for layer in layers if layer.is_attention] == ["_gemm_mha_v2_myl0_10"]


def test_receipts_that_hold() -> None:
    found = receipt("Int8", "Half", "int8", quantized=3)
    assert asdict(found) == {
        "fused_attention": 1, "attention_blocks": 1, "gemm_types": {"Half": 1, "Int8": 1}, "quantized_products": 3,
        "quantized_expected": 3, "scratch_bytes": 8313856, "kernels": 4,
    }  # fmt: skip
    check_receipt(found, "int8", allow_unfused=False)
    check_receipt(receipt("Half", "Half", "fp16"), "fp16", allow_unfused=False)


def test_every_profile_has_to_be_fused() -> None:
    table = TABLE.format("Half", "Half")
    both = read_receipt([table + table.replace("_myl0_", "_myl1_")], "fp16", 1, 0, profiles=2)
    assert (both.fused_attention, both.kernels) == (1, 8)
    one = read_receipt([table + table.replace("_gemm_mha_v2_myl0_10", "softmax_myl1_10")], "fp16", 1, 0, profiles=2)
    assert (one.fused_attention, one.gemm_types) == (0, {"Half": 4})


@pytest.mark.parametrize(
    ("found", "precision", "message"),
    [
        (receipt("Float", "Half", "fp16"), "fp16", r"matrix products are 1 Float, 1 Half; expected Half only"),
        (receipt("Half", "Half", "bf16"), "bf16", r"matrix products are 2 Half; expected BFloat16 only"),
        (receipt("Half", "Half", "int8", quantized=3), "int8", r"0 of 3 quantized MatMuls compute in Int8; .* 2 Half"),
        (receipt("Int8", "Float", "int8", quantized=3), "int8", r"1 Float, 1 Int8; expected Half and Int8 only"),
        (
            receipt("Half", "Half", "fp16", blocks=2),
            "fp16",
            r"only 1 of 2 attention blocks are .* \(--allow-unfused",
        ),
    ],
)
def test_receipts_that_do_not_hold(found: EngineReceipt, precision: str, message: str) -> None:
    with pytest.raises(VerdictError, match=message) as refused:
        check_receipt(found, precision, allow_unfused=False)
    assert refused.value.exit_code == 3


def test_a_build_that_prints_no_table_proves_nothing() -> None:
    with pytest.raises(VerdictError, match="printed no table of layers"):
        read_receipt([SCRATCH], "fp16", 1, 0)
