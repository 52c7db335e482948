"""Retrieval between sound and pictures: every pair scored by the matching head, each clip prepared once, resumable.

TVLT has no embedding of one modality alone: a pair's score is a pass of the whole encoder over that pair. What was
scored is kept in the user's cache directory, under a key of everything that a score depends on.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from tvlt_deploy._internal.atomic import sha256_of, staged_file, write_json
from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy._version import __version__
from tvlt_deploy.bundle import BundleLike, open_bundle
from tvlt_deploy.bundle.cache import bundle_cache
from tvlt_deploy.errors import EnvironmentLackError, MediaError, TvltError, UsageError, VerdictError
from tvlt_deploy.inference.files import FileAnswer, Source, check_window, find_sources, read_source
from tvlt_deploy.inference.pipeline import Pipeline, load
from tvlt_deploy.inference.prepared import Prepared
from tvlt_deploy.runtimes import DEFAULT_BACKEND, DEFAULT_DEVICE

AUDIO_TO_VIDEO, VIDEO_TO_AUDIO = "audio-to-video", "video-to-audio"
DIRECTIONS = (AUDIO_TO_VIDEO, VIDEO_TO_AUDIO)
"""What a query gives, and what it looks for."""

RECALLS = (1, 5, 10)
"""The k of R@k, as in the TVLT paper's retrieval tables."""

TILE = 16
"""Clips of each modality in memory at a time: some 6 MB each at the default size."""

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True, eq=False)
class Ranking:
    """One direction: the score of every query with every item of the gallery.

    matching_logits: (queries, gallery) float32, higher is likelier a match; `scores` are its sigmoid.
    """

    direction: str
    queries: tuple[Path, ...]
    gallery: tuple[Path, ...]
    matching_logits: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """Probability that query and item match, (queries, gallery) float64."""
        probability: np.ndarray = 0.5 * (1 + np.tanh(self.matching_logits.astype(np.float64) / 2))
        return probability

    def top(self, count: int) -> list[list[tuple[Path, float]]]:
        """(item, score) of the best `count` items of each query, best first."""
        order = np.argsort(-self.matching_logits, axis=1, kind="stable")[:, :count]
        scores = self.scores
        return [[(self.gallery[i], float(scores[row, i])) for i in best] for row, best in enumerate(order)]

    @cached_property
    def ranks(self) -> tuple[int | None, ...]:
        """For each query the place, from 1, of the best item with the query's stem; None where there is none.

        An item that is not the query's and scores the same stands in front.
        """
        ranks: list[int | None] = []
        stems = np.array([item.stem for item in self.gallery])
        for query, logits in zip(self.queries, self.matching_logits, strict=True):
            own = stems == query.stem
            ranks.append(1 + int((logits[~own] >= logits[own].max()).sum()) if own.any() else None)
        return tuple(ranks)

    @cached_property
    def _known(self) -> list[int]:
        return [rank for rank in self.ranks if rank is not None]

    @property
    def known_pairs(self) -> int:
        """Queries whose stem the gallery has."""
        return len(self._known)

    @property
    def recalls(self) -> dict[int, float]:
        """k -> share of the queries of known pair whose item is among the first k; empty when no pair is known."""
        return {k: sum(rank <= k for rank in self._known) / self.known_pairs for k in RECALLS if self._known}

    @property
    def median_rank(self) -> float | None:
        """The median place of the items of known pairs."""
        return float(np.median(self._known)) if self._known else None

    def to_dict(self, count: int) -> dict[str, Any]:
        """For `--json`, with the best `count` items of each query."""
        return {
            "direction": self.direction,
            "known_pairs": self.known_pairs,
            "recall": {f"R@{k}": share for k, share in self.recalls.items()},
            "median_rank": self.median_rank,
            "results": [
                {"query": str(query), "rank": rank, "top": [{"media": str(item), "score": s} for item, s in best]}
                for query, rank, best in zip(self.queries, self.ranks, self.top(count), strict=True)
            ],
            "queries": [str(path) for path in self.queries],
            "gallery": [str(path) for path in self.gallery],
            "matching_logits": self.matching_logits.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Retrieval:
    """A ranking for each direction, and what was met on the way.

    clips: how many there were. failed: those unreadable, or without the modality that a direction takes of them.
    """

    rankings: tuple[Ranking, ...]
    clips: int
    failed: tuple[FileAnswer, ...]
    warnings: Mapping[Path, tuple[str, ...]]

    def to_dict(self, count: int) -> dict[str, Any]:
        """For `--json`, with the best `count` items of each query."""
        return {
            "rankings": [ranking.to_dict(count) for ranking in self.rankings],
            "failed": [{"media": str(item.media), "error": str(item.error)} for item in self.failed],
        }


def retrieve(
    bundle: BundleLike,
    queries: Paths,
    gallery: Paths,
    *,
    directions: Sequence[str] = (),
    start: float = 0.0,
    duration: float | None = None,
    backend: str = DEFAULT_BACKEND,
    device: str = DEFAULT_DEVICE,
    precision: str | None = None,
    threads: int | None = None,
    trust_engine: str | None = None,
    progress: Progress = silent,
) -> Retrieval:
    """Score every query with every item of the gallery by the matching head of an `audio-visual-matching` bundle.

    queries, gallery: a folder (equal stems pair up), a media file, or several of them; they may be the same.
    directions: of `DIRECTIONS`: `audio-to-video` takes the sound of the queries and the pictures of the gallery,
        `video-to-audio` the other way round. Default: all that the clips allow.
    start, duration: the window of every file, in seconds.
    backend, device, precision, threads, trust_engine: as of `tvlt_deploy.load`.
    progress: called with a line of text at each step.

    An unreadable clip is left out and listed. Called again with the same bundle, files and settings, it goes on where
    it was stopped, however that was, and gives the finished scores at once. Raises `UsageError` for a bundle of
    another task and for clips that allow no direction, `VerdictError` for a score that is not finite, and as `load`
    does. Source: TVLT (Tang et al., 2022), MSRVTT retrieval: sigmoid of the matching score of every pair.
    """
    for direction in directions:
        if direction not in DIRECTIONS:
            raise UsageError(f"direction is {direction!r}; wanted one of {', '.join(DIRECTIONS)}")
    check_window(start, duration)
    sources = [find_sources([paths] if isinstance(paths, str | os.PathLike) else paths) for paths in (queries, gallery)]
    opened = open_bundle(bundle)
    if opened.task.name != "audio-visual-matching":
        raise UsageError(
            f"{opened.directory} is for {opened.task.name}; retrieval scores pairs with audio-visual-matching",
            hint="export the checkpoint with --task audio-visual-matching",
        )
    progress("opening the bundle")
    options: dict[str, Any] = {"threads": threads, "trust_engine": trust_engine, "progress": progress}
    with load(opened, backend, device, precision, **options) as pipeline:
        return _retrieve(pipeline, sources[0], sources[1], directions, {"start": start, "duration": duration}, progress)


def _retrieve(
    pipeline: Pipeline,
    queries: Sequence[Source],
    gallery: Sequence[Source],
    directions: Sequence[str],
    window: Mapping[str, Any],
    progress: Progress,
) -> Retrieval:
    with _Store.open(pipeline, [*queries, *gallery], window, progress) as store:
        clips: dict[int, _Clip] = {}
        failed: dict[Source, TvltError] = {}
        for index, source in enumerate(_announced(store.sources, "reading", progress)):
            try:
                clips[index] = store.describe(source)
            except EnvironmentLackError:
                raise
            except TvltError as error:
                failed[source] = error
        with_sound = {index for index, clip in clips.items() if clip.has_sound}
        with_picture = {index for index, clip in clips.items() if clip.has_picture}
        asked, items = ([store.sources.index(source) for source in side] for side in (queries, gallery))
        takes = {AUDIO_TO_VIDEO: (with_sound, with_picture), VIDEO_TO_AUDIO: (with_picture, with_sound)}
        possible = [
            name for name in DIRECTIONS if takes[name][0].intersection(asked) and takes[name][1].intersection(items)
        ]
        if clips and not (directions or possible):
            raise UsageError(
                "no query has sound where the gallery has pictures, nor pictures where it has sound",
                hint="sounds find videos, and videos find sounds",
            )
        needed = np.zeros((len(store.sources), len(store.sources)), bool)
        sides = {}
        lacking: dict[Source, TvltError] = {}
        for direction in directions or possible:
            for side, useful in zip((asked, items), takes[direction], strict=True):
                kind = "sound" if useful is with_sound else "pictures"
                for index in side:
                    if index in clips and index not in useful:
                        source = store.sources[index]
                        lacking[source] = MediaError(f"{source[0]}: has no {kind}, which {direction} takes of it")
            ours, theirs = ([i for i in side if i in useful]
                            for side, useful in zip((asked, items), takes[direction], strict=True))  # fmt: skip
            sides[direction] = ours, theirs
            needed[np.ix_(*((theirs, ours) if direction == AUDIO_TO_VIDEO else (ours, theirs)))] = True
        ranked = {store.sources[index] for both in sides.values() for side in both for index in side}
        failed |= {source: error for source, error in lacking.items() if directions or source not in ranked}
        logits = store.scores(needed, clips, progress)
    rankings = [
        Ranking(
            direction,
            tuple(store.sources[i][0] for i in ours),
            tuple(store.sources[i][0] for i in theirs),
            logits[np.ix_(theirs, ours)].T if direction == AUDIO_TO_VIDEO else logits[np.ix_(ours, theirs)],
        )
        for direction, (ours, theirs) in sides.items()
    ]
    return Retrieval(
        tuple(rankings),
        len(store.sources),
        tuple(FileAnswer(*source, error=error) for source, error in failed.items()),
        {store.sources[index][0]: clip.warnings for index, clip in clips.items() if clip.warnings},
    )


@dataclass(frozen=True)
class _Clip:
    """What has to be known of a clip without its arrays."""

    frames: int
    rows: int
    has_picture: bool
    has_sound: bool
    warnings: tuple[str, ...]


def _announced(sources: Sequence[Source], verb: str, progress: Progress) -> Iterator[Source]:
    for count, source in enumerate(sources, 1):
        progress(f"{verb} {count}/{len(sources)} {source[0].name}")
        yield source


def _identity(source: Source) -> str:
    """A clip by the content of its files; one that cannot be read is known by its name, and fails when it is read."""
    try:
        parts = [sha256_of(path) if path.is_file() else str(path) for path in source if path is not None]
    except OSError:
        parts = [str(path) for path in source]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _tiles(indices: list[int]) -> list[list[int]]:
    return [indices[start : start + TILE] for start in range(0, len(indices), TILE)]


class _Store:
    """The prepared clips and the scores of one retrieval, in a directory of the user's cache.

    sources: the clips, each once. Prepared arrays are kept until all pairs are scored, what is known of each clip and
    the scores for good. Files appear whole; a score is four aligned bytes of one file that is never resized, either
    written or still NaN, so a process may end at any moment.
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
    ) -> Iterator[_Store]:
        """The store of exactly these clips, this bundle and these settings, locked against other processes."""
        distinct = list(dict.fromkeys(sources))
        identities = {source: _identity(source) for source in _announced(distinct, "hashing", progress)}
        runtime = pipeline.runtime
        key = {
            "tvlt_deploy": __version__,
            "runtime": [runtime.backend, runtime.device, runtime.precision, getattr(runtime, "path", None)],
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

    def describe(self, source: Source) -> _Clip:
        """What there is to know of a clip, which is read and prepared when it never was. Raises why it cannot be."""
        path = self.directory / f"{self.identities[source]}.json"
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # absent, or damaged since
            values = json.loads(path.read_text(encoding="utf-8"))
            return _Clip(**{**values, "warnings": tuple(values["warnings"])})
        prepared, warnings = self._read(source)
        clip = _Clip(prepared.frames, prepared.rows, prepared.has_picture, prepared.has_sound, warnings)
        write_json(path, vars(clip))
        return clip

    def prepared(self, source: Source) -> Prepared:
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
        """The logits (size, size) by index of the pictures' and of the sound's clip; NaN is not scored yet."""
        path = self.directory / "logits.npy"
        with contextlib.suppress(OSError, ValueError):  # absent, or damaged since
            table = np.lib.format.open_memmap(path, mode="r+")
            if table.shape == (size, size) and table.dtype == np.float32:
                return table
        with staged_file(path) as temporary, open(temporary, "wb") as handle:
            np.save(handle, np.full((size, size), np.nan, np.float32))
        return np.lib.format.open_memmap(path, mode="r+")

    def scores(self, needed: np.ndarray, clips: Mapping[int, _Clip], progress: Progress) -> np.ndarray:
        """The logits with every pair of `needed` (pictures, sound) scored, those of earlier calls as they were.

        Tiles of clips of similar length go through the pipeline's batches, so that little padding is computed and
        memory is that of one tile.
        """
        logits = self._table(len(needed))
        done, total = int((needed & ~np.isnan(logits)).sum()), int(needed.sum())
        if done:
            progress(f"{done}/{total} pairs were scored before")
        pictures = sorted(map(int, np.flatnonzero(needed.any(axis=1))), key=lambda index: clips[index].frames)
        sounds = sorted(map(int, np.flatnonzero(needed.any(axis=0))), key=lambda index: clips[index].rows)
        for tile in itertools.product(_tiles(pictures), _tiles(sounds)):
            pairs = [(p, s) for p, s in itertools.product(*tile) if needed[p, s] and np.isnan(logits[p, s])]
            if not pairs:
                continue
            loaded = {index: self.prepared(self.sources[index]) for index in {i for pair in pairs for i in pair}}
            joined = [loaded[p].with_sound_of(loaded[s]) for p, s in pairs]
            for place, outputs in self.pipeline.outputs(joined):
                p, s = pairs[place]
                value = float(outputs["matching_logits"][0])
                if not np.isfinite(value):
                    names = f"the pictures of {self.sources[p][0]} and the sound of {self.sources[s][0]}"
                    raise VerdictError(f"the matching logit of {names} is {value}; wanted a finite number")
                logits[p, s] = value
                done += 1
                if done * 100 // total > (done - 1) * 100 // total:
                    progress(f"{done}/{total} pairs")
            logits.flush()
        shutil.rmtree(self.directory / "clips", ignore_errors=True)
        return np.array(logits)
