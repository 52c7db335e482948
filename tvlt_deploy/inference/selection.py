"""The backend `auto`: the fastest backend and precision of a bundle that keep their tolerance on this machine.

Every backend and precision is measured once per bundle, machine and package versions. The result is cached in the
user's cache directory. The reference here is the fp32 graph of the bundle, whose difference from torch is in the
manifest, so that a machine that only runs the model needs no torch.
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
from tvlt_deploy._internal.progress import Progress, Step, silent
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.cache import bundle_cache
from tvlt_deploy.errors import EnvironmentLackError, TvltError, UsageError
from tvlt_deploy.parity.cases import Case, add_noise, fidelity_cases, synthetic_clip
from tvlt_deploy.parity.metrics import Outputs
from tvlt_deploy.parity.report import fidelity
from tvlt_deploy.runtimes import AUTO, DEFAULT_DEVICE, ENGINE_BACKENDS, PAIRS, held_precisions, open_runtime
from tvlt_deploy.runtimes.base import Runtime
from tvlt_deploy.tasks import PRECISIONS, TOLERANCES, Tolerance

CANDIDATES = tuple(backend for backend in PAIRS if backend != "torch")
"""Backends to measure, in this order. torch is the reference, and not meant for serving."""

REFERENCES = ("onnxruntime", "openvino", "torch")
"""Backends for the reference outputs in fp32: the first that opens."""

CASES = ("no sound", "no frames", "mixed batch")
"""Names from `parity.cases.fidelity_cases`: all kinds of masks, without the longest clips, which `verify` covers."""

TIMED_PATCHES = 54  # time patches in 10 s at the default hop
TIMED_CALLS = 3
MAX_SLOWDOWN = 2.0  # a candidate whose first call is this many times slower than the best is not timed again


@dataclass(frozen=True)
class Candidate:
    """One backend in one precision on this machine.

    Attributes:
        backend: name of the backend.
        precision: name of the precision.
        seconds: the shortest time of one call on one clip with all frames and 10 s of sound, the model only; None for
            a candidate that was rejected.
        why: why it was rejected: a missed limit, or what is missing.
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
    """The fastest candidate.

    Attributes:
        backend: its backend.
        device: the device that all candidates ran on.
        precision: its precision.
        candidates: all that were measured.
    """

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
    tolerances: Mapping[str, Tolerance] = TOLERANCES,
    progress: Progress = silent,
) -> Choice:
    """Return the fastest backend and precision of a bundle that keep their tolerance here, from the cache if possible.

    Args:
        bundle: the bundle.
        device: `cpu`, `cuda` or `cuda:N`.
        precision: the only precision to consider; by default all.
        threads: CPU threads to run with, by default all cores.
        trust_engine: SHA-256 of a TensorRT engine that was not built on this machine.
        allow_fallback: choose for the CPU when nothing runs on the device.
        tolerances: the limits of each precision.
        progress: called with a line of text for each candidate; not called when the result is cached.

    Returns:
        The choice with the measurements of all candidates.

    Raises:
        UsageError: the precision or device does not exist.
        EnvironmentLackError: no candidate passes; the message has the reason for each.
    """
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    pairs = [
        (backend, held)
        for backend in CANDIDATES
        for held in held_precisions(bundle, backend, device)
        if precision in (None, held)
    ]
    situation = _situation(device, precision, threads, trust_engine, tolerances)
    cached = _cache_file(bundle, situation, pairs, progress)
    choice = None if cached is None else _read_cache(cached, device, pairs)
    if choice is not None:
        return choice
    progress(f"measuring {len(pairs)} combinations of backend and precision; the result is cached")
    candidates = _measure(bundle, pairs, device, threads, trust_engine, tolerances, progress) if pairs else []
    choice = _fastest(device, candidates)
    if choice is None and allow_fallback and device != DEFAULT_DEVICE:
        return choose(bundle, DEFAULT_DEVICE, precision, threads, tolerances=tolerances, progress=progress)
    if choice is None:
        asked = f"{device} in {precision}" if precision else device
        why = "; ".join(candidate.text for candidate in candidates) or "the bundle contains nothing for that"
        raise EnvironmentLackError(
            f"nothing runs {bundle.directory} on {asked}: {why}", hint="tvlt-deploy doctor shows what works here"
        )
    if cached is not None:
        try:
            write_json(cached, {"situation": situation, "candidates": [asdict(candidate) for candidate in candidates]})
        except OSError as error:
            progress(f"the choice cannot be cached: {error}")
    return choice


# Cache ---------------------------------------------------------------------------------------------------------------


def _situation(
    device: str,
    precision: str | None,
    threads: int | None,
    trust_engine: str | None,
    tolerances: Mapping[str, Tolerance],
) -> dict[str, Any]:
    """Everything that the choice depends on, except the bundle."""
    engines = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx", "tvlt-deploy")
    return {
        "device": device,
        "precision": precision,
        "threads": threads,
        "trust_engine": trust_engine,
        "tolerances": {name: asdict(limits) for name, limits in tolerances.items()},
        "cpu": machine.cpu_model(),
        "cores": machine.usable_cores(),
        "gpus": machine.gpu_names() if device != "cpu" else [],
        "versions": machine.package_versions(engines),
    }


def _cache_file(
    bundle: Bundle, situation: Mapping[str, Any], pairs: Sequence[tuple[str, str]], progress: Progress
) -> Path | None:
    """Where the choice is cached; None without a cache directory."""
    name = sha256(json.dumps([situation, pairs], sort_keys=True).encode()).hexdigest()[:16]
    try:
        return bundle_cache(bundle, AUTO) / f"{name}.json"
    except OSError as error:
        progress(f"the choice cannot be cached: {error}")
        return None


def _read_cache(path: Path, device: str, pairs: Sequence[tuple[str, str]]) -> Choice | None:
    """The cached choice; None if there is none, or none that can be used."""
    try:
        candidates = [Candidate(**values) for values in json.loads(path.read_text(encoding="utf-8"))["candidates"]]
        known = [(candidate.backend, candidate.precision) for candidate in candidates] == list(pairs)
        return _fastest(device, candidates) if known else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


# Measurements --------------------------------------------------------------------------------------------------------


def _fastest(device: str, candidates: Sequence[Candidate]) -> Choice | None:
    passed = [candidate for candidate in candidates if candidate.seconds is not None]
    if not passed:
        return None
    best = min(passed, key=lambda candidate: candidate.seconds or math.inf)
    return Choice(best.backend, device, best.precision, tuple(candidates))


def _measure(
    bundle: Bundle,
    pairs: Sequence[tuple[str, str]],
    device: str,
    threads: int | None,
    trust_engine: str | None,
    tolerances: Mapping[str, Tolerance],
    progress: Progress,
) -> list[Candidate]:
    config, task = bundle.config, bundle.task
    cases = [case for case in fidelity_cases(task, config) if case.name in CASES]
    clip = synthetic_clip(config, config.num_frames, min(config.time_patches, TIMED_PATCHES), 1)
    timed = add_noise(task, config, clip)
    expected = _reference(bundle, cases, threads, progress)
    candidates: list[Candidate] = []
    for backend, precision in pairs:
        best = min((each.seconds for each in candidates if each.seconds is not None), default=math.inf)
        trust = trust_engine if backend in ENGINE_BACKENDS else None
        try:
            with open_runtime(bundle, backend, device, precision, threads=threads, trust_engine=trust) as runtime:
                actual = [runtime.run(case.feeds) for case in cases]
                rows = list(fidelity(task, config, tolerances[precision], actual, expected))
                missed = "; ".join(row.text for row in rows if not row.passed)
                seconds = None if missed else _min_seconds(runtime, timed, best)
                candidate = Candidate(backend, precision, seconds, missed)
        except TvltError as error:
            candidate = Candidate(backend, precision, why=str(error))
        candidates.append(candidate)
        progress(Step(candidate.text, len(candidates), len(pairs)))
    return candidates


def _reference(bundle: Bundle, cases: Sequence[Case], threads: int | None, progress: Progress) -> list[Outputs]:
    missing: list[str] = []
    for backend in REFERENCES:
        if "fp32" not in held_precisions(bundle, backend):
            missing.append(f"{backend}: the bundle contains no fp32 for it")
            continue
        try:
            with open_runtime(bundle, backend, precision="fp32", threads=threads) as runtime:
                progress(f"reference: {backend} in fp32")
                return [runtime.run(case.feeds) for case in cases]
        except EnvironmentLackError as error:
            missing.append(str(error))
    raise EnvironmentLackError(
        f"there are no fp32 outputs of {bundle.directory} to compare with: {'; '.join(missing)}",
        hint="name a backend, or export the bundle with --precision fp32 too",
    )


def _min_seconds(runtime: Runtime, feeds: Mapping[str, Any], best: float) -> float:
    """Seconds of one call, the shortest of a few after a first that warms up."""
    times = []
    for _ in range(1 + TIMED_CALLS):
        start = time.perf_counter()
        runtime.run(feeds)
        times.append(time.perf_counter() - start)
        if times[0] > MAX_SLOWDOWN * best:
            break
    return min(times[1:] or times)
