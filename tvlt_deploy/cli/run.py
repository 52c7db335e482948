"""The `tvlt-deploy` command: parse, call one function, print.

Exit codes: 0 done; 1 internal error; 2 usage; 3 a verdict failed; 4 the machine or environment lacks something;
5 a corrupt, refused or untrusted file; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from tvlt_deploy._version import __version__
from tvlt_deploy.bundle.manifest import FUSED_FORM, QUANTIZED
from tvlt_deploy.errors import EnvironmentLackError, FileRefusedError, TvltError, UsageError
from tvlt_deploy.runtimes import (
    AUTO,
    BACKENDS,
    DEFAULT_BACKEND,
    DEFAULT_DEVICE,
    DEFAULT_PRECISION,
    ENGINE_BACKENDS,
    check_pair,
)
from tvlt_deploy.tasks import PRECISIONS, RAW_INPUTS, TASKS

if TYPE_CHECKING:
    from rich.console import Console

    from tvlt_deploy.bundle import Bundle
    from tvlt_deploy.bundle.manifest import Engine
    from tvlt_deploy.inference.files import FileAnswer, Source
    from tvlt_deploy.inference.pipeline import Pipeline
    from tvlt_deploy.parity.report import Report
    from tvlt_deploy.workflows.locate import Location
    from tvlt_deploy.workflows.retrieve import Ranking

INTERRUPTED = 130


# Output ----------------------------------------------------------------------------------------------------------


class Progress:
    """Steps of long work on standard error: one line that changes on a terminal, plain lines elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.terminal = sys.stderr.isatty()

    @property
    def shown(self) -> bool:
        """Whether there is a line that changes."""
        return self.terminal and not self.quiet

    def __call__(self, message: str) -> None:
        """Show a step."""
        if self.quiet:
            return
        if self.terminal:
            click.echo(f"\r\x1b[2K{message}", nl=False, err=True)
        else:
            click.echo(message, err=True)

    def done(self) -> None:
        """Clear the line."""
        if self.shown:
            click.echo("\r\x1b[2K", nl=False, err=True)


def _console() -> Console:
    from rich.console import Console

    # A pipe or file has no width: give tables the room they need rather than cutting them.
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    _console().print(table)


# Errors ----------------------------------------------------------------------------------------------------------


def _fail(error: BaseException, code: int, verbose: bool, hint: str = "") -> NoReturn:
    if verbose:
        traceback.print_exception(error)
    click.echo(f"error: {error.message if isinstance(error, TvltError) else error}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    sys.exit(code)


def _guarded(function: Callable[..., None]) -> Callable[..., None]:
    """Turn every exception into a message, a hint and the exit code that belongs to it."""

    @functools.wraps(function)
    def wrapper(*args: Any, verbose: bool, quiet: bool, **options: Any) -> None:
        progress = Progress(quiet)
        try:
            function(*args, progress=progress, **options)
            progress.done()
        except KeyboardInterrupt:
            progress.done()
            click.echo("interrupted; nothing half-written is left", err=True)
            sys.exit(INTERRUPTED)
        except TvltError as error:
            progress.done()
            _fail(error, error.exit_code, verbose, error.hint)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(0)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except OSError as error:
            progress.done()
            _fail(error, 4, verbose, "check that the path exists, is writable and has room")
        except Exception as error:
            progress.done()
            traceback.print_exception(error)
            _fail(error, 1, False, "this is a fault of tvlt-deploy: please report it with the lines above")

    return wrapper


def _command(function: Callable[..., None]) -> click.Command:
    """A command of the group with the options all of them have."""
    verbose = click.option("-v", "--verbose", is_flag=True, help="Show where an error came from.")
    quiet = click.option("-q", "--quiet", is_flag=True, help="Print results only.")
    return main.command()(verbose(quiet(_guarded(function))))


_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_bundle = click.argument("bundle", type=click.Path(path_type=Path))
_device = click.option("--device", default=DEFAULT_DEVICE, show_default=True, help="cpu, cuda or cuda:N.")
_threads = click.option("--threads", type=click.IntRange(1), help="CPU threads of the engine; default all cores.")
_backend = click.Choice([*BACKENDS, AUTO])
_one_backend = click.option(
    "--backend",
    type=_backend,
    default=DEFAULT_BACKEND,
    show_default=True,
    help="auto: the fastest that keeps its tolerance here, tried once and remembered.",
)
_precisions = click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS), help="Repeatable."
)
_settings = click.option(
    "--config", "settings", type=click.Path(path_type=Path), help="What an original file does not tell, as JSON."
)
_head = click.option("--head", metavar="NAME", help="Of an original file with two heads for a task, the one to take.")
_labels = click.option(
    "--labels", type=click.Path(path_type=Path), help="Names of a classifier's outputs, one per line or a JSON list."
)
_one_precision = click.option(
    "--precision", type=click.Choice(PRECISIONS), help=f"Default {DEFAULT_PRECISION}; with auto, any."
)
_start = click.option("--start", type=float, default=0.0, show_default=True, help="Seconds into each file.")
_duration = click.option("--duration", type=float, help="Seconds; default as much as the model takes.")
_trust = click.option(
    "--trust-engine", metavar="SHA256", help="Run a TensorRT engine of this hash though it was not built here."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tvlt-deploy")
def main() -> None:
    """Take a TVLT checkpoint to production: export, verify, run and measure."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Leave through every `finally`, so that nothing half-written stays."""
    sys.exit(128 + number)


# Commands --------------------------------------------------------------------------------------------------------


@_command
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), help="A config.json; default TVLT-base.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--architecture",
    type=click.Choice(sorted({task.reference for task in TASKS.values()})),
    help="Default: what the config names, else TvltForPreTraining.",
)
@click.option("--force", is_flag=True, help="Replace a checkpoint that stands there.")
def init_checkpoint(
    directory: Path, config: Path | None, seed: int, architecture: str | None, force: bool, progress: Progress
) -> None:
    """Write a checkpoint of seeded random weights into DIRECTORY.

    Example: tvlt-deploy init-checkpoint checkpoint --seed 7
    """
    from tvlt_deploy.config import CONFIG_FILE, TvltConfig
    from tvlt_deploy.reference.loading import init_checkpoint as write

    if (directory / CONFIG_FILE).exists() and not force:
        raise UsageError(f"{directory} holds a checkpoint already", hint="--force replaces it")
    settings = TvltConfig() if config is None else TvltConfig.from_pretrained(config)
    named = next((name for name in settings.architectures if name), "TvltForPreTraining")
    progress(f"drawing weights with seed {seed}")
    write(directory, settings, seed, architecture or named)
    progress.done()
    click.echo(f"wrote {architecture or named} to {directory}")


@_command
@click.argument("checkpoint", type=click.Path(path_type=Path))
@_bundle
@click.option("--task", type=click.Choice(list(TASKS)), help="Default: what the checkpoint names.")
@_precisions
@click.option("--opset", type=int, help="ONNX operator set; default 20.")
@click.option("--fused", is_flag=True, help="Add a graph with pre-processing in front, for hosts without Python.")
@click.option("--no-weights", is_flag=True, help="Leave model.safetensors out of the bundle.")
@click.option("--no-verify", is_flag=True, help="Do not measure against the reference.")
@click.option("--force", is_flag=True, help="Replace a bundle that stands there.")
@_settings
@_head
@_labels
@_json
def export(
    checkpoint: Path,
    bundle: Path,
    task: str | None,
    precisions: tuple[str, ...],
    opset: int | None,
    fused: bool,
    no_weights: bool,
    no_verify: bool,
    force: bool,
    settings: Path | None,
    head: str | None,
    labels: Path | None,
    as_json: bool,
    progress: Progress,
) -> None:
    """Turn CHECKPOINT into BUNDLE and prove it against the torch reference.

    CHECKPOINT is a Hugging Face directory, an original file, or a model on the hub: namespace/name or
    namespace/name@revision.

    Example: tvlt-deploy export checkpoint bundle --task audio-visual-matching
    """
    # huggingface_hub reads these when it is imported: its failures come as our errors, its bars on a terminal only.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not progress.shown:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from tvlt_deploy.workflows.export import export as write

    made = write(
        checkpoint,
        bundle,
        task=task,
        precisions=precisions or (DEFAULT_PRECISION,),
        opset=opset,
        fused=fused,
        weights=not no_weights,
        verify=not no_verify,
        force=force,
        head=head,
        **_original_options(settings, labels),
        progress=progress,
    )
    progress.done()
    _show_bundle(made, as_json)


def _original_options(settings: Path | None, labels: Path | None) -> dict[str, Any]:
    """The content of the files of `--config` and `--labels`."""
    from tvlt_deploy.config import read_labels, read_settings

    return {
        "settings": None if settings is None else read_settings(settings),
        "labels": None if labels is None else read_labels(labels),
    }


@_command
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@_settings
@_head
@_labels
def convert(
    checkpoint: Path, directory: Path, settings: Path | None, head: str | None, labels: Path | None, progress: Progress
) -> None:
    """Write CHECKPOINT, a file of the TVLT authors' code, into DIRECTORY in Hugging Face's layout.

    Example: tvlt-deploy convert TVLT.ckpt checkpoint
    """
    try:
        from tvlt_deploy.reference.original.checkpoint import convert as write
    except ImportError as error:
        raise EnvironmentLackError(
            f"converting needs {error.name}, which is not installed", hint="pip install 'tvlt-deploy[export]'"
        ) from error

    progress(f"converting {checkpoint}")
    config = write(checkpoint, directory, head=head, **_original_options(settings, labels))
    progress.done()
    click.echo(f"wrote {config.architectures[0]} ({config.original_kind}) to {directory}")
    if config.classifier_pooler:
        click.echo("transformers has no class for this classifier and refuses it; tvlt-deploy export takes it")


@_command
@_bundle
@_threads
@click.option("--no-verify", is_flag=True, help="Do not measure against the reference.")
@_json
def fuse(bundle: Path, threads: int | None, no_verify: bool, as_json: bool, progress: Progress) -> None:
    """Add to BUNDLE a graph that takes raw frames and sound: pre-processing and the fp32 model in one.

    Example: tvlt-deploy fuse bundle
    """
    from tvlt_deploy.workflows.fuse import fuse as add

    made = add(bundle, verify=not no_verify, threads=threads, progress=progress)
    progress.done()
    _show_bundle(made, as_json)


@_command
@_bundle
@click.option(
    "--clips", required=True, type=click.Path(path_type=Path), help="A folder of media files to calibrate on."
)
@click.option(
    "--count", type=click.IntRange(1), help="How many distinct clips to take; fewer is an error. Default all."
)
@click.option("--evaluation", type=click.Path(path_type=Path), help="A folder of clips that must not be calibrated on.")
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(QUANTIZED), help="Repeatable; default int8."
)
@click.option(
    "--method",
    type=click.Choice(["minmax", "percentile", "entropy", "mse"]),
    help="Where to clip what the linear layers read; default percentile.",
)
@click.option("--percentile", type=float, help="For --method percentile: 99.9 to 99.999, default 99.99.")
@click.option("--smooth", is_flag=True, help="SmoothQuant: move outliers into the weights. Reads the clips twice.")
@click.option("--alpha", type=float, help="For --smooth: how much moves, 0 to 1, default 0.5.")
@click.option(
    "--keep", multiple=True, metavar="LAYER", help="Leave a layer in higher precision; name or pattern, repeatable."
)
@click.option("--max-unreadable", type=float, help="Share of clips that may fail to be read; default 0.1.")
@_threads
@click.option("--no-verify", is_flag=True, help="Do not measure against the reference.")
@_json
def quantize(
    bundle: Path,
    clips: Path,
    precisions: tuple[str, ...],
    keep: tuple[str, ...],
    smooth: bool,
    evaluation: Path | None,
    count: int | None,
    threads: int | None,
    no_verify: bool,
    as_json: bool,
    progress: Progress,
    **chosen: Any,
) -> None:
    """Calibrate BUNDLE on real clips and add int8 or fp8 to it; the bundle gains them whole or stays as it was.

    Example: tvlt-deploy quantize bundle --clips clips/ --method mse --smooth --keep encoder.layers.0
    """
    from tvlt_deploy.workflows.quantize import quantize as add

    made = add(
        bundle,
        clips,
        precisions=precisions or ("int8",),
        keep=keep,
        smooth=smooth,
        evaluation=evaluation,
        count=count,
        threads=threads,
        verify=not no_verify,
        progress=progress,
        **{name: value for name, value in chosen.items() if value is not None},
    )
    progress.done()
    _show_bundle(made, as_json)


@_command
@_bundle
@click.option(
    "--engine", required=True, type=click.Choice(ENGINE_BACKENDS), help="The library that compiles and runs it."
)
@click.option("--precision", required=True, type=click.Choice(PRECISIONS))
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="SIZES",
    help="batch=1:1:4,frames=1:4:8,seconds=1:10:23.7 (least:fastest:most); repeatable; default all the model takes.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="SM",
    help="tensorrt-rtx: GPUs as 89 or SM89; repeatable; default any.",
)
@click.option("--allow-unfused", is_flag=True, help="Accept attention that is not fused; fp32 never is.")
@_json
def build(
    bundle: Path,
    engine: str,
    precision: str,
    profiles: tuple[str, ...],
    targets: tuple[str, ...],
    allow_unfused: bool,
    as_json: bool,
    progress: Progress,
) -> None:
    """Compile a graph of BUNDLE to a TensorRT engine and add it, with a receipt of what it computes in.

    Example: tvlt-deploy build bundle --engine tensorrt-rtx --precision fp16 --target 89
    """
    from tvlt_deploy.bundle import Bundle
    from tvlt_deploy.tensorrt.build import build as compile_engine

    opened = Bundle(bundle)
    made = compile_engine(
        opened,
        engine=engine,
        precision=precision,
        profiles=profiles,
        targets=targets,
        allow_unfused=allow_unfused,
        progress=progress,
    )
    progress.done()
    if as_json:
        _print_json(made.to_dict(opened.manifest["files"]))
    else:
        _show_engines((made,), opened)


@_command
@_bundle
@click.option(
    "--backend", "backends", multiple=True, type=_backend, help="Repeatable; default all that are installed here."
)
@_precisions
@_device
@_threads
@_trust
@click.option(
    "--locate", is_flag=True, help="Also name the first layer out of tolerance, and rank the layers of int8 for --keep."
)
@_json
def verify(
    bundle: Path,
    backends: tuple[str, ...],
    precisions: tuple[str, ...],
    device: str,
    threads: int | None,
    trust_engine: str | None,
    locate: bool,
    as_json: bool,
    progress: Progress,
) -> None:
    """Measure BUNDLE against the torch reference and hash all its files; a missed limit exits with 3.

    Example: tvlt-deploy verify bundle --backend onnxruntime
    """
    from tvlt_deploy.workflows.verify import verify as measure

    if locate:
        asked = backends or (DEFAULT_BACKEND,)
        if DEFAULT_BACKEND not in asked or device != DEFAULT_DEVICE:
            raise UsageError(
                f"--locate runs {DEFAULT_BACKEND} on {DEFAULT_DEVICE}; asked for are {', '.join(asked)} on {device}",
                hint=f"use it with --backend {DEFAULT_BACKEND}",
            )
        for precision in precisions:
            check_pair(DEFAULT_BACKEND, DEFAULT_DEVICE, precision)
        from tvlt_deploy.workflows.locate import locate as compare  # before any work: it says what is not installed
    report = measure(
        bundle,
        backends=backends or None,
        precisions=precisions or None,
        device=device,
        threads=threads,
        trust_engine=trust_engine,
        progress=progress,
    )
    located = compare(bundle, precisions=precisions or None, threads=threads, progress=progress) if locate else []
    progress.done()
    if as_json:
        more = {"locations": [each.to_dict() for each in located]} if locate else {}
        _print_json({**report.to_dict(), **more})
    else:
        _show_report(report)
        for each in located:
            _show_location(each)
    report.raise_on_failure("" if locate else "tvlt-deploy verify BUNDLE --locate names the layer at fault")


def _show_location(location: Location, most: int = 10) -> None:
    name, limit = f"{location.precision} {location.form}", f"wanted <= {location.limit:.3g}"
    if location.first is not None:
        click.echo(
            f"{name}: the first layer out of tolerance is {location.first.layer}: {location.first.error:.3g}, {limit}"
        )
    else:
        worst = max(location.layers, key=lambda each: each.error)
        click.echo(f"{name}: no layer is out of tolerance; the worst is {worst.layer}: {worst.error:.3g}, {limit}")
    if location.ranking:
        output = {each.layer: each.error for each in location.layers}
        more = len(location.ranking) - most
        _table(
            f"{name}: what quantizing each layer adds to the answer's error"
            + (f" ({more} more in --json)" if more > 0 else ""),
            ("layer", "adds, in deviations of the answer", "error of its output"),
            ((each.layer, f"{each.error:.3g}", f"{output[each.layer]:.3g}") for each in location.ranking[:most]),
        )


def _show_report(report: Report) -> None:
    for verdict in report.verdicts:
        _table(
            f"{verdict.name}: {'pass' if verdict.passed else 'FAIL'}",
            ("check", "output", "value", "wanted", ""),
            (
                (
                    row.check,
                    row.output,
                    f"{row.value:.3g}",
                    f"{'>=' if row.at_least else '<='} {row.limit:.3g}",
                    "ok" if row.passed else f"missed by {row.missed_by:.3g}",
                )
                for row in verdict.rows
            ),
        )


@_command
@_bundle
@click.argument("media", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--audio", type=click.Path(path_type=Path), help="The sound of a single MEDIA.")
@_start
@_duration
@_one_backend
@_one_precision
@_device
@_threads
@_trust
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "jsonl", "csv", "npy", "parquet"]),
    default="table",
    show_default=True,
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder of --format npy, file of --format parquet.")
@click.option("--picture", type=click.Path(path_type=Path), help="Folder for a PNG per clip of what the model saw.")
@click.option("--strict", is_flag=True, help="A clip that was read only in part is an error.")
@click.option("--json", "as_json", is_flag=True, help="As --format jsonl.")
def run(
    bundle: Path,
    media: tuple[Path, ...],
    audio: Path | None,
    start: float,
    duration: float | None,
    backend: str,
    precision: str | None,
    device: str,
    threads: int | None,
    trust_engine: str | None,
    form: str,
    output: Path | None,
    picture: Path | None,
    strict: bool,
    as_json: bool,
    progress: Progress,
) -> None:
    """Answer each MEDIA file with BUNDLE; a folder stands for its files, equal names pairing up.

    Example: tvlt-deploy run bundle clip.mp4 --start 2 --duration 10
    """
    from tvlt_deploy.inference.files import answer_files, check_window, find_sources
    from tvlt_deploy.inference.pipeline import load

    if as_json and form not in ("table", "jsonl"):
        raise UsageError(f"--json is --format jsonl; --format {form} was asked for as well", hint="take one of them")
    form = "jsonl" if as_json else form
    if (form in ("npy", "parquet")) != (output is not None):
        raise UsageError(
            f"--format {form} {'takes no' if output else 'wants an'} --output",
            hint="npy wants --output DIR, and parquet --output FILE",
        )
    check_window(start, duration)
    sources = find_sources(media, audio)
    if form == "npy" or picture is not None:
        _check_distinct(sources)
    progress("opening the bundle")
    answers: list[FileAnswer] = []
    options: dict[str, Any] = {"threads": threads, "trust_engine": trust_engine, "progress": progress}
    with contextlib.ExitStack() as stack:
        pipeline = stack.enter_context(load(bundle, backend, device, precision, **options))
        adds = list(_adders(form, output, picture, pipeline, stack))
        for answer in answer_files(pipeline, sources, start=start, duration=duration, strict=strict):
            progress.done()
            for add in adds:
                add(answer)
            # Arrays of a folder may not fit into memory.
            answers.append(answer.without_arrays())
            for warning in answer.warnings:
                click.echo(f"warning: {answer.media}: {warning}", err=True)
            progress(f"{len(answers)}/{len(sources)} {answer.media.name}")
    progress.done()
    if form == "table":
        _print_answers(answers)
    elif form == "parquet":
        click.echo(str(output))
    _raise_failed([answer for answer in answers if answer.error is not None], len(answers))


def _adders(
    form: str, output: Path | None, picture: Path | None, pipeline: Pipeline, stack: contextlib.ExitStack
) -> Iterator[Callable[[FileAnswer], None]]:
    """What is done with each answer as it comes."""
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
    """Arrays are named after their media file: refuse two of one name."""
    twice = sorted(name for name, count in Counter(media.name for media, _ in sources).items() if count > 1)
    if twice:
        raise UsageError(
            f"several clips are named {', '.join(twice[:5])}, and so would their files be",
            hint="answer their folders one by one, into folders of their own",
        )


def _raise_failed(failed: Sequence[FileAnswer], total: int) -> None:
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
    _table(
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


def _top_scores(scores: dict[str, float], most: int = 5) -> str:
    ranked = sorted(scores.items(), key=lambda item: -item[1])
    more = f", {len(ranked) - most} more" if len(ranked) > most else ""
    return ", ".join(f"{label} {score:.4f}" for label, score in ranked[:most]) + more


@_command
@_bundle
@click.option(
    "--queries", multiple=True, required=True, type=click.Path(path_type=Path), help="A folder or file; repeatable."
)
@click.option(
    "--gallery", multiple=True, required=True, type=click.Path(path_type=Path), help="A folder or file; repeatable."
)
@click.option(
    "--direction",
    "directions",
    multiple=True,
    type=click.Choice(["audio-to-video", "video-to-audio"]),
    help="What a query gives and what it finds; default what the clips allow.",
)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many to list for each query.")
@_start
@_duration
@_one_backend
@_one_precision
@_device
@_threads
@_trust
@_json
def retrieve(
    bundle: Path,
    queries: tuple[Path, ...],
    gallery: tuple[Path, ...],
    top: int,
    as_json: bool,
    progress: Progress,
    **options: Any,
) -> None:
    """Find for the sound of each query the pictures of the gallery that match it best, and the other way round.

    Scores every pair with an audio-visual-matching BUNDLE. Stopped and called again, it goes on where it was. Where
    queries and gallery have files of equal names, R@1, R@5 and R@10 say how often those were found.

    Example: tvlt-deploy retrieve bundle --queries sounds/ --gallery videos/ --top 3
    """
    from tvlt_deploy.workflows.retrieve import retrieve as score

    found = score(bundle, queries, gallery, progress=progress, **options)
    progress.done()
    for media, warnings in found.warnings.items():
        for warning in warnings:
            click.echo(f"warning: {media}: {warning}", err=True)
    if as_json:
        _print_json(found.to_dict(top))
    else:
        for ranking in found.rankings:
            _show_ranking(ranking, top)
    _raise_failed(found.failed, found.clips)


def _show_ranking(ranking: Ranking, top: int) -> None:
    count = min(top, len(ranking.gallery))
    _table(
        f"{ranking.direction}: {len(ranking.queries)} x {len(ranking.gallery)} pairs",
        ("query", *map(str, range(1, count + 1)), "place of its own"),
        (
            (query.name, *(f"{item.name} {score:.4f}" for item, score in best), "" if rank is None else str(rank))
            for query, best, rank in zip(ranking.queries, ranking.top(top), ranking.ranks, strict=True)
        ),
    )
    if ranking.recalls:
        shares = ", ".join(f"R@{k} {share:.1%}" for k, share in ranking.recalls.items())
        click.echo(f"{shares}, median place {ranking.median_rank:g}, of {ranking.known_pairs} known pairs")


@_command
@_bundle
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice([*BACKENDS, AUTO, FUSED_FORM]),
    help=f"Repeatable; default {DEFAULT_BACKEND}. fused: the fused graph, and the share of its pre-processing.",
)
@_precisions
@click.option(
    "--workload", "workloads", multiple=True, help="image10, clip10, ragged or a media FILE; repeatable; default three."
)
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Time to measure each workload for.")
@_device
@_threads
@_trust
@click.option("--report", type=click.Path(path_type=Path), help="Also write FILE.json or FILE.html.")
@_json
def bench(
    bundle: Path,
    backends: tuple[str, ...],
    precisions: tuple[str, ...],
    workloads: tuple[str, ...],
    seconds: float | None,
    device: str,
    threads: int | None,
    trust_engine: str | None,
    report: Path | None,
    as_json: bool,
    progress: Progress,
) -> None:
    """Time BUNDLE stage by stage on made-up workloads or your own files.

    Example: tvlt-deploy bench bundle --backend torch --backend onnxruntime --report bench.html
    """
    from tvlt_deploy.bench import bench as measure
    from tvlt_deploy.bench import check_report_path

    if report is not None:
        check_report_path(report)
    options: dict[str, Any] = {} if seconds is None else {"seconds": seconds}
    if workloads:
        options["workloads"] = workloads
    result = measure(
        bundle,
        backends=backends or (DEFAULT_BACKEND,),
        precisions=precisions or None,
        device=device,
        threads=threads,
        trust_engine=trust_engine,
        progress=progress,
        **options,
    )
    progress.done()
    if report is not None:
        result.write(report)
    if as_json:
        _print_json(result.to_dict())
    else:
        result.render(_console())
    if not result.ran:
        raise EnvironmentLackError(
            "nothing could be measured: " + "; ".join(dict.fromkeys(row.why for row in result.rows if row.why)),
            hint="tvlt-deploy doctor says what works here",
        )


@_command
@_bundle
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--check", "dump", type=click.Path(path_type=Path), help="Compare the arrays in this directory with them."
)
@_threads
@_json
def conformance(
    bundle: Path, directory: Path, dump: Path | None, threads: int | None, as_json: bool, progress: Progress
) -> None:
    """Write golden vectors of every stage of BUNDLE into DIRECTORY, or check another program's arrays against them.

    Example: tvlt-deploy conformance bundle vectors && tvlt-deploy conformance bundle vectors --check dump
    """
    from tvlt_deploy.workflows.golden_vectors import check_dump, raise_on_difference, write_vectors

    if dump is None:
        index = write_vectors(bundle, directory, threads=threads, progress=progress)
        progress.done()
        click.echo(json.dumps({"index": str(index)}) if as_json else f"wrote {index}")
        return
    found = check_dump(bundle, directory, dump)
    if as_json:
        _print_json([item.to_dict() for item in found])
    else:
        _table(
            "stages",
            ("stage", "clips", "largest difference", "wanted", "in", ""),
            (
                (
                    item.stage,
                    str(item.clips),
                    f"{item.difference:.3g}",
                    f"<= {item.tolerance:.3g}",
                    item.clip,
                    "ok" if item.passed else "differs",
                )
                for item in found
            ),
        )
    raise_on_difference(found)


@_command
@_bundle
@_json
def inspect(bundle: Path, as_json: bool, progress: Progress) -> None:
    """Show what BUNDLE holds and how exact each graph is; no engine is opened.

    Example: tvlt-deploy inspect bundle
    """
    from tvlt_deploy.bundle import Bundle

    _show_bundle(Bundle(bundle), as_json)


def _show_bundle(bundle: Bundle, as_json: bool) -> None:
    if as_json:
        _print_json({"bundle": str(bundle.directory), "sha256": bundle.digest, **bundle.manifest})
        return
    config, files = bundle.config, bundle.manifest["files"]
    click.echo(f"bundle   {bundle.directory}")
    click.echo(f"task     {bundle.task.name}")
    if origin := bundle.manifest.get("original"):
        click.echo(f"weights  of the authors' code: {', '.join(name for name in origin.values() if name)}")
    click.echo(
        f"takes    1 to {config.num_frames} frames of {config.image_shape[0]}x{config.image_shape[1]}, "
        f"up to {config.spectrogram_length} rows of sound"
    )
    for kind in ("inputs", "outputs"):
        for name, spec in bundle.manifest[kind].items():
            shape = ", ".join(str(axis) for axis in spec["shape"])
            click.echo(f"{kind[:-1]:8s} {name} {spec['dtype']} ({shape})")
    if any(variant.form == FUSED_FORM for variant in bundle.variants):
        for name, raw in RAW_INPUTS.items():
            click.echo(f"fused    {name} {raw.dtype} ({', '.join(str(axis) for axis in raw.shape)})")
    if bundle.task.labelled:
        labels = list((config.id2label or {}).values())
        click.echo(f"labels   {', '.join(labels[:10])}{f', {len(labels) - 10} more' if len(labels) > 10 else ''}")
        click.echo(f"scores   {bundle.task.activation(config)}")
    click.echo(f"files    {len(files)}, {sum(file['size'] for file in files.values()) / 1e6:.1f} MB")
    calibration = bundle.manifest.get("calibration")
    if calibration is not None:
        how = calibration["method"] + (" with SmoothQuant" if calibration["smooth"] is not None else "")
        click.echo(f"calibrated {' and '.join(calibration['precisions'])}: {how} on {calibration['distinct']} clips")
    _table(
        "graphs",
        ("precision", "form", "path", "opset", "verdict", "worst against its limit"),
        (
            (v.precision, v.form, v.path, str(v.opset), v.parity["verdict"], _worst(v.parity.get("rows", ())))
            for v in bundle.variants
        ),
    )
    _show_engines(bundle.engines, bundle)


def _show_engines(engines: Iterable[Engine], bundle: Bundle) -> None:
    for engine in engines:
        receipt, file = engine.receipt, bundle.manifest["files"][engine.path]
        products = ", ".join(f"{count} {kind}" for kind, count in receipt["gemm_types"].items())
        click.echo(f"engine   {engine.path}, {file['size'] / 1e6:.1f} MB, SHA-256 {file['sha256']}")
        click.echo(f"  needs     {engine.engine} {engine.version} on {engine.os}, {engine.target}")
        for profile in engine.profiles:
            sizes = ", ".join(f"{name} {':'.join(map(str, span))}" for name, span in profile.items())
            click.echo(f"  takes     {sizes}")
        click.echo(
            f"  attention {receipt['fused_attention']} of {receipt['attention_blocks']} blocks fused; "
            f"products {products}; {receipt['scratch_bytes'] / 1e6:.0f} MB of working memory"
        )
        click.echo(f"  verdict   {engine.verdict['verdict']}")


def _worst(rows: Iterable[dict[str, Any]]) -> str:
    """The number that comes closest to its limit, or is furthest beyond it."""

    def share(row: dict[str, Any]) -> float:
        value, limit = float(row["value"]), row["limit"]
        if row["at_least"]:
            return (1 - value) / (1 - limit) if limit < 1 else float(value < limit) * 2
        return value / limit if limit else float(value > 0) * 2

    ranked = sorted(rows, key=share, reverse=True)
    return f"{ranked[0]['check']} {float(ranked[0]['value']):.2g} of {ranked[0]['limit']:.2g}" if ranked else ""


@_command
@_json
def doctor(as_json: bool, progress: Progress) -> None:
    """Say what of the toolkit works on this machine, and what to install for the rest.

    Example: tvlt-deploy doctor
    """
    from tvlt_deploy._internal.machine import describe_machine, package_versions
    from tvlt_deploy.doctor import diagnose

    machine, versions, findings = describe_machine(), package_versions(), diagnose()
    if as_json:
        _print_json(
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
    _table(
        "what works here",
        ("part", "", "found", "to do"),
        ((f.name, "yes" if f.works else "no", f.detail, f.hint) for f in findings),
    )


@_command
@click.option("--print-ort", is_flag=True, help="Print the path of ONNX Runtime's library and nothing else.")
@_json
def cpp(print_ort: bool, as_json: bool, progress: Progress) -> None:
    """Say what a C++ program needs of this environment: the files that `tvlt_options` names (docs/how-to/cpp.md).

    Example: tvlt-deploy cpp --print-ort
    """
    from tvlt_deploy.runtimes.onnxruntime import shared_library

    library = shared_library()
    if print_ort:
        click.echo(str(library))
    elif as_json:
        _print_json({"onnxruntime": str(library), "python": sys.executable})
    else:
        click.echo(f"onnxruntime  {library}")
        click.echo(f"python       {sys.executable}")
