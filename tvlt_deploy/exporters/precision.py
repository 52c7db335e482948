"""Half-precision graphs from the fp32 graph, with explicit types: engines compute in the types of the graph.

Everything that depends on frames or sound becomes fp16 or bf16. What depends on masks and noise only stays fp32, as do
graph inputs and outputs; shape arithmetic is unchanged. The statistics of a LayerNormalization stay fp32 inside the
operator (`stash_type`).

The default opset 20 defines every operator of the exported graphs for both types (patch embedding is a MatMul; a Conv
in bf16 would need opset 22). Half-precision scales of QuantizeLinear and DequantizeLinear need opset 19.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from tvlt_deploy.errors import UsageError, VerdictError

HALF_TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
LARGEST_FP16 = 65504.0
RANGE_LIMIT = LARGEST_FP16 / 2
"""The largest activation that is accepted in an fp16 graph over the cases it is measured on."""

_MIN_QDQ_OPSET = 19
_SCALE_ERROR = 2**-8
_LAYOUT = {
    "Concat", "Expand", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators that move or copy values without changing them."""


def to_half(graph: ir.Model, precision: str) -> ir.Model:
    """Convert an fp32 graph in the standard form, with or without int8 or fp8 QDQ, to half precision.

    Args:
        graph: The graph; it is not changed.
        precision: `fp16` or `bf16`.

    Returns:
        A copy that computes in the precision. Inputs and outputs keep their names, shapes and float32.

    Raises:
        UsageError: The precision is another one, an operator does not have the type in the graph's opset
            (non-standard operators do not), or the graph has QDQ and an opset below 19.
        VerdictError: A constant exceeds the range of fp16, or a quantization scale changes too much.
    """
    if precision not in HALF_TYPES:
        raise UsageError(f"precision is {precision!r}; expected one of {', '.join(HALF_TYPES)}")
    model = graph.clone()
    _Conversion(model.graph, HALF_TYPES[precision]).run()
    _check_operators(model, HALF_TYPES[precision])
    return model


class _Conversion:
    """One pass over the nodes in order; `exact` are the float32 values that depend on masks and noise only."""

    def __init__(self, graph: ir.Graph, half: ir.DataType) -> None:
        self.graph, self.half = graph, half
        self.exact = {value for value in graph.inputs if value.name and value.name.endswith(("_mask", "_noise"))}
        self.casts: dict[ir.Value, ir.Value] = {}
        self.constants: dict[ir.Value, ir.Value] = {}

    def run(self) -> None:
        for node in list(self.graph):
            if node.op_type == "Shape":
                continue
            computed = [x for x in node.inputs if x is not None and x.const_value is None and _is_float(x, self.half)]
            if computed and all(x in self.exact for x in computed):
                self.exact.update(x for x in node.outputs if x.dtype == ir.DataType.FLOAT)
            else:
                self._convert(node)
        self._name_constants()
        self._cast_outputs()

    def _convert(self, node: ir.Node) -> None:
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.FLOAT:
                source = self._cast(value, node) if value.const_value is None else self._constant(value, node, index)
                node.replace_input_with(index, source)
        for attribute in list(node.attributes.values()):
            if attribute.name in ("to", "dtype") and attribute.value == ir.DataType.FLOAT:
                node.attributes[attribute.name] = ir.AttrInt64(attribute.name, self.half)
            elif attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == ir.DataType.FLOAT:
                tensor = self._halved(attribute.value.numpy(), f"{attribute.name} of {node.op_type} {node.name}")
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, tensor)
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                value.type = ir.TensorType(self.half)  # a new one: a clone shares its types with the original

    def _cast(self, value: ir.Value, consumer: ir.Node) -> ir.Value:
        """The half-precision value of a float32 one, inserted before its first consumer."""
        if value not in self.casts:
            cast = _cast_node(value, self.half, f"{value.name}.{self.half.name.lower()}")
            self.graph.insert_before(consumer, cast)
            self.casts[value] = cast.outputs[0]
        return self.casts[value]

    def _constant(self, value: ir.Value, consumer: ir.Node, index: int) -> ir.Value:
        if value not in self.constants:
            assert value.const_value is not None
            array = value.const_value.numpy()
            tensor = self._halved(array, str(value.name))
            if index == 1 and consumer.op_type in ("QuantizeLinear", "DequantizeLinear"):
                _check_scale(array, tensor.numpy(), str(value.name))
            new = ir.Value(
                name=f"{value.name}.{self.half.name.lower()}",
                shape=value.shape,
                type=ir.TensorType(self.half),
                const_value=tensor,
            )
            self.graph.register_initializer(new)
            self.constants[value] = new
        return self.constants[value]

    def _halved(self, array: np.ndarray, name: str) -> ir.Tensor[np.ndarray]:
        if self.half == ir.DataType.FLOAT16:
            largest = float(np.abs(array).max(initial=0.0))
            if not largest <= LARGEST_FP16:
                raise VerdictError(
                    f"{name} has a value of magnitude {largest:.6g}; fp16 has at most {LARGEST_FP16:.0f}",
                    hint="use bf16, which has the range of fp32",
                )
        return ir.Tensor(array.astype(self.half.numpy()), name=name)

    def _name_constants(self) -> None:
        """Rename each half constant to the float32 one where nothing uses that any more."""
        for old, new in self.constants.items():
            if not old.uses():
                name = old.name
                assert name is not None
                self.graph.initializers.pop(name)
                new.name = name
                if new.const_value is not None:
                    new.const_value.name = name

    def _cast_outputs(self) -> None:
        for index, value in enumerate(self.graph.outputs):
            if value.dtype == self.half:
                name = value.name
                value.name = f"{name}.{self.half.name.lower()}"
                cast = _cast_node(value, ir.DataType.FLOAT, str(name))
                self.graph.append(cast)
                self.graph.outputs[index] = cast.outputs[0]


def _is_float(value: ir.Value, half: ir.DataType) -> bool:
    return value.dtype in (ir.DataType.FLOAT, half)


def _cast_node(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    output = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))
    return ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype)], outputs=[output], name=f"cast_{name}")


def _check_scale(exact: np.ndarray, half: np.ndarray, name: str) -> None:
    error = np.abs(half.astype(np.float64) / exact - 1).max(initial=0.0)
    if not error <= _SCALE_ERROR:
        raise VerdictError(
            f"half precision changes the quantization scale {name} by {error:.2%}; expected at most {_SCALE_ERROR:.2%}",
            hint="leave that layer in higher precision with tvlt-deploy quantize --keep",
        )


def _check_operators(model: ir.Model, half: ir.DataType) -> None:
    """Raise `UsageError` for an operator that its opset does not define for the half type."""
    half_type = f"tensor({half.name.lower()})"
    for node in model.graph.all_nodes():
        if not any(x is not None and x.dtype == half for x in (*node.inputs, *node.outputs)):
            continue
        version = model.opset_imports.get(node.domain)
        if node.domain:
            raise UsageError(f"{node.domain}.{node.op_type} has no {half_type}", hint="convert the standard form")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and version is not None:
            missing = version < _MIN_QDQ_OPSET
        else:
            schema = onnx.defs.get_schema(node.op_type, version or 1)
            missing = not any(half_type in constraint.allowed_type_strs for constraint in schema.type_constraints)
        if missing:
            raise UsageError(
                f"{node.op_type} of opset {version} has no {half_type}", hint="export with a newer --opset, such as 20"
            )


# Range ---------------------------------------------------------------------------------------------------------------


def range_probe(graph: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """A copy of a half-precision graph that measures its activations, and the names of what it measures.

    The only output of the copy is `peaks`, float32, (values,): the largest magnitude of every computed half-precision
    value, in graph order. The constant for masked scores, and copies of values already counted, are left out.
    """
    model = graph.clone()
    names: list[str] = []
    peaks: list[ir.Value] = []
    for value, label in list(_computed(model.graph)):
        nodes = _peak_nodes(value, len(names))
        model.graph.extend(nodes)
        names.append(label)
        peaks.append(nodes[-1].outputs[0])
    output = ir.Value(name="peaks", shape=ir.Shape([len(names)]), type=ir.TensorType(ir.DataType.FLOAT))
    model.graph.append(ir.Node("", "Concat", peaks, [ir.AttrInt64("axis", 0)], outputs=[output]))
    model.graph.outputs[:] = [output]
    return model, tuple(names)


def largest_activation(
    path: str | os.PathLike[str], batches: Iterable[Mapping[str, np.ndarray]], threads: int | None = None
) -> tuple[float, str]:
    """The largest magnitude in a half-precision graph over batches of inputs, measured with ONNX Runtime on the CPU.

    ONNX Runtime computes many half-precision operators in fp32 on a CPU, so a value beyond fp16 may still be finite.

    Args:
        path: The graph file.
        batches: Inputs by name, one mapping per call.
        threads: Threads of ONNX Runtime; all cores by default.

    Returns:
        The magnitude, and the name of its place in the graph. Where some values exceed fp16 it is the first of them,
        which causes those that follow.

    Raises:
        EnvironmentLackError: onnxruntime is missing.
    """
    from tvlt_deploy.runtimes.onnxruntime import open_graph

    model, names = range_probe(ir.load(path))
    session = open_graph(ir.to_proto(model).SerializeToString(), Path(path).parent, threads)
    peaks = np.zeros(len(names))
    for feeds in batches:
        peaks = np.maximum(peaks, session.run(["peaks"], dict(feeds))[0])
    peaks[~np.isfinite(peaks)] = np.inf
    beyond = peaks > LARGEST_FP16
    place = int((beyond if beyond.any() else peaks).argmax())
    return float(peaks[place]), names[place]


def _peak_nodes(value: ir.Value, index: int) -> list[ir.Node]:
    """Nodes from a value to its largest magnitude, float32 (1,), without a copy of the value."""
    new = lambda suffix: ir.Value(name=f"peak_{index}_{suffix}")  # noqa: E731
    flat = [ir.AttrInt64("keepdims", 0)]
    high = ir.Node("", "ReduceMax", [value], flat, outputs=[new("high")])
    low = ir.Node("", "ReduceMin", [value], flat, outputs=[new("low")])
    both = [
        ir.Node("", "Cast", [node.outputs[0]], [ir.AttrInt64("to", ir.DataType.FLOAT)], outputs=[new(f"{side}_fp32")])
        for side, node in (("high", high), ("low", low))
    ]
    below = ir.Node("", "Neg", [both[1].outputs[0]], outputs=[new("below")])
    largest = ir.Node("", "Max", [both[0].outputs[0], below.outputs[0]], outputs=[new("largest")])
    axes = ir.Node("", "Constant", [], [ir.AttrInt64s("value_ints", [0])], outputs=[new("axes")])
    flatten = ir.Node("", "Unsqueeze", [largest.outputs[0], axes.outputs[0]], outputs=[new("entry")])
    return [high, low, *both, below, largest, axes, flatten]


def _computed(graph: ir.Graph) -> Iterator[tuple[ir.Value, str]]:
    """The half-precision values that are results of arithmetic, each with the layer it belongs to."""
    masks: set[ir.Value] = set()
    label: dict[ir.Value, str] = {}
    for node in graph:
        if not node.outputs or node.outputs[0].dtype not in HALF_TYPES.values():
            continue
        output = node.outputs[0]
        inputs = [x for x in node.inputs if x is not None]
        weight = next((x.name for x in inputs if x.const_value is not None and x.name and "." in x.name), None)
        before = next((label[x] for x in reversed(inputs) if x in label), "the input")
        label[output] = before if weight is None else weight.removesuffix(".weight").removesuffix(".bias")
        chosen = node.op_type == "Where" and all(x.const_value is not None for x in inputs[1:])
        carried = node.op_type in ("Add", *_LAYOUT) and any(x in masks for x in inputs)
        if chosen or carried:
            masks.add(output)
        elif node.op_type not in (*_LAYOUT, "Where", "Cast", "DequantizeLinear"):
            yield output, f"{node.op_type} in {label[output]}" if weight else f"{node.op_type} after {before}"
