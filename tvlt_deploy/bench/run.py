"""The measurement: workers side by side, taking turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tvlt_deploy import machine
from tvlt_deploy.bench.bystanders import Bystanders
from tvlt_deploy.bench.clock import Statistics
from tvlt_deploy.bench.process import Worker, WorkerError
from tvlt_deploy.bench.report import BenchReport
from tvlt_deploy.bench.rows import END_TO_END, STAGES, BenchRow
from tvlt_deploy.bench.workloads import check_workload, workload_name
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.runtimes import DEFAULT_BACKEND, DEFAULT_DEVICE, DEFAULT_PRECISION, check_pair

DEFAULT_SECONDS = 5.0
MIN_REPEATS = 5
TURN_SECONDS = 0.25

Progress = Callable[[str], None]


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
    bundle: str | os.PathLike[str] | Bundle,
    backends: Sequence[str] = (DEFAULT_BACKEND,),
    precisions: Sequence[str] = (DEFAULT_PRECISION,),
    workloads: Sequence[str | os.PathLike[str]] = ("image10", "clip10", "ragged"),
    device: str = DEFAULT_DEVICE,
    threads: int | None = None,
    seconds: float = DEFAULT_SECONDS,
    progress: Progress = lambda message: None,
) -> BenchReport:
    """Measure every backend in every precision on every workload.

    workloads: names of `tvlt_deploy.bench.workloads.WORKLOADS`, or paths of media files, which are decoded as part of
    each call. threads: CPU threads of each backend; by default all cores this process may use. seconds: spent
    measuring each row, after at most as many of warm-up; each row has at least 5 calls, however long they take.
    progress: called with a line of text at each step.

    Each row has a process of its own. The rows of one workload take turns, so that what slows the machine down for a
    while slows all of them. What cannot run is a row that says why. Raises `UsageError` for unknown names and numbers
    that cannot be, `BundleError` for a bundle that is altered. An interrupt ends the processes before it goes on.
    """
    for name, asked in {"backends": backends, "precisions": precisions, "workloads": workloads}.items():
        if isinstance(asked, str) or not asked:
            raise UsageError(f"{name} is {asked!r}; wanted a list of at least one name")
    if not seconds >= 0:
        raise UsageError(f"seconds is {seconds!r}; wanted zero or more")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads!r}; wanted at least 1")
    names = [check_workload(name) for name in dict.fromkeys(workloads)]
    targets = [(backend, precision) for backend in dict.fromkeys(backends) for precision in dict.fromkeys(precisions)]
    lacking = {target: _lacking(target[0], device, target[1]) for target in targets}
    opened = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    used = machine.usable_cores() if threads is None else threads
    options = {
        "bundle": os.path.abspath(opened.directory),
        "device": device,
        "threads": used,
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
    try:
        check_pair(backend, device, precision)
    except EnvironmentLackError as error:
        return str(error)
    return ""


def _measure(
    options: dict[str, Any], lacking: dict[tuple[str, str], str], seconds: float, progress: Progress
) -> Iterator[tuple[BenchRow, dict[str, str]]]:
    """The rows of one workload, in the order of the targets, each with the versions of what ran."""
    workload = workload_name(options["workload"])
    why = dict(lacking)
    contenders: dict[tuple[str, str], _Contender] = {}
    done: dict[tuple[str, str], tuple[BenchRow, dict[str, str]]] = {}

    with ExitStack() as stack:

        def attempt(target: tuple[str, str], step: Callable[[_Contender], object]) -> None:
            try:
                step(contenders[target])
            except WorkerError as error:
                why[target] = str(error)
                contenders.pop(target).worker.close()

        def start(contender: _Contender) -> None:
            worker = contender.worker
            worker.ask("open", backend=contender.backend, precision=contender.precision, **options)
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
    for target, reason in why.items():
        yield done[target] if target in done else (BenchRow(workload, *target, why=reason), {})
