"""`tvlt-deploy doctor`."""

from __future__ import annotations

import platform

import click

from tvlt_deploy._version import __version__
from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.options import json_option
from tvlt_deploy.cli.output import print_json, print_table
from tvlt_deploy.cli.progress import ProgressDisplay


@define("Show what works on this machine and what to install.")
@json_option
def command(as_json: bool, progress: ProgressDisplay) -> None:
    """Show which parts of the toolkit work on this machine, and what to install for the others.

    Example: tvlt-deploy doctor
    """
    from tvlt_deploy._internal.machine import describe_machine, package_versions
    from tvlt_deploy.doctor import diagnose

    machine, versions, findings = describe_machine(), package_versions(), diagnose()
    if as_json:
        print_json(
            {
                "tvlt_deploy": __version__,
                "machine": machine,
                "packages": versions,
                "findings": [{"name": f.name, "works": f.works, "detail": f.detail, "hint": f.hint} for f in findings],
            }
        )
        return
    gpus = ", ".join(machine["gpus"]) or "no NVIDIA GPU"
    click.echo(f"tvlt-deploy {__version__}, Python {platform.python_version()}, {machine['os']}")
    click.echo(f"{machine['cpu']}, {machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB, {gpus}")
    print_table(
        "what works here",
        ("part", "works", "detail", "what to do"),
        ((f.name, "yes" if f.works else "no", f.detail, f.hint) for f in findings),
    )
