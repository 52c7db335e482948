"""From media files to answers, in small groups. A file that cannot be read does not affect the others."""

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
"""Media file, and separate sound file or None."""

GROUP = 8
"""Clips in memory at a time."""


@dataclass(frozen=True, eq=False)
class FileAnswer:
    """The result for one media file: an answer (tasks with labels), arrays (the other tasks), or an error.

    Attributes:
        media: path of the media file.
        audio: path of the separate sound file, or None.
        start: start of the window that was read, in seconds.
        duration: length of the window that was read, in seconds.
        frame_times: when the frames that the model received appear, in seconds from the start of the file.
        has_sound: whether the model received sound.
        warnings: what could not be read of the file.
        prepared: the model inputs; None after an error.
        answer: label and scores; None for tasks without labels and after an error.
        outputs: the outputs of the task by name, without a batch axis; empty after an error.
        error: why there is no answer, or None.
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
        """Number of frames that the model received."""
        return len(self.frame_times)

    def without_arrays(self) -> FileAnswer:
        """A copy without the model inputs, and with zeros of the same shape, which use no memory, as outputs."""
        hollow = {name: np.broadcast_to(np.float32(0), values.shape) for name, values in self.outputs.items()}
        return dataclasses.replace(self, prepared=None, outputs=hollow)

    def to_dict(self) -> dict[str, Any]:
        """JSON values for JSON lines; outputs are given by their shapes."""
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
    """List the clips of files and folders.

    Args:
        media: files, and folders in which a video or image and a sound of the same stem are one clip.
        audio: the sound of a single media file.

    Returns:
        The clips in the order of the arguments; those of a folder are sorted by name.

    Raises:
        UsageError: a path does not exist, there are no media files, or `audio` is given with several.
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
            raise UsageError(f"{path} contains no media files", hint="name the files, or another folder")
        sources += found
    if not sources:
        raise UsageError("no media files were given; expected at least one")
    return sources


def check_window(start: float, duration: float | None) -> None:
    """Check a window without a file.

    Args:
        start: start of the window, in seconds.
        duration: length of the window in seconds, or None.

    Raises:
        InputError: no file can have such a window.
    """
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
    """Read a clip as a pipeline needs it: its choice of frames, its resampler, and at most its length of sound.

    Args:
        pipeline: the pipeline.
        media: path of the media file.
        audio: path of a separate sound file.
        start: start of the window, in seconds.
        duration: length of the window in seconds; by default as much as the model accepts.
        limits: resource limits for each file.

    Returns:
        Frames and sound of the window.

    Raises:
        MediaError: the file cannot be read.
        InputError: the window is not in the file.
        EnvironmentLackError: a package that reads media is missing.
    """
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
    """Answer clips, a few at a time.

    Args:
        pipeline: the pipeline.
        sources: the clips, as `find_sources` lists them.
        start: start of the window of each file, in seconds.
        duration: length of that window in seconds; by default as much as the model accepts.
        strict: treat a file that can be read only in part as one that cannot be read.
        limits: resource limits for each file.

    Yields:
        The result of each clip, in order. A clip that cannot be read or answered has its error there.

    Raises:
        EnvironmentLackError: a package that reads media is missing.
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
    """Read and prepare one clip. Arguments and errors are those of `answer_files`.

    Returns:
        The result without an answer: the model inputs in `prepared`, or the error.
    """
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
        # A clip of the group cannot be answered: answer each alone to find out which.
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
