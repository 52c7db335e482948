"""Quantize and dequantize pairs in front of the weight MatMuls of an exported graph, and nowhere else.

Attention, sums, norms, biases and outputs stay as they are, so that engines still fuse attention and no error builds
up along the residual stream. Steps are symmetric about zero everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir

CODES: Mapping[str, np.dtype] = {"int8": np.dtype(np.int8), "fp8": np.dtype(ml_dtypes.float8_e4m3fn)}
LARGEST = {"int8": 127.0, "fp8": 448.0}
"""The largest code in use, by precision: int8 leaves out -128, fp8 is E4M3."""
SMALLEST_STEP = np.float32(2**-16)
"""fp16 holds this step and every larger one to a few tenths of a percent."""


def step_of(limit: np.ndarray | float, precision: str) -> np.ndarray:
    """The float32 step that takes the absolute value `limit` to the largest code, at least `SMALLEST_STEP`."""
    step: np.ndarray = np.maximum(np.asarray(limit, np.float32) / np.float32(LARGEST[precision]), SMALLEST_STEP)
    return step


def quantize_weight(weight: np.ndarray, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes (in, out) and float32 steps (out,), one for each output, of a float32 weight (in, out)."""
    step = step_of(np.abs(weight).max(axis=0), precision)
    codes = np.clip(weight / step, -LARGEST[precision], LARGEST[precision])
    return (np.rint(codes) if precision == "int8" else codes).astype(CODES[precision]), step


class _Writer:
    """Puts pairs into one graph: one for each tensor, however many MatMuls read it."""

    def __init__(self, graph: onnx_ir.Graph, precision: str, unsigned: bool) -> None:
        self.graph, self.precision, self.unsigned = graph, precision, unsigned
        self.replaced: dict[onnx_ir.Value, onnx_ir.Value] = {}

    def constant(self, name: str, array: np.ndarray) -> onnx_ir.Value:
        if name not in self.graph.initializers:
            tensor = onnx_ir.tensor(array, name=name)
            kind = onnx_ir.TensorType(tensor.dtype)
            self.graph.register_initializer(
                onnx_ir.Value(name=name, type=kind, shape=onnx_ir.Shape(array.shape), const_value=tensor)
            )
        return self.graph.initializers[name]

    def zero(self, shape: tuple[int, ...]) -> onnx_ir.Value:
        """The zero point of weights with steps of that shape; of activations with the shape ()."""
        if self.unsigned and not shape:
            return self.constant("zero_point_uint8", np.array(128, np.uint8))
        code = CODES[self.precision]
        return self.constant("_".join(["zero_point", code.name, *map(str, shape)]), np.zeros(shape, code))

    def insert(
        self, op: str, name: str, inputs: list[onnx_ir.Value], before: onnx_ir.Node, like: onnx_ir.Value
    ) -> onnx_ir.Value:
        """A node in front of another; for one step per channel, along axis 1."""
        kind = onnx_ir.DataType.FLOAT if op == "DequantizeLinear" else inputs[2].dtype
        assert kind is not None
        output = onnx_ir.Value(name=name, type=onnx_ir.TensorType(kind), shape=like.shape)
        axis = {"axis": 1} if inputs[1].shape else None
        self.graph.insert_before(before, onnx_ir.node(op, inputs, axis, outputs=[output], name=f"node_{name}"))
        return output

    def activation(self, value: onnx_ir.Value, name: str, limit: float, before: onnx_ir.Node) -> onnx_ir.Value:
        if value not in self.replaced:
            grid = [self.constant(f"{name}.input_step", step_of(limit, self.precision)), self.zero(())]
            codes = self.insert("QuantizeLinear", f"{value.name}_codes", [value, *grid], before, value)
            self.replaced[value] = self.insert(
                "DequantizeLinear", f"{value.name}_dequantized", [codes, *grid], before, value
            )
        return self.replaced[value]

    def weight(self, value: onnx_ir.Value, before: onnx_ir.Node) -> onnx_ir.Value:
        if value not in self.replaced:
            name, tensor = value.name or "", value.const_value
            assert tensor is not None
            codes, step = quantize_weight(tensor.numpy(), self.precision)
            inputs = [
                self.constant(f"{name}_codes", codes), self.constant(f"{name}_step", step), self.zero(step.shape)
            ]  # fmt: skip
            self.replaced[value] = self.insert("DequantizeLinear", f"{name}_dequantized", inputs, before, value)
        return self.replaced[value]


def insert_pairs(
    model: onnx_ir.Model, limits: Mapping[str, float], precision: str = "int8", unsigned: bool = False
) -> set[str]:
    """Quantize those of the linear layers named in `limits` that the graph has, in place, and return their names.

    limits: name of a layer, such as `encoder.layers.0.expand`, -> the absolute value of its input that becomes the
    largest code. Layers that read one tensor share its pair, so their limits must be equal. precision: int8 or fp8.
    unsigned: activations become uint8 with 128 for zero, the same grid: what ONNX Runtime's kernels on x86 multiply
    with int8 weights. TensorRT wants int8 with 0 for zero. A weight becomes codes and one step for each output.
    """
    graph = model.graph
    writer = _Writer(graph, precision, unsigned)
    found = set()
    for node in list(graph):
        if node.op_type != "MatMul" or node.inputs[1] is None or not node.inputs[1].is_initializer():
            continue
        tensor, weight = node.inputs
        assert tensor is not None
        assert weight is not None
        name = (weight.name or "").removesuffix(".weight")
        if name in limits:
            found.add(name)
            node.replace_input_with(0, writer.activation(tensor, name, limits[name], node))
            node.replace_input_with(1, writer.weight(weight, node))
            if not weight.uses():
                del graph.initializers[weight.name or ""]
    return found
