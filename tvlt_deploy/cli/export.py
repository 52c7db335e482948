"""`tvlt-deploy export`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.inspect import show_bundle
from tvlt_deploy.cli.options import (
    PATH,
    bundle_argument,
    force_option,
    head_option,
    json_option,
    labels_option,
    no_verify_option,
    original_options,
    precisions_option,
    settings_option,
)
from tvlt_deploy.cli.progress import ProgressDisplay
from tvlt_deploy.runtimes import DEFAULT_PRECISION
from tvlt_deploy.tasks import TASKS


@define("Export a checkpoint to a bundle and verify it.")
@click.argument("checkpoint", type=PATH)
@bundle_argument
@click.option("--task", type=click.Choice(list(TASKS)), help="By default the one that the checkpoint names.")
@precisions_option
@click.option("--opset", type=int, help="ONNX operator set; default 20.")
@click.option("--fused", is_flag=True, help="Add a graph with pre-processing in front, for hosts without Python.")
@click.option("--no-weights", is_flag=True, help="Leave model.safetensors out of the bundle.")
@no_verify_option
@force_option
@settings_option
@head_option
@labels_option
@json_option
def command(
    checkpoint: Path,
    bundle: Path,
    task: str | None,
    precisions: tuple[str, ...],
    opset: int | None,
    fused: bool,
    no_weights: bool,
    no_verify: bool,
    force: bool,
    settings: Path | None,
    head: str | None,
    labels: Path | None,
    as_json: bool,
    progress: ProgressDisplay,
) -> None:
    """Export CHECKPOINT to BUNDLE and verify it against the torch reference.

    CHECKPOINT is a Hugging Face directory, an original file, or a model on the hub: namespace/name or
    namespace/name@revision.

    Example: tvlt-deploy export checkpoint bundle --task audio-visual-matching
    """
    # huggingface_hub reads these when it is imported. Its errors are raised as ours, and we show the progress.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from tvlt_deploy.workflows.export import export

    written = export(
        checkpoint,
        bundle,
        task=task,
        precisions=precisions or (DEFAULT_PRECISION,),
        opset=opset,
        fused=fused,
        weights=not no_weights,
        verify=not no_verify,
        force=force,
        head=head,
        **original_options(settings, labels),
        progress=progress,
    )
    progress.hide()
    show_bundle(written, as_json)
