"""What a build says of itself: the precision receipt, read from the table of layers that TensorRT prints.

With `ProfilingVerbosity.DETAILED` one VERBOSE message of the build lists every kernel of the finished engine with the
types it reads and writes; an engine with several profiles lists the kernels of each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tvlt_deploy.bundle.receipts import EngineReceipt
from tvlt_deploy.errors import VerdictError

COMPUTES = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16", "int8": "Int8", "fp8": "FP8"}
"""Precision -> the table's name of its type."""

_LAYER = re.compile(
    r"Name: (?P<name>[^,\n]+), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], (?:Constants|Outputs)"
)
_TYPE = re.compile(r"(?:Datatype|Format/Datatype): (\w+)")
_ATTENTION = re.compile(r"_gem[mv]_mha")
_SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")


@dataclass(frozen=True)
class Layer:
    """One kernel of an engine: its name, kind and the types of its inputs."""

    name: str
    kind: str
    inputs: tuple[str, ...]

    @property
    def is_attention(self) -> bool:
        """Whether this is scores, softmax and context in one."""
        return _ATTENTION.search(self.name) is not None

    @property
    def is_product(self) -> bool:
        """Whether this multiplies activations with something, alone or with what follows."""
        return self.kind == "gemm" or "_Fc" in self.name

    @property
    def products(self) -> int:
        """How many MatMuls of the graph it does: those of one input are merged."""
        return self.name.count("+") + 1


def read_layers(messages: Iterable[str]) -> list[Layer]:
    """The kernels of an engine from the messages of its build."""
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

    attention_blocks, quantized: how many attention blocks and quantized MatMuls the graph has. profiles: of the
    engine. Raises `VerdictError` when the messages hold no table.
    """
    layers = read_layers(messages)
    if not layers:
        raise VerdictError(
            "the build printed no table of layers, so that its precision is not known",
            hint="this release of TensorRT prints something else: try another",
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
    """Raise `VerdictError` when an engine does not compute in the precision asked for or its attention is not fused."""
    found = ", ".join(f"{count} {kind}" for kind, count in receipt.gemm_types.items()) or "none"
    wanted = COMPUTES[precision]
    if receipt.quantized_expected:
        if receipt.quantized_products < receipt.quantized_expected:
            raise VerdictError(
                f"{receipt.quantized_products} of {receipt.quantized_expected} quantized MatMuls compute in {wanted}; "
                f"the products are {found}",
                hint="the engine would be slower than it says: use --precision fp16",
            )
        foreign = {wanted, COMPUTES["fp16"]}
    else:
        foreign = {wanted}
    if not receipt.gemm_types or set(receipt.gemm_types) - foreign:
        raise VerdictError(
            f"the engine's matrix products are {found}; wanted {' and '.join(sorted(foreign))} only",
            hint="export the bundle again and build from that graph",
        )
    if receipt.fused_attention < receipt.attention_blocks and not allow_unfused:
        raise VerdictError(
            f"only {receipt.fused_attention} of {receipt.attention_blocks} attention blocks are fused; the others cost "
            f"{receipt.scratch_bytes / 1e6:.0f} MB of working memory and much time",
            hint="--allow-unfused builds it all the same",
        )
