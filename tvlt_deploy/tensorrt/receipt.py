"""The receipt of a build, read from the table of layers that TensorRT prints.

With `ProfilingVerbosity.DETAILED` one VERBOSE message of the build lists every kernel of the engine with the types that
it reads and writes; an engine with several profiles lists the kernels of each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tvlt_deploy.bundle.receipts import EngineReceipt
from tvlt_deploy.errors import VerdictError

COMPUTES = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16", "int8": "Int8", "fp8": "FP8"}
"""Name of a precision's type in the table."""

_LAYER = re.compile(
    r"Name: (?P<name>[^,\n]+), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], (?:Constants|Outputs)"
)
_TYPE = re.compile(r"(?:Datatype|Format/Datatype): (\w+)")
_ATTENTION = re.compile(r"_gem[mv]_mha")
_SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")


@dataclass(frozen=True)
class Layer:
    """One kernel of an engine.

    Attributes:
        name: Its name in the table.
        kind: Its layer type.
        inputs: Types of its inputs.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]

    @property
    def is_attention(self) -> bool:
        """Whether the kernel computes scores, softmax and context."""
        return _ATTENTION.search(self.name) is not None

    @property
    def is_product(self) -> bool:
        """Whether the kernel computes a matrix product, alone or together with the operators after it."""
        return self.kind == "gemm" or "_Fc" in self.name

    @property
    def products(self) -> int:
        """Number of MatMuls of the graph that the kernel computes; MatMuls with the same input are merged."""
        return self.name.count("+") + 1


def read_layers(messages: Iterable[str]) -> list[Layer]:
    """The kernels of an engine, from the messages of its build."""
    layers = []
    for message in messages:
        if "LayerType: " in message:
            for match in _LAYER.finditer(message):
                layers.append(Layer(match["name"].strip(), match["kind"], tuple(_TYPE.findall(match["inputs"]))))
    return layers


def read_receipt(
    messages: Sequence[str], precision: str, attention_blocks: int, quantized: int, profiles: int = 1
) -> EngineReceipt:
    """The receipt of a build.

    Args:
        messages: The messages of the build.
        precision: Precision of the graph.
        attention_blocks: Number of attention blocks of the graph.
        quantized: Number of quantized MatMuls of the graph.
        profiles: Number of profiles of the engine.

    Returns:
        The entry of the manifest.

    Raises:
        VerdictError: The messages contain no table of layers.
    """
    layers = read_layers(messages)
    if not layers:
        raise VerdictError(
            "the build printed no table of layers, so its precision is not known",
            hint="this release of TensorRT is not supported: try another",
        )
    products = [layer for layer in layers if layer.is_product]
    done = sum(layer.products for layer in products if layer.inputs[:1] == (COMPUTES[precision],))
    return EngineReceipt(
        fused_attention=sum(layer.is_attention for layer in layers) // profiles,
        attention_blocks=attention_blocks,
        gemm_types=dict(sorted(Counter(layer.inputs[0] for layer in products if layer.inputs).items())),
        quantized_products=done // profiles if quantized else 0,
        quantized_expected=quantized,
        scratch_bytes=max((int(size) for text in messages for size in _SCRATCH.findall(text)), default=0),
        kernels=len(layers),
    )


def check_receipt(receipt: EngineReceipt, precision: str, allow_unfused: bool) -> None:
    """Check what an engine computes in.

    Args:
        receipt: The receipt of its build.
        precision: The expected precision.
        allow_unfused: Accept attention that is not fused into one kernel.

    Raises:
        VerdictError: The engine computes in another type, or its attention is not fused.
    """
    actual = ", ".join(f"{count} {kind}" for kind, count in receipt.gemm_types.items()) or "none"
    expected = COMPUTES[precision]
    if receipt.quantized_expected:
        if receipt.quantized_products < receipt.quantized_expected:
            raise VerdictError(
                f"{receipt.quantized_products} of {receipt.quantized_expected} quantized MatMuls compute in "
                f"{expected}; the products are {actual}",
                hint="the engine would be slower than expected: use --precision fp16",
            )
        allowed = {expected, COMPUTES["fp16"]}
    else:
        allowed = {expected}
    if not receipt.gemm_types or set(receipt.gemm_types) - allowed:
        raise VerdictError(
            f"the engine's matrix products are {actual}; expected {' and '.join(sorted(allowed))} only",
            hint="export the bundle again and build from that graph",
        )
    if receipt.fused_attention < receipt.attention_blocks and not allow_unfused:
        raise VerdictError(
            f"only {receipt.fused_attention} of {receipt.attention_blocks} attention blocks are fused; the others cost "
            f"{receipt.scratch_bytes / 1e6:.0f} MB of working memory and much time",
            hint="--allow-unfused builds it anyway",
        )
