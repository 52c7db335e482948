"""Build ONNX graphs by hand: one call per operator, in named stages."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

Operand = ir.Value | np.ndarray | int | float | list[int]


class Operators:
    """A list of nodes and constants: `op.Add(a, b)` appends an Add and returns its output.

    Operands are values or constants: ints and lists of ints become int64 vectors, floats float32 scalars. Keyword
    arguments are the operator's attributes. Nodes are named after their stage: `image/width/MatMul_3`.

    Attributes:
        nodes: The nodes in order.
        constants: The constants, without duplicates.
    """

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._stages: list[str] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name the nodes that are appended inside the `with` block; stages nest."""
        self._stages.append(name)
        try:
            yield
        finally:
            self._stages.pop()

    def __getattr__(self, operator: str) -> Callable[..., ir.Value]:
        if not operator[0].isupper():
            raise AttributeError(operator)
        return lambda *operands, **attributes: self._append(operator, operands, attributes)

    def _append(self, operator: str, operands: tuple[Operand, ...], attributes: dict[str, Any]) -> ir.Value:
        name = "/".join([*self._stages, f"{operator}_{len(self.nodes)}"])
        inputs = [operand if isinstance(operand, ir.Value) else self.constant(operand) for operand in operands]
        self.nodes.append(ir.node(operator, inputs, attributes, outputs=[ir.Value(name=name)], name=name))
        return self.nodes[-1].outputs[0]

    def constant(self, value: np.ndarray | int | float | list[int]) -> ir.Value:
        """A constant; equal arrays are one constant."""
        if isinstance(value, np.ndarray):
            array = np.ascontiguousarray(value)
        elif isinstance(value, float):
            array = np.array(value, np.float32)
        else:
            array = np.array(value, np.int64).reshape(-1)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self.constants:
            name = f"preprocessing.constant_{len(self.constants)}"
            tensor = ir.tensor(array, name=name)
            self.constants[key] = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
            )
        return self.constants[key]

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """The size of one axis as an int64 vector of one element."""
        return self.Shape(value, start=axis, end=axis + 1)
