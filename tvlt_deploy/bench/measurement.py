"""The measurement of one workload: workers side by side, taking turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tvlt_deploy._internal.progress import Progress, Step
from tvlt_deploy.bench.results import END_TO_END, STAGES, BenchRow
from tvlt_deploy.bench.timing import Statistics
from tvlt_deploy.bench.worker_client import Worker, WorkerError
from tvlt_deploy.bench.workloads import workload_name
from tvlt_deploy.parity.metrics import deviation, max_difference
from tvlt_deploy.runtimes import ENGINE_BACKENDS

MIN_REPEATS = 5
TURN_SECONDS = 0.25

REFERENCES = (("torch", "fp32"), ("onnxruntime", "fp32"))
"""Whose answers the others are compared with: the first of them that takes part."""
Target = tuple[str, str]
"""A backend and a precision."""


@dataclass
class _Candidate:
    """A worker that is ready, and its times so far."""

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


class Measurement:
    """All backends and precisions on one workload."""

    def __init__(
        self,
        opening: Mapping[str, Any],
        options: Mapping[str, Mapping[str, Any]],
        reasons: Mapping[Target, str],
        seconds: float,
        progress: Progress,
        index: int,
        total: int,
    ) -> None:
        """Describe the measurement; `rows` starts it.

        Args:
            opening: What every worker is opened with: `bundle`, `device`, `threads`, `trust_engine` and `workload`.
            options: Options of the engine, by backend.
            reasons: Why a target cannot run; empty for those that are to be measured.
            seconds: Measuring time of each row.
            progress: Called with a `Step` for each worker that starts, and when the measurement starts.
            index: Number of this workload, from 0, for the count of steps.
            total: Number of workloads.
        """
        self.opening, self.options, self.seconds = opening, options, seconds
        self.workload = workload_name(opening["workload"])
        self.reasons = dict(reasons)
        self.candidates: dict[Target, _Candidate] = {}
        self._progress = progress
        count = sum(not reason for reason in reasons.values())
        self._first_step, self._steps = 2 * count * index, max(1, 2 * count * total)

    def rows(self) -> Iterator[tuple[BenchRow, dict[str, str]]]:
        """Measure.

        Yields:
            A row and the versions of what ran, in the order of the targets.

        Raises:
            BundleError: The bundle was altered.
        """
        finished: dict[Target, tuple[BenchRow, dict[str, str]]] = {}

        def finish(candidate: _Candidate) -> None:
            finished[candidate.backend, candidate.precision] = candidate.row(self.workload)

        with ExitStack() as stack:
            self._start_all(stack)
            self._take_turns()
            for target in list(self.candidates):
                self._attempt(target, finish)
            errors = self._errors() if self.candidates else {}
        for target, reason in self.reasons.items():
            row, versions = finished.get(target, (BenchRow(self.workload, *target, why=reason), {}))
            error, reference = errors.get(target, (None, ""))
            yield replace(row, error=error, reference=reference), versions

    def _attempt(self, target: Target, action: Callable[[_Candidate], object]) -> None:
        """Call the action; a candidate whose worker fails is dropped, with the reason."""
        try:
            action(self.candidates[target])
        except WorkerError as error:
            self.reasons[target] = str(error)
            self.candidates.pop(target).worker.close()

    def _step(self, text: str, done: int) -> None:
        self._progress(Step(f"{self.workload}: {text}", self._first_step + done, self._steps))

    def _start_all(self, stack: ExitStack) -> None:
        """Load and warm up one worker after another. A worker counts as two steps: warm-up and measurement."""

        def start(candidate: _Candidate) -> None:
            candidate.worker.ask("open", **self._opening(candidate.backend, candidate.precision))
            candidate.warm_up = candidate.worker.ask("warm_up", seconds=self.seconds)

        targets = [target for target, reason in self.reasons.items() if not reason]
        for done, target in enumerate(targets):
            self._step(f"{' '.join(target)}, loading and warming up", done)
            self.candidates[target] = _Candidate(*target, stack.enter_context(Worker()))
            self._attempt(target, start)
        if self.candidates:
            self._step(f"measuring {', '.join(' '.join(target) for target in self.candidates)}", len(targets))

    def _take_turns(self) -> None:
        def take_turn(candidate: _Candidate) -> None:
            candidate.times += candidate.worker.ask("turn", seconds=TURN_SECONDS)

        forward = True
        while not all(candidate.satisfied(self.seconds) for candidate in self.candidates.values()):
            for target in list(self.candidates)[:: 1 if forward else -1]:
                self._attempt(target, take_turn)
            forward = not forward  # so that none always runs after the same other one

    def _opening(self, backend: str, precision: str) -> dict[str, Any]:
        """What a worker is opened with; only engines need trust."""
        trust = self.opening["trust_engine"] if backend in ENGINE_BACKENDS else None
        own = {"backend": backend, "precision": precision, "options": self.options.get(backend, {})}
        return {**self.opening, **own, "trust_engine": trust}

    def _errors(self) -> dict[Target, tuple[float, str]]:
        """Target -> how far its answers are from the reference's, and the name of the reference.

        The reference is the first of `REFERENCES` among the candidates. If there is none, the last of them answers
        without being measured; if that cannot run here, there are no errors.
        """
        reference = next((target for target in REFERENCES if target in self.candidates), None)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            workers = {target: candidate.worker for target, candidate in self.candidates.items()}
            try:
                if reference is None:
                    reference = REFERENCES[-1]
                    self._progress(f"{self.workload}: answers of {' '.join(reference)} for comparison")
                    workers[reference] = stack.enter_context(Worker())
                    workers[reference].ask("open", **self._opening(*reference))
                answers = {}
                for target, worker in workers.items():
                    path = folder / f"{'-'.join(target)}.npy"
                    worker.ask("answers", path=str(path))
                    answers[target] = np.load(path)
            except WorkerError as error:
                self._progress(f"answers are not compared: {error}")
                return {}
        scale = deviation([{"": answers[reference]}], "")
        return {
            target: (max_difference(actual, answers[reference]) / scale, " ".join(reference))
            for target, actual in answers.items()
            if target in self.candidates
        }
