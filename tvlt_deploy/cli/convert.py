"""`tvlt-deploy convert`."""

from __future__ import annotations

from pathlib import Path

import click

from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.options import PATH, head_option, labels_option, original_options, settings_option
from tvlt_deploy.cli.progress import ProgressDisplay
from tvlt_deploy.errors import EnvironmentLackError


@define("Convert an original checkpoint to Hugging Face layout.")
@click.argument("checkpoint", type=PATH)
@click.argument("directory", type=PATH)
@settings_option
@head_option
@labels_option
def command(
    checkpoint: Path,
    directory: Path,
    settings: Path | None,
    head: str | None,
    labels: Path | None,
    progress: ProgressDisplay,
) -> None:
    """Convert CHECKPOINT, a file of the TVLT authors' code, to a Hugging Face model in DIRECTORY.

    Example: tvlt-deploy convert TVLT.ckpt checkpoint
    """
    try:
        from tvlt_deploy.reference import convert
    except ImportError as error:
        raise EnvironmentLackError(
            f"convert needs {error.name}, which is not installed", hint="pip install 'tvlt-deploy[export]'"
        ) from error

    progress(f"converting {checkpoint}")
    config = convert(checkpoint, directory, head=head, **original_options(settings, labels))
    progress.hide()
    click.echo(f"wrote {config.architectures[0]} ({config.original_kind}) to {directory}")
    if config.classifier_pooler:
        click.echo("transformers has no class for this classifier and refuses it; tvlt-deploy export accepts it")
