"""The measurement: workers side by side, taking turns."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tvlt_deploy._internal import machine
from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.bench.report import BenchReport
from tvlt_deploy.bench.results import END_TO_END, STAGES, BenchRow
from tvlt_deploy.bench.system_load import Bystanders
from tvlt_deploy.bench.timing import Statistics
from tvlt_deploy.bench.worker_client import Worker, WorkerError
from tvlt_deploy.bench.workloads import check_workload, workload_name
from tvlt_deploy.bundle import BundleLike, open_bundle
from tvlt_deploy.bundle.manifest import FUSED_FORM
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.inference.selection import choose
from tvlt_deploy.parity.metrics import deviation, max_difference
from tvlt_deploy.runtimes import (
    AUTO,
    DEFAULT_BACKEND,
    DEFAULT_DEVICE,
    DEFAULT_PRECISION,
    ENGINE_BACKENDS,
    check_pair,
)

DEFAULT_SECONDS = 5.0
MIN_REPEATS = 5
TURN_SECONDS = 0.25

REFERENCES = (("torch", "fp32"), ("onnxruntime", "fp32"))
"""Whose answers are right, the first of them that takes part."""
Target = tuple[str, str]
"""A backend and a precision."""


@dataclass
class _Contender:
    """A worker that is ready, and the times it has given."""

    backend: str
    precision: str
    worker: Worker
    warm_up: dict[str, Any] = field(default_factory=dict)
    times: list[dict[str, float]] = field(default_factory=list)

    def satisfied(self, seconds: float) -> bool:
        return len(self.times) >= MIN_REPEATS and sum(call[END_TO_END] for call in self.times) >= seconds

    def row(self, workload: str) -> tuple[BenchRow, dict[str, str]]:
        """The finished row, and the versions of what ran."""
        summary = self.worker.ask("summary")
        stages = {
            stage: Statistics.of([call[stage] for call in self.times]) for stage in STAGES if stage in self.times[0]
        }
        versions = summary.pop("versions")
        summary["batches"] = tuple(tuple(batch) for batch in summary["batches"])
        row = BenchRow(
            workload,
            self.backend,
            self.precision,
            stages=stages,
            warm_up_calls=self.warm_up["calls"],
            stable=self.warm_up["stable"],
            **summary,
        )
        return row, versions


def bench(
    bundle: BundleLike,
    backends: Sequence[str] = (DEFAULT_BACKEND,),
    precisions: Sequence[str] | None = None,
    workloads: Sequence[str | os.PathLike[str]] = ("image10", "clip10", "ragged"),
    device: str = DEFAULT_DEVICE,
    threads: int | None = None,
    seconds: float = DEFAULT_SECONDS,
    trust_engine: str | None = None,
    progress: Progress = silent,
) -> BenchReport:
    """Measure every backend in every precision on every workload, and how far its answers are from fp32.

    backends: `fused` stands for the fused graph on ONNX Runtime on the CPU, whose rows tell the share of its
    pre-processing; `auto` for the one that `tvlt_deploy.inference.selection.choose` takes. precisions: by
    default fp32, and any for `auto`. workloads: names of `tvlt_deploy.bench.workloads.WORKLOADS`, or paths of media
    files, which are decoded as part of each call. threads: CPU threads of each backend; by default all cores this
    process may use. seconds: spent
    measuring each row, after at most as many of warm-up; each row has at least 5 calls, however long they take.
    trust_engine: for TensorRT, the SHA-256 of an engine that was not built here. progress: called with a line of text
    at each step.

    Each row has a process of its own. The rows of one workload take turns, so that what slows the machine down for a
    while slows all of them. What cannot run is a row that says why. Raises `UsageError` for unknown names and numbers
    that cannot be, `BundleError` for a bundle that is altered. An interrupt ends the processes before it goes on.
    """
    for name, asked in {"backends": backends, "precisions": precisions, "workloads": workloads}.items():
        if isinstance(asked, str) or (asked is not None and not asked):
            raise UsageError(f"{name} is {asked!r}; wanted a list of at least one name")
    if not seconds >= 0:
        raise UsageError(f"seconds is {seconds!r}; wanted zero or more")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads!r}; wanted at least 1")
    names = [check_workload(name) for name in dict.fromkeys(workloads)]
    targets = [(name, wanted) for name in backends if name != AUTO for wanted in precisions or (DEFAULT_PRECISION,)]
    lacking = {target: _lacking(target[0], device, target[1]) for target in targets}
    opened = open_bundle(bundle)
    if AUTO in backends:
        for wanted in precisions or (None,):
            choice = choose(opened, device, wanted, threads, trust_engine, progress=progress)
            lacking.setdefault((choice.backend, choice.precision), "")
    used = machine.usable_cores() if threads is None else threads
    options = {
        "bundle": os.path.abspath(opened.directory),
        "device": device,
        "threads": used,
        "trust_engine": trust_engine,
    }
    described, bystanders = machine.describe_machine(), Bystanders()
    rows: list[BenchRow] = []
    versions = machine.imported_versions()
    for name in names:
        for row, found in _measure({**options, "workload": name}, lacking, seconds, progress):
            rows.append(row)
            versions.update(found)
    order = f"each row in a process of its own, in turns of {TURN_SECONDS:g} s or one call"
    return BenchReport(
        bundle=str(opened.directory),
        manifest_sha256=opened.digest,
        task=opened.task.name,
        device=device,
        threads=used,
        order=order,
        bystander_cores=bystanders.cores(),
        machine=described,
        versions=versions,
        rows=tuple(rows),
    )


def _lacking(backend: str, device: str, precision: str) -> str:
    if backend == FUSED_FORM:
        return "" if (device, precision) == ("cpu", "fp32") else "the fused graph is measured on the cpu in fp32"
    try:
        check_pair(backend, device, precision)
    except EnvironmentLackError as error:
        return str(error)
    return ""


def _measure(
    options: dict[str, Any], lacking: dict[Target, str], seconds: float, progress: Progress
) -> Iterator[tuple[BenchRow, dict[str, str]]]:
    """The rows of one workload, in the order of the targets, each with the versions of what ran."""
    workload = workload_name(options["workload"])
    why = dict(lacking)
    contenders: dict[Target, _Contender] = {}
    done: dict[Target, tuple[BenchRow, dict[str, str]]] = {}

    with ExitStack() as stack:

        def attempt(target: Target, step: Callable[[_Contender], object]) -> None:
            try:
                step(contenders[target])
            except WorkerError as error:
                why[target] = str(error)
                contenders.pop(target).worker.close()

        def start(contender: _Contender) -> None:
            worker = contender.worker
            worker.ask("open", **_options(options, contender.backend, contender.precision))
            contender.warm_up = worker.ask("warm_up", seconds=seconds)

        def take_turn(contender: _Contender) -> None:
            contender.times += contender.worker.ask("turn", seconds=TURN_SECONDS)

        def finish(contender: _Contender) -> None:
            done[contender.backend, contender.precision] = contender.row(workload)

        for target in why:
            if not why[target]:
                progress(f"{workload}: {' '.join(target)}, loading and warming up")
                contenders[target] = _Contender(*target, stack.enter_context(Worker()))
                attempt(target, start)
        if contenders:
            progress(f"{workload}: measuring {', '.join(' '.join(target) for target in contenders)}")
        forward = True
        while not all(contender.satisfied(seconds) for contender in contenders.values()):
            for target in list(contenders)[:: 1 if forward else -1]:
                attempt(target, take_turn)
            forward = not forward  # so that none is always the one that follows the other
        for target in list(contenders):
            attempt(target, finish)
        errors = _errors(contenders, options, progress) if contenders else {}
    for target, reason in why.items():
        row, versions = done.get(target, (BenchRow(workload, *target, why=reason), {}))
        error, reference = errors.get(target, (None, ""))
        yield replace(row, error=error, reference=reference), versions


def _options(options: Mapping[str, Any], backend: str, precision: str) -> dict[str, Any]:
    """What a worker opens with; only engines take trust."""
    trust = options["trust_engine"] if backend in ENGINE_BACKENDS else None
    return {**options, "backend": backend, "precision": precision, "trust_engine": trust}


def _errors(
    contenders: Mapping[Target, _Contender], options: Mapping[str, Any], progress: Progress
) -> dict[Target, tuple[float, str]]:
    """By backend and precision: how far its answers are from the reference's, and who that is.

    The reference is the first of `REFERENCES` among the contenders; where none is, its last one answers unmeasured.
    Nothing is said where that cannot run here.
    """
    reference = next((target for target in REFERENCES if target in contenders), None)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = {target: contender.worker for target, contender in contenders.items()}
        try:
            if reference is None:
                reference = REFERENCES[-1]
                progress(f"the answers of {' '.join(reference)}")
                workers[reference] = stack.enter_context(Worker())
                workers[reference].ask("open", **_options(options, *reference))
            answers = {}
            for target, worker in workers.items():
                path = folder / f"{'-'.join(target)}.npy"
                worker.ask("answers", path=str(path))
                answers[target] = np.load(path)
        except WorkerError as error:
            progress(f"answers are not compared: {error}")
            return {}
    wanted = {"": answers[reference]}
    scale = deviation([wanted], "")
    return {
        target: (max_difference(found, answers[reference]) / scale, " ".join(reference))
        for target, found in answers.items()
        if target in contenders
    }
