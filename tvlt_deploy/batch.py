"""Media files to answers: read, answer in small groups, and let a bad file spoil only itself."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tvlt_deploy.errors import EnvironmentLackError, MediaError, TvltError, UsageError
from tvlt_deploy.media import SAMPLING_RATE, Clip, Limits, pair_folder, read_clip, resample
from tvlt_deploy.media.window import LONGEST_SOUND, Window
from tvlt_deploy.pipeline import Answer, Pipeline

Source = tuple[Path, Path | None]
"""(media file, separate sound file or None)."""

GROUP = 8
"""Clips held in memory at a time."""


@dataclass(frozen=True)
class FileAnswer:
    """What came of one media file: an answer (tasks with labels), arrays (the other tasks), or an error.

    start, duration: the window of the file that was read, seconds. frames: how many pictures the model saw.
    """

    media: Path
    audio: Path | None
    start: float = 0.0
    duration: float = 0.0
    frames: int = 0
    has_sound: bool = False
    warnings: tuple[str, ...] = ()
    answer: Answer | None = None
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    error: TvltError | None = None

    def without_arrays(self) -> FileAnswer:
        """The same with each array shrunk to a stand-in of its shape that takes no memory."""
        hollow = {name: np.broadcast_to(np.float32(0), values.shape) for name, values in self.outputs.items()}
        return dataclasses.replace(self, outputs=hollow)

    def to_dict(self) -> dict[str, Any]:
        """For JSON lines; arrays are told by their shape."""
        return {
            "media": str(self.media),
            "audio": None if self.audio is None else str(self.audio),
            "start": round(self.start, 3),
            "duration": round(self.duration, 3),
            "frames": self.frames,
            "sound": self.has_sound,
            "warnings": list(self.warnings),
            "label": None if self.answer is None else self.answer.label,
            "score": None if self.answer is None else self.answer.score,
            "scores": None if self.answer is None else self.answer.scores,
            "outputs": {name: list(values.shape) for name, values in self.outputs.items()},
            "error": None if self.error is None else str(self.error),
        }


def find_sources(media: Iterable[str | os.PathLike[str]], audio: str | os.PathLike[str] | None = None) -> list[Source]:
    """The clips meant by files and folders; in a folder, equal stems pair up.

    `audio` is the sound of a single media file. Raises `UsageError` when there are several, or none.
    """
    paths = [Path(name) for name in media]
    if audio is not None:
        if len(paths) != 1 or paths[0].is_dir():
            raise UsageError(
                f"--audio is the sound of one media file; {len(paths)} were given",
                hint="put files of equal names in a folder to pair them",
            )
        return [(paths[0], Path(audio))]
    sources: list[Source] = []
    for path in paths:
        found: list[Source] = pair_folder(path) if path.is_dir() else [(path, None)]
        if not found:
            raise UsageError(f"{path} holds no media files", hint="name the files, or another folder")
        sources += found
    if not sources:
        raise UsageError("no media files were given; wanted at least one")
    return sources


def check_window(start: float, duration: float | None) -> None:
    """Raise `InputError` for a window that no file can have."""
    Window.of(start, duration, LONGEST_SOUND, Limits())


def read_for(
    pipeline: Pipeline,
    media: str | os.PathLike[str],
    audio: str | os.PathLike[str] | None = None,
    *,
    start: float = 0.0,
    duration: float | None = None,
    limits: Limits | None = None,
) -> Clip:
    """`read_clip` for a pipeline: its recipe's choice of frames and resampler, as much sound as its model takes."""
    processor = pipeline.processor
    extractor = processor.feature_extractor
    return read_clip(
        media,
        frames=pipeline.config.num_frames,
        audio=audio,
        start=start,
        duration=duration,
        max_seconds=extractor.max_samples / extractor.sampling_rate,
        by_number=processor.frames_by_number,
        resampler=processor.resampler or resample,
        limits=limits or Limits(),
    )


def answer_files(
    pipeline: Pipeline,
    sources: Iterable[Source],
    *,
    start: float = 0.0,
    duration: float | None = None,
    strict: bool = False,
    limits: Limits | None = None,
) -> Iterator[FileAnswer]:
    """Answer every clip in order; an unreadable one gives a `FileAnswer` with its error, and the rest go on.

    start, duration: the window in seconds. strict: a clip that could be read only in part is an error.
    Raises `EnvironmentLackError` when the packages that read media are missing.
    """
    waiting = iter(sources)
    while group := list(itertools.islice(waiting, GROUP)):
        read = [_read(pipeline, source, start, duration, strict, limits) for source in group]
        yield from _answer(pipeline, read)


def _read(
    pipeline: Pipeline, source: Source, start: float, duration: float | None, strict: bool, limits: Limits | None
) -> tuple[Source, Clip | TvltError]:
    media, audio = source
    try:
        clip = read_for(pipeline, media, audio, start=start, duration=duration, limits=limits)
    except EnvironmentLackError:
        raise
    except TvltError as error:
        return source, error
    if strict and clip.warnings:
        return source, MediaError(f"{media}: {'; '.join(clip.warnings)}", hint="without --strict this is a warning")
    return source, clip


def _answer(pipeline: Pipeline, read: list[tuple[Source, Clip | TvltError]]) -> Iterator[FileAnswer]:
    results: dict[int, dict[str, np.ndarray]] = {}
    good = [index for index, (_, clip) in enumerate(read) if isinstance(clip, Clip)]
    failed: dict[int, TvltError] = {}
    try:
        results = dict(zip(good, _outputs(pipeline, [read[index][1] for index in good]), strict=True))
    except TvltError:
        # One clip of the group is at fault: find out which by answering each alone.
        for index in good:
            try:
                results[index] = _outputs(pipeline, [read[index][1]])[0]
            except TvltError as error:
                failed[index] = error
    for index, ((media, audio), clip) in enumerate(read):
        if not isinstance(clip, Clip):
            yield FileAnswer(media, audio, error=clip)
            continue
        outputs = results.get(index, {})
        answer = None
        if outputs and pipeline.has_labels:
            answer = pipeline.answers(next(iter(outputs.values()))[None])[0]
        yield FileAnswer(
            media=media,
            audio=audio,
            start=clip.start,
            duration=clip.duration,
            frames=0 if clip.frames is None else len(clip.frames),
            has_sound=clip.waveform is not None,
            warnings=clip.warnings,
            answer=answer,
            outputs=outputs,
            error=failed.get(index),
        )


def _outputs(pipeline: Pipeline, clips: list[Any]) -> list[dict[str, np.ndarray]]:
    if not clips:
        return []
    batch = pipeline([clip.pictures for clip in clips], [clip.waveform for clip in clips], SAMPLING_RATE)
    return [{name: np.asarray(values[index]) for name, values in batch.items()} for index in range(len(clips))]
