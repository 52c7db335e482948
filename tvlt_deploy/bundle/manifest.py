"""The content of manifest.json as typed values, which manifest.schema.json and docs/reference/bundle.md describe."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Self

from tvlt_deploy._internal.typed_json import (
    NOT_JSON,
    Count,
    FieldError,
    Sha256,
    Size,
    decode,
    encode,
    fields_of,
    one_of,
)
from tvlt_deploy.bundle.receipts import Calibration, EngineReceipt, ExportReceipts
from tvlt_deploy.errors import BundleError
from tvlt_deploy.tasks import TASKS, TensorSpec

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "model.safetensors"
SCHEMA_VERSION = 2

STANDARD_FORM = "standard"
"""Standard ONNX operators only, for any engine."""

ONNXRUNTIME_CPU_FORM = "onnxruntime-cpu"
"""With ONNX Runtime's MultiHeadAttention operator: faster there, and its memory grows linearly with the tokens."""

FP16_TWIN_FORM = "fp16-twin"
"""A quantized graph that computes in fp16 around its int8 or fp8 products, for engines on a GPU."""

FUSED_FORM = "fused"
"""The standard form with pre-processing in front: frames and sound to outputs, one clip per call, fp32 only."""

GRAPH_FILES = {
    STANDARD_FORM: "model.onnx",
    ONNXRUNTIME_CPU_FORM: "model.onnxruntime-cpu.onnx",
    FP16_TWIN_FORM: "model.fp16.onnx",
    FUSED_FORM: "model.onnx",
}
"""File name of a form, in the directory of its precision; the fused form has the directory `fused`."""

QUANTIZED = ("int8", "fp8")
"""The precisions that a calibration adds."""

Range = tuple[Size, Size, Size]
"""(min, optimal, max) of an input size."""


@dataclass(frozen=True)
class FileEntry:
    """What a file of the bundle must be.

    Attributes:
        sha256: SHA-256 of its bytes, lower-case hexadecimal.
        size: Bytes.
    """

    sha256: Sha256
    size: Count


@dataclass(frozen=True)
class StoredCheck:
    """One measured number of a verdict.

    Attributes:
        check: What was measured.
        output: The output it was measured on.
        value: The number; may be infinite or NaN.
        limit: The limit that it has to keep.
        at_least: Whether `limit` is a lower bound; otherwise it is an upper bound.
        passed: Whether `value` keeps `limit`.
    """

    check: str
    output: str
    value: float
    limit: float
    at_least: bool
    passed: bool


@dataclass(frozen=True)
class StoredVerdict:
    """The result of the last verification of a graph or an engine.

    Attributes:
        verdict: `pass`, `fail` or `not run`.
        backend: The backend that ran; None if none did.
        device: Its device.
        precision: Its precision.
        form: The form of the graph; None for an engine.
        rows: The measured numbers.
        reason: Why it was not run.
    """

    verdict: Annotated[str, one_of("pass", "fail", "not run")]
    backend: str | None = None
    device: str | None = None
    precision: str | None = None
    form: str | None = None
    rows: tuple[StoredCheck, ...] = ()
    reason: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The verdict that `tvlt_deploy.parity.report.Verdict.to_dict` returned."""
        verdict: Self = decode(cls, json.loads(json.dumps(values)))
        return verdict

    def to_dict(self) -> dict[str, Any]:
        """The JSON object; one that was not run has no backend and no rows."""
        values: dict[str, Any] = encode(self)
        if self.backend is None:
            del values["rows"]
            return values
        rows = values.pop("rows")
        return {**values, "form": self.form, "rows": rows}


NOT_RUN = StoredVerdict("not run")

_OF_FILE: Mapping[str, Any] = {"sha256": Sha256, "size": Count}
"""Fields of an entry that repeat those of its file in `files`."""


@dataclass(frozen=True)
class Variant:
    """One graph of the bundle.

    Attributes:
        precision: `fp32`, `fp16`, `bf16`, `int8` or `fp8`.
        form: `standard`, `onnxruntime-cpu`, `fp16-twin` or `fused`.
        path: The graph file, relative to the bundle.
        files: Every file that the graph consists of: itself and its data file.
        opset: Version of the standard ONNX operators.
        parity: The last verdict.
    """

    WRITTEN_ONLY: ClassVar = _OF_FILE

    precision: str
    form: str
    path: str
    files: tuple[str, ...]
    opset: Size
    parity: StoredVerdict

    def to_dict(self, files: Mapping[str, FileEntry]) -> dict[str, Any]:
        """The JSON object, with `sha256` and `size` of the graph file.

        Args:
            files: The entries of the manifest's files by path.
        """
        values = encode(self)
        return {
            **{name: values[name] for name in ("precision", "form", "path", "files")},
            **encode(files[self.path]),
            "opset": self.opset,
            "parity": self.parity.to_dict(),
        }


@dataclass(frozen=True)
class EngineProfile:
    """Input sizes that an engine accepts, each (min, optimal, max).

    Attributes:
        batch: Clips of a batch.
        frames: Frames of a clip.
        rows: Spectrogram rows of a clip.
    """

    batch: Range
    frames: Range
    rows: Range


@dataclass(frozen=True)
class Engine:
    """One compiled engine of the bundle, and what it needs to run.

    Attributes:
        engine: `tensorrt` or `tensorrt-rtx`.
        version: The exact version of that library.
        target: The GPUs, as `sm89` or `sm86-sm89`, or `portable`.
        os: Operating system and processor, as `linux-x86_64`.
        precision: Precision of the graph it was built from.
        path: The engine file, relative to the bundle.
        source: SHA-256 of the graph it was built from.
        profiles: Accepted input sizes.
        receipt: What the build reports.
        verdict: The last verdict.
    """

    WRITTEN_ONLY: ClassVar = _OF_FILE

    engine: str
    version: str
    target: str
    os: str
    precision: str
    path: str
    source: Sha256
    profiles: tuple[EngineProfile, ...]
    receipt: EngineReceipt
    verdict: StoredVerdict

    def to_dict(self, files: Mapping[str, FileEntry]) -> dict[str, Any]:
        """The JSON object, with `sha256` and `size` of the engine file.

        Args:
            files: The entries of the manifest's files by path.
        """
        return {**encode(self), "verdict": self.verdict.to_dict(), **encode(files[self.path])}


@dataclass(frozen=True)
class Origin:
    """Which file of the original TVLT code the weights are from.

    Attributes:
        kind: Kind of the file.
        head: The head that was taken; None for tasks without one.
    """

    kind: str
    head: str | None


@dataclass(frozen=True)
class Limits:
    """Limits of the inputs, for readers without the configuration. Those of pre-processing are None without it.

    Attributes:
        max_frames: Frames of a clip.
        image_height: Pixels of a frame of the model.
        image_width: Pixels of a frame of the model.
        patches_per_frame: Patches of a frame.
        max_rows: Rows of the spectrogram, in whole patches.
        patch_rows: Rows of one patch.
        patches_per_step: Patches of `patch_rows` rows.
        sampling_rate: Sampling rate of the sound in Hz.
        min_samples: Samples of the shortest sound that is accepted.
        max_samples: Samples of the longest sound that is not cut.
        shortest_edge: Pixels to which the shorter side of a frame is resized; None where the ratio is not kept.
        max_resized_pixels: Pixels of a resized frame; None where frames have no such limit.
        max_amplitude: Absolute value of a sample; larger ones are integers that were not scaled.
    """

    max_frames: Size
    image_height: Size
    image_width: Size
    patches_per_frame: Size
    max_rows: Size
    patch_rows: Size
    patches_per_step: Size
    sampling_rate: Size | None
    min_samples: Size | None
    max_samples: Size | None
    shortest_edge: Size | None
    max_resized_pixels: Size | None
    max_amplitude: Size | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest. It never changes: `tvlt_deploy.bundle.changes` makes new ones from it.

    Attributes:
        schema_version: Version of this layout, 2.
        created_by: The release that wrote the bundle.
        lineage: `huggingface` or `original`.
        original: Where the weights are from, for `original`.
        task: Name of the task.
        activation: What turns logits into scores: `none`, `sigmoid`, `softmax`; None for tasks without labels.
        labels: Names of the labels in the order of the scores; None for tasks without labels.
        sign_labels: Names of a negative and a non-negative value of a regression with one output, else None.
        limits: Limits of the inputs.
        inputs: Type and shape by name, in graph order.
        outputs: Type and shape by name, in graph order.
        variants: The graphs.
        engines: The compiled engines.
        files: Every file of the bundle except the manifest, by path.
        receipts: What the export reports.
        calibration: The receipt of the last calibration; None without one.
        extras: Other top-level fields, as a later release may write them; kept when the manifest is rewritten.
    """

    schema_version: int = SCHEMA_VERSION
    created_by: str
    lineage: Annotated[str, one_of("huggingface", "original")]
    original: Origin | None
    task: Annotated[str, one_of(*TASKS)]
    activation: Annotated[str, one_of("none", "sigmoid", "softmax")] | None
    labels: tuple[str, ...] | None
    sign_labels: tuple[str, str] | None
    limits: Limits
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    variants: tuple[Variant, ...]
    engines: tuple[Engine, ...]
    files: Mapping[str, FileEntry]
    receipts: ExportReceipts
    calibration: Calibration | None = None
    extras: Mapping[str, Any] = field(default_factory=dict, compare=False, metadata=NOT_JSON)

    @classmethod
    def from_json(cls, content: bytes, name: str) -> Self:
        """Parse and check a manifest. Top-level fields that this release does not know are kept in `extras`.

        Args:
            content: The bytes of the file.
            name: What errors call the file.

        Returns:
            The manifest.

        Raises:
            BundleError: The content is not JSON, has another schema version, a field is missing or has the wrong type,
                or a path leaves the bundle or has no hash.
        """
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{name} is not JSON: {error}", hint="export the bundle again") from error
        version = values.get("schema_version") if isinstance(values, dict) else None
        if type(version) is not int or version != SCHEMA_VERSION:
            raise BundleError(
                f"{name} has schema_version {version!r}; expected {SCHEMA_VERSION}",
                hint="upgrade a bundle that has weights with `tvlt-deploy export OLD NEW`"
                if version == 1
                else "use the release that wrote it, or export the bundle again",
            )
        try:
            manifest: Self = replace(
                decode(cls, values),
                extras={key: item for key, item in values.items() if key not in fields_of(Manifest)},
            )
        except (FieldError, RecursionError) as error:
            raise BundleError(f"{name}: {error}", hint="export the bundle again") from error
        manifest._check_paths(name)
        return manifest

    def to_dict(self) -> dict[str, Any]:
        """The JSON object; `from_json` of its text is the same manifest."""
        values: dict[str, Any] = encode(self)
        values["variants"] = [variant.to_dict(self.files) for variant in self.variants]
        values["engines"] = [engine.to_dict(self.files) for engine in self.engines]
        return {**values, **self.extras}

    def _check_paths(self, name: str) -> None:
        for path in self._paths():
            parts = PurePosixPath(path)
            if not parts.parts or parts.is_absolute() or ".." in parts.parts or "\\" in path:
                raise BundleError(f"{name} names {path!r}, which is outside the bundle", hint="do not use this bundle")
            if path not in self.files:
                raise BundleError(f"{name} uses {path!r} but lists no hash for it", hint="export the bundle again")

    def _paths(self) -> Iterator[str]:
        yield from self.files
        for variant in self.variants:
            yield from (variant.path, *variant.files)
        for engine in self.engines:
            yield engine.path
