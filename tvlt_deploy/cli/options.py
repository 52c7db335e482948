"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tvlt_deploy.errors import UsageError
from tvlt_deploy.runtimes import AUTO, BACKENDS, DEFAULT_BACKEND, DEFAULT_DEVICE, DEFAULT_PRECISION
from tvlt_deploy.runtimes.options import options_text, parse_options
from tvlt_deploy.tasks import PRECISIONS

PATH = click.Path(path_type=Path)
BACKEND = click.Choice([*BACKENDS, AUTO])

bundle_argument = click.argument("bundle", type=PATH)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
force_option = click.option("--force", is_flag=True, help="Overwrite an existing bundle.")
no_verify_option = click.option("--no-verify", is_flag=True, help="Do not measure against the reference.")

# What a runtime is opened with.
device_option = click.option("--device", default=DEFAULT_DEVICE, show_default=True, help="cpu, cuda or cuda:N.")
threads_option = click.option(
    "--threads", type=click.IntRange(1), help="CPU threads of the engine; by default all cores."
)
backend_option = click.option(
    "--backend",
    type=BACKEND,
    default=DEFAULT_BACKEND,
    show_default=True,
    help="auto: the fastest that stays within tolerance on this machine, measured once and cached.",
)
precision_option = click.option(
    "--precision", type=click.Choice(PRECISIONS), help=f"Default {DEFAULT_PRECISION}; with --backend auto, any."
)
precisions_option = click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS), help="Repeatable."
)
trust_option = click.option(
    "--trust-engine", metavar="SHA256", help="Run a TensorRT engine with this hash although it was not built here."
)


def _parsed(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    try:
        return parse_options(values)
    except UsageError as error:
        raise click.BadParameter(str(error)) from error


engine_option = click.option(
    "--engine-option",
    "engine_options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_parsed,
    help=f"Option of the backend, repeatable. {options_text()}",
)

# The window of a media file.
start_option = click.option(
    "--start", type=float, default=0.0, show_default=True, help="Start in each file, in seconds."
)
duration_option = click.option(
    "--duration", type=float, help="Length in seconds; by default as much as the model accepts."
)


def answering_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of commands that answer media files: the window of each file, and how the model is opened."""
    for option in (
        trust_option,
        engine_option,
        threads_option,
        device_option,
        precision_option,
        backend_option,
        duration_option,
        start_option,
    ):
        function = option(function)
    return function


# A file of the TVLT authors' code.
settings_option = click.option(
    "--config", "settings", type=PATH, help="JSON file with the settings that an original file does not contain."
)
head_option = click.option(
    "--head", metavar="NAME", help="The head to use, if an original file has two for the same task."
)
labels_option = click.option(
    "--labels", type=PATH, help="Names of a classifier's outputs, one per line or as a JSON list."
)


def original_options(settings: Path | None, labels: Path | None) -> dict[str, Any]:
    """The content of the files of `--config` and `--labels`."""
    from tvlt_deploy.config import read_labels, read_settings

    return {
        "settings": None if settings is None else read_settings(settings),
        "labels": None if labels is None else read_labels(labels),
    }
