"""How far a runtime is from the reference, and whether it keeps the promises that need no reference.

Fidelity: each output against the torch model in fp32, over clips of many shapes and masks.
Invariants: a batch, its order, its padding and its masked content must not change an answer.
Limits per precision: `tvlt_deploy.tasks.TOLERANCES`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.bundle import Bundle, BundleLike, open_bundle
from tvlt_deploy.bundle.manifest import FUSED_FORM, NOT_RUN
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.inference.pipeline import Pipeline
from tvlt_deploy.inference.selection import choose
from tvlt_deploy.parity.cases import (
    Case,
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

# Metrics -------------------------------------------------------------------------------------------------------------


# Clips ---------------------------------------------------------------------------------------------------------------


# Verdicts ------------------------------------------------------------------------------------------------------------


def _tokens_of(config: TvltConfig, frames: int, steps: int, inside_frames: int) -> dict[str, np.ndarray]:
    """Where the valid tokens of a clip of (frames, steps) stand among those of the same clip in longer padding."""
    pixel, audio = np.arange(frames * config.patches_per_frame), np.arange(steps * config.frequency_patches)
    whole = np.concatenate([[0], 1 + pixel, 1 + inside_frames * config.patches_per_frame + audio])
    return {"last_hidden_state": whole, "last_pixel_hidden_state": pixel, "last_audio_hidden_state": audio}


def _invariants(
    task: Task, config: TvltConfig, limits: Tolerance, runtime: Runtime, scale: Mapping[str, float]
) -> Iterator[Row]:
    """Rows for what must not change an answer."""
    most_frames, most_steps = config.num_frames, config.time_patches
    frames, steps = max(1, most_frames - 1) if most_frames < 4 else 2, max(1, min(most_steps - 3, 9))
    wide_frames, wide_steps = min(most_frames, frames + 1), min(most_steps, steps + 3)
    clips = [synthetic_clip(config, frames, steps, seed) for seed in (21, 22, 23)]
    run = lambda feeds, seeds: runtime.run(add_noise(task, config, feeds, seeds))  # noqa: E731
    batch, order = stack_clips(clips), [2, 0, 1]
    together = run(batch, [0, 1, 2])
    again = run(batch, [0, 1, 2])
    permuted = run({name: values[order] for name, values in batch.items()}, order)
    same = run(stack_clips([clips[0]] * 3), [0, 0, 0])
    alone = [run(clip, [index]) for index, clip in enumerate(clips)]
    for name in task.output_names:
        relative = lambda found, wanted, name=name: max_difference(found, wanted) / scale[name]  # noqa: E731
        yield Row("identical rows", name, relative(same[name][1:], same[name][:2]), limits.invariant)
        yield Row("permuted rows", name, relative(permuted[name], together[name][order]), limits.invariant)
        singles = np.concatenate([output[name] for output in alone])
        yield Row("batch of one", name, relative(singles, together[name]), limits.invariant)
        if runtime.device == "cpu":
            yield Row("same call twice", name, max_difference(again[name], together[name]), 0.0)
    if task.needs_noise:
        return  # the share of patches shown is counted over padding too, by definition
    tokens = _tokens_of(config, frames, steps, wide_frames)
    zeros = run(pad_clip(config, clips[0], wide_frames, wide_steps), None)
    others = run(pad_clip(config, clips[0], wide_frames, wide_steps, fill=0.7), None)
    for name in task.output_names:
        valid = lambda output, name=name: output[name][:, tokens[name]] if name in tokens else output[name]  # noqa: E731
        for check, output, other in (("padding", zeros, alone[0][name]), ("masked content", others, valid(zeros))):
            yield Row(check, name, max_difference(valid(output), other) / scale[name], limits.invariant)


def _raw_answers(bundle: Bundle, reference: Runtime, progress: Progress) -> tuple[list[RawCase], list[Outputs]]:
    """Raw clips, and what processors and reference say of them."""
    processor = TvltProcessor.from_pretrained(bundle.directory)
    extractor = processor.feature_extractor
    cases = list(raw_cases(bundle.config, extractor.hop_length, extractor.max_rows))
    pipeline = Pipeline(bundle, reference, processor)
    answers: list[Outputs] = []
    for index, case in enumerate(cases, 1):
        progress(f"reference, raw clip {index}/{len(cases)}: {case.name}")
        outputs = pipeline([case.frames], [case.waveform], extractor.sampling_rate)
        answers.append({name: np.asarray(values[0])[None] for name, values in outputs.items()})
    return cases, answers


def _fused_rows(
    bundle: Bundle, cases: Sequence[RawCase], wanted: Sequence[Outputs], threads: int | None, progress: Progress
) -> Iterator[Row]:
    """Rows for the fused graph: fidelity on raw clips, and the same answer to the same clip."""
    from tvlt_deploy.runtimes.onnxruntime import open_fused

    with open_fused(bundle, threads) as runtime:
        found = []
        for index, case in enumerate(cases, 1):
            progress(f"fused graph {index}/{len(cases)}: {case.name}")
            found.append(runtime.run(case.frames, case.waveform))
        again = runtime.run(cases[-1].frames, cases[-1].waveform)
    yield from fidelity(bundle.task, bundle.config, TOLERANCES["fp32"], found, wanted)
    for name in bundle.task.output_names:
        yield Row("same call twice", name, max_difference(again[name], found[-1][name]), 0.0)


@dataclass(frozen=True)
class _Target:
    """What is verified: a graph of the bundle on a backend, or (without a path) the torch model."""

    backend: str
    device: str
    precision: str
    form: str | None = None
    path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def _pairs(
    bundle: Bundle,
    backends: Sequence[str] | None,
    precisions: Sequence[str] | None,
    device: str,
    threads: int | None,
    trust_engine: str | None,
    progress: Progress,
) -> Iterator[tuple[str, str]]:
    """The backends and precisions to verify; torch in fp32 is what the rest is measured against."""
    for backend in present_backends(bundle, device) if backends is None else backends:
        if backend == AUTO:
            for precision in precisions or (None,):
                choice = choose(bundle, device, precision, threads, trust_engine, progress=progress)
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
    """The bf16 graphs on OpenVINO, the only runtime that computes them on a CPU; where it lacks, that is recorded."""
    for variant in bundle.variants:
        if variant.precision != "bf16":
            continue
        try:
            importlib.import_module("tvlt_deploy.runtimes.openvino")
        except EnvironmentLackError as error:
            progress(f"bf16 graph not run: {error}")
            if os.access(bundle.directory, os.W_OK):
                bundle.record_parity(variant.path, {**NOT_RUN, "reason": str(error)})
        else:
            yield _Target("openvino", "cpu", "bf16", variant.form, variant.path, {"graph": "bf16"})


def _range_row(path: os.PathLike[str], cases: Sequence[Case], threads: int | None) -> Row:
    from tvlt_deploy.exporters.precision import RANGE_LIMIT, largest_activation

    value, where = largest_activation(path, [case.feeds for case in cases], threads)
    return Row("largest activation", where, value, RANGE_LIMIT)


def verify(
    bundle: BundleLike,
    *,
    backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    trust_engine: str | None = None,
    progress: Progress = silent,
) -> Report:
    """Measure every graph of a bundle on every backend asked for against the torch reference in fp32.

    backends: None takes every one that is installed and has something to run, besides torch itself.
    precisions: None takes all that the bundle holds.
    trust_engine: for TensorRT, the SHA-256 of an engine that was not built here.

    All files are hashed first. Verdicts of CPU graphs are written into the manifest where the bundle can be written.
    Raises `BundleError` for altered files, `UsageError` for a bundle without weights or precisions it does not hold,
    and `EnvironmentLackError` for packages or devices that are missing; a missed limit is in the report.
    """
    opened = open_bundle(bundle)
    progress("hashing every file")
    opened.check()
    pairs = list(_pairs(opened, backends, precisions, device, threads, trust_engine, progress))
    targets = [target for pair in dict.fromkeys(pairs) for target in _targets(opened, *pair, device)]
    if precisions is None and (backends is None or DEFAULT_BACKEND in backends):
        targets += _bf16_targets(opened, progress)
    if not targets:
        raise UsageError(f"{opened.directory} holds no graph that {' or '.join(backends or BACKENDS)} runs on {device}")
    task, config = opened.task, opened.config
    cases = list(fidelity_cases(task, config))
    wanted: list[Outputs] = []
    with open_runtime(opened, "torch", "cpu", "fp32", threads=threads) as reference:
        for index, case in enumerate(cases, 1):
            progress(f"reference {index}/{len(cases)}: {case.name}")
            wanted.append(reference.run(case.feeds))
        raw = _raw_answers(opened, reference, progress) if any(t.form == FUSED_FORM for t in targets) else ([], [])
    scale = {name: deviation(wanted, name) for name in task.output_names}
    report = Report(str(opened.directory), task.name, [])
    for target in targets:
        verdict = Verdict(target.backend, target.device, target.precision, target.form, target.path)
        report.verdicts.append(verdict)
        if target.form == FUSED_FORM:
            verdict.rows.extend(_fused_rows(opened, *raw, threads, progress))
            _record(opened, verdict)
            continue
        limits = TOLERANCES[target.precision]
        options = {**target.options, "threads": threads}
        if target.backend in ENGINE_BACKENDS:
            options["trust_engine"] = trust_engine
        with open_runtime(opened, target.backend, target.device, target.precision, **options) as runtime:
            verdict.path = getattr(runtime, "path", target.path)  # which of several engines it is
            found = []
            for index, case in enumerate(cases, 1):
                progress(f"{verdict.name} {index}/{len(cases)}: {case.name}")
                found.append(runtime.run(case.feeds))
            verdict.rows.extend(fidelity(task, config, limits, found, wanted))
            progress(f"{verdict.name}: invariants")
            verdict.rows.extend(_invariants(task, config, limits, runtime, scale))
        if target.precision == "fp16" and target.path is not None:
            progress(f"{verdict.name}: range")
            verdict.rows.append(_range_row(opened.path(target.path), cases, threads))
        _record(opened, verdict)
    return report


def _record(bundle: Bundle, verdict: Verdict) -> None:
    """Write the verdict of a CPU graph or of an engine into the manifest, where that can be written."""
    kept = verdict.device == "cpu" or verdict.backend in ENGINE_BACKENDS
    if verdict.path is not None and kept and os.access(bundle.directory, os.W_OK):
        bundle.record_parity(verdict.path, verdict.to_dict())
