"""int8 and fp8 by calibration: what is observed, what is written, how exact it is, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper

from tvlt_deploy.bundle import Bundle, writer
from tvlt_deploy.bundle.changes import with_engine, without_files
from tvlt_deploy.bundle.manifest import FP16_TWIN_FORM, NOT_RUN, ONNXRUNTIME_CPU_FORM, STANDARD_FORM, Engine
from tvlt_deploy.bundle.receipts import ClipShape, EngineReceipt, Evaluation
from tvlt_deploy.bundle.writer import file_entry, update_manifest
from tvlt_deploy.cli import main
from tvlt_deploy.errors import InputError, MediaError, UsageError, VerdictError
from tvlt_deploy.exporters.inference_model import inference_form, standard_attention
from tvlt_deploy.exporters.quantization.observers import Watch, linear_layers
from tvlt_deploy.exporters.quantization.qdq import insert_qdq, quantize_weight, scale_of
from tvlt_deploy.exporters.quantization.smoothquant import smooth_layers
from tvlt_deploy.parity.cases import add_noise, pad_clip, synthetic_clip
from tvlt_deploy.reference import open_checkpoint
from tvlt_deploy.runtimes import open_runtime
from tvlt_deploy.workflows.calibration import ClipReader, digest
from tvlt_deploy.workflows.quantize import choose_layers, observe, quantize
from tvlt_deploy.workflows.verify import verify

Feeds = dict[str, np.ndarray]


def clips_for(bundle: Bundle, count: int = 8, seed: int = 100) -> list[Feeds]:
    config = bundle.config
    sizes = [(1 + n % config.num_frames, 1 + n % config.time_patches) for n in range(count)]
    return [
        add_noise(bundle.task, config, synthetic_clip(config, *size, seed + n)) for n, size in enumerate(sizes)
    ]  # fmt: skip


def form_of(bundle: Bundle) -> torch.nn.Module:
    return inference_form(open_checkpoint(bundle.directory).load(bundle.task.name), bundle.task, standard_attention)


def run_form(form: torch.nn.Module, feeds: Feeds) -> list[np.ndarray]:
    with torch.inference_mode():
        return [x.numpy() for x in form(*(torch.from_numpy(values) for values in feeds.values()))]


def watch(form: torch.nn.Module, clips: list[Feeds], counting: bool = True) -> dict[str, Any]:
    with Watch(form, counting) as watched:
        for clip in clips:
            run_form(form, clip)
    return watched.observers


def graph_of(bundle: Bundle, precision: str = "int8", form: str = STANDARD_FORM) -> onnx.ModelProto:
    return onnx.load(bundle.path(bundle.variant(precision, form).path))


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}


def counts(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def pairs(model: onnx.ModelProto) -> dict[str, float]:
    """Tensor that is quantized -> its step."""
    values = constants(model)
    return {n.input[0]: float(values[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"}


def state(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.stat().st_size < 1_000_000
    }


@pytest.fixture(scope="module")
def quantized_of(bundle_of: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """(task, options) -> a copy of the task's bundle, quantized without verification; read only."""
    made: dict[str, Bundle] = {}

    def make(task: str, **options: Any) -> Bundle:
        key = json.dumps([task, options], sort_keys=True)
        if key not in made:
            original = bundle_of(task)
            place = tmp_path_factory.mktemp("quantized") / "bundle"
            shutil.copytree(original.directory, place)
            made[key] = quantize(place, clips_for(original), verify=False, threads=1, **options)
        return made[key]

    return make


# The graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [STANDARD_FORM, ONNXRUNTIME_CPU_FORM, FP16_TWIN_FORM])
def test_four_inputs_and_six_weights_of_each_layer_are_quantized_and_nothing_else(
    quantized_of: Callable[..., Bundle], form: str
) -> None:
    bundle = quantized_of("feature-extraction")
    model, layers = graph_of(bundle, form=form), bundle.config.num_hidden_layers
    assert counts(model)["QuantizeLinear"] == 4 * layers
    assert counts(model)["DequantizeLinear"] == 10 * layers
    made_by = {output: node for node in model.graph.node for output in node.output}
    kinds = lambda node: [made_by[i].op_type if i in made_by else "" for i in node.input]  # noqa: E731
    products = [kinds(node) for node in model.graph.node if node.op_type == "MatMul"]
    assert products.count(["DequantizeLinear", "DequantizeLinear"]) == 6 * layers
    assert sum("DequantizeLinear" in kind for kind in products) == 6 * layers  # attention and patches are as they were
    readers = [n.op_type for n in model.graph.node for kind in kinds(n) if kind == "DequantizeLinear"]
    assert set(readers) == {"MatMul"}


@pytest.mark.parametrize("form", [STANDARD_FORM, ONNXRUNTIME_CPU_FORM, FP16_TWIN_FORM])
def test_codes_and_zero_points(quantized_of: Callable[..., Bundle], form: str) -> None:
    bundle = quantized_of("feature-extraction")
    model = graph_of(bundle, form=form)
    values, hidden = constants(model), bundle.config.hidden_size
    float_type = np.float16 if form == FP16_TWIN_FORM else np.float32
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        step, zero = values[node.input[1]], values[node.input[2]]
        assert step.dtype == float_type
        assert step.shape == zero.shape
        codes = values.get(node.input[0])
        if codes is not None and node.op_type == "DequantizeLinear":
            assert codes.dtype == zero.dtype == np.int8
            assert codes.shape[0] >= hidden
            assert step.shape == codes.shape[1:]
            assert [a.i for a in node.attribute if a.name == "axis"] == [1]
            assert not zero.any()
            assert (np.abs(codes.astype(int)).max(axis=0) == 127).all()
        elif form == ONNXRUNTIME_CPU_FORM:
            assert (zero.dtype, zero.item(), step.shape) == (np.uint8, 128, ())
        else:
            assert (zero.dtype, zero.item(), step.shape) == (np.int8, 0, ())


def test_all_forms_share_steps_and_codes(quantized_of: Callable[..., Bundle]) -> None:
    bundle = quantized_of("feature-extraction")
    standard, fused, twin = (
        constants(graph_of(bundle, form=form)) for form in (STANDARD_FORM, ONNXRUNTIME_CPU_FORM, FP16_TWIN_FORM)
    )
    stored = [name for name in standard if name.endswith((".weight_codes", "_scale"))]
    assert len(stored) == bundle.config.num_hidden_layers * (4 + 6 + 6)
    for name in stored:
        np.testing.assert_array_equal(standard[name], fused[name])
        np.testing.assert_allclose(standard[name], twin[name], rtol=2e-3)
    sizes = [bundle.path(v.path).stat().st_size for v in bundle.variants if v.precision == "int8"]
    assert sum(sizes[:2]) < 200_000  # the weights stand beside them, once


def test_layers_that_see_one_token_and_heads_stay(quantized_of: Callable[..., Bundle]) -> None:
    bundle = quantized_of("audio-visual-classification")
    last = bundle.config.num_hidden_layers - 1
    names = set(constants(graph_of(bundle)))
    for kept in ("query", "project", "expand", "contract"):
        assert f"encoder.layers.{last}.{kept}.weight" in names
        assert f"encoder.layers.0.{kept}.weight_codes" in names
    assert {f"encoder.layers.{last}.{name}.weight_codes" for name in ("key", "value")} < names
    assert {"expand.weight", "score.weight", "embedding.pixel_weight"} < names


def test_layers_shared_by_two_decoders_keep_one_set_of_codes(quantized_of: Callable[..., Bundle]) -> None:
    bundle = quantized_of("masked-reconstruction", smooth=True)
    model, config = graph_of(bundle), bundle.config
    decoders = config.decoder_num_hidden_layers
    assert counts(model)["QuantizeLinear"] == 4 * (config.num_hidden_layers + 2 * decoders)
    assert counts(model)["DequantizeLinear"] == 10 * config.num_hidden_layers + (2 * 4 + 6) * decoders
    codes = [name for name in constants(model) if name.endswith("_codes")]
    assert len(codes) == 6 * (config.num_hidden_layers + decoders)


def test_kept_layers_stay(quantized_of: Callable[..., Bundle]) -> None:
    bundle = quantized_of("feature-extraction", keep=["encoder.layers.0", "*.contract", "encoder.layers.1.value"])
    values = constants(graph_of(bundle))
    codes = {name.removesuffix(".weight_codes") for name in values if name.endswith("_codes")}
    assert codes == {f"encoder.layers.1.{name}" for name in ("query", "key", "project", "expand")}
    assert len(bundle.manifest.calibration.kept) == 6 + 1 + 1
    assert counts(graph_of(bundle))["QuantizeLinear"] == 3


def test_fp8_is_e4m3_around_fp16(quantized_of: Callable[..., Bundle]) -> None:
    bundle = quantized_of("feature-extraction", precisions=["int8", "fp8"])
    model = graph_of(bundle, "fp8")
    kinds = {x.name: x.data_type for x in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert kinds[node.input[2]] == onnx.TensorProto.FLOAT8E4M3FN
            assert kinds[node.input[1]] == onnx.TensorProto.FLOAT16
    assert counts(model)["QuantizeLinear"] == 4 * bundle.config.num_hidden_layers
    ranges = bundle.manifest.calibration.ranges
    step = pairs(model)["layer_norm"]
    assert step == pytest.approx(ranges["encoder.layers.0.key"].largest / 448, rel=1e-3)


def test_steps_never_get_too_small_for_fp16() -> None:
    assert scale_of(12.7, "int8") == pytest.approx(0.1)
    assert scale_of(0.0, "int8") == scale_of(1e-9, "fp8") == 2**-16
    weight = np.array([[1.0, 0.0], [-0.5, 0.0]], np.float32)
    codes, step = quantize_weight(weight, "int8")
    np.testing.assert_array_equal(codes, [[127, 0], [-64, 0]])
    np.testing.assert_allclose(step, [1 / 127, 2**-16])


def test_steps_agree_with_onnxruntime_on_one_batch(features: Bundle, tmp_path: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )  # fmt: skip

    clip = clips_for(features, 1)[0]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.waiting = [clip]

        def get_next(self) -> Feeds | None:
            return self.waiting.pop() if self.waiting else None

    source = tmp_path / "ours.onnx"
    model = graph_of(features, "fp32")
    onnx.save(model, source)
    weights = {x.name for x in model.graph.initializer}
    linear = [n.name for n in model.graph.node if n.op_type == "MatMul" and "layers" in n.input[1]]
    assert all(n.input[1] in weights for n in model.graph.node if n.name in linear)
    quantize_static(
        source,
        tmp_path / "theirs.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=linear,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
        },
    )
    theirs = onnx.load(tmp_path / "theirs.onnx")
    limits = {
        reader: observer.histogram.largest
        for observer in watch(form_of(features), [clip], counting=False).values()
        for reader in observer.readers
    }
    ours = onnx_ir.load(source)
    assert insert_qdq(ours, limits) == set(limits)
    proto = onnx_ir.to_proto(ours)
    actual, expected = pairs(proto), pairs(theirs)
    assert len(actual) == 4 * features.config.num_hidden_layers
    for tensor, step in actual.items():
        assert step == pytest.approx(expected[tensor], rel=1e-4), tensor
    a, b = constants(proto), constants(theirs)
    for name in limits:
        np.testing.assert_allclose(a[f"{name}.weight_scale"], b[f"{name}.weight_scale"], rtol=1e-6)
        assert np.abs(a[f"{name}.weight_codes"].astype(int) - b[f"{name}.weight_quantized"]).max() <= 1


# Exactness -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["audio-visual-classification", "feature-extraction", "masked-reconstruction"])
def test_every_form_keeps_the_int8_tolerances(quantized_of: Callable[..., Bundle], task: str) -> None:
    report = verify(quantized_of(task), backends=["onnxruntime"], precisions=["int8"], threads=1)
    assert {v.form for v in report.verdicts} == {STANDARD_FORM, ONNXRUNTIME_CPU_FORM, FP16_TWIN_FORM}
    report.raise_on_failure()


@pytest.mark.parametrize("method", ["minmax", "entropy", "mse"])
def test_every_method_keeps_the_int8_tolerances(quantized_of: Callable[..., Bundle], method: str) -> None:
    bundle = quantized_of("audio-visual-matching", method=method, smooth=method == "mse")
    verify(bundle, backends=["onnxruntime"], precisions=["int8"], threads=1).raise_on_failure()
    calibration = bundle.manifest.calibration
    assert calibration.method == method
    whole = [row.largest == row.limit for row in calibration.ranges.values()]
    assert all(whole) == (method == "minmax")


def test_openvino_reads_the_form_of_onnxruntime(quantized_of: Callable[..., Bundle]) -> None:
    openvino = pytest.importorskip("openvino")
    bundle = quantized_of("feature-extraction")
    clip = clips_for(bundle, 3)[2]
    path = bundle.path(bundle.variant("int8", ONNXRUNTIME_CPU_FORM).path)
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    actual = compiled(clip)["last_hidden_state"]
    with open_runtime(bundle, "onnxruntime", precision="int8", threads=1) as runtime:
        expected = runtime.run(clip)["last_hidden_state"]
    assert np.abs(actual - expected).max() < 0.1 * expected.std()


@pytest.mark.parametrize(
    "task", ["audio-visual-classification", "feature-extraction", "masked-reconstruction"]
)  # fmt: skip
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_smoothing_changes_the_weights_but_not_the_function(
    bundle_of: Callable[..., Bundle], task: str, alpha: float
) -> None:
    bundle = bundle_of(task)
    form, clips = form_of(bundle), clips_for(bundle, 3)
    with torch.no_grad():  # outliers, as trained transformers have them
        form.encoder.layers[0].norm_before.weight[:3] *= 50
    before, flat = [run_form(form, clip) for clip in clips], watch(form, clips, counting=False)
    weights = {name: value.clone() for name, value in form.named_parameters()}
    changed = smooth_layers(form, flat, alpha)
    assert {name for name, value in form.named_parameters() if not value.equal(weights[name])} <= set(changed)
    for expected, clip in zip(before, clips, strict=True):
        for x, y in zip(run_form(form, clip), expected, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5, rtol=1e-5)
    channels = flat["encoder.layers.0.key"].channels
    smoothed = watch(form, clips, counting=False)["encoder.layers.0.key"].channels
    spread = lambda x: float(x.max() / x.median())  # noqa: E731
    if alpha:
        assert spread(smoothed) < spread(channels) / 3


# Observers -----------------------------------------------------------------------------------------------------------


def test_observers_see_what_the_linear_layers_read(features: Bundle) -> None:
    form, clips = form_of(features), clips_for(features, 3)
    largest: dict[str, float] = {}

    def note(name: str) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            largest[name] = max(largest.get(name, 0.0), float(inputs[0].abs().max()))

        return hook

    for name in linear_layers(form):
        form.get_submodule(name).register_forward_pre_hook(note(name))
    observers = watch(form, clips)
    assert sorted(r for o in observers.values() for r in o.readers) == sorted(largest)
    for observer in observers.values():
        assert {largest[reader] for reader in observer.readers} == {observer.histogram.largest}
        assert observer.histogram.largest == float(observer.channels.max())
        assert len(observer.channels) == form.get_submodule(observer.name).weight.shape[0]


def test_the_state_does_not_grow_with_the_clips(features: Bundle) -> None:
    form = form_of(features)

    def size(clips: list[Feeds]) -> int:
        observers = watch(form, clips).values()
        return sum(o.histogram.counts.nbytes + o.channels.nbytes for o in observers)

    clips = clips_for(features, 6)
    assert size(clips[:1]) == size(clips) < 4 * 2 * 100_000


@pytest.mark.parametrize("task", ["audio-visual-classification", "feature-extraction"])
def test_padding_is_not_observed(bundle_of: Callable[..., Bundle], task: str) -> None:
    bundle = bundle_of(task)
    form, config = form_of(bundle), bundle.config
    clip = synthetic_clip(config, 2, 3, 5)
    padded = pad_clip(config, clip, config.num_frames, config.time_patches, fill=1e6)
    plain, found = watch(form, [clip]), watch(form, [padded])
    for name, observer in plain.items():
        assert found[name].histogram.largest == pytest.approx(observer.histogram.largest, rel=1e-4), name
        assert found[name].histogram.counts.sum() == observer.histogram.counts.sum()


def test_the_class_token_counts_even_where_no_picture_is_valid(features: Bundle) -> None:
    clip = synthetic_clip(features.config, 1, 2, 6)
    clip["pixel_mask"][:] = 0
    observers = watch(form_of(features), [clip])
    tokens = 1 + 2 * features.config.frequency_patches
    assert observers["encoder.layers.0.key"].histogram.counts.sum() == tokens * features.config.hidden_size


def test_weights_that_give_nan_are_named(features: Bundle) -> None:
    form = form_of(features)
    with torch.no_grad():
        form.encoder.layers[1].norm_after.weight[0] = float("nan")
    with pytest.raises(InputError, match=r"the input of encoder\.layers\.1\.expand has NaN or infinity"):
        watch(form, clips_for(features, 1))


# The clips -----------------------------------------------------------------------------------------------------------


def test_equal_clips_count_once_and_batches_are_taken_apart(features: Bundle, copy_of: Callable[..., Path]) -> None:
    config = features.config
    one, two = synthetic_clip(config, 2, 2, 1), synthetic_clip(config, 2, 2, 2)
    batch = {name: np.concatenate([one[name], two[name], one[name]]) for name in one}
    receipt = quantize(copy_of(features), [batch, one], verify=False, threads=1).manifest.calibration
    assert (receipt.clips, receipt.distinct) == (4, 2)
    assert receipt.sha256 == (digest(one), digest(two))
    assert receipt.shapes == (ClipShape(frames=2, rows=32, clips=2),)


def test_the_receipt_says_whether_the_evaluation_is_disjoint(features: Bundle, copy_of: Callable[..., Path]) -> None:
    directory, clips = copy_of(features), clips_for(features, 4)
    others = clips_for(features, 3, seed=900)
    seen = quantize(directory, clips, evaluation=others, verify=False).manifest.calibration
    assert seen.evaluation == Evaluation(distinct=3, shared=0, disjoint=True)
    seen = quantize(directory, clips, evaluation=[*others, clips[1]], verify=False).manifest.calibration
    assert seen.evaluation == Evaluation(distinct=4, shared=1, disjoint=False)


def test_count_stops_the_reading(features: Bundle) -> None:
    read = []

    def clips() -> Iterator[Feeds]:
        for clip in clips_for(features, 8):
            read.append(1)
            yield clip

    with open_runtime(features, "torch") as runtime:
        source = ClipReader(clips(), runtime, None, 3, 0.0)
        observe(inference_form(runtime.model, features.task, standard_attention), source, "", lambda text: None)
    assert len(read) == len(source.seen.sha256) == 3


def refused(bundle: Path, clips: Any, error: type[Exception], message: str, **options: Any) -> None:
    before = state(bundle)
    with pytest.raises(error, match=message):
        quantize(bundle, clips, threads=1, **options)
    assert state(bundle) == before


def test_refusals(features: Bundle, copy_of: Callable[..., Path]) -> None:
    bundle, clips = copy_of(features), clips_for(features, 3)
    refused(bundle, [*clips, *clips], UsageError, r"3 distinct clips of 6 read; expected 4 \(add clips", count=4)
    refused(bundle, [], UsageError, "0 distinct clips of 0 read; expected 1")
    refused(bundle, clips, UsageError, "count is 0; expected at least 1", count=0)
    refused(bundle, clips, UsageError, "precision is 'fp16'; expected int8 or fp8", precisions=["fp16"])
    refused(bundle, clips, UsageError, "no precision is asked for", precisions=[])
    refused(bundle, clips, UsageError, r"alpha is 2; expected 0 .* to 1", smooth=True, alpha=2)
    refused(bundle, clips, UsageError, "max_unreadable is 3; expected a share", max_unreadable=3)
    refused(bundle, clips, UsageError, "method is 'max'", method="max")
    refused(bundle, clips, UsageError, r"keep is 'encoder\.layers\.9', which matches no layer; .*layers\.0\.query",
            keep=["encoder.layers.9"])  # fmt: skip
    refused(bundle, clips, UsageError, "all 12 linear layers are kept", keep=["encoder"])
    refused(bundle, iter(clips), UsageError, r"two passes are needed \(pass a list", smooth=True)
    damaged = {**clips[0], "audio_values": np.full_like(clips[0]["audio_values"], np.nan)}
    refused(bundle, [clips[1], damaged], InputError, "audio_values of clip 0 of entry 1 contains NaN or infinity")
    refused(bundle, [{}], InputError, "missing inputs")
    refused(bundle, bundle / "none", UsageError, r"none is not a folder \(name one that contains media files")


def test_a_prefix_ends_at_a_dot() -> None:
    names = {f"encoder.layers.{n}.key": (f"encoder.layers.{n}.key", f"other.{n}.key") for n in (1, 10)}
    assert choose_layers(names, ["encoder.layers.1"]) == {"encoder.layers.10.key"}
    assert choose_layers(names, ["other.10"]) == {"encoder.layers.1.key"}


def test_a_bundle_without_weights_is_refused(features: Bundle, copy_of: Callable[..., Path]) -> None:
    directory = copy_of(features)
    update_manifest(Bundle(directory), lambda manifest: without_files(manifest, "model.safetensors"))
    refused(directory, clips_for(features, 1), UsageError, "exported without weights, which calibration needs")


# Files ---------------------------------------------------------------------------------------------------------------


def write_sound(path: Path, hertz: float) -> None:
    wave_form = 0.5 * np.sin(2 * np.pi * hertz * np.arange(30_000) / 44100)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes((wave_form * 32767).astype("<i2").tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures with sound, and notes that are no clip."""
    from PIL import Image

    (tmp_path / "clips").mkdir()
    for index in range(10):
        write_sound(tmp_path / "clips" / f"{index}.wav", 200 + 50 * index)
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "clips" / f"{index}.png")
    (tmp_path / "clips" / "notes.txt").write_text("no clip")
    return tmp_path / "clips"


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_folder_of_media_is_calibrated_on(classification: Bundle, copy_of: Callable[..., Path], folder: Path) -> None:
    pytest.importorskip("av")
    directory = copy_of(classification)
    for kind in ("wav", "png"):
        shutil.copy(folder / f"5.{kind}", folder / f"again.{kind}")
    (folder / "broken.wav").write_bytes(b"RIFF nothing")
    result = invoke("quantize", directory, "--clips", folder, "--method", "mse", "--json", "--threads", 1)
    assert result.exit_code == 0, result.output
    manifest = json.loads(result.stdout)
    receipt = manifest["calibration"]
    assert (receipt["clips"], receipt["distinct"]) == (12, 10)
    assert set(receipt["unreadable"]) == {"broken.wav"}
    assert sum(row["clips"] for row in receipt["shapes"]) == 10
    assert {v["parity"]["verdict"] for v in manifest["variants"] if v["precision"] == "int8"} == {"pass"}
    assert "calibrated int8: mse on 10 clips" in invoke("inspect", directory).stdout
    assert invoke("verify", directory, "--precision", "int8", "--threads", 1).exit_code == 0
    assert invoke("run", directory, folder / "1.wav", "--precision", "int8").exit_code == 0


def test_too_many_unreadable_clips_are_refused_by_name(
    features: Bundle, copy_of: Callable[..., Path], folder: Path
) -> None:
    pytest.importorskip("av")
    for index in range(4, 9):
        (folder / f"{index}.wav").write_bytes(b"RIFF nothing")
    directory = copy_of(features)
    refused(directory, folder, MediaError, r"5 of 10 clips cannot be read, more than 10%: 4\.png: .*8\.png: ")
    result = invoke("quantize", directory, "--clips", folder)
    assert result.exit_code == 5
    assert "--max-unreadable" in result.stderr


def test_too_few_clips_in_a_folder(features: Bundle, copy_of: Callable[..., Path], folder: Path) -> None:
    pytest.importorskip("av")
    result = invoke("quantize", copy_of(features), "--clips", folder, "--count", 11)
    assert result.exit_code == 2
    assert "10 distinct clips of 10 read; expected 11" in result.stderr


# Into the bundle -----------------------------------------------------------------------------------------------------


def test_a_second_run_replaces_the_first(features: Bundle, copy_of: Callable[..., Path]) -> None:
    directory, clips = copy_of(features), clips_for(features, 4)
    first = quantize(directory, clips, precisions=["int8", "fp8"], method="minmax", verify=False)
    assert (directory / "fp8/model.onnx").is_file()
    second = quantize(directory, clips[:2], method="mse", verify=False)
    assert second.precisions == ("fp32", "int8")
    assert not (directory / "fp8").exists()
    assert second.manifest.calibration.distinct == 2
    assert first.digest != second.digest
    second.check()
    assert {path.name for path in directory.iterdir()} == {path.name for path in features.directory.iterdir()} | {
        "int8"
    }


def test_engines_of_graphs_that_go_go_too(features: Bundle, copy_of: Callable[..., Path]) -> None:
    directory, clips = copy_of(features), clips_for(features, 2)
    bundle = quantize(directory, clips, verify=False)
    (directory / "int8/some.engine").write_bytes(b"plan")

    receipt = EngineReceipt(0, 0, {}, 0, 0, 0, 0)
    engine = Engine(
        "tensorrt-rtx", "1.7", "sm89", "linux-x86_64", "int8", "int8/some.engine", "0" * 64, (), receipt, NOT_RUN
    )
    entry = file_entry(directory / "int8/some.engine")
    update_manifest(bundle, lambda manifest: with_engine(manifest, engine, entry))
    again = quantize(directory, clips, method="mse", verify=False)
    assert again.engines == ()
    again.check()


def test_a_missed_verdict_leaves_the_bundle_as_it_was(features: Bundle, misfit_of: Callable[..., Path]) -> None:
    directory = misfit_of(features, "layernorm.bias", shift=10)
    quantize(directory, clips_for(features, 2), verify=False)
    refused(directory, clips_for(features, 3), VerdictError, r"min cosine of last_hidden_state: .* \(missed by")


@pytest.mark.parametrize("step", ["drop", "out", "in", "add"])
@pytest.mark.parametrize("before", [True, False])
def test_a_failure_on_the_way_in_puts_everything_back(
    features: Bundle, copy_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, step: str, before: bool
) -> None:
    directory, clips = copy_of(features), clips_for(features, 2)
    if before:
        quantize(directory, clips, method="minmax", verify=False)
    calls = Counter[str]()
    target = "_change" if step in ("drop", "add") else "_move"
    original = getattr(writer, target)

    def fail(*arguments: Any) -> None:
        calls[target] += 1
        if calls[target] == (1 if step in ("drop", "out") else 2):
            raise OSError("no room")
        original(*arguments)

    monkeypatch.setattr(writer, target, fail)
    refused(directory, clips, OSError, "no room", verify=False)
    Bundle(directory).check()
    assert Bundle(directory).precisions == (("fp32", "int8") if before else ("fp32",))


def test_at_no_moment_does_the_manifest_list_what_is_not_there(
    features: Bundle, copy_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, clips = copy_of(features), clips_for(features, 2)
    quantize(directory, clips, verify=False)
    seen = []
    original = writer._move

    def move(*arguments: Any) -> None:
        original(*arguments)
        there = Bundle(directory)
        there.check()
        seen.append(there.precisions)

    monkeypatch.setattr(writer, "_move", move)
    quantize(directory, clips, method="mse", verify=False)
    assert seen == [("fp32",), ("fp32",)]


# Size ----------------------------------------------------------------------------------------------------------------


FULL_SIZE = """
import sys
from tvlt_deploy.bench.memory import peak_memory
from tvlt_deploy.bundle import Bundle
from tvlt_deploy import quantize
from tvlt_deploy.parity.cases import synthetic_clip

config = Bundle(sys.argv[1]).config
sizes = [(1, 5), (2, 27), (4, 20), (8, 54)]
quantize(sys.argv[1], [synthetic_clip(config, *size, 300 + n) for n, size in enumerate(sizes)], verify=False)
print(peak_memory())
"""


@pytest.mark.slow
def test_a_model_of_full_size(tmp_path: Path) -> None:
    from tvlt_deploy import export
    from tvlt_deploy.config import TvltConfig
    from tvlt_deploy.reference import init_checkpoint

    init_checkpoint(tmp_path / "c", TvltConfig(), seed=1, architecture="TvltForAudioVisualClassification")
    export(tmp_path / "c", tmp_path / "bundle", verify=False)
    # in a process of its own, whose peak is calibration's alone
    command = [sys.executable, "-c", FULL_SIZE, str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 1e9 < int(done.stdout.split()[-1]) < 4e9
    bundle = Bundle(tmp_path / "bundle")
    layers = bundle.config.num_hidden_layers
    assert counts(graph_of(bundle))["QuantizeLinear"] == 4 * layers - 3
    assert counts(graph_of(bundle))["DequantizeLinear"] == 10 * layers - 7
    clips = [synthetic_clip(bundle.config, *size, 310) for size in ((1, 5), (2, 27), (4, 20), (8, 54))]
    answers = {}
    for precision in ("fp32", "int8"):
        with open_runtime(bundle, "onnxruntime", precision=precision) as runtime:
            answers[precision] = np.concatenate([runtime.run(clip)["logits"] for clip in clips])
    # untrained, its answers hardly differ from clip to clip, which makes any error large beside their deviation
    assert np.abs(answers["int8"] - answers["fp32"]).max() < 0.2 * answers["fp32"].std()
