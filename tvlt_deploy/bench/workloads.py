"""Workloads of a benchmark: synthetic clips of fixed sizes, or a media file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tvlt_deploy.errors import UsageError

HEIGHT, WIDTH = 360, 640

WORKLOADS: dict[str, tuple[tuple[int, float], ...]] = {
    "image10": ((1, 10.0),),
    "clip10": ((8, 10.0),),
    "ragged": ((1, 20.0), (2, 5.0), (3, 12.5), (4, 2.0), (5, 17.5), (6, 7.5), (7, 10.0), (8, 15.0)),
}
"""Name -> (frames, seconds of sound) of each clip."""


@dataclass(frozen=True, eq=False)
class Workload:
    """Clips for one pipeline call.

    Attributes:
        name: Name of the workload, or of the media file.
        description: Number and sizes of the clips, in words.
        images: (frames, 360, 640, 3) uint8 for each clip; empty for a media file.
        audio: (samples,) float32 for each clip; empty for a media file.
        path: A media file, which is decoded in each call.
        note: How the clips differ from the named workload, if they do.
    """

    name: str
    description: str
    images: tuple[NDArray[np.uint8], ...] = ()
    audio: tuple[NDArray[np.float32], ...] = ()
    path: Path | None = None
    note: str = ""

    @property
    def clips(self) -> int:
        """Number of clips answered by one call."""
        return 1 if self.path else len(self.images)


def check_workload(name: str | os.PathLike[str]) -> str:
    """Check the name of a workload or the path of a media file.

    Returns:
        The name, or the absolute path.

    Raises:
        UsageError: It is neither.
    """
    text = os.fspath(name)
    if text in WORKLOADS:
        return text
    if not os.path.isfile(text):
        raise UsageError(
            f"workload is {text!r}; expected one of {', '.join(WORKLOADS)}, or an existing media file",
            hint="check the spelling or the path",
        )
    return os.path.abspath(text)


def workload_name(name: str) -> str:
    """Name of a checked workload in a report: for a file, its name without the directory."""
    return name if name in WORKLOADS else os.path.basename(name)


def make_workload(name: str, max_frames: int, max_seconds: float, sampling_rate: int) -> Workload:
    """The clips of a workload, scaled down together to what the model accepts, so that ragged clips stay ragged.

    Args:
        name: A checked workload name or path.
        max_frames: Frames that the model accepts.
        max_seconds: Seconds of sound that the model accepts.
        sampling_rate: Samples per second.

    Returns:
        The clips. `note` states if they were scaled down.
    """
    if name not in WORKLOADS:
        return Workload(workload_name(name), "media file", path=Path(name))
    asked = WORKLOADS[name]
    sizes = _reduced(asked, max_frames, max_seconds)
    note = ""
    if sizes != asked:
        note = f"reduced: the model accepts at most {max_frames} frames and {max_seconds:.3g} s of sound"
    return Workload(
        name,
        _describe(sizes),
        images=tuple(moving_picture(frames, seed) for seed, (frames, _) in enumerate(sizes)),
        audio=tuple(speech(seconds, sampling_rate, seed) for seed, (_, seconds) in enumerate(sizes)),
        note=note,
    )


def _reduced(sizes: Sequence[tuple[int, float]], max_frames: int, max_seconds: float) -> tuple[tuple[int, float], ...]:
    frame_share = min(1.0, max_frames / max(frames for frames, _ in sizes))
    second_share = min(1.0, max_seconds / max(seconds for _, seconds in sizes))
    return tuple((max(1, round(frames * frame_share)), seconds * second_share) for frames, seconds in sizes)


def _describe(sizes: Sequence[tuple[int, float]]) -> str:
    def span(values: Sequence[float]) -> str:
        low, high = f"{min(values):.3g}", f"{max(values):.3g}"
        return low if low == high else f"{low} to {high}"

    frames, seconds = [frames for frames, _ in sizes], [seconds for _, seconds in sizes]
    many = f"{len(sizes)} clips: " if len(sizes) > 1 else ""
    plural = "" if max(frames) == 1 else "s"
    return f"{many}{span(frames)} frame{plural} of {WIDTH}x{HEIGHT}, {span(seconds)} s of sound"


def moving_picture(frames: int, seed: int) -> NDArray[np.uint8]:
    """(frames, 360, 640, 3) uint8: a tinted gradient that turns from frame to frame, with noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
    angles = random.uniform(0, 2 * np.pi) + 0.3 * np.arange(frames)
    tint = random.uniform(60, 180, 3).astype(np.float32)
    picture = np.empty((frames, HEIGHT, WIDTH, 3), np.uint8)
    for frame, angle in zip(picture, angles, strict=True):
        slope = np.float32(40 * np.cos(angle)) * x + np.float32(40 * np.sin(angle)) * y
        grain = random.standard_normal((HEIGHT, WIDTH, 3), np.float32)
        frame[:] = np.clip(slope[..., None] + tint + 8 * grain, 0, 255)
    return picture


def speech(seconds: float, sampling_rate: int, seed: int) -> NDArray[np.float32]:
    """(samples,) float32 within [-1, 1]: harmonics of a varying pitch, four syllables per second, with noise."""
    random = np.random.default_rng(seed)
    time = np.arange(max(1, round(seconds * sampling_rate))) / sampling_rate
    pitch = random.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * 0.4 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / sampling_rate
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time + random.uniform(0, 6)), 0, None)
    wave = 0.2 * syllables * voice + random.normal(0, 0.005, len(time))
    return np.clip(wave, -1, 1).astype(np.float32)
