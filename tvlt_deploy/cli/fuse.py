"""`tvlt-deploy fuse`."""

from __future__ import annotations

from pathlib import Path

from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.inspect import show_bundle
from tvlt_deploy.cli.options import bundle_argument, json_option, no_verify_option, threads_option
from tvlt_deploy.cli.progress import ProgressDisplay


@define("Add a graph with pre-processing in front of the model.")
@bundle_argument
@threads_option
@no_verify_option
@json_option
def command(bundle: Path, threads: int | None, no_verify: bool, as_json: bool, progress: ProgressDisplay) -> None:
    """Add to BUNDLE a graph of raw frames and sound: pre-processing and the fp32 model in one.

    Example: tvlt-deploy fuse bundle
    """
    from tvlt_deploy.workflows.fuse import fuse

    written = fuse(bundle, verify=not no_verify, threads=threads, progress=progress)
    progress.hide()
    show_bundle(written, as_json)
