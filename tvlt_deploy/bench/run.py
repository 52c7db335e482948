"""`bench`: every backend in every precision on every workload."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tvlt_deploy._internal import machine
from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.bench.measurement import TURN_SECONDS, Measurement, Target
from tvlt_deploy.bench.report import BenchReport
from tvlt_deploy.bench.results import BenchRow
from tvlt_deploy.bench.system_load import SystemLoad
from tvlt_deploy.bench.workloads import check_workload
from tvlt_deploy.bundle import Bundle, BundleLike, open_bundle
from tvlt_deploy.bundle.manifest import FUSED_FORM
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.inference.selection import choose
from tvlt_deploy.runtimes import AUTO, DEFAULT_BACKEND, DEFAULT_DEVICE, DEFAULT_PRECISION, check_pair
from tvlt_deploy.runtimes.options import OPTIONS, check_options

DEFAULT_SECONDS = 5.0


def bench(
    bundle: BundleLike,
    backends: Sequence[str] = (DEFAULT_BACKEND,),
    precisions: Sequence[str] | None = None,
    workloads: Sequence[str | os.PathLike[str]] = ("image10", "clip10", "ragged"),
    device: str = DEFAULT_DEVICE,
    threads: int | None = None,
    seconds: float = DEFAULT_SECONDS,
    trust_engine: str | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> BenchReport:
    """Measure every backend in every precision on every workload, and how far its answers are from fp32.

    Each row has its own process. The rows of one workload take turns, so that a temporary slowdown of the machine
    affects all of them. A backend that cannot run has a row that says why. An interrupt ends the processes first.

    Args:
        bundle: The bundle, or its directory.
        backends: Names of backends; `fused` is the fused graph on ONNX Runtime on the CPU, whose rows contain the share
            of its pre-processing; `auto` the choice of `tvlt_deploy.inference.selection.choose`.
        precisions: By default fp32; for `auto` any.
        workloads: Names in `tvlt_deploy.bench.workloads.WORKLOADS`, or paths of media files, which are decoded as part
            of each call.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads of each backend; by default all cores that this process may use.
        seconds: Measuring time of each row, after at most as much time for warm-up. Each row has at least 5 calls.
        trust_engine: For TensorRT, the SHA-256 of an engine that was not built here.
        options: Options of backends (`tvlt_deploy.runtimes.options.OPTIONS`). Each is passed to the backends that have
            it.
        progress: Called with one line of text at each step.

    Raises:
        UsageError: An unknown name, an option that no backend has, or a number out of range.
        BundleError: The bundle was altered.
    """
    _check_arguments({"backends": backends, "precisions": precisions, "workloads": workloads}, seconds, threads)
    names = [check_workload(name) for name in dict.fromkeys(workloads)]
    targets = _named_targets(backends, precisions, device)
    opened = open_bundle(bundle)
    if AUTO in backends:
        for precision in precisions or (None,):
            choice = choose(opened, device, precision, threads, trust_engine, progress=progress)
            targets.setdefault((choice.backend, choice.precision), "")
    opening = {
        "bundle": os.path.abspath(opened.directory),
        "device": device,
        "threads": machine.usable_cores() if threads is None else threads,
        "trust_engine": trust_engine,
    }
    return _measure(opened, names, targets, opening, dict(options or {}), seconds, progress)


def _named_targets(backends: Sequence[str], precisions: Sequence[str] | None, device: str) -> dict[Target, str]:
    """What to measure, without `auto` -> why it cannot run here; empty if it can."""
    return {
        (backend, precision): _why_not(backend, device, precision)
        for backend in backends
        if backend != AUTO
        for precision in precisions or (DEFAULT_PRECISION,)
    }


def _measure(
    bundle: Bundle,
    workloads: Sequence[str],
    targets: Mapping[Target, str],
    opening: Mapping[str, Any],
    options: dict[str, Any],
    seconds: float,
    progress: Progress,
) -> BenchReport:
    own_options = _options_of(targets, options)
    described, load = machine.describe_machine(), SystemLoad()
    rows: list[BenchRow] = []
    versions = machine.imported_versions()
    for index, name in enumerate(workloads):
        count = index, len(workloads)
        measurement = Measurement({**opening, "workload": name}, own_options, targets, seconds, progress, *count)
        for row, imported in measurement.rows():
            rows.append(row)
            versions.update(imported)
    return BenchReport(
        bundle=str(bundle.directory),
        manifest_sha256=bundle.digest,
        task=bundle.task.name,
        device=opening["device"],
        threads=opening["threads"],
        order=f"each row in a process of its own, in turns of {TURN_SECONDS:g} s or one call",
        bystander_cores=load.other_cores(),
        machine=described,
        versions=versions,
        engine_options=options,
        rows=tuple(rows),
    )


def _check_arguments(lists: Mapping[str, Sequence[Any] | None], seconds: float, threads: int | None) -> None:
    for name, values in lists.items():
        if isinstance(values, str) or (values is not None and not values):
            raise UsageError(f"{name} is {values!r}; expected a list of at least one name")
    if not seconds >= 0:
        raise UsageError(f"seconds is {seconds!r}; expected zero or more")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads!r}; expected at least 1")


def _options_of(targets: Mapping[Target, str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Backend -> those of the options that it has. Raises `UsageError` for an option that no target has."""
    backends = list(dict.fromkeys(backend for backend, _ in targets))
    own = {
        backend: {name: value for name, value in options.items() if name in OPTIONS.get(backend, {})}
        for backend in backends
    }
    for backend, values in own.items():
        if values:
            check_options(backend, values)
    unknown = set(options).difference(*own.values())
    if unknown:
        known = sorted({name for backend in backends for name in OPTIONS.get(backend, {})})
        raise UsageError(
            f"options are {', '.join(sorted(unknown))} for {', '.join(backends)}; "
            f"expected {', '.join(known) or 'none: these backends have no options'}"
        )
    return own


def _why_not(backend: str, device: str, precision: str) -> str:
    """Why a backend does not run this precision on this device; empty if it does."""
    if backend == FUSED_FORM:
        return "" if (device, precision) == ("cpu", "fp32") else "the fused graph is measured on the cpu in fp32"
    try:
        check_pair(backend, device, precision)
    except EnvironmentLackError as error:
        return str(error)
    return ""
