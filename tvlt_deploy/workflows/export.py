"""From a checkpoint to a bundle: load the model, trace it, write the graphs, verify them, put the bundle in place."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvlt_deploy._internal.atomic import staged_directory
from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.bundle import Bundle, is_bundle
from tvlt_deploy.bundle.changes import without_files
from tvlt_deploy.bundle.manifest import WEIGHTS_FILE
from tvlt_deploy.bundle.receipts import ExportReceipts
from tvlt_deploy.bundle.writer import update_manifest, write_manifest
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.media import SAMPLING_RATE
from tvlt_deploy.processors.recipe import fitting_recipe
from tvlt_deploy.runtimes import DEFAULT_BACKEND
from tvlt_deploy.tasks import PRECISIONS, get_task
from tvlt_deploy.workflows.verify import verify as run_verify

EXPORTED_PRECISIONS = ("fp32", "fp16", "bf16")


def export(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    task: str | None = None,
    precisions: Sequence[str] = ("fp32",),
    opset: int | None = None,
    weights: bool = True,
    fused: bool = False,
    verify: bool = True,
    force: bool = False,
    labels: Sequence[str] | None = None,
    head: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Bundle:
    """Export a checkpoint to a bundle and verify it against the torch reference.

    Args:
        checkpoint: A directory, a file of the authors' code or a model on the hub; see
            `tvlt_deploy.reference.open_checkpoint`. It is never changed.
        bundle: The directory to create. It appears atomically: on any error nothing is left.
        task: One of `tvlt_deploy.tasks.TASKS`; by default the one the checkpoint is for.
        precisions: Of `fp32`, `fp16` and `bf16`. Inputs and outputs of the graphs are float32 in all.
        opset: The ONNX operator set, 18 to 23; 20 by default.
        weights: Keep `model.safetensors`, which the `torch` backend and `tvlt-deploy verify` need.
        fused: Add the graph with pre-processing in front (`tvlt_deploy.fuse`); needs fp32 among the precisions.
        verify: Verify every graph. Without OpenVINO the verdict of bf16 stays "not run".
        force: Overwrite an existing bundle.
        labels: Names of a classifier's outputs, in order; by default those of the checkpoint.
        head: As for `open_checkpoint`.
        settings: As for `open_checkpoint`.
        progress: Receives a line of text for each step.

    Returns:
        The bundle.

    Raises:
        CheckpointError: The checkpoint does not load.
        ConfigError: Its pre-processing does not fit its model.
        UsageError: The arguments are invalid, or the hub has no such model.
        VerdictError: Verification failed, or a weight exceeds the range of fp16.
        EnvironmentLackError: A package is missing, or the hub cannot be reached.
    """
    options = _Options(task, tuple(precisions), opset, weights, fused, verify, force, labels, head, settings)
    return _export(checkpoint, Path(bundle), options, progress)


@dataclass(frozen=True)
class _Options:
    """The arguments of `export`, under their names."""

    task: str | None
    precisions: tuple[str, ...]
    opset: int | None
    weights: bool
    fused: bool
    verify: bool
    force: bool
    labels: Sequence[str] | None
    head: str | None
    settings: Mapping[str, Any] | None

    def check(self) -> None:
        """Raise `UsageError` for what is invalid with any checkpoint."""
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise UsageError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
            if precision not in EXPORTED_PRECISIONS:
                raise UsageError(
                    f"{precision} is not exported: it needs a calibration on real clips",
                    hint="export fp32, then tvlt-deploy quantize BUNDLE --clips DIR",
                )
        if not self.precisions:
            raise UsageError(f"precisions is empty; expected some of {', '.join(EXPORTED_PRECISIONS)}")
        if self.fused and "fp32" not in self.precisions:
            raise UsageError("the fused graph is fp32, which is not exported", hint="add --precision fp32")
        if self.task is not None:
            get_task(self.task)


def _export(checkpoint: str | os.PathLike[str], target: Path, options: _Options, progress: Progress) -> Bundle:
    """The steps of `export`, in order. Packages that need torch or onnx load here, so that the module is cheap."""
    _check_packages()
    from tvlt_deploy.exporters.onnx import DEFAULT_OPSET, check_opset, write_graphs
    from tvlt_deploy.exporters.preprocessing.graph import check_fusable
    from tvlt_deploy.reference.checkpoint import open_checkpoint

    options.check()
    opset = DEFAULT_OPSET if options.opset is None else options.opset
    check_opset(opset)
    _check_target(target, Path(checkpoint), options.force)

    source = open_checkpoint(checkpoint, settings=options.settings, head=options.head, progress=progress)
    task = get_task(options.task or source.default_task)
    progress(f"loading {source.path} for {task.name}")
    model = source.load(task.name)
    if options.labels is not None:
        model.name_outputs(options.labels)
    processor = fitting_recipe(source.preprocessing_file, model.config, SAMPLING_RATE, progress)
    if options.fused:
        check_fusable(task, processor, source.path)

    with staged_directory(target, replace=options.force) as stage:
        model.save_pretrained(stage)
        if processor is not None:
            processor.save_pretrained(stage)
        variants = write_graphs(model, model.config, task, options.precisions, opset, stage, progress)
        write_manifest(stage, task, model.config, variants, _receipts(model.skipped_keys))
        del model  # verification loads it again
        _finish(stage, options, progress)
    return Bundle(target)


def _check_packages() -> None:
    """Raise `EnvironmentLackError` naming the package that exporting needs and that is missing."""
    try:
        import onnx  # noqa: F401
        import onnx_ir  # noqa: F401
        import onnxscript  # noqa: F401
        import safetensors  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise EnvironmentLackError(
            f"exporting needs {error.name}, which is not installed", hint="pip install 'tvlt-deploy[export,cpu]'"
        ) from error


def _check_target(target: Path, checkpoint: Path, force: bool) -> None:
    """Allow a missing or empty directory and, with `force`, a bundle that the checkpoint is not in."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"{target} exists and is not a directory", hint="choose another path for the bundle")
    if not target.exists() or not any(target.iterdir()):
        return
    if not is_bundle(target):
        raise UsageError(f"{target} is not empty and not a bundle", hint="choose another path for the bundle")
    if not force:
        raise UsageError(f"{target} is an existing bundle", hint="--force overwrites it")
    if checkpoint.resolve().is_relative_to(target.resolve()):
        raise UsageError(f"overwriting {target} would delete the checkpoint", hint="choose another path for the bundle")


def _receipts(skipped_keys: tuple[str, ...]) -> ExportReceipts:
    """What the manifest states about the export itself."""
    import onnx
    import torch

    versions = {"python": platform.python_version(), "torch": torch.__version__, "onnx": onnx.__version__}
    return ExportReceipts(skipped_keys, versions)


def _finish(stage: Path, options: _Options, progress: Progress) -> None:
    """Add the fused graph, verify every graph, and drop the weights, each where asked for."""
    if options.fused:
        from tvlt_deploy.workflows.fuse import fuse

        fuse(stage, verify=False, progress=progress)
    if options.verify:
        report = run_verify(stage, backends=(DEFAULT_BACKEND,), progress=progress)
        report.raise_on_failure(
            "the bundle was removed; --no-verify keeps it, and tvlt-deploy verify prints every check"
        )
    if not options.weights:
        (stage / WEIGHTS_FILE).unlink()
        update_manifest(Bundle(stage), lambda manifest: without_files(manifest, WEIGHTS_FILE))
