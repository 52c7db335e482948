"""fp16 and bf16 graphs: what is converted, what is not, what is refused, and how exact the result is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from tvlt_deploy import export
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import ONNXRUNTIME_CPU_FORM
from tvlt_deploy.errors import EnvironmentLackError, UsageError, VerdictError
from tvlt_deploy.exporters import precision
from tvlt_deploy.exporters.onnx import save_graphs
from tvlt_deploy.parity.cases import fidelity_cases
from tvlt_deploy.tasks import TASKS

HALVES = ("fp16", "bf16")


def fp32_graph(bundle: Bundle) -> ir.Model:
    return ir.load(bundle.path(bundle.variant("fp32").path))


def floats(graph: ir.Model) -> dict[str, ir.DataType]:
    """Every floating value and constant by name."""
    values = [*graph.graph.initializers.values(), *(x for node in graph.graph for x in node.outputs)]
    return {str(x.name): x.dtype for x in values if x.dtype is not None and x.dtype.is_floating_point()}


# What is converted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("task", TASKS)
def test_all_but_masks_noise_and_the_outputs_is_half(task: str, half: str, bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of(task)
    source = fp32_graph(bundle)
    graph = precision.to_half(source, half)
    types = floats(graph)
    exact = {name for name, dtype in types.items() if dtype == ir.DataType.FLOAT}
    assert set(types.values()) == {ir.DataType.FLOAT, precision.HALF_TYPES[half]}
    consumers = {use.node.op_type for node in graph.graph for x in node.outputs if x.name in exact for use in x.uses()}
    assert consumers <= {"Concat", "Greater", "Slice", "GatherElements", "TopK"}
    assert {x.name: (x.dtype, x.shape) for x in (*graph.graph.inputs, *graph.graph.outputs)} == {
        x.name: (x.dtype, x.shape) for x in (*source.graph.inputs, *source.graph.outputs)
    }
    assert [x.name for x in graph.graph.outputs] == list(bundle.task.output_names)


@pytest.mark.parametrize("half", HALVES)
def test_the_source_keeps_its_types_and_shape_arithmetic_is_untouched(classification: Bundle, half: str) -> None:
    source = fp32_graph(classification)
    before = floats(source)
    graph = precision.to_half(source, half)
    assert floats(source) == before
    integers = lambda model: [n.op_type for n in model.graph if n.outputs[0].dtype == ir.DataType.INT64]  # noqa: E731
    assert integers(graph) == integers(source)
    sizes = [len(floats(precision.to_half(source, other))) for other in HALVES]  # one after the other
    assert sizes[0] == sizes[1]


def test_constants_keep_their_names_and_halve_their_bytes(classification: Bundle) -> None:
    source, graph = fp32_graph(classification), precision.to_half(fp32_graph(classification), "fp16")
    assert set(graph.graph.initializers) == set(source.graph.initializers)
    weight = "encoder.layers.0.expand.weight"
    constants = [model.graph.initializers[weight].const_value for model in (source, graph)]
    assert constants[0].nbytes == 2 * constants[1].nbytes
    assert np.array_equal(constants[0].numpy().astype(np.float16), constants[1].numpy())


def test_a_constant_of_both_worlds_is_kept_in_both() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[n] pixel_mask, float[n] pixel_values) => (float[n] a, bool[n] b)
    <float one = {0.5}> { a = Mul(pixel_values, one) b = Greater(pixel_mask, one) }"""
    graph = precision.to_half(ir.from_onnx_text(text), "fp16")
    assert {name: x.dtype.name for name, x in graph.graph.initializers.items()} == {
        "one": "FLOAT",
        "one.float16": "FLOAT16",
    }


# How exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_exported_halves_pass_their_verdicts(
    task: str, checkpoint_of: Any, traced_already: None, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    bundle = export(
        checkpoint_of(TASKS[task].architecture), tmp_path / "bundle", task=task, precisions=["fp32", "fp16", "bf16"]
    )
    assert [(v.precision, v.path) for v in bundle.variants if v.form != ONNXRUNTIME_CPU_FORM] == [
        ("fp32", "fp32/model.onnx"),
        ("fp16", "fp16/model.onnx"),
        ("bf16", "bf16/model.onnx"),
    ]
    verdicts = {v.precision: v.parity for v in bundle.variants}
    assert {p: (v.verdict, v.backend) for p, v in verdicts.items()} == {
        "fp32": ("pass", "onnxruntime"),
        "fp16": ("pass", "onnxruntime"),
        "bf16": ("pass", "openvino"),
    }
    peak = next(row for row in verdicts["fp16"].rows if row.check == "largest activation")
    assert 1 < peak.value < 1000
    assert peak.limit == 32752
    bundle.check()


def test_half_alone_needs_no_fp32_graph(checkpoint_of: Any, traced_already: None, tmp_path: Path) -> None:
    checkpoint = checkpoint_of("TvltForAudioVisualClassification")
    bundle = export(checkpoint, tmp_path / "bundle", precisions=["fp16"])
    assert bundle.precisions == ("fp16",)
    assert sorted(path.name for path in bundle.directory.iterdir() if path.is_dir()) == ["fp16"]


def test_bf16_without_openvino_is_not_run_and_says_why(
    checkpoint_of: Any, traced_already: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "tvlt_deploy.runtimes.openvino", raising=False)
    said: list[str] = []
    bundle = export(
        checkpoint_of("TvltForAudioVisualClassification"),
        tmp_path / "bundle",
        precisions=["fp32", "bf16"],
        progress=said.append,
    )
    assert bundle.variant("bf16").parity.verdict == "not run"
    assert "openvino is not installed" in bundle.variant("bf16").parity.reason
    assert any("bf16 graph not run" in line for line in said)


# Range ---------------------------------------------------------------------------------------------------------------


def scaled(bundle: Bundle, name: str, factor: float, directory: Path) -> Path:
    """The fp16 graph of a model with one weight scaled up."""
    graph = fp32_graph(bundle)
    value = graph.graph.initializers[name]
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)
    save_graphs({"model.onnx": precision.to_half(graph, "fp16")}, directory, {})
    return directory / "model.onnx"


def test_the_largest_activation_is_found_and_named(classification: Bundle, tmp_path: Path) -> None:
    cases = [case.feeds for case in fidelity_cases(classification.task, classification.config)][:2]
    path = scaled(classification, "encoder.layers.0.expand.weight", 1000, tmp_path)
    peak, place = precision.largest_activation(path, cases, threads=1)
    assert 100 < peak < precision.RANGE_LIMIT
    assert "encoder.layers.0." in place


def test_an_overflow_names_the_first_layer_that_overflows(classification: Bundle, tmp_path: Path) -> None:
    cases = [case.feeds for case in fidelity_cases(classification.task, classification.config)][:2]
    path = scaled(classification, "encoder.layers.1.expand.weight", 60000, tmp_path)
    peak, place = precision.largest_activation(path, cases, threads=1)
    assert peak > precision.LARGEST_FP16
    assert place.endswith(("in encoder.layers.1.expand", "in encoder.layers.1.contract"))


def test_masked_scores_are_not_taken_for_activations(classification: Bundle, tmp_path: Path) -> None:
    path = scaled(classification, "score.weight", 1, tmp_path)
    cases = [case.feeds for case in fidelity_cases(classification.task, classification.config)]
    assert precision.largest_activation(path, cases, threads=1)[0] < 1000


# Refusals ------------------------------------------------------------------------------------------------------------


def test_a_weight_that_fp16_cannot_hold_is_named(classification: Bundle, tmp_path: Path) -> None:
    name = "encoder.layers.0.key.weight"
    with pytest.raises(VerdictError, match=rf"{name} has a value of magnitude .*; fp16 has at most 65504 \(use bf16"):
        scaled(classification, name, 1e6, tmp_path)


def test_bf16_holds_what_fp16_cannot(classification: Bundle) -> None:
    graph = fp32_graph(classification)
    graph.graph.initializers["score.bias"].const_value = ir.tensor(np.float32([1e9, -1e30]), name="score.bias")
    kept = precision.to_half(graph, "bf16").graph.initializers["score.bias"].const_value
    assert np.isfinite(kept.numpy().astype(np.float32)).all()


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_weight_that_is_no_number_is_refused(classification: Bundle, bad: float) -> None:
    graph = fp32_graph(classification)
    graph.graph.initializers["score.bias"].const_value = ir.tensor(np.float32([bad, 0]), name="score.bias")
    with pytest.raises(VerdictError, match=r"score\.bias has a value of magnitude (inf|nan)"):
        precision.to_half(graph, "fp16")


def test_other_forms_and_precisions_are_refused(classification: Bundle) -> None:
    fused = ir.load(classification.path(classification.variant("fp32", ONNXRUNTIME_CPU_FORM).path))
    with pytest.raises(UsageError, match=r"MultiHeadAttention has no tensor\(float16\) \(convert the standard form\)"):
        precision.to_half(fused, "fp16")
    with pytest.raises(UsageError, match="precision is 'int8'; expected one of fp16, bf16"):
        precision.to_half(fp32_graph(classification), "int8")


QDQ = """<ir_version: 10, opset_import: ["" : {opset}]>
g (float[n, 2] pixel_values) => (float[n, 2] y)
<float scale = {{{scale}}}, int8 zero = {{0}},
 int8[2, 2] w = {{1, 2, 3, 4}}, float[2] ws = {{0.5, 0.25}}, int8[2] wz = {{0, 0}}>
{{
  q = QuantizeLinear(pixel_values, scale, zero)
  d = DequantizeLinear(q, scale, zero)
  wd = DequantizeLinear <axis = 1> (w, ws, wz)
  y = MatMul(d, wd)
}}"""


def qdq_graph(opset: int = 20, scale: float = 0.01) -> ir.Model:
    graph = ir.from_onnx_text(QDQ.format(opset=opset, scale=scale))
    for node in graph.graph:
        kind = ir.DataType.INT8 if node.op_type == "QuantizeLinear" else ir.DataType.FLOAT
        node.outputs[0].type = ir.TensorType(kind)
    return graph


def test_quantized_graphs_convert_their_scales(tmp_path: Path) -> None:
    import onnxruntime as ort

    graph = precision.to_half(qdq_graph(), "fp16")
    assert {name: x.dtype.name for name, x in graph.graph.initializers.items()} == {
        "scale": "FLOAT16",
        "zero": "INT8",
        "w": "INT8",
        "ws": "FLOAT16",
        "wz": "INT8",
    }
    ir.save(graph, tmp_path / "q.onnx")
    session = ort.InferenceSession(tmp_path / "q.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"pixel_values": np.float32([[1, -1]])})[0]
    assert found == pytest.approx(np.float32([[0.5 - 1.5, 0.5 - 1.0]]), abs=0.01)


def test_quantized_graphs_below_opset_19_are_refused() -> None:
    with pytest.raises(UsageError, match=r"QuantizeLinear of opset 18 has no tensor\(float16\) \(export with a newer"):
        precision.to_half(qdq_graph(opset=18), "fp16")


def test_a_scale_that_vanishes_in_fp16_is_refused() -> None:
    with pytest.raises(VerdictError, match=r"changes the quantization scale scale by .*%; .* \(leave that layer"):
        precision.to_half(qdq_graph(scale=2e-8), "fp16")


def test_export_refuses_what_needs_calibration_and_nothing_at_all(tmp_path: Path) -> None:
    for name in ("int8", "fp8"):
        with pytest.raises(UsageError, match=rf"{name} is not exported: .* tvlt-deploy quantize"):
            export(tmp_path, tmp_path / "bundle", precisions=[name])
    with pytest.raises(UsageError, match="precisions is empty"):
        export(tmp_path, tmp_path / "bundle", precisions=[])


def test_onnxruntime_does_not_run_bf16(classification: Bundle) -> None:
    from tvlt_deploy.runtimes import open_runtime

    with pytest.raises(EnvironmentLackError, match="onnxruntime on cpu does not run bf16"):
        open_runtime(classification, "onnxruntime", precision="bf16")
