"""What all commands share: the options `-v` and `-q`, and errors that become a message and an exit code."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import click

from tvlt_deploy.cli.progress import ProgressDisplay
from tvlt_deploy.errors import TvltError

INTERNAL_ERROR, SYSTEM_ERROR, INTERRUPTED = 1, 4, 130


def define(summary: str, name: str | None = None) -> Callable[[Callable[..., None]], click.Command]:
    """Decorator: a click command from a function that is called with its options and `progress`.

    Args:
        summary: The line of `tvlt-deploy --help`, at most 57 characters so that it fits 80 columns.
        name: The name of the command; by default the name of the function's module.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        verbose = click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
        quiet = click.option("-q", "--quiet", is_flag=True, help="Print results only.")
        chosen = name or function.__module__.rpartition(".")[2].replace("_", "-")
        return click.command(chosen, short_help=summary)(verbose(quiet(_guarded(function))))

    return decorate


def _guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Turn every exception into a message, a hint and the exit code of its type."""

    @functools.wraps(function)
    def wrapper(*args: Any, verbose: bool, quiet: bool, **options: Any) -> None:
        try:
            with ProgressDisplay(quiet) as progress:
                function(*args, progress=progress, **options)
        except KeyboardInterrupt:
            click.echo("interrupted; no incomplete file is left behind", err=True)
            sys.exit(INTERRUPTED)
        except TvltError as error:
            _fail(error, error.exit_code, verbose, error.hint, error.reference)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(0)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except OSError as error:
            _fail(error, SYSTEM_ERROR, verbose, "check that the path exists, is writable and has room")
        except Exception as error:
            _fail(error, INTERNAL_ERROR, True, "this is a fault of tvlt-deploy: please report it with the lines above")

    return wrapper


def _fail(error: BaseException, code: int, verbose: bool, hint: str = "", reference: str = "") -> NoReturn:
    if verbose:
        traceback.print_exception(error)
    click.echo(f"error: {error.message if isinstance(error, TvltError) else error}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    if reference:
        click.echo(f"see: {reference}", err=True)
    sys.exit(code)
