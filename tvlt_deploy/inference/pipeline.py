"""Clips in, answers out: processors, grouping, runtime and labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.bundle import Bundle, BundleLike, open_bundle
from tvlt_deploy.bundle.preprocessing import processor_of
from tvlt_deploy.errors import BundleError, InputError, UsageError
from tvlt_deploy.inference.selection import choose
from tvlt_deploy.processors import Processor
from tvlt_deploy.processors.masking_noise import masking_noise
from tvlt_deploy.processors.recipe import RECIPES
from tvlt_deploy.runtimes import (
    AUTO,
    DEFAULT_BACKEND,
    DEFAULT_DEVICE,
    DEFAULT_PRECISION,
    ENGINE_BACKENDS,
    open_runtime,
)
from tvlt_deploy.runtimes.base import Closing, Runtime
from tvlt_deploy.tasks import PIXEL_PATCHES, TOKENS, token_counts

MATCH, MISMATCH = "match", "mismatch"

MAX_PADDING = 0.05
"""Clips share a batch while the tokens computed for padding stay below this share."""
MAX_BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
"""Tokens of one batch. A CPU gains nothing from larger ones and pays in memory."""


@dataclass(frozen=True)
class Answer:
    """What the model says of one clip.

    label: the label of the highest score; for matching `match` or `mismatch`; for a regression of one output what its
        sign is called (`positive`, `negative`), where it is called something, else the output's name.
    score: its probability; for regression the value itself.
    scores: the score of every label, in the model's order. They add up to 1 for labels that exclude each other
        (softmax) and for matching; otherwise each stands for itself (sigmoid), and those from 0.5 on apply.
    """

    label: str
    score: float
    scores: dict[str, float]


@dataclass(frozen=True, eq=False)
class Prepared:
    """One clip's model inputs without the batch axis; a modality that is absent is one masked frame or patch.

    pixel_values (frames, 3, height, width) float32; audio_values (1, rows, bins) float32, rows in whole patches.
    """

    pixel_values: np.ndarray
    audio_values: np.ndarray
    pixel_mask: np.ndarray
    audio_mask: np.ndarray
    has_picture: bool
    has_sound: bool

    @property
    def frames(self) -> int:
        """Pictures, of which an absent modality has one."""
        return len(self.pixel_values)

    @property
    def rows(self) -> int:
        """Rows of the spectrogram, in whole patches."""
        return int(self.audio_values.shape[1])

    @property
    def visible(self) -> bool:
        """Whether any patch is; where none is, attention spreads evenly over padding as well."""
        return bool(self.pixel_mask.any() or self.audio_mask.any())

    def with_sound_of(self, other: Prepared) -> Prepared:
        """These pictures and the other clip's sound; nothing is copied."""
        return dataclasses.replace(
            self, audio_values=other.audio_values, audio_mask=other.audio_mask, has_sound=other.has_sound
        )


def _frame_count(clip: Any) -> int | None:
    """Frames of a (T, H, W, 3) array or a list; None for a single image."""
    if isinstance(clip, (list, tuple)):
        return len(clip)
    return np.shape(clip)[0] if np.ndim(clip) == 4 else None


class Pipeline(Closing):
    """A bundle ready to answer. Made by `load`; use with `with`, or call `close`.

    runtime: the engine, for tensors you prepared yourself (`runtime.run`).
    processor: makes those tensors from frames and sound, by the bundle's recipe.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime, processor: Processor) -> None:
        self.bundle, self.runtime, self.processor = bundle, runtime, processor
        self.task, self.config = bundle.task, bundle.config

    @property
    def has_labels(self) -> bool:
        """Whether the task's answers are labels rather than arrays."""
        return self.task.name in ("audio-visual-classification", "audio-visual-matching")

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that `scores` of an answer name, in order; none for tasks that give arrays."""
        if not self.has_labels:
            return ()
        names = (self.config.id2label or {}).values()
        return (MATCH, MISMATCH) if self.task.name == "audio-visual-matching" else tuple(names)

    # Answers -----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        images: Sequence[Any] | None = None,
        audio: Sequence[Any] | None = None,
        sampling_rate: int | None = None,
        seed: int = 0,
    ) -> dict[str, np.ndarray | list[np.ndarray]]:
        """The task's outputs, one row per clip, in the caller's order.

        images: one entry per clip: (T, H, W, 3) uint8, a list of frames, one image, or None for no picture.
        audio: one entry per clip: (samples,) mono at 44100 Hz, or None for no sound. Either list may be None whole.
        sampling_rate: of the audio; any but the model's raises, naming the resampler.
        seed: of the masking noise, where the task has one; each clip draws the same whatever its company.

        Outputs of a fixed size are arrays (clips, ...); outputs per token are lists of arrays trimmed to the valid
        tokens. Raises `InputError` (a `ValueError`) for anything the processors refuse, lists of unequal length, and a
        clip with neither picture nor sound.
        """
        clips = self._prepare(images, audio, sampling_rate)
        rows = dict(self.outputs(clips, seed))
        done = [rows[index] for index in range(len(clips))]
        per_token = {n for n, s in self.runtime.outputs.items() if any(a in s.shape for a in _TOKEN_AXES)}
        return {
            name: [row[name] for row in done] if name in per_token else np.stack([row[name] for row in done])
            for name in self.runtime.outputs
        }

    def predict(
        self,
        images: Sequence[Any] | None = None,
        audio: Sequence[Any] | None = None,
        sampling_rate: int | None = None,
    ) -> list[Answer]:
        """One `Answer` per clip; arguments as for a call. Raises `UsageError` for tasks without labels."""
        if not self.has_labels:
            raise UsageError(f"{self.task.name} gives arrays, not labels", hint="call the pipeline itself")
        outputs = self(images, audio, sampling_rate)
        return self.answers(np.asarray(outputs[self.task.output_names[0]]))

    def answers(self, logits: np.ndarray) -> list[Answer]:
        """Labels and scores of logits (clips, labels) or matching logits (clips, 1)."""
        values = logits.astype(np.float64)
        activation = self.task.activation(self.config)
        if activation == "sigmoid":
            values = 0.5 * (1 + np.tanh(values / 2))  # without overflow
        elif activation == "softmax":
            values = np.exp(values - values.max(axis=1, keepdims=True))
            values /= values.sum(axis=1, keepdims=True)
        if self.task.name == "audio-visual-matching":
            return [
                Answer(*max(scores.items(), key=lambda item: item[1]), scores)
                for scores in ({MATCH: float(p), MISMATCH: float(1 - p)} for p in values[:, 0])
            ]
        names, signs = self.labels, self.config.sign_labels
        answers = []
        for row in values:
            scores = dict(zip(names, (float(value) for value in row), strict=True))
            best = max(scores, key=lambda name: scores[name])
            answers.append(Answer(best if signs is None else signs[scores[best] >= 0], scores[best], scores))
        return answers

    def inputs(
        self, image: Any = None, audio: Any = None, sampling_rate: int | None = None, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """What the runtime is fed for one clip, a batch of one; arguments are entries of the lists a call takes."""
        return self._batch(self._prepare([image], [audio], sampling_rate), seed)

    def prepare(self, image: Any = None, audio: Any = None, sampling_rate: int | None = None) -> Prepared:
        """One clip's model inputs, for `outputs`; arguments and errors as of `inputs`."""
        return self._prepare([image], [audio], sampling_rate)[0]

    def outputs(self, clips: Sequence[Prepared], seed: int = 0) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(index, outputs of that clip) of every clip, batch by batch as they are done, shortest clips first.

        Outputs per token are trimmed to the valid tokens. For clips that are prepared once and answered often, or
        that do not fit into memory together.
        """
        for group in self._groups(clips):
            outputs = self.runtime.run(self._batch([clips[index] for index in group], seed))
            for place, index in enumerate(group):
                yield index, self._trim(clips[index], clips, group, {k: v[place] for k, v in outputs.items()})

    # Steps -------------------------------------------------------------------------------------------------------

    def _prepare(
        self, images: Sequence[Any] | None, audio: Sequence[Any] | None, sampling_rate: int | None
    ) -> list[Prepared]:
        images, audio = self._paired(images, audio)
        clips = []
        for index, (picture, sound) in enumerate(zip(images, audio, strict=True)):
            if picture is None and sound is None:
                raise InputError(f"clip {index} has neither picture nor sound", hint="leave it out")
            try:
                clips.append(self._prepare_one(picture, sound, sampling_rate))
            except InputError as error:
                if len(images) == 1:
                    raise
                raise InputError(f"clip {index}: {error.message}", hint=error.hint) from error
        return clips

    def _paired(self, images: Any, audio: Any) -> tuple[Sequence[Any], Sequence[Any]]:
        """Both lists at equal length, or an error that says which misunderstanding it looks like."""
        for name, values in (("images", images), ("audio", audio)):
            if values is not None and not isinstance(values, (list, tuple)):
                kind = f"{type(values).__name__} of shape {np.shape(values)}" if np.ndim(values) else repr(values)
                raise InputError(
                    f"{name} is a {kind}; wanted a list with one entry per clip", hint=f"for one clip: {name}=[...]"
                )
        if images is None and audio is None:
            raise InputError("images and audio are both None; wanted at least one of them")
        single_images = images is not None and len(images) > 1 and all(
            image is not None and _frame_count(image) is None for image in images
        )  # fmt: skip
        flat = "a flat list of frames is one clip: images=[[frame, frame, ...]]; for clips of one frame each: "
        if audio is None:
            if single_images:
                raise InputError(
                    f"images is a flat list of {len(images)} frames; wanted a list of clips",
                    hint=flat + "images=[[frame], [frame], ...]",
                )
            audio = [None] * len(images)
        if images is None:
            images = [None] * len(audio)
        if len(images) != len(audio):
            raise InputError(
                f"images has {len(images)} entries and audio {len(audio)}; wanted one of each per clip",
                hint=flat + "one sound (or None) per frame" if single_images else "None stands for an absent one",
            )
        if not images:
            raise InputError("images and audio are empty; wanted at least one clip")
        return images, audio

    def _prepare_one(self, picture: Any, sound: Any, sampling_rate: int | None) -> Prepared:
        config = self.config
        image_processor, feature_extractor = self.processor.image_processor, self.processor.feature_extractor
        if picture is None:
            shape: tuple[int, ...] = (1, config.num_image_channels, *config.image_shape)
            pixels = np.full(shape, image_processor.padding_value, np.float32)
            pixel_mask = np.zeros(config.patches_per_frame)
        else:
            clip = list(picture) if isinstance(picture, (list, tuple)) else picture
            alone = _frame_count(clip) is None and np.ndim(clip) <= 3
            made = image_processor(clip if alone else [clip], return_tensors="np")
            pixels, pixel_mask = made["pixel_values"][0], made["pixel_mask"][0]
        if sound is None:
            shape = (config.num_audio_channels, config.audio_patch[0], config.frequency_length)
            rows = np.full(shape, feature_extractor.padding_value, np.float32)
            audio_mask = np.zeros(config.frequency_patches)
        else:
            made = feature_extractor([sound], return_tensors="np", sampling_rate=sampling_rate)
            rows, audio_mask = made["audio_values"][0], made["audio_mask"][0]
        return Prepared(pixels, rows, pixel_mask, audio_mask, picture is not None, sound is not None)

    def _groups(self, clips: Sequence[Prepared]) -> Iterator[list[int]]:
        """Indices of clips that share a batch: neighbours in size, while padding and batch stay small.

        Masked reconstruction counts padding among the patches it hides, and a clip in which no patch is visible attends
        to padding: there only equal sizes share a batch.
        """
        kind = self.runtime.device.partition(":")[0]
        allowed = 0.0 if self.task.needs_noise else MAX_PADDING
        tokens = lambda frames, rows: 1 + sum(token_counts(self.config, frames, rows))  # noqa: E731
        group: list[int] = []
        frames = rows = used = 0
        visible = True
        for index in sorted(range(len(clips)), key=lambda i: (clips[i].frames, clips[i].rows)):
            clip = clips[index]
            wide = max(frames, clip.frames), max(rows, clip.rows)
            own, total = tokens(clip.frames, clip.rows), (len(group) + 1) * tokens(*wide)
            visible = visible and clip.visible
            padding = total - (used + own)
            if group and (total > MAX_BATCH_TOKENS[kind] or padding > (allowed * total if visible else 0)):
                yield group
                group, used, wide, visible = [], 0, (clip.frames, clip.rows), clip.visible
            group.append(index)
            used += own
            frames, rows = wide
        yield group

    def _batch(self, clips: Sequence[Prepared], seed: int) -> dict[str, np.ndarray]:
        config, size = self.config, len(clips)
        image_processor, feature_extractor = self.processor.image_processor, self.processor.feature_extractor
        frames, rows = max(clip.frames for clip in clips), max(clip.rows for clip in clips)
        pixel_patches, audio_patches = token_counts(config, frames, rows)
        pixels = (size, frames, *clips[0].pixel_values.shape[1:])
        sound = (size, config.num_audio_channels, rows, config.frequency_length)
        feeds = {
            "pixel_values": np.full(pixels, image_processor.padding_value, np.float32),
            "audio_values": np.full(sound, feature_extractor.padding_value, np.float32),
            "pixel_mask": np.zeros((size, pixel_patches), np.float32),
            "audio_mask": np.zeros((size, audio_patches), np.float32),
        }
        for row, clip in enumerate(clips):
            feeds["pixel_values"][row, : clip.frames] = clip.pixel_values
            feeds["audio_values"][row, :, : clip.rows] = clip.audio_values
            feeds["pixel_mask"][row, : len(clip.pixel_mask)] = clip.pixel_mask
            feeds["audio_mask"][row, : len(clip.audio_mask)] = clip.audio_mask
        if self.task.needs_noise:
            noise = masking_noise(config, frames, rows, seed)
            for name, values in zip(("pixel_noise", "audio_noise"), noise, strict=True):
                feeds[name] = np.tile(values, (size, 1))
        return feeds

    def _trim(
        self, clip: Prepared, clips: Sequence[Prepared], group: Sequence[int], row: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Cut the tokens of padding and of absent modalities."""
        padded_pixels, _ = token_counts(self.config, max(clips[i].frames for i in group), 0)
        pixels, audio = token_counts(self.config, clip.frames, clip.rows)
        pixels, audio = pixels * clip.has_picture, audio * clip.has_sound
        trimmed = {}
        for name, spec in self.runtime.outputs.items():
            if TOKENS in spec.shape:
                start = 1 + padded_pixels
                trimmed[name] = np.concatenate([row[name][: 1 + pixels], row[name][start : start + audio]])
            elif any(axis in spec.shape for axis in _TOKEN_AXES):
                trimmed[name] = row[name][: pixels if PIXEL_PATCHES in spec.shape else audio]
            else:
                trimmed[name] = row[name]
        return trimmed

    def close(self) -> None:
        """Close the runtime."""
        self.runtime.close()


_TOKEN_AXES = (TOKENS, PIXEL_PATCHES, "audio_patches")


def load(
    bundle: BundleLike,
    backend: str = DEFAULT_BACKEND,
    device: str = DEFAULT_DEVICE,
    precision: str | None = None,
    *,
    threads: int | None = None,
    allow_fallback: bool = False,
    trust_engine: str | None = None,
    progress: Progress = silent,
) -> Pipeline:
    """Open a bundle for answering. Every file that is opened is hashed first.

    backend, device, precision: what runs is what was asked for; see `tvlt_deploy.runtimes.open_runtime` for errors.
    The backend `auto` is the fastest that keeps its tolerance on this machine, tried once and then remembered: see
    `tvlt_deploy.inference.selection.choose`, to which `progress` belongs. precision: by default fp32, for `auto` any.
    threads: CPU threads of the engine, default all cores.
    allow_fallback: accept the CPU when the device cannot be had.
    trust_engine: for TensorRT, the SHA-256 of an engine that was not built here: an engine is code.
    """
    opened = open_bundle(bundle)
    processor = processor_of(opened)
    if processor is None:
        raise BundleError(
            f"{opened.directory} holds no {' or '.join(RECIPES)}: its model takes channels that no processor makes",
            hint="use tvlt_deploy.runtimes.open_runtime and prepare the tensors yourself",
        )
    options: dict[str, Any] = {"threads": threads, "allow_fallback": allow_fallback}
    if backend == AUTO:
        choice = choose(opened, device, precision, trust_engine=trust_engine, progress=progress, **options)
        backend, device, precision = choice.backend, choice.device, choice.precision
        progress(f"{AUTO} takes {backend} in {precision} on {device}")
        trust_engine = trust_engine if backend in ENGINE_BACKENDS else None
    if trust_engine is not None:
        options["trust_engine"] = trust_engine
    runtime = open_runtime(opened, backend, device, precision or DEFAULT_PRECISION, **options)
    return Pipeline(opened, runtime, processor)
