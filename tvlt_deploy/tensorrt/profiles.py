"""Ranges of input sizes that an engine is built for, in the units of a clip: batch, frames and spectrogram rows.

All shapes of a profile follow from these three, so that the inputs always agree with each other: TensorRT itself only
warns when they do not.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvlt_deploy._internal.typed_json import encode
from tvlt_deploy.bundle.manifest import EngineProfile, Range
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import UsageError
from tvlt_deploy.tasks import AUDIO_PATCHES, BATCH, FRAMES, PIXEL_PATCHES, ROWS, TOKENS, Axis, Task, token_counts

SECONDS = "seconds"
EXAMPLE = "batch=1:1:4,frames=1:4:8,seconds=1:10:23.7"


@dataclass(frozen=True)
class Profile:
    """What one optimization profile takes: from the least to the most of each size, fastest at the middle one."""

    batch: Range
    frames: Range
    rows: Range

    def sizes(self, config: TvltConfig) -> tuple[dict[str, int], ...]:
        """Every axis' size at the least, the middle and the most."""
        return tuple(axis_sizes(config, *point) for point in zip(self.batch, self.frames, self.rows, strict=True))

    def input_shapes(self, task: Task, config: TvltConfig) -> dict[str, tuple[tuple[int, ...], ...]]:
        """For each graph input its least, middle and largest shape."""
        sizes = self.sizes(config)
        return {
            name: tuple(shape_of(spec.shape, point) for point in sizes) for name, spec in task.inputs(config).items()
        }

    def holds(self, batch: int, frames: int, rows: int) -> bool:
        """Whether a batch of these sizes fits."""
        pairs = zip((batch, frames, rows), (self.batch, self.frames, self.rows), strict=True)
        return all(least <= size <= most for size, (least, _, most) in pairs)

    def distance(self, batch: int, frames: int, rows: int) -> float:
        """How far these sizes are from the ones the profile is fastest at: 0 where they are equal."""
        pairs = zip((batch, frames, rows), (self.batch, self.frames, self.rows), strict=True)
        return sum(abs(math.log(size / best)) for size, (_, best, _) in pairs)

    def to_entry(self) -> EngineProfile:
        """The entry of the manifest."""
        return EngineProfile(self.batch, self.frames, self.rows)

    @classmethod
    def from_entry(cls, entry: EngineProfile) -> Profile:
        """The profile of an entry of the manifest."""
        return cls(entry.batch, entry.frames, entry.rows)

    def __str__(self) -> str:
        pairs = ((BATCH, self.batch), (FRAMES, self.frames), (ROWS, self.rows))
        return ",".join(f"{name}={':'.join(map(str, sizes))}" for name, sizes in pairs)


def axis_sizes(config: TvltConfig, batch: int, frames: int, rows: int) -> dict[str, int]:
    """The size of every named axis of inputs and outputs."""
    pixel, audio = token_counts(config, frames, rows)
    return {
        BATCH: batch,
        FRAMES: frames,
        ROWS: rows,
        PIXEL_PATCHES: pixel,
        AUDIO_PATCHES: audio,
        TOKENS: 1 + pixel + audio,
    }


def shape_of(axes: Sequence[Axis], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A shape with its named axes filled in."""
    return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in axes)


def profile_hash(profiles: Sequence[Profile]) -> str:
    """Eight hexadecimal digits that name a list of profiles."""
    text = json.dumps([encode(profile.to_entry()) for profile in profiles])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def default_profile(config: TvltConfig, rows_per_second: float) -> Profile:
    """One to four clips of anything the model takes, fastest at one clip of half its frames and ten seconds."""
    least, most = config.audio_patch[0], config.time_patches * config.audio_patch[0]
    middle = min(most, _whole_patches(10 * rows_per_second, least))
    return Profile((1, 1, 4), (1, max(1, config.num_frames // 2), config.num_frames), (least, middle, most))


def parse_profile(text: str, config: TvltConfig, rows_per_second: float) -> Profile:
    """A profile from `batch=1:1:4,frames=1:4:8,seconds=1:10:23.7`, checked against the model.

    Each size is least:fastest:most, or one number for all three; one left out is that of `default_profile`. `rows`
    may stand in place of `seconds`, in whole patches; seconds are rounded up to whole patches. Raises `UsageError`
    naming the size, the value found and the ones the model takes.
    """
    ranges: dict[str, tuple[float, float, float]] = {}
    for part in text.split(","):
        name, equals, numbers = part.strip().partition("=")
        if not equals or name not in (BATCH, FRAMES, ROWS, SECONDS):
            raise UsageError(f"profile holds {part!r}; wanted {BATCH}=, {FRAMES}=, {ROWS}= or {SECONDS}=", _hint())
        if name in ranges:
            raise UsageError(f"profile gives {name} twice", _hint())
        ranges[name] = _numbers(name, numbers)
    if ROWS in ranges and SECONDS in ranges:
        raise UsageError("profile gives both rows and seconds; wanted one of them", _hint())
    default = default_profile(config, rows_per_second)
    patch = config.audio_patch[0]
    if SECONDS in ranges:
        rows: Any = tuple(_whole_patches(x * rows_per_second, patch) for x in ranges[SECONDS])
    else:
        rows = _whole(ROWS, ranges.get(ROWS, default.rows))
    profile = Profile(
        _whole(BATCH, ranges.get(BATCH, default.batch)), _whole(FRAMES, ranges.get(FRAMES, default.frames)), rows
    )
    check_profile(profile, config, rows_per_second)
    return profile


def check_profile(profile: Profile, config: TvltConfig, rows_per_second: float) -> None:
    """Raise `UsageError` for sizes that the model does not take or that are out of order."""
    patch, most = config.audio_patch[0], config.time_patches * config.audio_patch[0]
    limits: tuple[tuple[str, Range, int, int | None], ...] = (
        (BATCH, profile.batch, 1, None),
        (FRAMES, profile.frames, 1, config.num_frames),
        (ROWS, profile.rows, patch, most),
    )
    for name, sizes, least, largest in limits:
        if sizes[0] < least or (largest is not None and sizes[2] > largest):
            wanted = f"{least} to {largest}" if largest is not None else f"at least {least}"
            seconds = f" ({most / rows_per_second:.2f} seconds)" if name == ROWS else ""
            raise UsageError(f"profile has {name} {':'.join(map(str, sizes))}; wanted {wanted}{seconds}", _hint())
        if not sizes[0] <= sizes[1] <= sizes[2]:
            raise UsageError(
                f"profile has {name} {':'.join(map(str, sizes))}; wanted least:fastest:most in order", _hint()
            )
    for rows in profile.rows:
        if rows % patch:
            raise UsageError(f"profile has {rows} rows; wanted whole patches of {patch}", _hint())


def _hint() -> str:
    return f"for example --profile {EXAMPLE}"


def _numbers(name: str, text: str) -> tuple[float, float, float]:
    try:
        values = [float(number) for number in text.split(":")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or not all(math.isfinite(value) and value >= 0 for value in values):
        raise UsageError(f"profile has {name}={text!r}; wanted least:fastest:most or one number", _hint())
    return values[0], values[1], values[2]


def _whole(name: str, values: Sequence[float]) -> Range:
    for value in values:
        if value != int(value):
            raise UsageError(f"profile has {name} {value:g}; wanted whole numbers", _hint())
    return int(values[0]), int(values[1]), int(values[2])


def _whole_patches(rows: float, patch: int) -> int:
    return max(1, math.ceil(rows / patch - 1e-9)) * patch
