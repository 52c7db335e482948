"""The manifest of a new bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tvlt_deploy._internal.atomic import sha256_of, write_json
from tvlt_deploy._version import __version__
from tvlt_deploy.bundle.manifest import MANIFEST_FILE, SCHEMA_VERSION, Variant
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.processors import TvltProcessor
from tvlt_deploy.processors.serialization import PREPROCESSOR_FILE
from tvlt_deploy.tasks import Task

_MAX_RESIZED_PIXELS, _MAX_AMPLITUDE = 1 << 27, 64  # the limits of tvlt_deploy.processors


def task_labels(task: Task, config: TvltConfig) -> list[str] | None:
    """Names of a task's labels, in the order of its scores; None for tasks without labels."""
    if task.labelled:
        return list((config.id2label or {}).values())
    return ["match", "mismatch"] if task.activation(config) else None


def input_limits(directory: Path, config: TvltConfig) -> dict[str, int | None]:
    """The manifest's `limits`: of the model's inputs, and of pre-processing (None where `directory` has none)."""
    height, width = config.image_shape
    limits: dict[str, int | None] = {
        "max_frames": config.num_frames,
        "image_height": height,
        "image_width": width,
        "patches_per_frame": config.patches_per_frame,
        "max_rows": config.time_patches * config.audio_patch[0],
        "patch_rows": config.audio_patch[0],
        "patches_per_step": config.frequency_patches,
    }
    names = ("sampling_rate", "min_samples", "max_samples", "shortest_edge", "max_resized_pixels", "max_amplitude")
    if not (directory / PREPROCESSOR_FILE).is_file():
        return limits | dict.fromkeys(names)
    processor = TvltProcessor.from_pretrained(directory / PREPROCESSOR_FILE)
    audio, edge = processor.feature_extractor, processor.image_processor.size.get("shortest_edge")
    values = (audio.sampling_rate, audio.min_samples, audio.max_samples, edge, _MAX_RESIZED_PIXELS, _MAX_AMPLITUDE)
    return limits | dict(zip(names, values, strict=True))


def write_manifest(
    directory: Path, task: Task, config: TvltConfig, variants: Iterable[Variant], receipts: Mapping[str, Any]
) -> None:
    """Hash every file below `directory` and write its manifest."""
    files = {
        path.relative_to(directory).as_posix(): {"sha256": sha256_of(path), "size": path.stat().st_size}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
    specs = lambda table: {name: {"dtype": spec.dtype, "shape": list(spec.shape)} for name, spec in table.items()}  # noqa: E731
    activation = task.activation(config)  # a task without one has no head to name
    origin = {"kind": config.original_kind, "head": config.original_head if activation else None}
    write_json(
        directory / MANIFEST_FILE,
        {
            "schema_version": SCHEMA_VERSION,
            "created_by": f"tvlt-deploy {__version__}",
            "lineage": config.lineage,
            "original": origin if config.lineage == "original" else None,
            "task": task.name,
            "activation": activation,
            "labels": task_labels(task, config),
            "sign_labels": list(config.sign_labels) if task.labelled and config.sign_labels else None,
            "limits": input_limits(directory, config),
            "inputs": specs(task.inputs(config)),
            "outputs": specs(task.outputs(config)),
            "variants": [variant.to_dict(files) for variant in variants],
            "engines": [],
            "files": files,
            "receipts": dict(receipts),
        },
    )
