"""The clips of a calibration: read one at a time, each once, with counts for the receipt."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tvlt_deploy.errors import EnvironmentLackError, InputError, MediaError, TvltError, UsageError
from tvlt_deploy.inference.files import find_sources, read_for
from tvlt_deploy.inference.pipeline import Pipeline
from tvlt_deploy.media import SAMPLING_RATE
from tvlt_deploy.runtimes.base import check_feeds
from tvlt_deploy.runtimes.torch import TorchRuntime

Feeds = dict[str, np.ndarray]
Clips = str | os.PathLike[str] | Iterable[Mapping[str, Any]]
"""A folder of media files, or batches of one or more clips as model inputs by name."""


def digest(feeds: Feeds) -> str:
    """SHA-256 of the values and masks of one clip, without masking noise, which is not part of the clip."""
    state = hashlib.sha256()
    for name in sorted(feeds):
        if not name.endswith("_noise"):
            state.update(f"{name}{feeds[name].shape}".encode())
            state.update(feeds[name].tobytes())
    return state.hexdigest()


@dataclass
class Seen:
    """Counts of one pass over the clips.

    Attributes:
        clips: number of clips, including repeated and unreadable ones.
        sha256: digest of each distinct clip, in order.
        shapes: (frames, rows) -> number of distinct clips of that size.
        unreadable: name of each clip that cannot be read -> reason.
    """

    clips: int = 0
    sha256: list[str] = field(default_factory=list)
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)


class ClipReader:
    """Reads the distinct clips of a calibration, one at a time. Each pass returns the same clips.

    Attributes:
        seen: counts of the last pass.
        total: number of clips of a pass if known: `count`, or the number of clips in a folder.
    """

    def __init__(
        self, clips: Clips, runtime: TorchRuntime, pipeline: Pipeline | None, count: int | None, max_unreadable: float
    ) -> None:
        """Args as of `tvlt_deploy.quantize`; `pipeline` pre-processes media files, and may be None without them."""
        self.clips, self.runtime, self.pipeline = clips, runtime, pipeline
        self.count, self.max_unreadable = count, max_unreadable
        self.files = find_sources([clips]) if isinstance(clips, str | os.PathLike) else []
        self.total = count or len(self.files) or None
        self.passes = 0
        self.seen = Seen()

    def __iter__(self) -> Iterator[Feeds]:
        """Read the distinct clips.

        Yields:
            The inputs of each clip, a batch of one.

        Raises:
            UsageError: there are fewer than `count` distinct clips, or a second pass is made over an iterator.
            MediaError: more clips than `max_unreadable` cannot be read.
            InputError: a clip has NaN or infinity.
        """
        if self.passes and isinstance(self.clips, Iterator):
            raise UsageError("clips is an iterator, and two passes are needed", hint="pass a list")
        self.passes += 1
        seen, known = Seen(), set[str]()
        self.seen = seen
        for name, clip in self._read():
            seen.clips += 1
            if isinstance(clip, TvltError):
                seen.unreadable[name] = clip.message
                continue
            mark = digest(clip)
            if mark in known:
                continue
            known.add(mark)
            seen.sha256.append(mark)
            seen.shapes[clip["pixel_values"].shape[1], clip["audio_values"].shape[2]] += 1
            yield clip
            if len(known) == self.count:
                break
        self._check(seen)

    def _check(self, seen: Seen) -> None:
        if len(seen.unreadable) > self.max_unreadable * seen.clips:
            listed = "; ".join(f"{name}: {reason}" for name, reason in list(seen.unreadable.items())[:5])
            more = len(seen.unreadable) - 5
            raise MediaError(
                f"{len(seen.unreadable)} of {seen.clips} clips cannot be read, more than {self.max_unreadable:.0%}: "
                f"{listed}{f'; and {more} more' if more > 0 else ''}",
                hint="replace them, or allow more with --max-unreadable",
            )
        expected = 1 if self.count is None else self.count
        if len(seen.sha256) < expected:
            raise UsageError(
                f"{len(seen.sha256)} distinct clips of {seen.clips} read; expected {expected}",
                hint="add clips that differ, or ask for fewer with --count",
            )

    def _read(self) -> Iterator[tuple[str, Feeds | TvltError]]:
        """(name, inputs or error) of every clip."""
        if isinstance(self.clips, str | os.PathLike):
            yield from self._read_files()
            return
        for index, entry in enumerate(self.clips):
            batch = check_feeds(entry, self.runtime.inputs, self.runtime.config)
            for row in range(len(batch["pixel_values"])):
                clip = {name: values[row : row + 1] for name, values in batch.items()}
                _check_finite(f"clip {row} of entry {index}", clip)
                yield f"clip {row} of entry {index}", clip

    def _read_files(self) -> Iterator[tuple[str, Feeds | TvltError]]:
        pipeline = self.pipeline
        assert pipeline is not None
        for media, audio in self.files:
            try:
                clip = read_for(pipeline, media, audio)
                feeds = pipeline.inputs(clip.pictures, clip.waveform, SAMPLING_RATE)
            except EnvironmentLackError:
                raise
            except TvltError as error:
                yield media.name, error
                continue
            _check_finite(media.name, feeds)
            yield media.name, feeds


def _check_finite(name: str, feeds: Feeds) -> None:
    for key, values in feeds.items():
        if not np.isfinite(values).all():
            raise InputError(f"{key} of {name} contains NaN or infinity", hint="leave the clip out, or repair it")
