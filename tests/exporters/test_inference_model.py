"""What the exported files are: names, axes, operators, constants, weights beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from tests import truth
from tests.conftest import FORMS
from tvlt_deploy import export
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.errors import UsageError
from tvlt_deploy.exporters.onnx import DEFAULT_OPSET, OPSETS, save_graphs
from tvlt_deploy.runtimes import open_runtime
from tvlt_deploy.tasks import TASKS

HALF_RANGE = 65504
AXES = {
    "pixel_values": ["batch", "frames", 3, 32, 32],
    "audio_values": ["batch", 1, "rows", 32],
    "pixel_mask": ["batch", "pixel_patches"],
    "audio_mask": ["batch", "audio_patches"],
    "pixel_noise": ["batch", "pixel_patches"],
    "audio_noise": ["batch", "audio_patches"],
    "logits": ["batch", 2],
    "matching_logits": ["batch", 1],
    "last_hidden_state": ["batch", "tokens", 64],
    "last_pixel_hidden_state": ["batch", "pixel_patches", 64],
    "last_audio_hidden_state": ["batch", "audio_patches", 64],
    "pixel_logits": ["batch", "pixel_patches", 768],
    "audio_logits": ["batch", "audio_patches", 256],
    "pixel_label_mask": ["batch", "pixel_patches"],
    "audio_label_mask": ["batch", "audio_patches"],
}
INPUTS = ["pixel_values", "audio_values", "pixel_mask", "audio_mask"]
NOISE = ["pixel_noise", "audio_noise"]


def all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    nodes = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                nodes += all_nodes(inner)
    return nodes


def constants(model: onnx.ModelProto) -> list[np.ndarray]:
    tensors = list(model.graph.initializer)
    for node in all_nodes(model.graph):
        tensors += [attribute.t for attribute in node.attribute if attribute.type == onnx.AttributeProto.TENSOR]
    arrays = [numpy_helper.to_array(tensor) for tensor in tensors]
    for node in all_nodes(model.graph):
        arrays += [np.array(a.f) for a in node.attribute if a.type == onnx.AttributeProto.FLOAT]
        arrays += [np.array(a.floats) for a in node.attribute if a.type == onnx.AttributeProto.FLOATS]
    return [array for array in arrays if array.dtype.kind == "f"]


@pytest.fixture(scope="module", params=[(task, form) for task in TASKS for form in FORMS], ids="-".join)
def graph(request: pytest.FixtureRequest, bundle_of: Callable[..., Bundle]) -> tuple[str, str, Path, onnx.ModelProto]:
    task, form = request.param
    bundle = bundle_of(task)
    path = bundle.path(bundle.variant("fp32", form).path)
    return task, form, path, onnx.load(path)


def test_inputs_and_outputs_have_the_promised_names_types_and_axes(graph: tuple[Any, ...]) -> None:
    task, _, _, model = graph
    described = lambda values: {  # noqa: E731
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in values
    }
    found_inputs, found_outputs = described(model.graph.input), described(model.graph.output)
    assert list(found_inputs) == (INPUTS + NOISE if task == "masked-reconstruction" else INPUTS)
    assert list(found_outputs) == list(TASKS[task].output_names)
    for name, axes in {**found_inputs, **found_outputs}.items():
        assert axes == AXES[name], name
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_the_file_says_what_it_is(graph: tuple[Any, ...], bundle_of: Callable[..., Bundle]) -> None:
    task, form, path, model = graph
    assert model.ir_version == 10
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == DEFAULT_OPSET == 20
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["tvlt.task"] == task
    assert properties["tvlt.precision"] == "fp32"
    assert json.loads(properties["tvlt.config"]) == bundle_of(task).config.to_dict()
    assert model.producer_name == "tvlt-deploy"
    onnx.checker.check_model(path, full_check=form == "standard")


def test_nothing_tells_where_it_was_made(graph: tuple[Any, ...]) -> None:
    _, _, path, _ = graph
    content = path.read_bytes()
    for trace in (b".py", b"site-packages", b"/work", b"/tmp", b"/home"):
        assert trace not in content, trace


def test_operators_are_standard_and_none_is_random(graph: tuple[Any, ...]) -> None:
    task, form, _, model = graph
    operators = {(node.domain, node.op_type) for node in all_nodes(model.graph)}
    names = {name for _, name in operators}
    assert not names & {"Attention", "RandomUniform", "RandomUniformLike", "RandomNormal", "RandomNormalLike", "Conv"}
    assert names >= {"MatMul", "Softmax", "Where"} or form == "onnxruntime-cpu"
    assert not model.functions
    if form == "standard":
        assert {domain for domain, _ in operators} <= {"", "ai.onnx"}
        assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
    else:
        assert {name for domain, name in operators if domain == "com.microsoft"} == {"MultiHeadAttention"}
    assert ("TopK" in names) == (task == "masked-reconstruction")


def test_every_constant_fits_half_precision(graph: tuple[Any, ...]) -> None:
    _, _, _, model = graph
    largest = max(float(np.abs(array).max(initial=0)) for array in constants(model))
    assert 1e4 <= largest < HALF_RANGE  # -1e4 stands in for the scores of masked keys


def test_embeddings_are_one_table_per_modality(graph: tuple[Any, ...]) -> None:
    _, _, _, model = graph
    shapes = [tuple(tensor.dims) for tensor in model.graph.initializer]
    # frames x patches, and steps x bands, of the encoder; the parts they were made of are gone
    assert shapes.count((1, 4, 4, 64)) == 1
    assert shapes.count((1, 7, 2, 64)) == 1
    assert not {(1, 4, 64), (1, 7, 64), (1, 2, 64)} & set(shapes)
    assert shapes.count((1, 1, 64)) == 1  # the class token; no type embeddings


def test_weights_stand_beside_the_graph(graph: tuple[Any, ...]) -> None:
    _, _, path, _ = graph
    bare = onnx.load(path, load_external_data=False)
    outside = [tensor for tensor in bare.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    places = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
    assert places == {"model.onnx.data"}
    inside = sum(len(tensor.raw_data) for tensor in bare.graph.initializer if tensor not in outside)
    assert inside < 10_000
    weights = (path.parent / "model.onnx.data").stat().st_size
    assert weights > 10 * inside
    # what is inside does not grow with the model: nothing of 1 KiB or more is there
    assert all(len(tensor.raw_data) < 1024 for tensor in bare.graph.initializer if tensor not in outside)


@pytest.mark.parametrize("task", TASKS)
def test_both_forms_use_the_same_weights(task: str, bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of(task)
    assert sorted(path.name for path in (bundle.directory / "fp32").iterdir()) == [
        "model.onnx",
        "model.onnx.data",
        "model.onnxruntime-cpu.onnx",
    ]
    tensors = []
    for form in FORMS:
        model = onnx.load(bundle.path(bundle.variant("fp32", form).path), load_external_data=False)
        places = {}
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                places[tensor.name] = (entries["location"], entries["offset"], entries["length"], tuple(tensor.dims))
        tensors.append(places)
    assert tensors[0] == tensors[1]
    stored = sum(int(length) for _, _, length, _ in tensors[0].values())
    assert (bundle.directory / "fp32/model.onnx.data").stat().st_size < stored + 4096 * len(tensors[0])


def test_a_constant_of_the_second_form_alone_is_kept(features: Bundle, tmp_path: Path) -> None:
    # tensors are shared when they are equal, not when they have one name
    import onnx_ir

    graphs = {name: onnx_ir.load(features.path("fp32/model.onnx")) for name in ("first.onnx", "second.onnx")}
    initializers = graphs["second.onnx"].graph.initializers
    name = next(key for key, value in initializers.items() if tuple(value.shape) == (64, 64))
    changed = np.full((64, 64), 0.5, np.float32)
    initializers[name].const_value = onnx_ir.tensor(changed, name=name)
    save_graphs(graphs, tmp_path, {})
    arrays = {
        file: numpy_helper.to_array(next(t for t in onnx.load(tmp_path / file).graph.initializer if t.name == name))
        for file in graphs
    }
    np.testing.assert_array_equal(arrays["second.onnx"], changed)
    assert np.abs(arrays["first.onnx"] - changed).max() > 0.1


def shapes_of(bundle: Bundle, operator: str) -> list[tuple[int, ...]]:
    """Output shapes of every node of one operator type for 2 clips of 3 frames and 5 steps: 23 tokens."""
    model = onnx.load(bundle.path("fp32/model.onnx"))
    names = [node.output[0] for node in all_nodes(model.graph) if node.op_type == operator]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [array.shape for array in session.run(names, truth.feeds(bundle.config, 2, 3, 5))]


@pytest.mark.parametrize("task", ["audio-visual-classification", "audio-visual-matching"])
def test_the_last_layer_computes_one_token_where_one_is_read(task: str, bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of(task)
    assert shapes_of(bundle, "Softmax") == [(2, 4, 23, 23), (2, 4, 1, 23)]
    products = [shape for shape in shapes_of(bundle, "MatMul") if len(shape) == 3]
    # query, output projection and the two halves of the MLP
    assert sorted(shape for shape in products if shape[1] == 1) == [(2, 1, 64)] * 4
    # of the first layer all six, of the last only keys and values
    assert len([shape for shape in products if shape[1] == 23]) == 8


def test_all_tokens_are_computed_where_all_are_read(features: Bundle) -> None:
    assert shapes_of(features, "Softmax") == [(2, 4, 23, 23)] * 2


@pytest.mark.parametrize("form", FORMS)
def test_a_moved_bundle_loads(form: str, matching: Bundle, tmp_path: Path) -> None:
    shutil.copytree(matching.directory, tmp_path / "there")
    (tmp_path / "there").rename(tmp_path / "elsewhere")
    values = truth.feeds(matching.config, 2, 2, 3)
    with (
        open_runtime(matching, "onnxruntime", form=form) as here,
        open_runtime(Bundle(tmp_path / "elsewhere"), "onnxruntime", form=form) as moved,
    ):
        np.testing.assert_array_equal(here.run(values)["matching_logits"], moved.run(values)["matching_logits"])


# Opsets --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("task", ["audio-visual-classification", "masked-reconstruction"])
@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_exports_and_answers(
    opset: int, task: str, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(TASKS[task].architecture)
    bundle = export(checkpoint, tmp_path / "bundle", task=task, opset=opset, verify=False)
    values = truth.feeds(bundle.config, 2, 3, 5, "padded both")
    if TASKS[task].needs_noise:
        values = truth.with_noise(bundle.config, values)
    for variant in bundle.variants:
        model = onnx.load(bundle.path(variant.path))
        assert variant.opset == {entry.domain: entry.version for entry in model.opset_import}[""] == opset
        assert model.ir_version == 10
        with open_runtime(bundle, "onnxruntime", form=variant.form) as runtime:
            truth.assert_close(runtime.run(values), truth.hf_answers(task, checkpoint, values))


@pytest.mark.parametrize("opset", [17, 24, 0, -1])
def test_other_opsets_are_refused(opset: int, checkpoint_of: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = checkpoint_of("TvltForAudioVisualClassification")
    with pytest.raises(UsageError, match=rf"opset is {opset}; expected 18 to 23 \(default 20\)"):
        export(checkpoint, tmp_path / "bundle", opset=opset)
    assert not list(tmp_path.iterdir())
