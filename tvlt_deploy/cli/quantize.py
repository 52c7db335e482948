"""`tvlt-deploy quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tvlt_deploy.bundle.manifest import QUANTIZED
from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.inspect import show_bundle
from tvlt_deploy.cli.options import PATH, bundle_argument, json_option, no_verify_option, threads_option
from tvlt_deploy.cli.progress import ProgressDisplay


@define("Calibrate on media files and add int8 or fp8 graphs.")
@bundle_argument
@click.option("--clips", required=True, type=PATH, help="Folder of media files to calibrate on.")
@click.option(
    "--count", type=click.IntRange(1), help="Number of distinct clips to use; fewer is an error. By default all."
)
@click.option("--evaluation", type=PATH, help="Folder of evaluation clips, which must not be among --clips.")
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(QUANTIZED), help="Repeatable; default int8."
)
@click.option(
    "--method",
    type=click.Choice(["minmax", "percentile", "entropy", "mse"]),
    help="How to choose the range of a linear layer's input; default percentile.",
)
@click.option("--percentile", type=float, help="For --method percentile: 99.9 to 99.999, default 99.99.")
@click.option("--smooth", is_flag=True, help="SmoothQuant: move outliers into the weights. Reads the clips twice.")
@click.option("--alpha", type=float, help="For --smooth: migration strength, 0 to 1, default 0.5.")
@click.option(
    "--keep", multiple=True, metavar="LAYER", help="Do not quantize this layer; a name or pattern, repeatable."
)
@click.option("--max-unreadable", type=float, help="Share of clips that may be unreadable; default 0.1.")
@threads_option
@no_verify_option
@json_option
def command(
    bundle: Path,
    clips: Path,
    precisions: tuple[str, ...],
    keep: tuple[str, ...],
    smooth: bool,
    evaluation: Path | None,
    count: int | None,
    threads: int | None,
    no_verify: bool,
    as_json: bool,
    progress: ProgressDisplay,
    **chosen: Any,
) -> None:
    """Calibrate BUNDLE on media files and add int8 or fp8 graphs. If this fails, the bundle is unchanged.

    Example: tvlt-deploy quantize bundle --clips clips/ --method mse --smooth --keep encoder.layers.0
    """
    from tvlt_deploy.workflows.quantize import quantize

    written = quantize(
        bundle,
        clips,
        precisions=precisions or ("int8",),
        keep=keep,
        smooth=smooth,
        evaluation=evaluation,
        count=count,
        threads=threads,
        verify=not no_verify,
        progress=progress,
        **{name: value for name, value in chosen.items() if value is not None},
    )
    progress.hide()
    show_bundle(written, as_json)
