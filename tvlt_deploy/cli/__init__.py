"""The `tvlt-deploy` command: each command parses its options, calls one function and prints the result.

Exit codes: 0 success; 1 internal error; 2 usage error; 3 a verdict failed; 4 the machine or the environment is missing
something; 5 a corrupt, refused or untrusted file; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from tvlt_deploy._version import __version__
from tvlt_deploy.cli import (
    bench,
    build,
    conformance,
    convert,
    cpp,
    doctor,
    export,
    fuse,
    init_checkpoint,
    inspect,
    quantize,
    retrieve,
    run,
    verify,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tvlt-deploy")
def main() -> None:
    """Take a TVLT checkpoint to production: export, verify, run and measure."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Exit through every `finally`, so that no incomplete file is left behind."""
    sys.exit(128 + number)


for module in (
    bench,
    build,
    conformance,
    convert,
    cpp,
    doctor,
    export,
    fuse,
    init_checkpoint,
    inspect,
    quantize,
    retrieve,
    run,
    verify,
):
    main.add_command(module.command)
