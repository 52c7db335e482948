"""`tvlt-deploy run`."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tvlt_deploy._internal.progress import Step
from tvlt_deploy.cli.command import define
from tvlt_deploy.cli.options import PATH, answering_options, bundle_argument
from tvlt_deploy.cli.output import print_table
from tvlt_deploy.cli.progress import ProgressDisplay
from tvlt_deploy.errors import FileRefusedError, UsageError

if TYPE_CHECKING:
    from tvlt_deploy.inference.files import FileAnswer, Source
    from tvlt_deploy.inference.pipeline import Pipeline


@define("Answer media files.")
@bundle_argument
@click.argument("media", nargs=-1, required=True, type=PATH)
@click.option("--audio", type=PATH, help="The sound of a single MEDIA.")
@answering_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "jsonl", "csv", "npy", "parquet"]),
    default="table",
    show_default=True,
    help="How to print or write the answers.",
)
@click.option("--output", type=PATH, help="Folder for --format npy, file for --format parquet.")
@click.option("--picture", type=PATH, help="Folder for one PNG per clip that shows the input of the model.")
@click.option("--strict", is_flag=True, help="Treat a clip that was decoded in part as an error.")
@click.option("--json", "as_json", is_flag=True, help="Same as --format jsonl.")
def command(
    bundle: Path,
    media: tuple[Path, ...],
    audio: Path | None,
    start: float,
    duration: float | None,
    form: str,
    output: Path | None,
    picture: Path | None,
    strict: bool,
    as_json: bool,
    progress: ProgressDisplay,
    engine_options: dict[str, Any],
    **options: Any,
) -> None:
    """Answer each MEDIA file with BUNDLE. A folder stands for its files.

    In a folder, a video or image and a sound file with the same name up to the suffix are one clip.

    Example: tvlt-deploy run bundle clip.mp4 --start 2 --duration 10
    """
    from tvlt_deploy.inference.files import answer_files, check_window, find_sources
    from tvlt_deploy.inference.pipeline import load

    form = _format(form, as_json, output)
    check_window(start, duration)
    sources = find_sources(media, audio)
    if form == "npy" or picture is not None:
        _check_distinct(sources)
    progress("opening the bundle")
    answers: list[FileAnswer] = []
    with contextlib.ExitStack() as stack:
        pipeline = stack.enter_context(load(bundle, options=engine_options, progress=progress, **options))
        writers = list(_writers(form, output, picture, pipeline, stack))
        for answer in answer_files(pipeline, sources, start=start, duration=duration, strict=strict):
            progress.hide()
            for write in writers:
                write(answer)
            # Arrays of a folder may not fit into memory.
            answers.append(answer.without_arrays())
            for warning in answer.warnings:
                click.echo(f"warning: {answer.media}: {warning}", err=True)
            done, total = len(answers), len(sources)
            progress(Step(f"{done}/{total} {answer.media.name}", done, total))
    progress.hide()
    if form == "table":
        _print_answers(answers)
    elif form == "parquet":
        click.echo(str(output))
    raise_failed([answer for answer in answers if answer.error is not None], len(answers))


def _format(form: str, as_json: bool, output: Path | None) -> str:
    """The format that the options ask for. Raises `UsageError` if they contradict each other."""
    if as_json and form not in ("table", "jsonl"):
        raise UsageError(f"--json is --format jsonl; it excludes --format {form}", hint="use one of them")
    form = "jsonl" if as_json else form
    if (form in ("npy", "parquet")) != (output is not None):
        raise UsageError(
            f"--format {form} {'has no' if output else 'needs an'} --output",
            hint="npy needs --output DIR, and parquet --output FILE",
        )
    return form


def _writers(
    form: str, output: Path | None, picture: Path | None, pipeline: Pipeline, stack: contextlib.ExitStack
) -> Iterator[Callable[[FileAnswer], None]]:
    """The functions that write one answer, by the options."""
    from tvlt_deploy.inference.writers import csv_lines, npy_files, parquet_file

    if form == "jsonl":
        yield lambda answer: click.echo(json.dumps(answer.to_dict(), allow_nan=False))
    elif form == "csv":
        yield csv_lines(pipeline, lambda line: click.echo(line, nl=False))
    elif form == "npy" and output is not None:
        yield npy_files(output, lambda path: click.echo(str(path)))
    elif form == "parquet" and output is not None:
        yield stack.enter_context(parquet_file(pipeline, output))
    if picture is not None:
        from tvlt_deploy.inference.contact_sheet import png_files

        yield png_files(pipeline, picture)


def _check_distinct(sources: Iterable[Source]) -> None:
    """Output files are named after their media file: refuse two of one name."""
    twice = sorted(name for name, count in Counter(media.name for media, _ in sources).items() if count > 1)
    if twice:
        raise UsageError(
            f"several clips are named {', '.join(twice[:5])}, and their output files would be too",
            hint="run each folder on its own, with its own output folder",
        )


def raise_failed(failed: Sequence[FileAnswer], total: int) -> None:
    """Raise the error of the only failed clip, or `FileRefusedError` that counts them and lists the first five."""
    if len(failed) == 1 and failed[0].error is not None:
        raise failed[0].error
    if failed:
        raise FileRefusedError(
            f"{len(failed)} of {total} clips were not answered: "
            + "; ".join(str(answer.error) for answer in failed[:5])
            + ("; ..." if len(failed) > 5 else "")
        )


def _window(answer: FileAnswer) -> str:
    return f"{answer.start:.2f} to {answer.start + answer.duration:.2f} s"


def _result(answer: FileAnswer) -> tuple[str, str]:
    if answer.error is not None:
        return "error", ""
    if answer.answer is not None:
        return answer.answer.label, f"{answer.answer.score:.4f}"
    shapes = answer.to_dict()["outputs"]
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()), ""


def _print_answers(answers: list[FileAnswer]) -> None:
    print_table(
        "answers",
        ("clip", "window", "frames", "sound", "answer", "score", "all scores"),
        (
            (
                answer.media.name,
                _window(answer),
                str(answer.frames),
                "yes" if answer.has_sound else "no",
                *_result(answer),
                "" if answer.answer is None else _top_scores(answer.answer.scores),
            )
            for answer in answers
        ),
    )


def _top_scores(scores: dict[str, float], max_labels: int = 5) -> str:
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    more = f", {len(ranked) - max_labels} more" if len(ranked) > max_labels else ""
    return ", ".join(f"{label} {score:.4f}" for label, score in ranked[:max_labels]) + more
