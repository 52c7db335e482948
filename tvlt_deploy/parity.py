"""How far a runtime is from the reference, and whether it keeps the promises that need no reference.

Fidelity: each output against the torch model in fp32, over clips of many shapes and masks.
Invariants: a batch, its order, its padding and its masked content must not change an answer.
Limits per precision: `tvlt_deploy.tasks.TOLERANCES`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import FUSED_FORM, NOT_RUN
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import EnvironmentLackError, UsageError, VerdictError
from tvlt_deploy.media import SAMPLING_RATE
from tvlt_deploy.processors import TvltProcessor
from tvlt_deploy.processors.masking_noise import masking_noise
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

Feeds = dict[str, np.ndarray]
Outputs = Mapping[str, np.ndarray]
Progress = Callable[[str], None]

LONG_ROW = 64
"""Rows of this many values and more are compared by cosine."""


# Metrics -------------------------------------------------------------------------------------------------------------


def max_difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest absolute difference; infinity where `found` is not finite or the shapes differ."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - wanted).max(initial=0.0))


def least_cosine(found: np.ndarray, wanted: np.ndarray) -> float:
    """Smallest cosine between rows (last axis); -1 where `found` is not finite or the shapes differ.

    A row of zeros agrees (1) with a row of zeros only, and is at right angles (0) to all others.
    """
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return -1.0
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)
    norms, equal = lengths[0] * lengths[1], (lengths[0] == lengths[1]).astype(np.float64)
    cosine = np.divide((a * b).sum(axis=-1), norms, out=equal, where=norms > 0)
    return float(cosine.min(initial=1.0))


def label_agreement(found: np.ndarray, wanted: np.ndarray, exclusive: bool, tie: float) -> float:
    """Share of equal labels: of the largest logit when `exclusive`, else of each logit's sign.

    Rows whose reference decides by less than `tie` are left out; 1.0 when none remains.
    """
    if exclusive:
        ordered = np.sort(wanted, axis=-1)
        decided = ordered[:, -1] - ordered[:, -2] > tie
        equal = found.argmax(axis=-1) == wanted.argmax(axis=-1)
    else:
        decided = np.abs(wanted) > tie
        equal = (found >= 0) == (wanted >= 0)
    return float(equal[decided].mean()) if decided.any() else 1.0


# Clips ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A named batch of model inputs."""

    name: str
    feeds: Feeds


def synthetic_clip(config: TvltConfig, frames: int, steps: int, seed: int) -> Feeds:
    """One clip (batch 1) of `frames` frames and `steps` patches of sound, values in [-1, 1], all valid.

    Pictures are a tint, a slope and noise; sounds are bands and noise. Amplitudes vary, so that answers do.
    """
    random = np.random.default_rng(seed)
    height, width = config.image_shape
    channels, rows = config.num_image_channels, steps * config.audio_patch[0]
    tint = random.uniform(-1, 1, (frames, channels, 1, 1))
    slope = random.normal(size=(frames, channels, 1, 1)) * np.linspace(-1, 1, width)
    noise = random.uniform(0, 1) * random.uniform(-1, 1, (frames, channels, height, width))
    bands = random.uniform(-1, 1, (config.num_audio_channels, 1, config.frequency_length))
    swell = np.cos(np.arange(rows) * random.uniform(0.02, 0.5))[None, :, None]
    hiss = random.uniform(0, 0.5) * random.uniform(-1, 1, (config.num_audio_channels, rows, config.frequency_length))
    clip = {
        "pixel_values": np.clip(tint + slope + noise, -1, 1)[None],
        "audio_values": np.clip(bands * swell + hiss, -1, 1)[None],
        "pixel_mask": np.ones((1, frames * config.patches_per_frame)),
        "audio_mask": np.ones((1, steps * config.frequency_patches)),
    }
    return {name: values.astype(np.float32) for name, values in clip.items()}


def pad_clip(config: TvltConfig, clip: Feeds, frames: int, steps: int, fill: float = 0.0) -> Feeds:
    """The clip with masked frames and rows of the value `fill` appended, up to `frames` and `steps`."""
    pixel, audio = clip["pixel_values"], clip["audio_values"]
    more_frames, more_rows = frames - pixel.shape[1], steps * config.audio_patch[0] - audio.shape[2]
    patches = lambda mask, total: np.pad(mask, ((0, 0), (0, total - mask.shape[1])))  # noqa: E731
    return {
        "pixel_values": np.pad(pixel, ((0, 0), (0, more_frames), (0, 0), (0, 0), (0, 0)), constant_values=fill),
        "audio_values": np.pad(audio, ((0, 0), (0, 0), (0, more_rows), (0, 0)), constant_values=fill),
        "pixel_mask": patches(clip["pixel_mask"], frames * config.patches_per_frame),
        "audio_mask": patches(clip["audio_mask"], steps * config.frequency_patches),
    }


def stack_clips(clips: Sequence[Feeds]) -> Feeds:
    """One batch of clips of equal sizes."""
    return {name: np.concatenate([clip[name] for clip in clips]) for name in clips[0]}


def add_noise(task: Task, config: TvltConfig, feeds: Feeds, seeds: Sequence[int] | None = None) -> Feeds:
    """The feeds with masking noise where the task wants it, row by row from `seeds`."""
    if not task.needs_noise:
        return feeds
    frames, rows = feeds["pixel_values"].shape[1], feeds["audio_values"].shape[2]
    seeds = range(len(feeds["pixel_values"])) if seeds is None else seeds
    pairs = [masking_noise(config, frames, rows, seed) for seed in seeds]
    return {
        **feeds,
        "pixel_noise": np.stack([pixel for pixel, _ in pairs]),
        "audio_noise": np.stack([audio for _, audio in pairs]),
    }


def fidelity_cases(task: Task, config: TvltConfig) -> Iterator[Case]:
    """The corners of what the model takes, sizes between, padding, absent modalities, and a batch of them."""
    most_frames, most_steps = config.num_frames, config.time_patches
    frames, steps = max(1, (most_frames + 1) // 2), max(1, min(most_steps, 27))
    clip = lambda frames, steps, seed: synthetic_clip(config, frames, steps, seed)  # noqa: E731
    padded = lambda f, s, seed: pad_clip(config, clip(f, s, seed), frames, steps)  # noqa: E731
    silent, blind = clip(frames, 1, 8), clip(1, steps, 9)
    silent["audio_mask"][:] = 0
    blind["pixel_mask"][:] = 0
    neither = clip(1, 1, 10)
    neither["audio_mask"][:] = neither["pixel_mask"][:] = 0
    batches = {
        "one frame, one patch of sound": clip(1, 1, 1),
        "most frames, shortest sound": clip(most_frames, 1, 2),
        "one frame, longest sound": clip(1, most_steps, 3),
        "most frames, longest sound": clip(most_frames, most_steps, 4),
        "sizes between": clip(frames, steps, 5),
        "padded video": stack_clips([clip(frames, steps, 6), padded(1, steps, 7)]),
        "padded sound": stack_clips([clip(frames, steps, 11), padded(frames, max(1, steps // 3), 12)]),
        "no sound": silent,
        "no picture": blind,
        "nothing valid": neither,
        "mixed batch": stack_clips([padded(1, 1, 13), clip(frames, steps, 14), padded(frames, max(1, steps // 2), 15)]),
    }
    for name, feeds in batches.items():
        yield Case(name, add_noise(task, config, feeds))


@dataclass(frozen=True)
class RawCase:
    """A named clip for the fused graph; see `tvlt_deploy.tasks.RAW_INPUTS`. An absent part is None."""

    name: str
    frames: np.ndarray | None
    waveform: np.ndarray | None


def raw_cases(config: TvltConfig, hop: int, rows: int) -> Iterator[RawCase]:
    """Frames of many sizes and sounds of many lengths and kinds, for a spectrogram of `rows` rows of `hop` samples."""
    random = np.random.default_rng(31)

    def picture(frames: int, height: int, width: int) -> np.ndarray:
        slope = np.linspace(0, 255, width)[:, None] * random.uniform(0, 1, (frames, height, 1, 3))
        noise = random.uniform(0, 255, (frames, height, width, 3)) * random.uniform(0, 1)
        return np.clip(slope + noise, 0, 255).astype(np.uint8)

    def sound(samples: int) -> np.ndarray:
        time = np.arange(samples) / SAMPLING_RATE
        tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in random.uniform(50, 15000, 3)) / 8
        hiss = random.uniform(0, 0.2) * random.normal(size=samples)
        wave: np.ndarray = (tones + hiss * np.cos(9 * time)).astype(np.float32)
        return wave

    middle = hop * max(1, min(rows, 430)) + hop // 3
    tone = (0.5 * np.sin(np.arange(middle) / 9)).astype(np.float32)
    most = config.num_frames
    yield RawCase("one pixel, shortest sound", picture(1, 1, 1), sound(hop))
    yield RawCase("most frames, longest sound", picture(most, 90, 160), sound(hop * rows + 5 * hop))
    yield RawCase("landscape", picture(max(1, most // 2), 361, 641), sound(middle))
    yield RawCase("portrait, sound of less than a frame", picture(1, 233, 97), sound(2 * hop + 1))
    yield RawCase("the model's own size, a tone", picture(1, *config.image_shape), tone)
    yield RawCase("silence", picture(min(2, most), 48, 64), np.zeros(middle, np.float32))
    yield RawCase("no sound", picture(most, 120, 90), None)
    yield RawCase("no picture", None, sound(middle))


# Verdicts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One measured number: what was checked on which output, the value, and the limit it has to keep."""

    check: str
    output: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the value keeps the limit; a NaN never does."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def missed_by(self) -> float:
        """How far the value is on the wrong side of the limit; negative when it is kept."""
        return self.limit - self.value if self.at_least else self.value - self.limit

    @property
    def text(self) -> str:
        """The number, its limit and by how much it misses."""
        sign = ">=" if self.at_least else "<="
        text = f"{self.check} of {self.output}: {self.value:.3g}, wanted {sign} {self.limit:.3g}"
        return text if self.passed else f"{text} (missed by {self.missed_by:.3g})"


@dataclass
class Verdict:
    """All numbers of one graph (or of the torch model in another precision) on one backend."""

    backend: str
    device: str
    precision: str
    form: str | None
    path: str | None
    rows: list[Row] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every row keeps its limit."""
        return all(row.passed for row in self.rows)

    @property
    def name(self) -> str:
        """Backend, device, precision and form in one phrase."""
        return " ".join(part for part in (self.backend, self.device, self.precision, self.form) if part)

    def to_dict(self) -> dict[str, Any]:
        """For the manifest and `--json`; a number that is not finite is written as text."""
        finite = lambda value: value if np.isfinite(value) else str(value)  # noqa: E731
        return {
            "verdict": "pass" if self.passed else "fail",
            "backend": self.backend,
            "device": self.device,
            "precision": self.precision,
            "form": self.form,
            "rows": [{**asdict(row), "value": finite(row.value), "passed": row.passed} for row in self.rows],
        }


@dataclass
class Report:
    """The verdicts of a bundle."""

    bundle: str
    task: str
    verdicts: list[Verdict]

    @property
    def passed(self) -> bool:
        """Whether every verdict passed."""
        return all(verdict.passed for verdict in self.verdicts)

    def raise_on_failure(self, hint: str = "tvlt-deploy verify BUNDLE prints every number") -> None:
        """Raise `VerdictError` naming every missed limit and by how much."""
        misses = [f"{v.name}: {row.text}" for v in self.verdicts for row in v.rows if not row.passed]
        if misses:
            raise VerdictError(
                f"{len(misses)} of {sum(len(v.rows) for v in self.verdicts)} checks missed: " + "; ".join(misses),
                hint=hint,
            )

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "bundle": self.bundle,
            "task": self.task,
            "verdict": "pass" if self.passed else "fail",
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }


def is_hidden(name: str) -> bool:
    """Whether an output is neither logits nor a mask."""
    return name not in ("logits", "matching_logits") and not name.endswith("_label_mask")


def fidelity(
    task: Task, config: TvltConfig, limits: Tolerance, found: Sequence[Outputs], wanted: Sequence[Outputs]
) -> Iterator[Row]:
    """Rows for every output over all cases: what was found, against what was wanted."""
    for name in task.output_names:
        pairs = [(f[name], w[name]) for f, w in zip(found, wanted, strict=True)]
        worst = max(max_difference(f, w) for f, w in pairs)
        if name.endswith("_label_mask"):
            yield Row("difference", name, worst, 0.0)
        elif is_hidden(name):
            if limits.absolute_hidden is not None:
                yield Row("difference", name, worst, limits.absolute_hidden)
            if pairs[0][1].shape[-1] >= LONG_ROW:
                yield Row("least cosine", name, min(least_cosine(f, w) for f, w in pairs), limits.cosine, True)
        else:
            reference = np.concatenate([w for _, w in pairs])
            yield Row("difference / deviation", name, worst / deviation(wanted, name), limits.relative)
            if limits.absolute_logits is not None:
                yield Row("difference", name, worst, limits.absolute_logits)
            tie = limits.absolute_logits or limits.relative * deviation(wanted, name)
            exclusive = task.activation(config) == "softmax"
            agreement = label_agreement(np.concatenate([f for f, _ in pairs]), reference, exclusive, tie)
            yield Row("label agreement", name, agreement, limits.agreement, True)


def deviation(outputs: Sequence[Outputs], name: str) -> float:
    """Standard deviation of an output over all cases, in double precision.

    An output that hardly varies counts as varying by a twentieth of its magnitude: float32 itself is no finer.
    """
    values = np.concatenate([output[name].reshape(-1) for output in outputs]).astype(np.float64)
    magnitude = float(np.sqrt(np.square(values).mean()))
    return max(float(values.std()), magnitude / 20, float(np.finfo(np.float32).tiny))


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
    from tvlt_deploy.pipeline import Pipeline  # which chooses backends with this module

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
            from tvlt_deploy.auto import choose  # which measures with this module

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
    bundle: str | os.PathLike[str] | Bundle,
    *,
    backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    trust_engine: str | None = None,
    progress: Progress = lambda message: None,
) -> Report:
    """Measure every graph of a bundle on every backend asked for against the torch reference in fp32.

    backends: None takes every one that is installed and has something to run, besides torch itself.
    precisions: None takes all that the bundle holds.
    trust_engine: for TensorRT, the SHA-256 of an engine that was not built here.

    All files are hashed first. Verdicts of CPU graphs are written into the manifest where the bundle can be written.
    Raises `BundleError` for altered files, `UsageError` for a bundle without weights or precisions it does not hold,
    and `EnvironmentLackError` for packages or devices that are missing; a missed limit is in the report.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
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
