"""What manifest.json says, as types; docs/reference/bundle.md describes each field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

MANIFEST_FILE = "manifest.json"


WEIGHTS_FILE = "model.safetensors"


SCHEMA_VERSION = 2


STANDARD_FORM = "standard"
"""Standard ONNX operators only: any engine."""


ONNXRUNTIME_CPU_FORM = "onnxruntime-cpu"
"""With ONNX Runtime's fused attention: faster there, and memory linear in the number of tokens."""


FP16_TWIN_FORM = "fp16-twin"
"""A quantized graph that computes in fp16 around its int8 or fp8 products: engines on a GPU."""


FUSED_FORM = "fused"
"""The standard form with pre-processing in front: frames and sound to answers, one clip a call, fp32 only."""


GRAPH_FILES = {
    STANDARD_FORM: "model.onnx",
    ONNXRUNTIME_CPU_FORM: "model.onnxruntime-cpu.onnx",
    FP16_TWIN_FORM: "model.fp16.onnx",
}
"""Form -> file name, in the directory of its precision."""

NOT_RUN = {"verdict": "not run"}


QUANTIZED = ("int8", "fp8")
"""The precisions that one calibration makes."""


@dataclass(frozen=True)
class Variant:
    """One graph of a bundle: its precision and form, its path and every file it is made of, relative to the bundle."""

    precision: str
    form: str
    path: str
    files: tuple[str, ...]
    opset: int
    parity: Mapping[str, Any]

    def to_dict(self, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The manifest's entry; `sha256` and `size` are those of the graph file."""
        return {
            "precision": self.precision,
            "form": self.form,
            "path": self.path,
            "files": list(self.files),
            "sha256": files[self.path]["sha256"],
            "size": files[self.path]["size"],
            "opset": self.opset,
            "parity": dict(self.parity),
        }


@dataclass(frozen=True)
class Engine:
    """A compiled engine of a bundle and what it needs to run.

    engine: `tensorrt` or `tensorrt-rtx`; version: of that library, exactly. target: the GPUs, as `sm89` or
    `sm86-sm89`, or `portable`. os: operating system and processor. source: the SHA-256 of the graph it was built from.
    profiles: ranges of sizes (`tvlt_deploy.tensorrt.profiles`). receipt: what the build says of itself.
    """

    engine: str
    version: str
    target: str
    os: str
    precision: str
    path: str
    source: str
    profiles: tuple[Mapping[str, Any], ...]
    receipt: Mapping[str, Any]
    verdict: Mapping[str, Any]

    def to_dict(self, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The manifest's entry; `sha256` and `size` are those of the engine file."""
        return {
            **{item.name: getattr(self, item.name) for item in fields(self)},
            "profiles": [dict(profile) for profile in self.profiles],
            "receipt": dict(self.receipt),
            "verdict": dict(self.verdict),
            "sha256": files[self.path]["sha256"],
            "size": files[self.path]["size"],
        }
