"""`tvlt-deploy conformance`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.options import PATH, bundle_argument, json_option, threads_option
from tvlt_deploy.cli.output import print_json, print_table
from tvlt_deploy.cli.progress import ProgressDisplay


@define("Write golden vectors, or check arrays against them.")
@bundle_argument
@click.argument("directory", type=PATH)
@click.option("--check", "dump", type=PATH, help="Compare the arrays in this directory with the golden vectors.")
@threads_option
@json_option
def command(
    bundle: Path, directory: Path, dump: Path | None, threads: int | None, as_json: bool, progress: ProgressDisplay
) -> None:
    """Write golden vectors of every stage of BUNDLE to DIRECTORY, or check another program's arrays against them.

    Example: tvlt-deploy conformance bundle vectors && tvlt-deploy conformance bundle vectors --check dump
    """
    from tvlt_deploy.workflows.golden_vectors import check_dump, raise_on_difference, write_vectors

    if dump is None:
        index = write_vectors(bundle, directory, threads=threads, progress=progress)
        progress.hide()
        click.echo(json.dumps({"index": str(index)}) if as_json else f"wrote {index}")
        return
    stages = check_dump(bundle, directory, dump)
    if as_json:
        print_json([stage.to_dict() for stage in stages])
    else:
        print_table(
            "stages",
            ("stage", "clips", "max difference", "expected", "clip", ""),
            (
                (
                    stage.stage,
                    str(stage.clips),
                    f"{stage.difference:.3g}",
                    f"<= {stage.tolerance:.3g}",
                    stage.clip,
                    "ok" if stage.passed else "differs",
                )
                for stage in stages
            ),
        )
    raise_on_difference(stages)
