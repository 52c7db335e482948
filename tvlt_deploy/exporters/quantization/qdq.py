"""QDQ (QuantizeLinear and DequantizeLinear) in front of the weight MatMuls of an exported graph, and nowhere else.

Attention, sums, norms, biases and outputs are not quantized, so that engines still fuse attention and no error builds
up along the residual stream. Quantization is symmetric about zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir

CODES: Mapping[str, np.dtype] = {"int8": np.dtype(np.int8), "fp8": np.dtype(ml_dtypes.float8_e4m3fn)}
LARGEST = {"int8": 127.0, "fp8": 448.0}
"""The largest code in use, by precision: int8 does not use -128, fp8 is E4M3."""
MIN_SCALE = np.float32(2**-16)
"""fp16 represents this scale and every larger one to a few tenths of a percent."""


def scale_of(limit: np.ndarray | float, precision: str) -> np.ndarray:
    """The float32 scale with which the absolute value `limit` becomes the largest code, at least `MIN_SCALE`."""
    scale: np.ndarray = np.maximum(np.asarray(limit, np.float32) / np.float32(LARGEST[precision]), MIN_SCALE)
    return scale


def quantize_weight(weight: np.ndarray, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a weight with one scale per output.

    Args:
        weight: (in, out) float32.
        precision: `int8` or `fp8`.

    Returns:
        The codes (in, out), and the scales (out,) float32.
    """
    scale = scale_of(np.abs(weight).max(axis=0), precision)
    codes = np.clip(weight / scale, -LARGEST[precision], LARGEST[precision])
    return (np.rint(codes) if precision == "int8" else codes).astype(CODES[precision]), scale


class _Writer:
    """Inserts QDQ into one graph, once for each tensor, however many MatMuls read it."""

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
        """The zero point for scales of that shape; activations have the shape ()."""
        if self.unsigned and not shape:
            return self.constant("zero_point_uint8", np.array(128, np.uint8))
        code = CODES[self.precision]
        return self.constant("_".join(["zero_point", code.name, *map(str, shape)]), np.zeros(shape, code))

    def insert(
        self, op: str, name: str, inputs: list[onnx_ir.Value], before: onnx_ir.Node, like: onnx_ir.Value
    ) -> onnx_ir.Value:
        """Insert a node in front of another; several scales are along axis 1."""
        kind = onnx_ir.DataType.FLOAT if op == "DequantizeLinear" else inputs[2].dtype
        assert kind is not None
        output = onnx_ir.Value(name=name, type=onnx_ir.TensorType(kind), shape=like.shape)
        axis = {"axis": 1} if inputs[1].shape else None
        self.graph.insert_before(before, onnx_ir.node(op, inputs, axis, outputs=[output], name=f"node_{name}"))
        return output

    def activation(self, value: onnx_ir.Value, name: str, limit: float, before: onnx_ir.Node) -> onnx_ir.Value:
        if value not in self.replaced:
            parameters = [self.constant(f"{name}.input_scale", scale_of(limit, self.precision)), self.zero(())]
            codes = self.insert("QuantizeLinear", f"{value.name}_codes", [value, *parameters], before, value)
            self.replaced[value] = self.insert(
                "DequantizeLinear", f"{value.name}_dequantized", [codes, *parameters], before, value
            )
        return self.replaced[value]

    def weight(self, value: onnx_ir.Value, before: onnx_ir.Node) -> onnx_ir.Value:
        if value not in self.replaced:
            name, tensor = value.name or "", value.const_value
            assert tensor is not None
            codes, scale = quantize_weight(tensor.numpy(), self.precision)
            inputs = [
                self.constant(f"{name}_codes", codes), self.constant(f"{name}_scale", scale), self.zero(scale.shape)
            ]  # fmt: skip
            self.replaced[value] = self.insert("DequantizeLinear", f"{name}_dequantized", inputs, before, value)
        return self.replaced[value]


def insert_qdq(
    model: onnx_ir.Model, limits: Mapping[str, float], precision: str = "int8", unsigned: bool = False
) -> set[str]:
    """Insert QDQ for linear layers of a graph, in place.

    Args:
        model: An fp32 graph.
        limits: Name of a layer, such as `encoder.layers.0.expand`, -> the absolute value of its input that becomes
            the largest code. Layers with the same input share its QDQ, so their limits must be equal.
        precision: `int8` or `fp8`.
        unsigned: Quantize activations to uint8 with zero point 128, which ONNX Runtime's x86 kernels multiply with
            int8 weights. The values are the same. TensorRT needs int8 with zero point 0.

    Returns:
        The names of the layers that the graph has.
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
