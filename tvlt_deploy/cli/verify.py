"""`tvlt-deploy verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.options import (
    BACKEND,
    bundle_argument,
    device_option,
    json_option,
    precisions_option,
    threads_option,
    trust_option,
)
from tvlt_deploy.cli.output import print_json, print_table
from tvlt_deploy.cli.progress import ProgressDisplay
from tvlt_deploy.errors import UsageError
from tvlt_deploy.runtimes import DEFAULT_BACKEND, DEFAULT_DEVICE, check_pair

if TYPE_CHECKING:
    from tvlt_deploy.parity.report import Report
    from tvlt_deploy.workflows.locate import Location


@define("Verify a bundle against the torch reference.")
@bundle_argument
@click.option(
    "--backend", "backends", multiple=True, type=BACKEND, help="Repeatable; by default all that are installed here."
)
@precisions_option
@device_option
@threads_option
@trust_option
@click.option(
    "--locate",
    is_flag=True,
    help="Also name the first layer out of tolerance, and rank the layers of int8 for --keep.",
)
@json_option
def command(
    bundle: Path,
    backends: tuple[str, ...],
    precisions: tuple[str, ...],
    device: str,
    threads: int | None,
    trust_engine: str | None,
    locate: bool,
    as_json: bool,
    progress: ProgressDisplay,
) -> None:
    """Check the SHA-256 of every file of BUNDLE and measure it against the torch reference.

    The exit code is 3 if a check fails.

    Example: tvlt-deploy verify bundle --backend onnxruntime
    """
    from tvlt_deploy.workflows.verify import verify

    if locate:
        _check_locate(backends or (DEFAULT_BACKEND,), device, precisions)
        # Imported before any work, so that a missing package is reported at once.
        from tvlt_deploy.workflows.locate import locate as find_layers
    report = verify(
        bundle,
        backends=backends or None,
        precisions=precisions or None,
        device=device,
        threads=threads,
        trust_engine=trust_engine,
        progress=progress,
    )
    located = find_layers(bundle, precisions=precisions or None, threads=threads, progress=progress) if locate else []
    progress.hide()
    if as_json:
        more = {"locations": [each.to_dict() for each in located]} if locate else {}
        print_json({**report.to_dict(), **more})
    else:
        _show_report(report)
        for each in located:
            _show_location(each)
    report.raise_on_failure("" if locate else "tvlt-deploy verify BUNDLE --locate names the layer at fault")


def _check_locate(backends: tuple[str, ...], device: str, precisions: tuple[str, ...]) -> None:
    if DEFAULT_BACKEND not in backends or device != DEFAULT_DEVICE:
        raise UsageError(
            f"--locate with {', '.join(backends)} on {device}; expected {DEFAULT_BACKEND} on {DEFAULT_DEVICE}",
            hint=f"use it with --backend {DEFAULT_BACKEND}",
        )
    for precision in precisions:
        check_pair(DEFAULT_BACKEND, DEFAULT_DEVICE, precision)


def _show_location(location: Location, max_rows: int = 10) -> None:
    name, limit = f"{location.precision} {location.form}", f"expected <= {location.limit:.3g}"
    if location.first is not None:
        click.echo(
            f"{name}: the first layer out of tolerance is {location.first.layer}: {location.first.error:.3g}, {limit}"
        )
    else:
        worst = max(location.layers, key=lambda each: each.error)
        click.echo(f"{name}: no layer is out of tolerance; the worst is {worst.layer}: {worst.error:.3g}, {limit}")
    if location.ranking:
        output = {each.layer: each.error for each in location.layers}
        more = len(location.ranking) - max_rows
        print_table(
            f"{name}: error of the answer that quantizing each layer adds"
            + (f" ({more} more in --json)" if more > 0 else ""),
            ("layer", "added error / std of the answer", "error of its output"),
            ((each.layer, f"{each.error:.3g}", f"{output[each.layer]:.3g}") for each in location.ranking[:max_rows]),
        )


def _show_report(report: Report) -> None:
    for verdict in report.verdicts:
        print_table(
            f"{verdict.name}: {'pass' if verdict.passed else 'FAIL'}",
            ("check", "output", "actual", "expected", ""),
            (
                (
                    row.check,
                    row.output,
                    f"{row.value:.3g}",
                    f"{'>=' if row.at_least else '<='} {row.limit:.3g}",
                    "ok" if row.passed else f"missed by {row.missed_by:.3g}",
                )
                for row in verdict.rows
            ),
        )
