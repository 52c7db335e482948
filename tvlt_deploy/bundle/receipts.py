"""What export, calibration and engine builds report: entries of the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvlt_deploy._internal.typed_json import Count, Sha256


@dataclass(frozen=True)
class ExportReceipts:
    """What the export reports.

    Attributes:
        skipped_keys: Weights of other heads that the checkpoint has and the bundle does not.
        versions: Versions of python, torch and onnx.
    """

    skipped_keys: tuple[str, ...]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class ClipShape:
    """How many distinct calibration clips have a shape.

    Attributes:
        frames: Frames of a clip.
        rows: Spectrogram rows of a clip.
        clips: Number of clips.
    """

    frames: Count
    rows: Count
    clips: Count


@dataclass(frozen=True)
class Evaluation:
    """The clips set aside for measuring accuracy.

    Attributes:
        distinct: Number of distinct clips.
        shared: How many of them were calibrated on.
        disjoint: Whether none was.
    """

    distinct: Count
    shared: Count
    disjoint: bool


@dataclass(frozen=True)
class ValueRange:
    """The observed range of a tensor.

    Attributes:
        largest: Largest absolute value.
        limit: Absolute value at which int8 clips it.
    """

    largest: float
    limit: float


@dataclass(frozen=True)
class Calibration:
    """The receipt of a calibration.

    Attributes:
        precisions: Precisions that were added: `int8`, `fp8`.
        clips: Number of clips that were read, repeated ones included.
        distinct: Number of distinct clips.
        sha256: SHA-256 of the values of each distinct clip, in order.
        shapes: Number of distinct clips by shape.
        unreadable: Why a clip could not be read, by its name.
        evaluation: The clips set aside; None without any.
        method: `minmax`, `percentile`, `entropy` or `mse`.
        percentile: The percentile of that method, else None.
        smooth: Alpha of SmoothQuant; None without it.
        kept: Linear layers that were not quantized.
        ranges: Observed range by tensor.
    """

    precisions: tuple[str, ...]
    clips: Count
    distinct: Count
    sha256: tuple[Sha256, ...]
    shapes: tuple[ClipShape, ...]
    unreadable: Mapping[str, str]
    evaluation: Evaluation | None
    method: str
    percentile: float | None
    smooth: float | None
    kept: tuple[str, ...]
    ranges: Mapping[str, ValueRange]


@dataclass(frozen=True)
class EngineReceipt:
    """What the build of an engine reports.

    Attributes:
        fused_attention: Attention blocks that are one kernel; the mean of the profiles, rounded down.
        attention_blocks: Attention blocks of the graph.
        gemm_types: Number of matrix products by the type they read, over all profiles.
        quantized_products: MatMuls computed in int8 or fp8; the mean of the profiles, rounded down.
        quantized_expected: Quantized MatMuls of the graph.
        scratch_bytes: Working memory for the largest shapes, in bytes.
        kernels: Number of kernels, over all profiles.
    """

    fused_attention: Count
    attention_blocks: Count
    gemm_types: Mapping[str, Count]
    quantized_products: Count
    quantized_expected: Count
    scratch_bytes: Count
    kernels: Count
