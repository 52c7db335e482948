"""The prepared clips and pair scores of a retrieval, in the user's cache directory, so that a run can be resumed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from tvlt_deploy._internal.atomic import sha256_of, staged_file, write_json
from tvlt_deploy._internal.progress import Progress, Step, counted
from tvlt_deploy._version import __version__
from tvlt_deploy.bundle.cache import bundle_cache
from tvlt_deploy.errors import VerdictError
from tvlt_deploy.inference.files import Source, read_source
from tvlt_deploy.inference.pipeline import Pipeline
from tvlt_deploy.inference.prepared import Prepared

TILE = 16
"""Clips of each modality in memory at a time, about 6 MB each at the default size."""


@dataclass(frozen=True)
class StoredClip:
    """What is known of a clip without its arrays.

    Attributes:
        frames: number of frames that the model receives.
        rows: number of spectrogram rows that the model receives.
        has_picture: whether the clip has frames.
        has_sound: whether the clip has sound.
        warnings: what could not be read of its files.
    """

    frames: int
    rows: int
    has_picture: bool
    has_sound: bool
    warnings: tuple[str, ...]


class ScoreStore:
    """The clips and scores of one retrieval.

    Descriptions of clips and scores are kept after the run; the arrays of the clips are deleted when all pairs are
    scored. The process may be killed at any time: files are written atomically, and a score is four aligned bytes in a
    file of fixed size, NaN until it is written.

    Attributes:
        sources: the clips, without repetitions.
    """

    def __init__(
        self, directory: Path, pipeline: Pipeline, identities: dict[Source, str], window: Mapping[str, Any]
    ) -> None:
        self.directory, self.pipeline, self.window = directory, pipeline, window
        self.identities, self.sources = identities, list(identities)

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, pipeline: Pipeline, sources: Sequence[Source], window: Mapping[str, Any], progress: Progress
    ) -> Iterator[ScoreStore]:
        """Open the store of exactly these clips, this bundle and these settings.

        Args:
            pipeline: scores the pairs.
            sources: the clips.
            window: `start` and `duration` of each file in seconds.
            progress: called with a line of text for each clip.

        Yields:
            The store, locked against other processes.
        """
        distinct = list(dict.fromkeys(sources))
        identities = {source: _identity(source) for source in counted(distinct, "hashing", progress, _name)}
        runtime = pipeline.runtime
        key = {
            "tvlt_deploy": __version__,
            "runtime": [runtime.backend, runtime.device, runtime.precision, getattr(runtime, "path", None)],
            "options": dict(pipeline.options),
            "window": window,
            "clips": list(identities.values()),
        }
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        directory = bundle_cache(pipeline.bundle, "retrieval", name)
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting for another process that scores the same pairs")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield cls(directory, pipeline, identities, window)
        finally:
            os.close(descriptor)

    def describe(self, source: Source) -> StoredClip:
        """Describe a clip; it is read and prepared the first time.

        Raises:
            TvltError: the clip cannot be read.
        """
        path = self.directory / f"{self.identities[source]}.json"
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # absent, or damaged since
            values = json.loads(path.read_text(encoding="utf-8"))
            return StoredClip(**{**values, "warnings": tuple(values["warnings"])})
        prepared, warnings = self._read(source)
        clip = StoredClip(prepared.frames, prepared.rows, prepared.has_picture, prepared.has_sound, warnings)
        write_json(path, vars(clip))
        return clip

    def scores(self, needed: np.ndarray, clips: Mapping[int, StoredClip], progress: Progress) -> np.ndarray:
        """Score pairs that are not scored yet.

        Tiles of clips of similar length go through the batches of the pipeline, so that there is little padding, and
        only the clips of one tile are in memory.

        Args:
            needed: (clips, clips) bool: whether the frames of clip i and the sound of clip j are to be scored. Indices
                are those of `sources`.
            clips: the descriptions of the clips in use, by index.
            progress: called with a line of text for each percent of the pairs.

        Returns:
            (clips, clips) float32 matching logits; NaN for pairs that were never scored.

        Raises:
            VerdictError: a logit is not finite.
        """
        logits = self._table(len(needed))
        done, total = int((needed & ~np.isnan(logits)).sum()), int(needed.sum())
        if done:
            progress(Step(f"{done}/{total} pairs were scored before", done, total))
        frames = sorted(map(int, np.flatnonzero(needed.any(axis=1))), key=lambda index: clips[index].frames)
        sounds = sorted(map(int, np.flatnonzero(needed.any(axis=0))), key=lambda index: clips[index].rows)
        for tile in itertools.product(_tiles(frames), _tiles(sounds)):
            pairs = [(f, s) for f, s in itertools.product(*tile) if needed[f, s] and np.isnan(logits[f, s])]
            if not pairs:
                continue
            for (f, s), logit in self._scored(pairs):
                logits[f, s] = logit
                done += 1
                if done * 100 // total > (done - 1) * 100 // total:
                    progress(Step(f"{done}/{total} pairs", done, total))
            logits.flush()
        shutil.rmtree(self.directory / "clips", ignore_errors=True)
        return np.array(logits)

    def _scored(self, pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], float]]:
        """((index of the frames, index of the sound), matching logit) of each pair, as they are done."""
        loaded = {index: self._prepared(self.sources[index]) for index in {i for pair in pairs for i in pair}}
        joined = [loaded[f].with_sound_of(loaded[s]) for f, s in pairs]
        for place, outputs in self.pipeline.outputs(joined):
            f, s = pairs[place]
            logit = float(outputs["matching_logits"][0])
            if not np.isfinite(logit):
                names = f"the frames of {self.sources[f][0]} and the sound of {self.sources[s][0]}"
                raise VerdictError(f"the matching logit of {names} is {logit}; expected a finite number")
            yield (f, s), logit

    def _prepared(self, source: Source) -> Prepared:
        """The arrays of a clip that `describe` could read."""
        damaged = contextlib.suppress(OSError, ValueError, TypeError, EOFError, BadZipFile)  # or absent
        with damaged, np.load(self._arrays(source)) as arrays:
            return Prepared(**{name: value if value.ndim else value.item() for name, value in arrays.items()})
        return self._read(source)[0]

    def _arrays(self, source: Source) -> Path:
        return self.directory / "clips" / f"{self.identities[source]}.npz"

    def _read(self, source: Source) -> tuple[Prepared, tuple[str, ...]]:
        read = read_source(self.pipeline, source, **self.window)
        if read.error is not None:
            raise read.error
        assert read.prepared is not None
        with staged_file(self._arrays(source)) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, **vars(read.prepared))
        return read.prepared, read.warnings

    def _table(self, size: int) -> np.memmap[Any, Any]:
        """The file of logits (size, size), by index of the clip of the frames and of the sound."""
        path = self.directory / "logits.npy"
        with contextlib.suppress(OSError, ValueError):  # absent, or damaged since
            table = np.lib.format.open_memmap(path, mode="r+")
            if table.shape == (size, size) and table.dtype == np.float32:
                return table
        with staged_file(path) as temporary, open(temporary, "wb") as handle:
            np.save(handle, np.full((size, size), np.nan, np.float32))
        return np.lib.format.open_memmap(path, mode="r+")


def _name(source: Source) -> str:
    return source[0].name


def _identity(source: Source) -> str:
    """The hash of the contents of a clip's files; of their paths where they cannot be read."""
    try:
        parts = [sha256_of(path) if path.is_file() else str(path) for path in source if path is not None]
    except OSError:
        parts = [str(path) for path in source]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _tiles(indices: list[int]) -> list[list[int]]:
    return [indices[start : start + TILE] for start in range(0, len(indices), TILE)]
