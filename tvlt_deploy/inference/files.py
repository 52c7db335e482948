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

from tvlt_deploy.errors import EnvironmentLackError, InputError, MediaError, TvltError, UsageError
from tvlt_deploy.inference.answers import Answer
from tvlt_deploy.inference.pipeline import Pipeline
from tvlt_deploy.inference.prepared import Prepared
from tvlt_deploy.media import SAMPLING_RATE, Clip, Limits, pair_folder, read_clip, resample
from tvlt_deploy.media.window import LONGEST_SOUND, Window

Source = tuple[Path, Path | None]
"""(media file, separate sound file or None)."""

GROUP = 8
"""Clips held in memory at a time."""


@dataclass(frozen=True, eq=False)
class FileAnswer:
    """What came of one media file: an answer (tasks with labels), arrays (the other tasks), or an error.

    start, duration: the window of the file that was read, seconds. frame_times: when the pictures that the model saw
    appear, seconds from the start of the file. prepared: what the model was fed.
    """

    media: Path
    audio: Path | None
    start: float = 0.0
    duration: float = 0.0
    frame_times: tuple[float, ...] = ()
    has_sound: bool = False
    warnings: tuple[str, ...] = ()
    prepared: Prepared | None = None
    answer: Answer | None = None
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    error: TvltError | None = None

    @property
    def frames(self) -> int:
        """How many pictures the model saw."""
        return len(self.frame_times)

    def without_arrays(self) -> FileAnswer:
        """The same without what the model was fed, and each output a stand-in of its shape that takes no memory."""
        hollow = {name: np.broadcast_to(np.float32(0), values.shape) for name, values in self.outputs.items()}
        return dataclasses.replace(self, prepared=None, outputs=hollow)

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

    `audio` is the sound of a single media file. Raises `UsageError` when there are several, none, or one that does
    not exist.
    """
    paths = [Path(name) for name in media]
    for path in (*paths, *([] if audio is None else [audio])):
        if not os.path.exists(path):
            raise UsageError(f"{path} does not exist", hint="give paths of files or folders; addresses are not fetched")
    if audio is not None:
        if len(paths) != 1 or paths[0].is_dir():
            raise UsageError(
                "--audio is the sound of one media file; "
                + (f"{paths[0]} is a folder" if len(paths) == 1 else f"{len(paths)} were given"),
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
        window: dict[str, Any] = {"start": start, "duration": duration, "strict": strict, "limits": limits}
        yield from _answer(pipeline, [read_source(pipeline, source, **window) for source in group])


def read_source(
    pipeline: Pipeline,
    source: Source,
    *,
    start: float = 0.0,
    duration: float | None = None,
    strict: bool = False,
    limits: Limits | None = None,
) -> FileAnswer:
    """A clip read and prepared but not answered yet, or its error; arguments and errors as of `answer_files`."""
    media, audio = source
    try:
        clip = read_for(pipeline, media, audio, start=start, duration=duration, limits=limits)
        if strict and clip.warnings:
            raise MediaError(f"{media}: {'; '.join(clip.warnings)}", hint="without --strict this is a warning")
        try:
            prepared = pipeline.prepare(clip.pictures, clip.waveform, SAMPLING_RATE)
        except InputError as error:
            raise InputError(f"{media}: {error.message}", hint=error.hint) from error
    except EnvironmentLackError:
        raise
    except TvltError as error:
        return FileAnswer(media, audio, error=error)
    return FileAnswer(
        media=media,
        audio=audio,
        start=clip.start,
        duration=clip.duration,
        frame_times=clip.frame_times,
        has_sound=clip.waveform is not None,
        warnings=clip.warnings,
        prepared=prepared,
    )


def _answer(pipeline: Pipeline, read: list[FileAnswer]) -> Iterator[FileAnswer]:
    good = {index: item.prepared for index, item in enumerate(read) if item.prepared is not None}
    results: dict[int, dict[str, np.ndarray]] = {}
    failed: dict[int, TvltError] = {}
    try:
        results = _outputs(pipeline, good)
    except TvltError:
        # One clip of the group is at fault: find out which by answering each alone.
        for index, clip in good.items():
            try:
                results |= _outputs(pipeline, {index: clip})
            except TvltError as error:
                failed[index] = error
    for index, item in enumerate(read):
        outputs = results.get(index, {})
        answer = None
        if outputs and pipeline.has_labels:
            answer = pipeline.answers(next(iter(outputs.values()))[None])[0]
        yield dataclasses.replace(item, answer=answer, outputs=outputs, error=item.error or failed.get(index))


def _outputs(pipeline: Pipeline, clips: dict[int, Prepared]) -> dict[int, dict[str, np.ndarray]]:
    places = list(clips)
    return {places[index]: outputs for index, outputs in pipeline.outputs(list(clips.values()))} if clips else {}
