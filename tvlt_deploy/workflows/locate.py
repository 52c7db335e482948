"""Find the layers with the largest errors in a graph, and the quantized layers with the largest effect on the answer.

The reference is the fp32 graph, so that torch is not needed. Polygraphy marks the outputs of the layers in two graphs,
runs both on ONNX Runtime and compares them. Layers have the names of the weights in the graph, which
`tvlt-deploy quantize --keep` accepts.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvlt_deploy._internal.progress import Progress, counted, silent
from tvlt_deploy.bundle import Bundle, BundleLike, open_bundle
from tvlt_deploy.bundle.manifest import FUSED_FORM, ONNXRUNTIME_CPU_FORM, STANDARD_FORM, Variant
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.parity.cases import Case, Feeds, fidelity_cases
from tvlt_deploy.parity.metrics import Outputs, deviation
from tvlt_deploy.runtimes import DEFAULT_BACKEND, check_pair, held_precisions
from tvlt_deploy.tasks import TOLERANCES, Task

try:
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass
    from polygraphy.backend.onnx import modify_outputs
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator
    from polygraphy.logger import G_LOGGER

    from tvlt_deploy.exporters.quantization.qdq import LARGEST, insert_qdq
    from tvlt_deploy.runtimes.onnxruntime import open_graph
except ImportError as error:
    raise EnvironmentLackError(
        f"locating needs {error.name}, which is not installed", hint="pip install 'tvlt-deploy[cpu,polygraphy]'"
    ) from error

LAYERS_AT_A_TIME = 36
"""Layers compared in one pass, those of four transformer layers. The outputs of one case are in memory twice."""
_MOVES = {"Cast", "DequantizeLinear", "Expand", "Reshape", "Slice"}
"""Operators between a parameter and the node that computes with it."""
_SMOOTHED = {"norm_before": ("query", "key", "value"), "value": ("project",), "norm_after": ("expand",)}
"""In a transformer layer: what SmoothQuant divides by its factors -> what it multiplies by them, in that order."""


@dataclass(frozen=True)
class LayerError:
    """A layer and its error.

    Attributes:
        layer: name of the layer.
        error: `row_error` of its output, or its effect on the answer (`rank_layers`).
    """

    layer: str
    error: float


@dataclass(frozen=True)
class Location:
    """The errors of the layers of one graph.

    Attributes:
        precision: precision of the graph.
        form: form of the graph.
        path: path of the graph in the bundle.
        limit: the error at which the cosine of a row reaches the tolerance of the precision.
        layers: the error of each layer's output (`row_error`, the largest of all cases), in graph order.
        ranking: for int8, the effect of each quantized layer on the answer (`rank_layers`), largest first.
    """

    precision: str
    form: str
    path: str
    limit: float
    layers: tuple[LayerError, ...]
    ranking: tuple[LayerError, ...] = ()

    @property
    def first(self) -> LayerError | None:
        """The first layer in graph order whose output is out of tolerance."""
        return next((layer for layer in self.layers if not layer.error <= self.limit), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON values for `--json`; an error that is not finite becomes a string."""
        finite = lambda value: value if math.isfinite(value) else str(value)  # noqa: E731
        rows = lambda layers: [{"layer": each.layer, "error": finite(each.error)} for each in layers]  # noqa: E731
        return {
            "precision": self.precision,
            "form": self.form,
            "path": self.path,
            "first": None if self.first is None else self.first.layer,
            "limit": self.limit,
            "layers": rows(self.layers),
            "ranking": rows(self.ranking),
        }


@dataclass(frozen=True)
class Graph:
    """A graph in memory.

    Attributes:
        model: the graph.
        folder: the directory of its weights.
    """

    model: onnx_ir.Model
    folder: Path

    @classmethod
    def load(cls, bundle: Bundle, variant: Variant) -> Graph:
        """Load a graph of a bundle. Its files are hashed first. Raises `BundleError` for altered files."""
        bundle.check(variant.files)
        path = bundle.path(variant.path)
        return cls(onnx_ir.load(path), path.parent)


def locate(
    bundle: BundleLike,
    *,
    precisions: Sequence[str] | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> list[Location]:
    """Compare the graphs that ONNX Runtime runs on a CPU with the standard fp32 graph, layer by layer.

    The layers of int8 are ranked once, in the form for ONNX Runtime: all forms have the same weights and scales.

    Args:
        bundle: a bundle or its directory.
        precisions: by default all in the bundle that ONNX Runtime runs.
        threads: CPU threads, by default all cores.
        progress: called with a line of text for each case and each ranked layer.

    Returns:
        One location for each graph.

    Raises:
        UsageError: the bundle has no fp32 graph, or no other graph to compare with it.
        BundleError: a file was altered.
        EnvironmentLackError: ONNX Runtime does not run a precision on a CPU.
    """
    opened = open_bundle(bundle)
    variants = list(_variants(opened, precisions))
    if not variants:
        raise UsageError(
            f"{opened.directory} contains no graph to compare with the fp32 graph",
            hint="export it with --precision fp16, or add int8 with tvlt-deploy quantize",
        )
    cases = list(fidelity_cases(opened.task, opened.config))
    locations = []
    for variant in variants:
        name = f"{variant.precision} {variant.form}"
        graph, exact = Graph.load(opened, variant), _exact(opened, variant)
        layers: list[LayerError] = []
        ranking: list[LayerError] = []
        for names in _groups(exact, graph):
            label = f"{name}, layers {len(layers) + 1} to {len(layers) + len(names)}, case"
            feeds = (case.feeds for case in counted(cases, label, progress, lambda case: case.name))
            layers += compare_layers(exact, graph, names, feeds, threads)
        if (variant.precision, variant.form) == ("int8", ONNXRUNTIME_CPU_FORM):
            exact = _exact(opened, variant, ONNXRUNTIME_CPU_FORM)
            ranking = rank_layers(opened.task, exact, input_limits(graph), _short_cases(cases), threads, progress)
        limit = math.sqrt(2 * (1 - TOLERANCES[variant.precision].cosine))
        locations.append(Location(variant.precision, variant.form, variant.path, limit, tuple(layers), tuple(ranking)))
    return locations


def _variants(bundle: Bundle, precisions: Sequence[str] | None) -> Iterator[Variant]:
    for precision in precisions or held_precisions(bundle, DEFAULT_BACKEND):
        check_pair(DEFAULT_BACKEND, "cpu", precision)
        bundle.variant(precision)  # raises, naming what there is
        exact = bundle.variant("fp32")
        yield from (v for v in bundle.variants if v.precision == precision and v.form != FUSED_FORM and v != exact)


def _exact(bundle: Bundle, variant: Variant, form: str = STANDARD_FORM) -> Graph:
    """The fp32 graph to compare a graph with, smoothed if that one is."""
    exact = Graph.load(bundle, bundle.variant("fp32", form))
    calibration = bundle.manifest.calibration
    if variant.precision == "int8" and calibration is not None and calibration.smooth is not None:
        smooth_alike(exact.model.graph, Graph.load(bundle, variant).model.graph)
    return exact


# Layers --------------------------------------------------------------------------------------------------------------


def layer_outputs(graph: onnx_ir.Graph) -> dict[str, list[onnx_ir.Value]]:
    """Find the outputs of the layers of a graph.

    A layer is all nodes that compute with the parameters of one name, such as MatMul and the addition of its bias.

    Args:
        graph: the graph.

    Returns:
        Name of each layer -> its outputs, one for each time that it is used, both in graph order.
    """
    owner = {
        value: re.sub(r"([._](weight|bias)|_table)(_codes)?$", "", name)
        for name, value in graph.initializers.items()
        if "." in name
    }
    outputs: dict[str, list[onnx_ir.Value]] = {}
    for node in graph:
        if node.op_type in _MOVES and node.inputs[0] in owner:
            owner[node.outputs[0]] = owner[node.inputs[0]]
            continue
        layer = next((owner[value] for value in node.inputs if value in owner), None)
        if layer is None or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        values = outputs.setdefault(layer, [])
        if values and values[-1] in node.inputs:
            values.pop()
        values.append(node.outputs[0])
    return outputs


def _groups(exact: Graph, graph: Graph) -> Iterator[list[str]]:
    """The layers in both graphs, in graph order, `LAYERS_AT_A_TIME` at a time."""
    others = layer_outputs(graph.model.graph)
    names = [name for name in layer_outputs(exact.model.graph) if name in others]
    for start in range(0, len(names), LAYERS_AT_A_TIME):
        yield names[start : start + LAYERS_AT_A_TIME]


def row_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference between corresponding rows, relative to the length of the row.

    A row shorter than the root mean square of all rows counts as that long: its values are small compared with those
    of the other rows, and so is its error.

    Args:
        actual: (..., values).
        expected: values of the same shape.

    Returns:
        A number from 0; infinity where `actual` is not finite or the shapes differ.
    """
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return math.inf
    lengths = np.linalg.norm(expected, axis=-1)
    usual = max(float(np.sqrt(np.square(lengths, dtype=np.float64).mean())), float(np.finfo(np.float32).tiny))
    return float((np.linalg.norm(actual - expected, axis=-1) / np.maximum(lengths, usual)).max())


def compare_layers(
    exact: Graph, graph: Graph, names: Sequence[str], cases: Iterator[Feeds], threads: int | None = None
) -> list[LayerError]:
    """Measure the errors of some layers.

    Args:
        exact: the fp32 graph.
        graph: the graph to measure.
        names: names of the layers.
        cases: model inputs, run one at a time.
        threads: CPU threads, by default all cores.

    Returns:
        The largest `row_error` of each layer over all cases.
    """
    expected, actual = layer_outputs(exact.model.graph), layer_outputs(graph.model.graph)
    pairs = {
        name: [(e.name or "", a.name or "") for e, a in zip(expected[name], actual[name], strict=True)]
        for name in names
    }
    errors = dict.fromkeys(names, 0.0)

    def compare(expected: Outputs, actual: Outputs) -> OrderedDict[str, bool]:
        for name in names:
            worst = max(row_error(actual[a].astype(np.float32), expected[e]) for e, a in pairs[name])
            errors[name] = max(errors[name], worst)
        return OrderedDict.fromkeys(names, True)

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        runners = [
            _runner(each, [names[side] for layer in pairs.values() for names in layer], threads)
            for side, each in enumerate((exact, graph))
        ]
        Comparator.compare_accuracy(Comparator.run(runners, cases, streaming=True), compare_func=compare)
    return [LayerError(name, error) for name, error in errors.items()]


def _runner(graph: Graph, outputs: Sequence[str], threads: int | None) -> Any:
    """Runs the part of a graph that computes some of its values."""
    marked = onnx_ir.from_proto(modify_outputs(onnx_ir.to_proto(graph.model), outputs=list(outputs)))
    RemoveUnusedNodesPass()(marked)
    content = onnx_ir.to_proto(marked).SerializeToString()
    return OnnxrtRunner(lambda: open_graph(content, graph.folder, threads))


# Quantized layers ----------------------------------------------------------------------------------------------------


def input_limits(graph: Graph) -> dict[str, float]:
    """Name of each quantized layer of an int8 graph -> the input magnitude that becomes the largest code."""
    limits = {}
    for node in graph.model.graph:
        sources = [value.producer() for value in node.inputs if value is not None]
        nodes = [source for source in sources if source is not None and source.op_type == "DequantizeLinear"]
        if node.op_type == "MatMul" and len(nodes) == 2:
            (_, scale, _), (codes, _, _) = ([str(value.name) for value in each.inputs if value] for each in nodes)
            limits[codes.removesuffix(".weight_codes")] = float(_array(graph.model.graph, scale)) * LARGEST["int8"]
    return limits


def rank_layers(
    task: Task,
    exact: Graph,
    limits: Mapping[str, float],
    cases: Sequence[Feeds],
    threads: int | None = None,
    progress: Progress = silent,
) -> list[LayerError]:
    """Measure the error of the answer when only one layer is quantized, for each layer.

    The squares of these errors add up to about the square of the error of the int8 graph.

    Args:
        task: the task of the graph.
        exact: the fp32 graph in the form for ONNX Runtime.
        limits: the layers and their input ranges, as `input_limits` returns them.
        cases: model inputs.
        threads: CPU threads, by default all cores.
        progress: called with a line of text for each layer.

    Returns:
        The layers, largest error first: the root mean square of the difference in standard deviations of the output,
        the largest of several outputs.
    """

    def answers(model: onnx_ir.Model) -> list[Outputs]:
        session = open_graph(onnx_ir.to_proto(model).SerializeToString(), exact.folder, threads)
        return [dict(zip(task.output_names, session.run(task.output_names, feeds), strict=True)) for feeds in cases]

    expected = answers(exact.model)
    errors = []
    for name in counted(list(limits), "ranking int8 layers", progress):
        model = exact.model.clone()
        insert_qdq(model, {name: limits[name]}, "int8", unsigned=True)
        actual = answers(model)
        errors.append(LayerError(name, max(_answer_error(output, actual, expected) for output in task.output_names)))
    return sorted(errors, key=lambda layer: -layer.error)


def _answer_error(output: str, actual: Sequence[Outputs], expected: Sequence[Outputs]) -> float:
    squares = np.concatenate([np.square(a[output] - e[output]).ravel() for a, e in zip(actual, expected, strict=True)])
    error = float(np.sqrt(squares.mean(dtype=np.float64))) / deviation(expected, output)
    return error if math.isfinite(error) else math.inf


def _short_cases(cases: Sequence[Case]) -> list[Feeds]:
    """The cases of one clip with at most half the tokens of the largest case: each of them is run for every layer."""
    sizes = [sum(case.feeds[name].shape[1] for name in ("pixel_mask", "audio_mask")) for case in cases]
    return [
        c.feeds
        for c, size in zip(cases, sizes, strict=True)
        if len(c.feeds["pixel_mask"]) == 1 and size <= max(sizes) / 2
    ]


def smooth_alike(exact: onnx_ir.Graph, smoothed: onnx_ir.Graph) -> None:
    """Apply the SmoothQuant factors of a quantized graph to the fp32 graph, in place.

    The factors are computed from the parameters of both graphs. They are powers of two, so that the outputs of the
    graph do not change by a bit.

    Args:
        exact: the fp32 graph.
        smoothed: the graph that was quantized after SmoothQuant.
    """
    parameters = exact.initializers

    def scale(name: str, factors: np.ndarray) -> None:
        if name in parameters:
            parameters[name].const_value = onnx_ir.tensor(_array(exact, name) * factors, name=name)

    for first in [name for name in parameters if name.endswith(".norm_before.weight")]:
        layer = first.removesuffix(".norm_before.weight")
        for source, readers in _SMOOTHED.items():
            names = [f"{layer}.{source}.weight", f"{layer}.{source}.bias"]
            was, now = (_channel_peaks(graph, names) for graph in (exact, smoothed))
            known = (was > 0) & (now > 0)
            factors = np.exp2(np.rint(np.log2(np.where(known, now, 1) / np.where(known, was, 1)))).astype(np.float32)
            for name in names:
                scale(name, factors)
            for reader in readers:
                scale(f"{layer}.{reader}.weight", 1 / factors[:, None])


def _array(graph: onnx_ir.Graph, name: str) -> np.ndarray:
    """A parameter as float32; a quantized weight is dequantized."""
    if f"{name}_codes" in graph.initializers:
        codes, scale = (_array(graph, f"{name}_{part}") for part in ("codes", "scale"))
        dequantized: np.ndarray = codes * scale
        return dequantized
    value = graph.initializers[name].const_value
    assert value is not None
    array: np.ndarray = value.numpy().astype(np.float32)
    return array


def _channel_peaks(graph: onnx_ir.Graph, names: Sequence[str]) -> np.ndarray:
    """The largest magnitude in each channel (last axis) of those parameters that exist."""
    present = [name for name in names if name in graph.initializers or f"{name}_codes" in graph.initializers]
    peaks: np.ndarray = np.max([np.abs(np.atleast_2d(_array(graph, name))).max(axis=0) for name in present], axis=0)
    return peaks
