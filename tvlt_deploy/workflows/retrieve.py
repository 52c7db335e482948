"""Retrieval between sound and video: every pair is scored by the matching head.

TVLT has no embedding of one modality alone: the score of a pair is a pass of the complete encoder over that pair. Each
clip is prepared once. Scores are kept in the user's cache directory, so that an interrupted run can be resumed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tvlt_deploy._internal.progress import Progress, counted, silent
from tvlt_deploy.bundle import BundleLike, open_bundle
from tvlt_deploy.errors import EnvironmentLackError, MediaError, TvltError, UsageError
from tvlt_deploy.inference.files import FileAnswer, Source, check_window, find_sources
from tvlt_deploy.inference.pipeline import Pipeline, load
from tvlt_deploy.runtimes import DEFAULT_BACKEND, DEFAULT_DEVICE
from tvlt_deploy.workflows.score_store import ScoreStore, StoredClip

AUDIO_TO_VIDEO, VIDEO_TO_AUDIO = "audio-to-video", "video-to-audio"
DIRECTIONS = (AUDIO_TO_VIDEO, VIDEO_TO_AUDIO)
"""The modality of the queries, and that of the gallery."""

RECALLS = (1, 5, 10)
"""The k of R@k, as in the retrieval tables of the TVLT paper."""

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True, eq=False)
class Ranking:
    """The scores of one direction.

    Attributes:
        direction: one of `DIRECTIONS`.
        queries: the media file of each query.
        gallery: the media file of each item of the gallery.
        matching_logits: (queries, gallery) float32; a higher logit is a better match.
    """

    direction: str
    queries: tuple[Path, ...]
    gallery: tuple[Path, ...]
    matching_logits: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """Probability that query and item match, the sigmoid of the logits: (queries, gallery) float64."""
        probability: np.ndarray = 0.5 * (1 + np.tanh(self.matching_logits.astype(np.float64) / 2))
        return probability

    def top(self, count: int) -> list[list[tuple[Path, float]]]:
        """The best `count` items of each query as (item, score), best first."""
        order = np.argsort(-self.matching_logits, axis=1, kind="stable")[:, :count]
        scores = self.scores
        return [[(self.gallery[i], float(scores[row, i])) for i in best] for row, best in enumerate(order)]

    @cached_property
    def ranks(self) -> tuple[int | None, ...]:
        """For each query the rank, from 1, of the best item with the same file stem; None without such an item.

        Other items with an equal score rank before it.
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
        """Number of queries with an item of the same file stem."""
        return len(self._known)

    @property
    def recalls(self) -> dict[int, float]:
        """k -> share of the known pairs whose rank is at most k; empty without known pairs."""
        return {k: sum(rank <= k for rank in self._known) / self.known_pairs for k in RECALLS if self._known}

    @property
    def median_rank(self) -> float | None:
        """Median rank of the known pairs; None without known pairs."""
        return float(np.median(self._known)) if self._known else None

    def to_dict(self, count: int) -> dict[str, Any]:
        """JSON values for `--json`, with the best `count` items of each query."""
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
    """The result of `retrieve`.

    Attributes:
        rankings: one for each direction.
        clips: number of clips.
        failed: clips that cannot be read, or that have no frames or no sound where a direction needs them.
        warnings: what could not be read of the other clips, by media file.
    """

    rankings: tuple[Ranking, ...]
    clips: int
    failed: tuple[FileAnswer, ...]
    warnings: Mapping[Path, tuple[str, ...]]

    def to_dict(self, count: int) -> dict[str, Any]:
        """JSON values for `--json`, with the best `count` items of each query."""
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
    options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Retrieval:
    """Score every query with every item of the gallery.

    Called again with the same bundle, files and settings, an interrupted run is resumed, and the scores of a finished
    run are read from the cache. A score is the sigmoid of the matching logit, as in the MSRVTT retrieval of TVLT (Tang
    et al., 2022).

    Args:
        bundle: a bundle for `audio-visual-matching`, or its directory.
        queries: a folder (files of equal stems form a clip), a media file, or several of them.
        gallery: in the same way; it may be the same as the queries.
        directions: `audio-to-video` (sound of the queries, frames of the gallery), `video-to-audio`, or both. By
            default all that the clips allow.
        start: start of the window of each file, in seconds.
        duration: length of that window in seconds; by default as much as the model accepts.
        backend: as of `tvlt_deploy.load`.
        device: as of `tvlt_deploy.load`.
        precision: as of `tvlt_deploy.load`.
        threads: as of `tvlt_deploy.load`.
        trust_engine: as of `tvlt_deploy.load`.
        options: as of `tvlt_deploy.load`.
        progress: called with a line of text at each step.

    Returns:
        A ranking for each direction. A clip that cannot be read is left out and listed in `failed`.

    Raises:
        UsageError: the bundle is for another task, or the clips allow no direction.
        VerdictError: a score is not finite.
        TvltError: as `tvlt_deploy.load`.
    """
    _check_directions(directions)
    check_window(start, duration)
    sources = [find_sources([paths] if isinstance(paths, str | os.PathLike) else paths) for paths in (queries, gallery)]
    opened = open_bundle(bundle)
    if opened.task.name != "audio-visual-matching":
        raise UsageError(
            f"{opened.directory} is for {opened.task.name}; retrieval needs audio-visual-matching",
            hint="export the checkpoint with --task audio-visual-matching",
        )
    progress("opening the bundle")
    opening: dict[str, Any] = {"threads": threads, "trust_engine": trust_engine, "options": options}
    with load(opened, backend, device, precision, progress=progress, **opening) as pipeline:
        return _retrieve(pipeline, sources[0], sources[1], directions, {"start": start, "duration": duration}, progress)


def _check_directions(directions: Sequence[str]) -> None:
    for direction in directions:
        if direction not in DIRECTIONS:
            raise UsageError(f"direction is {direction!r}; expected one of {', '.join(DIRECTIONS)}")


@dataclass(frozen=True)
class _Plan:
    """The clips that one direction ranks, by index, and an error for each clip without the modality it needs."""

    direction: str
    queries: list[int]
    gallery: list[int]
    failed: dict[int, TvltError]

    @property
    def pairs(self) -> tuple[np.ndarray, ...]:
        """Where the pairs are in a table (clip of the frames, clip of the sound)."""
        sides = self.queries, self.gallery
        return np.ix_(*(sides[::-1] if self.direction == AUDIO_TO_VIDEO else sides))

    def ranking(self, sources: Sequence[Source], table: np.ndarray) -> Ranking:
        """The ranking by a table of logits (clip of the frames, clip of the sound)."""
        logits = table[self.pairs]
        queries, gallery = (tuple(sources[index][0] for index in side) for side in (self.queries, self.gallery))
        return Ranking(self.direction, queries, gallery, logits.T if self.direction == AUDIO_TO_VIDEO else logits)


def _retrieve(
    pipeline: Pipeline,
    queries: Sequence[Source],
    gallery: Sequence[Source],
    directions: Sequence[str],
    window: Mapping[str, Any],
    progress: Progress,
) -> Retrieval:
    with ScoreStore.open(pipeline, [*queries, *gallery], window, progress) as store:
        sources = store.sources
        clips, failed = _describe(store, progress)
        sides = [[sources.index(source) for source in side] for side in (queries, gallery)]
        plans = [_plan(direction, sources, clips, *sides) for direction in directions or DIRECTIONS]
        if not directions:
            plans = [plan for plan in plans if plan.queries and plan.gallery]
        if clips and not plans:
            raise UsageError(
                "no query has sound where the gallery has frames, nor frames where it has sound",
                hint="sounds find videos, and videos find sounds",
            )
        ranked = {index for plan in plans for index in (*plan.queries, *plan.gallery)}
        needed = np.zeros((len(sources), len(sources)), bool)
        for plan in plans:
            failed |= {index: error for index, error in plan.failed.items() if directions or index not in ranked}
            needed[plan.pairs] = True
        table = store.scores(needed, clips, progress)
    return Retrieval(
        tuple(plan.ranking(sources, table) for plan in plans),
        len(sources),
        tuple(FileAnswer(*sources[index], error=error) for index, error in failed.items()),
        {sources[index][0]: clip.warnings for index, clip in clips.items() if clip.warnings},
    )


def _describe(store: ScoreStore, progress: Progress) -> tuple[dict[int, StoredClip], dict[int, TvltError]]:
    """The clips that can be read, and the errors of the others, by index."""
    clips: dict[int, StoredClip] = {}
    failed: dict[int, TvltError] = {}
    for index, source in enumerate(counted(store.sources, "reading", progress, lambda source: source[0].name)):
        try:
            clips[index] = store.describe(source)
        except EnvironmentLackError:
            raise
        except TvltError as error:
            failed[index] = error
    return clips, failed


def _plan(
    direction: str, sources: Sequence[Source], clips: Mapping[int, StoredClip], queries: list[int], gallery: list[int]
) -> _Plan:
    """Divide the clips of one direction into those that have the modality it needs and those that do not."""
    needs = ("sound", "frames") if direction == AUDIO_TO_VIDEO else ("frames", "sound")
    ranked: list[list[int]] = []
    failed: dict[int, TvltError] = {}
    for modality, side in zip(needs, (queries, gallery), strict=True):
        useful = {i for i, clip in clips.items() if (clip.has_sound if modality == "sound" else clip.has_picture)}
        ranked.append([index for index in side if index in useful])
        for index in side:
            if index in clips and index not in useful:
                failed[index] = MediaError(f"{sources[index][0]}: has no {modality}, which {direction} needs")
    return _Plan(direction, ranked[0], ranked[1], failed)
