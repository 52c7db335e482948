"""`--backend auto`: the fastest of what a bundle holds that keeps its tolerance on this machine.

Every backend and precision is tried once per bundle, machine and versions; what was found is remembered in the user's
cache. The truth here is the bundle's own fp32 graph, whose distance from torch stands in the manifest: a machine that
serves needs no torch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tvlt_deploy._internal import machine
from tvlt_deploy._internal.atomic import write_json
from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.cache import bundle_cache
from tvlt_deploy.errors import EnvironmentLackError, TvltError, UsageError
from tvlt_deploy.parity.cases import Case, add_noise, fidelity_cases, synthetic_clip
from tvlt_deploy.parity.metrics import Outputs
from tvlt_deploy.parity.report import fidelity
from tvlt_deploy.runtimes import AUTO, DEFAULT_DEVICE, ENGINE_BACKENDS, PAIRS, held_precisions, open_runtime
from tvlt_deploy.runtimes.base import Runtime
from tvlt_deploy.tasks import PRECISIONS, TOLERANCES

CANDIDATES = tuple(backend for backend in PAIRS if backend != "torch")
"""What is tried, in this order; torch is the reference and no way to serve."""

REFERENCES = ("onnxruntime", "openvino", "torch")
"""Whose fp32 answers are the truth: the first that opens here."""

CASES = ("no sound", "no picture", "mixed batch")
"""Of `parity.fidelity_cases`: all kinds of masks, none of the longest clips. `verify` measures the rest."""

TIMED_STEPS = 54  # patches of sound in 10 s at the default hop
TIMED_CALLS = 3
HOPELESS = 2.0  # a first call this many times slower than the best is not repeated


@dataclass(frozen=True)
class Candidate:
    """One backend in one precision on this machine.

    seconds: the least time of one call on the longest clip of 10 s, one clip, model only; None where it did not pass.
    why: what kept it out: a limit it missed, or what it lacks.
    """

    backend: str
    precision: str
    seconds: float | None = None
    why: str = ""

    @property
    def text(self) -> str:
        """Backend, precision and outcome in one line."""
        return f"{self.backend} {self.precision}: {self.why or f'{1000 * (self.seconds or 0):.0f} ms'}"


@dataclass(frozen=True)
class Choice:
    """What was tried and which one is the fastest."""

    backend: str
    device: str
    precision: str
    candidates: tuple[Candidate, ...]


def choose(
    bundle: Bundle,
    device: str,
    precision: str | None = None,
    threads: int | None = None,
    trust_engine: str | None = None,
    allow_fallback: bool = False,
    progress: Progress = silent,
) -> Choice:
    """The fastest backend and precision of a bundle that keep their tolerance here, tried now or remembered.

    precision: None tries all. threads: CPU threads to use and measure with. trust_engine: the SHA-256 of an engine that
    was not built here. allow_fallback: take the CPU when nothing runs on the device. progress: called with a line of
    text at each step.

    Raises `UsageError` for an unknown precision or device, and `EnvironmentLackError` when nothing passes, naming what
    kept each one out.
    """
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; wanted one of {', '.join(PRECISIONS)}")
    pairs = [
        (backend, held)
        for backend in CANDIDATES
        for held in held_precisions(bundle, backend, device)
        if precision in (None, held)
    ]
    situation = _situation(device, precision, threads, trust_engine)
    name = sha256(json.dumps([situation, pairs], sort_keys=True).encode()).hexdigest()[:16]
    try:
        memory = bundle_cache(bundle, AUTO) / f"{name}.json"
    except OSError as error:
        memory = None
        progress(f"the choice cannot be remembered: {error}")
    remembered = None if memory is None else _recall(memory, device, pairs)
    if remembered is not None:
        return remembered
    progress(f"trying {len(pairs)} ways to run this bundle; the fastest is remembered")
    candidates = _try(bundle, pairs, device, threads, trust_engine, progress) if pairs else []
    choice = _fastest(device, candidates)
    if choice is None and allow_fallback and device != DEFAULT_DEVICE:
        return choose(bundle, DEFAULT_DEVICE, precision, threads, progress=progress)
    if choice is None:
        asked = f"{device} in {precision}" if precision else device
        why = "; ".join(candidate.text for candidate in candidates) or "the bundle holds nothing for that"
        raise EnvironmentLackError(
            f"nothing runs {bundle.directory} on {asked}: {why}", hint="tvlt-deploy doctor says what works here"
        )
    if memory is not None:
        try:
            write_json(memory, {"situation": situation, "candidates": [asdict(candidate) for candidate in candidates]})
        except OSError as error:
            progress(f"the choice cannot be remembered: {error}")
    return choice


def _situation(device: str, precision: str | None, threads: int | None, trust_engine: str | None) -> dict[str, Any]:
    """Everything besides the bundle that the choice depends on."""
    engines = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx", "tvlt-deploy")
    return {
        "device": device,
        "precision": precision,
        "threads": threads,
        "trust_engine": trust_engine,
        "cpu": machine.cpu_model(),
        "cores": machine.usable_cores(),
        "gpus": machine.gpu_names() if device != "cpu" else [],
        "versions": machine.package_versions(engines),
    }


def _recall(path: Path, device: str, pairs: Sequence[tuple[str, str]]) -> Choice | None:
    """The choice that was written there; None where there is none that can be used."""
    try:
        candidates = [Candidate(**values) for values in json.loads(path.read_text(encoding="utf-8"))["candidates"]]
        known = [(candidate.backend, candidate.precision) for candidate in candidates] == list(pairs)
        return _fastest(device, candidates) if known else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _fastest(device: str, candidates: Sequence[Candidate]) -> Choice | None:
    passed = [candidate for candidate in candidates if candidate.seconds is not None]
    if not passed:
        return None
    best = min(passed, key=lambda candidate: candidate.seconds or math.inf)
    return Choice(best.backend, device, best.precision, tuple(candidates))


def _try(
    bundle: Bundle,
    pairs: Sequence[tuple[str, str]],
    device: str,
    threads: int | None,
    trust_engine: str | None,
    progress: Progress,
) -> list[Candidate]:
    config, task = bundle.config, bundle.task
    cases = [case for case in fidelity_cases(task, config) if case.name in CASES]
    timed = add_noise(task, config, synthetic_clip(config, config.num_frames, min(config.time_patches, TIMED_STEPS), 1))
    wanted = _reference(bundle, cases, threads, progress)
    candidates: list[Candidate] = []
    for backend, precision in pairs:
        best = min((found.seconds for found in candidates if found.seconds is not None), default=math.inf)
        options = {"trust_engine": trust_engine} if backend in ENGINE_BACKENDS else {}
        try:
            with open_runtime(bundle, backend, device, precision, threads=threads, **options) as runtime:
                answers = [runtime.run(case.feeds) for case in cases]
                rows = list(fidelity(task, config, TOLERANCES[precision], answers, wanted))
                missed = "; ".join(row.text for row in rows if not row.passed)
                found = Candidate(backend, precision, None if missed else _least_time(runtime, timed, best), missed)
        except TvltError as error:
            found = Candidate(backend, precision, why=str(error))
        candidates.append(found)
        progress(found.text)
    return candidates


def _reference(bundle: Bundle, cases: Sequence[Case], threads: int | None, progress: Progress) -> list[Outputs]:
    lacking: list[str] = []
    for backend in REFERENCES:
        if "fp32" not in held_precisions(bundle, backend):
            lacking.append(f"{backend}: the bundle holds no fp32 for it")
            continue
        try:
            with open_runtime(bundle, backend, precision="fp32", threads=threads) as runtime:
                progress(f"what is right: {backend} in fp32")
                return [runtime.run(case.feeds) for case in cases]
        except EnvironmentLackError as error:
            lacking.append(str(error))
    raise EnvironmentLackError(
        f"there are no fp32 answers of {bundle.directory} to measure against: {'; '.join(lacking)}",
        hint="name a backend, or export the bundle with --precision fp32 too",
    )


def _least_time(runtime: Runtime, feeds: Mapping[str, Any], best: float) -> float:
    """Seconds of one call, the least of a few after a first that warms up."""
    times = []
    for _ in range(1 + TIMED_CALLS):
        start = time.perf_counter()
        runtime.run(feeds)
        times.append(time.perf_counter() - start)
        if times[0] > HOPELESS * best:
            break
    return min(times[1:] or times)
