"""Measure accuracy, agreement and cosine of every graph and backend on held-out clips of the trained model.

    python -m benchmarks.accuracy.judge [BUNDLE ...] [--clips N] [--device D] [--json FILE]
    python -m benchmarks.accuracy.judge --prepare DIR

Without BUNDLE, the trained checkpoint is exported unchanged and with injected outliers, and quantized by every method.
`--prepare` only exports and writes calibration clips to files, for `tvlt-deploy quantize BUNDLE --clips DIR/clips`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy.naive import naive_int8
from benchmarks.accuracy.outliers import inject
from benchmarks.accuracy.synthetic import Clips, Feeds, make_clips, write_files
from tvlt_deploy import export
from tvlt_deploy._internal.atomic import write_json
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import QUANTIZED
from tvlt_deploy.errors import TvltError
from tvlt_deploy.parity.metrics import label_agreement
from tvlt_deploy.reference import TvltForAudioVisualClassification, open_checkpoint
from tvlt_deploy.runtimes import BACKENDS, held_precisions, open_runtime
from tvlt_deploy.runtimes.base import Runtime
from tvlt_deploy.tasks import PRECISIONS
from tvlt_deploy.workflows.export import EXPORTED_PRECISIONS

CHECKPOINT = Path(__file__).parents[2] / "tests" / "data" / "judge"
"""The trained checkpoint; `benchmarks.accuracy.train` writes it."""

TASKS = ("audio-visual-classification", "feature-extraction")
CALIBRATION_CLIPS = 64
WIDTH = 180  # of the table in a file or a pipe

Outputs = Mapping[str, np.ndarray]
Model = Runtime | torch.nn.Module | Callable[[Feeds], Outputs]
"""A runtime, a reference model, or a function from inputs by name to outputs by name."""


# Measurements ----------------------------------------------------------------------------------------------------


def answer(model: Model, feeds: Feeds) -> Outputs:
    """The outputs of one batch by name."""
    if isinstance(model, torch.nn.Module):
        with torch.inference_mode():
            output = model(**{name: torch.from_numpy(values) for name, values in feeds.items()}, return_dict=True)
        return {name: output[name].numpy() for name in ("logits", "last_hidden_state") if name in output}
    return getattr(model, "run", model)(feeds)


def logits_of(model: Model, clips: Clips) -> np.ndarray:
    """The logits (clips, classes) of a classifier."""
    return np.concatenate([answer(model, feeds)["logits"] for feeds in clips.batches()])


def evaluate(model: Model, clips: Clips) -> float:
    """Share of clips whose largest logit is that of the correct class."""
    return float((logits_of(model, clips).argmax(axis=1) == clips.labels).mean())


def top1_agreement(model: Model, reference: Model, clips: Clips) -> float:
    """Share of clips for which both models predict the same class."""
    return label_agreement(logits_of(model, clips), logits_of(reference, clips), exclusive=True, tie=0.0)


def row_cosines(model: Model, reference: Model, clips: Clips) -> np.ndarray:
    """Cosine of the two models' hidden states, for each token that is not padding, including class tokens."""
    actual, expected = (
        np.concatenate([_valid_rows(answer(each, feeds), feeds) for feeds in clips.batches()]).astype(np.float64)
        for each in (model, reference)
    )
    return (actual * expected).sum(axis=1) / np.linalg.norm(actual, axis=1) / np.linalg.norm(expected, axis=1)


def _valid_rows(outputs: Outputs, feeds: Feeds) -> np.ndarray:
    token = np.ones((len(feeds["pixel_mask"]), 1))
    valid = np.concatenate([token, feeds["pixel_mask"], feeds["audio_mask"]], axis=1) > 0.5
    return outputs["last_hidden_state"][valid]


# The table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """One row of the table. A number that the task does not have is None; `reason` says why something did not run."""

    bundle: str
    backend: str
    precision: str
    form: str
    method: str
    accuracy: float | None = None
    agreement: float | None = None
    min_cosine: float | None = None
    mean_cosine: float | None = None
    reason: str = ""


def measure(model: Model, reference: Model, task: str, clips: Clips) -> dict[str, float]:
    """The numbers of `Score` for a task."""
    if task == "feature-extraction":
        cosines = row_cosines(model, reference, clips)
        return {"min_cosine": float(cosines.min()), "mean_cosine": float(cosines.mean())}
    return {"accuracy": evaluate(model, clips), "agreement": top1_agreement(model, reference, clips)}


def _targets(bundle: Bundle, device: str) -> Iterator[tuple[str, str, str | None]]:
    """(backend, precision, form) of everything that the bundle can run as. ONNX Runtime has several forms."""
    for backend in BACKENDS:
        for precision in held_precisions(bundle, backend, device):
            forms = [variant.form for variant in bundle.variants if variant.precision == precision]
            for form in forms if backend == "onnxruntime" else [None]:
                yield backend, precision, form


def _method(bundle: Bundle, precision: str) -> str:
    """Calibration method of a quantized precision of the bundle."""
    receipt = bundle.manifest.calibration
    if precision not in QUANTIZED or not receipt:
        return ""
    return receipt.method + (" + smooth" if receipt.smooth else "")


def judge(
    bundle: Bundle, clips: Clips, device: str = "cpu", precisions: Sequence[str] = PRECISIONS, name: str = ""
) -> Iterator[Score]:
    """Score each graph of a bundle on each backend against the reference in fp32.

    The bundle must contain its weights and have one of `TASKS`.
    """
    name, task = name or bundle.directory.name, bundle.task.name
    reference = open_checkpoint(bundle.directory).load(task)
    for backend, precision, form in _targets(bundle, device):
        if precision not in precisions:
            continue
        entry = (name, backend, precision, form or "", _method(bundle, precision))
        options: dict[str, Any] = {} if form is None else {"form": form}
        try:
            with open_runtime(bundle, backend, device, precision, threads=1, **options) as runtime:
                yield Score(*entry, **measure(runtime, reference, task, clips))
        except TvltError as error:
            yield Score(*entry, reason=error.message)


def judge_naive(bundle: Bundle, clips: Clips, name: str = "") -> Score:
    """Score a simulation of naive int8, as a baseline for the bundle's own."""
    reference = open_checkpoint(bundle.directory).load(bundle.task.name)
    naive = naive_int8(reference, make_clips("calibration", CALIBRATION_CLIPS).batches())
    numbers = measure(naive, reference, bundle.task.name, clips)
    return Score(name or bundle.directory.name, "torch", "int8", "simulated", "naive minmax", **numbers)


def judge_methods(bundle: Bundle, clips: Clips, device: str = "cpu", name: str = "") -> Iterator[Score]:
    """Quantize the bundle by each method in turn, without and with smoothing, and score the int8 graphs of each."""
    from tvlt_deploy.workflows.quantize import METHODS, quantize

    calibration = list(make_clips("calibration", CALIBRATION_CLIPS).batches(1))
    for smooth in (False, True):
        for method in METHODS:
            quantize(bundle, calibration, method=method, smooth=smooth, threads=1, verify=False)
            yield from judge(bundle, clips, device, ("int8",), name)


def prepare(directory: Path) -> list[Path]:
    """Export the trained checkpoint, plain and with outliers, for both tasks, and write calibration clips.

    Returns the bundles: `plain/TASK` and `outliers/TASK` below `directory`. The clips are in `clips`.
    """
    model = TvltForAudioVisualClassification.from_pretrained(CHECKPOINT)
    bundles = []
    for name, changed in (("plain", model), ("outliers", inject(model))):
        checkpoint = directory / name / "checkpoint"
        checkpoint.mkdir(parents=True)
        changed.save_pretrained(checkpoint)
        for task in TASKS:
            bundle = directory / name / task
            export(checkpoint, bundle, task=task, precisions=EXPORTED_PRECISIONS, verify=False)
            bundles.append(bundle)
    write_files(directory / "clips", "calibration", CALIBRATION_CLIPS)
    return bundles


def _table(scores: list[Score]) -> Table:
    table = Table("bundle", "backend", "precision", "form", "method")
    for heading in ("accuracy", "agreement", "min cosine", "mean cosine"):
        table.add_column(heading, justify="right")
    number = lambda value: "" if value is None else f"{value:.4f}"  # noqa: E731
    for score in scores:
        about = (score.bundle, score.backend, score.precision, score.form, score.method)
        values = (score.accuracy, score.agreement, score.min_cosine, score.mean_cosine)
        table.add_row(*about, *(["not run", score.reason] if score.reason else map(number, values)))
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", type=Path, metavar="BUNDLE")
    parser.add_argument("--clips", type=int, default=1000, help="held-out clips (%(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="only create the bundles and the calibration clips")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.prepare:
        print(*prepare(options.prepare), sep="\n")
        return
    clips = make_clips("held-out", options.clips)
    with tempfile.TemporaryDirectory() as temporary:
        scores: list[Score] = []
        for path in options.bundles or prepare(Path(temporary)):
            bundle, name = Bundle(path), "/".join(path.parts[-2:])
            scores += judge(bundle, clips, options.device, name=name)
            scores.append(judge_naive(bundle, clips, name))
            if not options.bundles:
                scores += judge_methods(bundle, clips, options.device, name)
            print(f"judged {name}", file=sys.stderr)
    Console(width=None if sys.stdout.isatty() else WIDTH).print(_table(scores))
    if options.json:
        write_json(options.json, {"clips": len(clips), "scores": [asdict(score) for score in scores]})


if __name__ == "__main__":
    main()
