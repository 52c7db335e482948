"""Verification of the graphs and engines of a bundle.

Fidelity: each output is compared with the torch model in fp32, over clips of many shapes and masks.
Invariants: the other clips in the batch, their order, padding and masked content must not change an answer.
The limits of each precision are `tvlt_deploy.tasks.TOLERANCES`. The result of a graph is a verdict: pass or fail.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tvlt_deploy._internal.progress import Progress, counted, silent
from tvlt_deploy.bundle import Bundle, BundleLike, open_bundle
from tvlt_deploy.bundle.manifest import FUSED_FORM, StoredVerdict
from tvlt_deploy.bundle.writer import record_verdict
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.inference.pipeline import Pipeline
from tvlt_deploy.inference.selection import choose
from tvlt_deploy.parity.cases import (
    Case,
    Feeds,
    RawCase,
    add_noise,
    fidelity_cases,
    pad_clip,
    raw_cases,
    stack_clips,
    synthetic_clip,
)
from tvlt_deploy.parity.metrics import Outputs, deviation, max_difference
from tvlt_deploy.parity.report import Report, Row, Verdict, fidelity
from tvlt_deploy.processors import TvltProcessor
from tvlt_deploy.runtimes import (
    AUTO,
    BACKENDS,
    DEFAULT_BACKEND,
    ENGINE_BACKENDS,
    check_pair,
    held_precisions,
    open_runtime,
    present_backends,
)
from tvlt_deploy.runtimes.base import Runtime
from tvlt_deploy.tasks import TOLERANCES, Task, Tolerance


@dataclass(frozen=True)
class _Target:
    """What is verified: a graph of the bundle on a backend, or (without a path) the torch model."""

    backend: str
    device: str
    precision: str
    form: str | None = None
    path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Reference:
    """The clips, and the outputs of the torch model in fp32 for each of them."""

    cases: Sequence[Case]
    expected: Sequence[Outputs]
    raw_cases: Sequence[RawCase] = ()
    raw_expected: Sequence[Outputs] = ()


def verify(
    bundle: BundleLike,
    *,
    backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    trust_engine: str | None = None,
    tolerances: Mapping[str, Tolerance] = TOLERANCES,
    progress: Progress = silent,
) -> Report:
    """Compare the graphs of a bundle with the torch reference in fp32, on each backend.

    All files are hashed first. Verdicts of CPU graphs and of engines are written into the manifest if the bundle is
    writable.

    Args:
        bundle: a bundle or its directory.
        backends: by default every installed backend that runs something of the bundle, torch in other precisions
            included.
        precisions: by default all that the bundle contains.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads of each engine, by default all cores.
        trust_engine: SHA-256 of a TensorRT engine that was not built on this machine.
        tolerances: the limits of each precision.
        progress: called with a line of text at each step.

    Returns:
        The verdicts. A missed limit is no exception: see `Report.raise_on_failure`.

    Raises:
        BundleError: a file was altered.
        UsageError: the bundle has no weights, or does not contain a precision.
        EnvironmentLackError: a package or a device is missing.
    """
    opened = open_bundle(bundle)
    progress("hashing every file")
    opened.check()
    pairs = list(_pairs(opened, backends, precisions, device, threads, trust_engine, tolerances, progress))
    targets = [target for pair in dict.fromkeys(pairs) for target in _targets(opened, *pair, device)]
    if precisions is None and (backends is None or DEFAULT_BACKEND in backends):
        targets += _bf16_targets(opened, progress)
    if not targets:
        names = " or ".join(backends or BACKENDS)
        raise UsageError(f"{opened.directory} contains no graph that {names} runs on {device}")
    reference = _run_reference(opened, any(target.form == FUSED_FORM for target in targets), threads, progress)
    report = Report(str(opened.directory), opened.task.name, [])
    for target in targets:
        verdict = Verdict(target.backend, target.device, target.precision, target.form, target.path)
        if target.form == FUSED_FORM:
            verdict.rows.extend(_fused_rows(opened, reference, tolerances["fp32"], threads, progress))
        else:
            limits = tolerances[target.precision]
            _measure(opened, target, verdict, reference, limits, threads, trust_engine, progress)
        _record(opened, verdict)
        report.verdicts.append(verdict)
    return report


# Targets -------------------------------------------------------------------------------------------------------------


def _pairs(
    bundle: Bundle,
    backends: Sequence[str] | None,
    precisions: Sequence[str] | None,
    device: str,
    threads: int | None,
    trust_engine: str | None,
    tolerances: Mapping[str, Tolerance],
    progress: Progress,
) -> Iterator[tuple[str, str]]:
    """The backends and precisions to verify, without torch in fp32, which is the reference."""
    for backend in present_backends(bundle, device) if backends is None else backends:
        if backend == AUTO:
            for precision in precisions or (None,):
                choice = choose(
                    bundle, device, precision, threads, trust_engine, tolerances=tolerances, progress=progress
                )
                yield choice.backend, choice.precision
            continue
        held = held_precisions(bundle, backend, device)
        if precisions is None:
            yield from ((backend, p) for p in held if (backend, p) != ("torch", "fp32"))
            continue
        for precision in precisions:
            if backends is not None:
                check_pair(backend, device, precision)
            if precision in held:
                yield backend, precision
            elif backends is not None or precision not in bundle.precisions:
                bundle.variant(precision)  # raises, naming what there is


def _targets(bundle: Bundle, backend: str, precision: str, device: str) -> Iterator[_Target]:
    """What one backend runs in one precision: ONNX Runtime every form of the graph, the others the one they read."""
    if backend == "onnxruntime":
        for variant in bundle.variants:
            if variant.precision == precision and (variant.form != FUSED_FORM or device == "cpu"):
                yield _Target(backend, device, precision, variant.form, variant.path, {"form": variant.form})
    else:
        yield _Target(backend, device, precision)


def _bf16_targets(bundle: Bundle, progress: Progress) -> Iterator[_Target]:
    """The bf16 graphs on OpenVINO, the only runtime that runs them on a CPU; without it, that is recorded."""
    for variant in bundle.variants:
        if variant.precision != "bf16":
            continue
        try:
            importlib.import_module("tvlt_deploy.runtimes.openvino")
        except EnvironmentLackError as error:
            progress(f"bf16 graph not run: {error}")
            if os.access(bundle.directory, os.W_OK):
                record_verdict(bundle, variant.path, StoredVerdict("not run", reason=str(error)))
        else:
            yield _Target("openvino", "cpu", "bf16", variant.form, variant.path, {"graph": "bf16"})


# Reference -----------------------------------------------------------------------------------------------------------


def _run_reference(bundle: Bundle, fused: bool, threads: int | None, progress: Progress) -> _Reference:
    """Run the torch model in fp32. fused: also on raw clips, with pre-processing by the processors."""
    cases = list(fidelity_cases(bundle.task, bundle.config))
    with open_runtime(bundle, "torch", "cpu", "fp32", threads=threads) as runtime:
        expected = _run_cases(runtime, cases, "reference", progress)
        if not fused:
            return _Reference(cases, expected)
        processor = TvltProcessor.from_pretrained(bundle.directory)
        extractor = processor.feature_extractor
        raw = list(raw_cases(bundle.config, extractor.hop_length, extractor.max_rows))
        pipeline = Pipeline(bundle, runtime, processor)
        raw_expected: list[Outputs] = []
        for case in counted(raw, "reference, raw clip", progress, lambda case: case.name):
            outputs = pipeline([case.frames], [case.waveform], extractor.sampling_rate)
            raw_expected.append({name: np.asarray(values[0])[None] for name, values in outputs.items()})
        return _Reference(cases, expected, raw, raw_expected)


def _run_cases(runtime: Runtime, cases: Sequence[Case], label: str, progress: Progress) -> list[Outputs]:
    return [runtime.run(case.feeds) for case in counted(cases, label, progress, lambda case: case.name)]


# Measurements --------------------------------------------------------------------------------------------------------


def _measure(
    bundle: Bundle,
    target: _Target,
    verdict: Verdict,
    reference: _Reference,
    limits: Tolerance,
    threads: int | None,
    trust_engine: str | None,
    progress: Progress,
) -> None:
    """Fill a verdict: fidelity, invariants, and for fp16 graphs the range of the activations."""
    options = {**target.options, "threads": threads}
    if target.backend in ENGINE_BACKENDS:
        options["trust_engine"] = trust_engine
    with open_runtime(bundle, target.backend, target.device, target.precision, **options) as runtime:
        verdict.path = getattr(runtime, "path", target.path)  # which of several engines it is
        actual = _run_cases(runtime, reference.cases, verdict.name, progress)
        verdict.rows.extend(fidelity(bundle.task, bundle.config, limits, actual, reference.expected))
        progress(f"{verdict.name}: invariants")
        scale = {name: deviation(reference.expected, name) for name in bundle.task.output_names}
        verdict.rows.extend(_invariants(bundle.task, bundle.config, limits, runtime, scale))
    if target.precision == "fp16" and target.path is not None:
        progress(f"{verdict.name}: range")
        verdict.rows.append(_range_row(bundle.path(target.path), reference.cases, threads))


def _invariants(
    task: Task, config: TvltConfig, limits: Tolerance, runtime: Runtime, scale: Mapping[str, float]
) -> Iterator[Row]:
    """Rows for what must not change an answer. scale: standard deviation of each output."""
    max_frames, max_patches = config.num_frames, config.time_patches
    frames, patches = max(1, max_frames - 1) if max_frames < 4 else 2, max(1, min(max_patches - 3, 9))
    clips = [synthetic_clip(config, frames, patches, seed) for seed in (21, 22, 23)]
    run = lambda feeds, seeds: runtime.run(add_noise(task, config, feeds, seeds))  # noqa: E731
    batch, order = stack_clips(clips), [2, 0, 1]
    together = run(batch, [0, 1, 2])
    again = run(batch, [0, 1, 2])
    permuted = run({name: values[order] for name, values in batch.items()}, order)
    same = run(stack_clips([clips[0]] * 3), [0, 0, 0])
    alone = [run(clip, [index]) for index, clip in enumerate(clips)]
    for name in task.output_names:
        relative = lambda actual, expected, name=name: max_difference(actual, expected) / scale[name]  # noqa: E731
        yield Row("identical rows", name, relative(same[name][1:], same[name][:2]), limits.invariant)
        yield Row("permuted rows", name, relative(permuted[name], together[name][order]), limits.invariant)
        singles = np.concatenate([output[name] for output in alone])
        yield Row("batch of one", name, relative(singles, together[name]), limits.invariant)
        if runtime.device == "cpu":
            yield Row("same call twice", name, max_difference(again[name], together[name]), 0.0)
    if not task.needs_noise:  # which counts padding among the patches that it hides, by definition
        larger = min(max_frames, frames + 1), min(max_patches, patches + 3)
        yield from _padding_rows(task, config, limits, runtime, scale, clips[0], alone[0], larger)


def _padding_rows(
    task: Task,
    config: TvltConfig,
    limits: Tolerance,
    runtime: Runtime,
    scale: Mapping[str, float],
    clip: Feeds,
    alone: Outputs,
    larger: tuple[int, int],
) -> Iterator[Row]:
    """Rows for a clip that is padded to `larger` (frames, patches of rows). alone: its outputs without padding."""
    pixel, audio = (np.arange(clip[mask].shape[1]) for mask in ("pixel_mask", "audio_mask"))
    tokens = np.concatenate([[0], 1 + pixel, 1 + larger[0] * config.patches_per_frame + audio])
    places = {"last_hidden_state": tokens, "last_pixel_hidden_state": pixel, "last_audio_hidden_state": audio}
    zeros = runtime.run(pad_clip(config, clip, *larger))
    others = runtime.run(pad_clip(config, clip, *larger, fill=0.7))
    for name in task.output_names:
        valid = lambda output, name=name: output[name][:, places[name]] if name in places else output[name]  # noqa: E731
        for check, output, other in (("padding", zeros, alone[name]), ("masked content", others, valid(zeros))):
            yield Row(check, name, max_difference(valid(output), other) / scale[name], limits.invariant)


def _range_row(path: os.PathLike[str], cases: Sequence[Case], threads: int | None) -> Row:
    from tvlt_deploy.exporters.precision import RANGE_LIMIT, largest_activation

    value, where = largest_activation(path, [case.feeds for case in cases], threads)
    return Row("largest activation", where, value, RANGE_LIMIT)


def _fused_rows(
    bundle: Bundle, reference: _Reference, limits: Tolerance, threads: int | None, progress: Progress
) -> Iterator[Row]:
    """Rows for the fused graph: fidelity on raw clips, and the same answer to the same clip."""
    from tvlt_deploy.runtimes.onnxruntime import open_fused

    last = reference.raw_cases[-1]
    with open_fused(bundle, threads) as runtime:
        actual = [
            runtime.run(case.frames, case.waveform)
            for case in counted(reference.raw_cases, "fused graph", progress, lambda case: case.name)
        ]
        again = runtime.run(last.frames, last.waveform)
    yield from fidelity(bundle.task, bundle.config, limits, actual, reference.raw_expected)
    for name in bundle.task.output_names:
        yield Row("same call twice", name, max_difference(again[name], actual[-1][name]), 0.0)


def _record(bundle: Bundle, verdict: Verdict) -> None:
    """Write the verdict of a CPU graph or of an engine into the manifest, if the bundle is writable."""
    kept = verdict.device == "cpu" or verdict.backend in ENGINE_BACKENDS
    if verdict.path is not None and kept and os.access(bundle.directory, os.W_OK):
        record_verdict(bundle, verdict.path, StoredVerdict.from_dict(verdict.to_dict()))
