"""`tvlt-deploy cpp`."""

from __future__ import annotations

import sys

import click

from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.options import json_option
from tvlt_deploy.cli.output import print_json
from tvlt_deploy.cli.progress import ProgressDisplay


@define("Show the library paths that a C++ program needs.")
@click.option("--print-ort", is_flag=True, help="Print the path of ONNX Runtime's library and nothing else.")
@json_option
def command(print_ort: bool, as_json: bool, progress: ProgressDisplay) -> None:
    """Show what a C++ program needs of this environment: the files for `tvlt_options` (docs/how-to/cpp.md).

    Example: tvlt-deploy cpp --print-ort
    """
    from tvlt_deploy.runtimes.onnxruntime_session import shared_library

    library = shared_library()
    if print_ort:
        click.echo(str(library))
    elif as_json:
        print_json({"onnxruntime": str(library), "python": sys.executable})
    else:
        click.echo(f"onnxruntime  {library}")
        click.echo(f"python       {sys.executable}")
