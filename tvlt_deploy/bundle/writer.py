"""The manifest of a new bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tvlt_deploy._internal.atomic import sha256_of, write_json
from tvlt_deploy._version import __version__
from tvlt_deploy.bundle.manifest import MANIFEST_FILE, SCHEMA_VERSION, Variant
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.tasks import Task


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
            "inputs": specs(task.inputs(config)),
            "outputs": specs(task.outputs(config)),
            "variants": [variant.to_dict(files) for variant in variants],
            "engines": [],
            "files": files,
            "receipts": dict(receipts),
        },
    )
