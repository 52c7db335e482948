"""`tvlt-deploy bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tvlt_deploy.bundle.manifest import FUSED_FORM
from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.options import (
    PATH,
    bundle_argument,
    device_option,
    engine_option,
    json_option,
    precisions_option,
    threads_option,
    trust_option,
)
from tvlt_deploy.cli.output import console, print_json
from tvlt_deploy.cli.progress import ProgressDisplay
from tvlt_deploy.errors import EnvironmentLackError
from tvlt_deploy.runtimes import AUTO, BACKENDS, DEFAULT_BACKEND


@define("Measure speed, memory and error, stage by stage.")
@bundle_argument
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice([*BACKENDS, AUTO, FUSED_FORM]),
    help=f"Repeatable; default {DEFAULT_BACKEND}. fused: the fused graph, with the share of its pre-processing.",
)
@precisions_option
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    help="image10, clip10, ragged or a media FILE; repeatable; by default the first three.",
)
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Measuring time of each row.")
@device_option
@threads_option
@engine_option
@trust_option
@click.option("--report", type=PATH, help="Also write FILE.json or FILE.html.")
@json_option
def command(
    bundle: Path,
    backends: tuple[str, ...],
    precisions: tuple[str, ...],
    workloads: tuple[str, ...],
    seconds: float | None,
    report: Path | None,
    as_json: bool,
    progress: ProgressDisplay,
    engine_options: dict[str, Any],
    **options: Any,
) -> None:
    """Measure BUNDLE stage by stage on synthetic workloads or on your own files.

    Example: tvlt-deploy bench bundle --backend torch --backend onnxruntime --report bench.html
    """
    from tvlt_deploy.bench import bench, check_report_path

    if report is not None:
        check_report_path(report)
    chosen: dict[str, Any] = {"workloads": workloads or None, "seconds": seconds}
    result = bench(
        bundle,
        backends=backends or (DEFAULT_BACKEND,),
        precisions=precisions or None,
        options=engine_options,
        progress=progress,
        **{name: value for name, value in chosen.items() if value is not None},
        **options,
    )
    progress.hide()
    if report is not None:
        result.write(report)
    if as_json:
        print_json(result.to_dict())
    else:
        result.render(console())
    if not result.ran:
        raise EnvironmentLackError(
            "nothing could be measured: " + "; ".join(dict.fromkeys(row.why for row in result.rows if row.why)),
            hint="tvlt-deploy doctor shows what works here",
        )
