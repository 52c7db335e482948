"""`tvlt-deploy build`."""

from __future__ import annotations

from pathlib import Path

import click

from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.inspect import show_engines
from tvlt_deploy.cli.options import bundle_argument, json_option
from tvlt_deploy.cli.output import print_json
from tvlt_deploy.cli.progress import ProgressDisplay
from tvlt_deploy.runtimes import ENGINE_BACKENDS
from tvlt_deploy.tasks import PRECISIONS


@define("Compile a TensorRT engine and add it to a bundle.")
@bundle_argument
@click.option(
    "--engine", required=True, type=click.Choice(ENGINE_BACKENDS), help="The library that compiles and runs it."
)
@click.option("--precision", required=True, type=click.Choice(PRECISIONS), help="Precision of the engine.")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="SIZES",
    help="min:opt:max of each size: batch=1:1:4,frames=1:4:8,seconds=1:10:23.7; repeatable; by default all sizes of "
    "the model.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="SM",
    help="tensorrt-rtx: GPUs as 89 or SM89; repeatable; by default any.",
)
@click.option("--allow-unfused", is_flag=True, help="Accept attention without fused kernels; fp32 never has them.")
@json_option
def command(
    bundle: Path,
    engine: str,
    precision: str,
    profiles: tuple[str, ...],
    targets: tuple[str, ...],
    allow_unfused: bool,
    as_json: bool,
    progress: ProgressDisplay,
) -> None:
    """Compile a graph of BUNDLE to a TensorRT engine and add it, with a receipt of its types and kernels.

    Example: tvlt-deploy build bundle --engine tensorrt-rtx --precision fp16 --target 89
    """
    from tvlt_deploy.bundle import Bundle
    from tvlt_deploy.tensorrt.build import build

    opened = Bundle(bundle)
    built = build(
        opened,
        engine=engine,
        precision=precision,
        profiles=profiles,
        targets=targets,
        allow_unfused=allow_unfused,
        progress=progress,
    )
    progress.hide()
    if as_json:
        print_json(built.to_dict(opened.manifest.files))
    else:
        show_engines((built,), opened)
