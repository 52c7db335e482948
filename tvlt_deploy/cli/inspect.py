"""`tvlt-deploy inspect`, and how a bundle is shown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvlt_deploy.bundle.manifest import FUSED_FORM
from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.options import bundle_argument, json_option
from tvlt_deploy.cli.output import print_json, print_table
from tvlt_deploy.cli.progress import ProgressDisplay
from tvlt_deploy.tasks import RAW_INPUTS

if TYPE_CHECKING:
    from tvlt_deploy.bundle import Bundle
    from tvlt_deploy.bundle.manifest import Engine, StoredCheck


@define("Show the contents of a bundle.")
@bundle_argument
@json_option
def command(bundle: Path, as_json: bool, progress: ProgressDisplay) -> None:
    """Show what BUNDLE contains and how exact each graph is. No engine is opened.

    Example: tvlt-deploy inspect bundle
    """
    from tvlt_deploy.bundle import Bundle

    show_bundle(Bundle(bundle), as_json)


def show_bundle(bundle: Bundle, as_json: bool) -> None:
    """Print a bundle's task, inputs, outputs, graphs and engines, or its manifest as JSON."""
    if as_json:
        print_json({"bundle": str(bundle.directory), "sha256": bundle.digest, **bundle.manifest.to_dict()})
        return
    config, manifest = bundle.config, bundle.manifest
    click.echo(f"bundle   {bundle.directory}")
    click.echo(f"task     {bundle.task.name}")
    if origin := manifest.original:
        click.echo(f"weights  of the authors' code: {', '.join(name for name in (origin.kind, origin.head) if name)}")
    click.echo(
        f"accepts  1 to {config.num_frames} frames of {config.image_shape[0]}x{config.image_shape[1]}, "
        f"up to {config.spectrogram_length} rows of sound"
    )
    for kind, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for name, spec in specs.items():
            click.echo(f"{kind:8s} {name} {spec.dtype} ({', '.join(str(axis) for axis in spec.shape)})")
    if any(variant.form == FUSED_FORM for variant in bundle.variants):
        for name, raw in RAW_INPUTS.items():
            click.echo(f"fused    {name} {raw.dtype} ({', '.join(str(axis) for axis in raw.shape)})")
    if bundle.task.labelled:
        labels = manifest.labels or ()
        click.echo(f"labels   {', '.join(labels[:10])}{f', {len(labels) - 10} more' if len(labels) > 10 else ''}")
        click.echo(f"scores   {manifest.activation}")
    click.echo(f"files    {len(manifest.files)}, {sum(file.size for file in manifest.files.values()) / 1e6:.1f} MB")
    if calibration := manifest.calibration:
        how = calibration.method + (" with SmoothQuant" if calibration.smooth is not None else "")
        click.echo(f"calibrated {' and '.join(calibration.precisions)}: {how} on {calibration.distinct} clips")
    print_table(
        "graphs",
        ("precision", "form", "path", "opset", "verdict", "worst value and its limit"),
        ((v.precision, v.form, v.path, str(v.opset), v.parity.verdict, _worst(v.parity.rows)) for v in bundle.variants),
    )
    show_engines(bundle.engines, bundle)


def show_engines(engines: Iterable[Engine], bundle: Bundle) -> None:
    """Print engines with their sizes, types and verdict."""
    for engine in engines:
        receipt, file = engine.receipt, bundle.manifest.files[engine.path]
        products = ", ".join(f"{count} {kind}" for kind, count in receipt.gemm_types.items())
        click.echo(f"engine   {engine.path}, {file.size / 1e6:.1f} MB, SHA-256 {file.sha256}")
        click.echo(f"  needs     {engine.engine} {engine.version} on {engine.os}, {engine.target}")
        for profile in engine.profiles:
            sizes = ", ".join(f"{name} {':'.join(map(str, span))}" for name, span in vars(profile).items())
            click.echo(f"  accepts   {sizes}")
        click.echo(
            f"  attention {receipt.fused_attention} of {receipt.attention_blocks} blocks fused; "
            f"products {products}; {receipt.scratch_bytes / 1e6:.0f} MB of scratch memory"
        )
        click.echo(f"  verdict   {engine.verdict.verdict}")


def _worst(checks: Iterable[StoredCheck]) -> str:
    """The value that is closest to its limit, or furthest beyond it."""

    def share(check: StoredCheck) -> float:
        value, limit = check.value, check.limit
        if check.at_least:
            return (1 - value) / (1 - limit) if limit < 1 else float(value < limit) * 2
        return value / limit if limit else float(value > 0) * 2

    ranked = sorted(checks, key=share, reverse=True)
    return f"{ranked[0].check} {ranked[0].value:.2g} of {ranked[0].limit:.2g}" if ranked else ""
