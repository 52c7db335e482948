"""`tvlt-deploy init-checkpoint`."""

from __future__ import annotations

from pathlib import Path

import click

from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.options import PATH
from tvlt_deploy.cli.progress import ProgressDisplay
from tvlt_deploy.errors import UsageError
from tvlt_deploy.tasks import TASKS


@define("Create a checkpoint with seeded random weights.")
@click.argument("directory", type=PATH)
@click.option("--config", type=PATH, help="A config.json; by default TVLT-base.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the weights.")
@click.option(
    "--architecture",
    type=click.Choice(sorted({task.reference for task in TASKS.values()})),
    help="By default the one in the config, else TvltForPreTraining.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing checkpoint.")
def command(
    directory: Path,
    config: Path | None,
    seed: int,
    architecture: str | None,
    force: bool,
    progress: ProgressDisplay,
) -> None:
    """Create a checkpoint with seeded random weights in DIRECTORY.

    Example: tvlt-deploy init-checkpoint checkpoint --seed 7
    """
    from tvlt_deploy.config import CONFIG_FILE, TvltConfig
    from tvlt_deploy.reference import init_checkpoint

    if (directory / CONFIG_FILE).exists() and not force:
        raise UsageError(f"{directory} contains a checkpoint already", hint="--force overwrites it")
    settings = TvltConfig() if config is None else TvltConfig.from_pretrained(config)
    named = next((name for name in settings.architectures if name), "TvltForPreTraining")
    progress(f"drawing weights with seed {seed}")
    init_checkpoint(directory, settings, seed, architecture or named)
    progress.hide()
    click.echo(f"wrote {architecture or named} to {directory}")
