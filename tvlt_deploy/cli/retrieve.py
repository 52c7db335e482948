"""`tvlt-deploy retrieve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.options import PATH, answering_options, bundle_argument, json_option
from tvlt_deploy.cli.output import print_json, print_table
from tvlt_deploy.cli.progress import ProgressDisplay
from tvlt_deploy.cli.run import raise_failed

if TYPE_CHECKING:
    from tvlt_deploy.workflows.retrieve import Ranking


@define("Retrieve videos by sound, or sounds by video.")
@bundle_argument
@click.option("--queries", multiple=True, required=True, type=PATH, help="A folder or file; repeatable.")
@click.option("--gallery", multiple=True, required=True, type=PATH, help="A folder or file; repeatable.")
@click.option(
    "--direction",
    "directions",
    multiple=True,
    type=click.Choice(["audio-to-video", "video-to-audio"]),
    help="From the query to what is found; repeatable; by default all that the clips allow.",
)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Results to list for each query.")
@answering_options
@json_option
def command(
    bundle: Path,
    queries: tuple[Path, ...],
    gallery: tuple[Path, ...],
    top: int,
    as_json: bool,
    progress: ProgressDisplay,
    engine_options: dict[str, Any],
    **options: Any,
) -> None:
    """Find the frames in the gallery that best match the sound of each query, and the other way round.

    Scores every combination with an audio-visual-matching BUNDLE. A run that was interrupted continues where it
    stopped. If queries and gallery have files of equal names, R@1, R@5 and R@10 show how often those were found.

    Example: tvlt-deploy retrieve bundle --queries sounds/ --gallery videos/ --top 3
    """
    from tvlt_deploy.workflows.retrieve import retrieve

    result = retrieve(bundle, queries, gallery, options=engine_options, progress=progress, **options)
    progress.hide()
    for media, warnings in result.warnings.items():
        for warning in warnings:
            click.echo(f"warning: {media}: {warning}", err=True)
    if as_json:
        print_json(result.to_dict(top))
    else:
        for ranking in result.rankings:
            _show_ranking(ranking, top)
    raise_failed(result.failed, result.clips)


def _show_ranking(ranking: Ranking, top: int) -> None:
    count = min(top, len(ranking.gallery))
    print_table(
        f"{ranking.direction}: {len(ranking.queries)} x {len(ranking.gallery)} pairs",
        ("query", *map(str, range(1, count + 1)), "rank of its own"),
        (
            (query.name, *(f"{item.name} {score:.4f}" for item, score in best), "" if rank is None else str(rank))
            for query, best, rank in zip(ranking.queries, ranking.top(top), ranking.ranks, strict=True)
        ),
    )
    if ranking.recalls:
        shares = ", ".join(f"R@{k} {share:.1%}" for k, share in ranking.recalls.items())
        click.echo(f"{shares}, median rank {ranking.median_rank:g}, of {ranking.known_pairs} known pairs")
