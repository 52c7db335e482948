"""From a checkpoint to a bundle: load, trace, write, prove, and only then put in place."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvlt_deploy._internal.atomic import staged_directory
from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.bundle import Bundle, is_bundle
from tvlt_deploy.bundle.changes import without_files
from tvlt_deploy.bundle.manifest import GRAPH_FILES, NOT_RUN, ONNXRUNTIME_CPU_FORM, STANDARD_FORM, WEIGHTS_FILE, Variant
from tvlt_deploy.bundle.receipts import ExportReceipts
from tvlt_deploy.bundle.writer import update_manifest, write_manifest
from tvlt_deploy.config import CONFIG_FILE, TvltConfig
from tvlt_deploy.errors import ConfigError, EnvironmentLackError, UsageError
from tvlt_deploy.media import SAMPLING_RATE
from tvlt_deploy.processors import OriginalProcessor, Processor, TvltProcessor
from tvlt_deploy.processors.recipe import RECIPES, read_recipe, recipe_file
from tvlt_deploy.runtimes import DEFAULT_BACKEND
from tvlt_deploy.tasks import PRECISIONS, default_task, get_task
from tvlt_deploy.workflows.verify import verify as run_verify

EXPORTED_PRECISIONS = ("fp32", "fp16", "bf16")


def _check_precisions(precisions: Sequence[str]) -> None:
    for precision in precisions:
        if precision not in PRECISIONS:
            raise UsageError(f"precision is {precision!r}; wanted one of {', '.join(PRECISIONS)}")
        if precision not in EXPORTED_PRECISIONS:
            raise UsageError(
                f"{precision} is not exported: it needs a calibration on real clips",
                hint="export fp32, then tvlt-deploy quantize BUNDLE --clips DIR",
            )
    if not precisions:
        raise UsageError(f"no precision is asked for; wanted some of {', '.join(EXPORTED_PRECISIONS)}")


def _check_target(target: Path, checkpoint: Path, force: bool) -> None:
    """Refuse to replace anything but a bundle, and that only when told to, and never the checkpoint itself."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"{target} exists and is not a directory", hint="name another place for the bundle")
    if not target.exists() or not any(target.iterdir()):
        return
    if not is_bundle(target):
        raise UsageError(f"{target} is not empty and is no bundle", hint="name another place for the bundle")
    if not force:
        raise UsageError(f"{target} is a bundle already", hint="--force replaces it")
    if checkpoint.resolve().is_relative_to(target.resolve()):
        raise UsageError(f"replacing {target} would delete the checkpoint", hint="name another place for the bundle")


def _save_processors(checkpoint: Path, stage: Path, config: TvltConfig, progress: Progress) -> None:
    """Write the checkpoint's pre-processing, or what its configuration implies, into the bundle.

    Raises `ConfigError` when the checkpoint's own file makes arrays that its model cannot take.
    """
    file = recipe_file(checkpoint)
    processor: Processor
    if file is None:
        recipe = OriginalProcessor if config.lineage == "original" else TvltProcessor
        try:
            processor = recipe.from_config(config)
        except ConfigError as error:
            progress(f"no pre-processing in the bundle: {error}")
            return
    else:
        processor = read_recipe(file)
        for name, found, needed in processor.misfits(config, SAMPLING_RATE):
            raise ConfigError(
                f"{file} sets {name} to {found}; {CONFIG_FILE} wants {needed}",
                hint=f"correct {file.name}, or remove it to derive it from {CONFIG_FILE}",
            )
    processor.save_pretrained(stage)


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
    """Turn a checkpoint into a bundle and prove it against the torch reference.

    checkpoint: a Hugging Face directory with `config.json` and weights, or a file of the authors' code (`.ckpt` or
        `.safetensors`); read, never changed. Or a model on the hub (`namespace/name`, `namespace/name@revision`), which
        is fetched.
    bundle: the directory to make. It is built beside its place and renamed: whole or absent.
    task: one of `tvlt_deploy.tasks.TASKS`; by default what the checkpoint's `architectures` name, or the foremost head
        of a file.
    precisions: of `fp32`, `fp16` and `bf16`, each with a graph of its own; inputs and outputs are float32 in all.
    weights: keep `model.safetensors` in the bundle (the `torch` backend and later verification need it).
    fused: add a graph with pre-processing in front (`tvlt_deploy.workflows.fuse`); it needs fp32 among the
        precisions.
    verify: run the verdicts and invariants of `tvlt_deploy.workflows.verify` on every graph; a miss raises
        `VerdictError` and leaves no bundle. bf16 runs on OpenVINO; without it, that graph's verdict stays "not run".
    force: replace a bundle that stands there.
    labels: what the outputs of a classifier are called, in order; by default what the checkpoint says.
    head, settings: for a file, as for `tvlt_deploy.reference.OriginalCheckpoint`.
    progress: called with a line of text at each step.

    Raises `CheckpointError` for a checkpoint that does not load, `UsageError` for arguments that cannot be,
    `VerdictError` also for weights that fp16 cannot hold, `EnvironmentLackError` when torch or onnx is missing, and as
    `tvlt_deploy._internal.hub.local_path` for a model that cannot be fetched.
    """
    try:
        import onnx as onnx_package
        import torch

        from tvlt_deploy.exporters import inference_model as graph
        from tvlt_deploy.exporters import onnx, precision
        from tvlt_deploy.exporters.preprocessing.graph import check_task
        from tvlt_deploy.reference.loading import load_model
        from tvlt_deploy.reference.original.checkpoint import OriginalCheckpoint
        from tvlt_deploy.reference.weights import checkpoint_path, read_config
        from tvlt_deploy.workflows.fuse import fuse as add_fused
    except ImportError as error:
        raise EnvironmentLackError(
            f"exporting needs {error.name}, which is not installed", hint="pip install 'tvlt-deploy[export,cpu]'"
        ) from error

    _check_precisions(precisions)
    target = Path(bundle)
    _check_target(target, Path(checkpoint), force)
    if fused and "fp32" not in precisions:
        raise UsageError("the fused graph is fp32, which is not exported", hint="add --precision fp32")
    opset = onnx.DEFAULT_OPSET if opset is None else opset
    onnx.check_opset(opset)
    named = None if task is None else get_task(task)
    checkpoint = checkpoint_path(checkpoint, optional=tuple(RECIPES), progress=progress)
    original = OriginalCheckpoint(checkpoint, settings, head) if checkpoint.is_file() else None
    if original is None and (head, settings) != (None, None):
        raise UsageError(f"a head or settings were given; {checkpoint} is no file of the authors' code")
    if named is not None:
        chosen = named
    else:
        chosen = default_task(read_config(checkpoint)) if original is None else get_task(original.default_task)
    if fused:
        check_task(chosen)

    progress(f"loading {checkpoint} for {chosen.name}")
    model = load_model(checkpoint, chosen.name) if original is None else original.load(chosen.name)
    if labels is not None:
        model.name_outputs(labels)
    config = model.config
    if fused and config.lineage == "original":
        raise UsageError(
            f"{checkpoint} is pre-processed by the original recipe, which has no fused graph",
            hint="export it without --fused, and prepare the tensors with tvlt_deploy.Pipeline.inputs",
        )
    with staged_directory(target, replace=force) as stage:
        model.save_pretrained(stage)
        _save_processors(checkpoint, stage, config, progress)
        forms = {STANDARD_FORM: graph.standard_attention}
        if "fp32" in precisions:
            forms[ONNXRUNTIME_CPU_FORM] = graph.fused_attention
        traced = {}
        for form, attention in forms.items():
            progress(f"tracing the fp32 graph, {form} form")
            traced[form] = onnx.build_graph(model, chosen, attention, opset)
        receipts = ExportReceipts(
            skipped_keys=tuple(model.skipped_keys),
            versions={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "onnx": onnx_package.__version__,
            },
        )
        variants = []
        for name in dict.fromkeys(precisions):
            progress(f"writing the {name} graphs and weights")
            graphs = traced if name == "fp32" else {STANDARD_FORM: precision.to_half(traced[STANDARD_FORM], name)}
            metadata = {"tvlt.task": chosen.name, "tvlt.precision": name, "tvlt.config": json.dumps(config.to_dict())}
            onnx.save_graphs({GRAPH_FILES[form]: graphs[form] for form in graphs}, stage / name, metadata)
            for form in graphs:
                path = f"{name}/{GRAPH_FILES[form]}"
                variants.append(Variant(name, form, path, (path, f"{name}/{onnx.WEIGHTS_FILE}"), opset, NOT_RUN))
        del graphs, traced, model
        write_manifest(stage, chosen, config, variants, receipts)
        if fused:
            add_fused(stage, verify=False, progress=progress)
        if verify:
            report = run_verify(stage, backends=(DEFAULT_BACKEND,), progress=progress)
            report.raise_on_failure("no bundle is left; with --no-verify it stays, and tvlt-deploy verify tells all")
        if not weights:
            (stage / WEIGHTS_FILE).unlink()
            update_manifest(Bundle(stage), lambda manifest: without_files(manifest, WEIGHTS_FILE))
    return Bundle(target)
