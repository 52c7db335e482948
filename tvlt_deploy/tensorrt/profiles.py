"""Ranges of input sizes that an engine is built for: batch, frames and spectrogram rows.

All shapes of a profile are derived from these three, so the inputs always agree with each other; TensorRT only warns if
they do not.
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
    """Input sizes of one optimization profile, each (min, optimal, max). The engine is fastest at the optimal sizes.

    Attributes:
        batch: Clips of a batch.
        frames: Frames of a clip.
        rows: Spectrogram rows of a clip, in whole patches.
    """

    batch: Range
    frames: Range
    rows: Range

    def sizes(self, config: TvltConfig) -> tuple[dict[str, int], ...]:
        """Sizes of every axis by name, for (min, optimal, max)."""
        return tuple(axis_sizes(config, *point) for point in zip(self.batch, self.frames, self.rows, strict=True))

    def input_shapes(self, task: Task, config: TvltConfig) -> dict[str, tuple[tuple[int, ...], ...]]:
        """(min, optimal, max) shape of each graph input, by name."""
        sizes = self.sizes(config)
        return {
            name: tuple(shape_of(spec.shape, point) for point in sizes) for name, spec in task.inputs(config).items()
        }

    def contains(self, batch: int, frames: int, rows: int) -> bool:
        """Whether the profile includes these sizes."""
        pairs = zip((batch, frames, rows), (self.batch, self.frames, self.rows), strict=True)
        return all(lowest <= size <= highest for size, (lowest, _, highest) in pairs)

    def distance(self, batch: int, frames: int, rows: int) -> float:
        """How far these sizes are from the optimal ones; 0 if they are equal."""
        pairs = zip((batch, frames, rows), (self.batch, self.frames, self.rows), strict=True)
        return sum(abs(math.log(size / optimal)) for size, (_, optimal, _) in pairs)

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
    """Sizes of every named axis of inputs and outputs, by name."""
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
    """A shape with the sizes of its named axes."""
    return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in axes)


def profile_hash(profiles: Sequence[Profile]) -> str:
    """Eight hexadecimal digits that identify a list of profiles."""
    text = json.dumps([encode(profile.to_entry()) for profile in profiles])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def default_profile(config: TvltConfig, rows_per_second: float) -> Profile:
    """One to four clips of any size that the model accepts; optimal are one clip, half its frames and ten seconds."""
    patch, max_rows = config.audio_patch[0], config.time_patches * config.audio_patch[0]
    optimal = min(max_rows, _whole_patches(10 * rows_per_second, patch))
    return Profile((1, 1, 4), (1, max(1, config.num_frames // 2), config.num_frames), (patch, optimal, max_rows))


def parse_profile(text: str, config: TvltConfig, rows_per_second: float) -> Profile:
    """Parse a profile such as `batch=1:1:4,frames=1:4:8,seconds=1:10:23.7`.

    Each size is `min:optimal:max`, or one number for all three. `rows` may be given instead of `seconds`.

    Args:
        text: The sizes. One that is left out is that of `default_profile`; seconds are rounded up to whole patches.
        config: The model's configuration.
        rows_per_second: Spectrogram rows per second of sound.

    Returns:
        The profile.

    Raises:
        UsageError: The text is not a profile, or the model does not accept a size.
    """
    ranges: dict[str, tuple[float, float, float]] = {}
    for part in text.split(","):
        name, equals, numbers = part.strip().partition("=")
        if not equals or name not in (BATCH, FRAMES, ROWS, SECONDS):
            raise UsageError(f"profile has {part!r}; expected {BATCH}=, {FRAMES}=, {ROWS}= or {SECONDS}=", _hint())
        if name in ranges:
            raise UsageError(f"profile has {name} twice", _hint())
        ranges[name] = _numbers(name, numbers)
    if ROWS in ranges and SECONDS in ranges:
        raise UsageError("profile has both rows and seconds; expected one of them", _hint())
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
    """Check a profile against the model.

    Args:
        profile: The profile.
        config: The model's configuration.
        rows_per_second: Spectrogram rows per second of sound, for messages.

    Raises:
        UsageError: The model does not accept a size, or the sizes are out of order.
    """
    patch, max_rows = config.audio_patch[0], config.time_patches * config.audio_patch[0]
    limits: tuple[tuple[str, Range, int, int | None], ...] = (
        (BATCH, profile.batch, 1, None),
        (FRAMES, profile.frames, 1, config.num_frames),
        (ROWS, profile.rows, patch, max_rows),
    )
    for name, sizes, lowest, highest in limits:
        if sizes[0] < lowest or (highest is not None and sizes[2] > highest):
            expected = f"{lowest} to {highest}" if highest is not None else f"at least {lowest}"
            seconds = f" ({max_rows / rows_per_second:.2f} seconds)" if name == ROWS else ""
            raise UsageError(f"profile has {name} {':'.join(map(str, sizes))}; expected {expected}{seconds}", _hint())
        if not sizes[0] <= sizes[1] <= sizes[2]:
            raise UsageError(
                f"profile has {name} {':'.join(map(str, sizes))}; expected min:optimal:max in order", _hint()
            )
    for rows in profile.rows:
        if rows % patch:
            raise UsageError(f"profile has {rows} rows; expected whole patches of {patch}", _hint())


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
        raise UsageError(f"profile has {name}={text!r}; expected min:optimal:max or one number", _hint())
    return values[0], values[1], values[2]


def _whole(name: str, values: Sequence[float]) -> Range:
    for value in values:
        if value != int(value):
            raise UsageError(f"profile has {name} {value:g}; expected whole numbers", _hint())
    return int(values[0]), int(values[1]), int(values[2])


def _whole_patches(rows: float, patch: int) -> int:
    return max(1, math.ceil(rows / patch - 1e-9)) * patch
