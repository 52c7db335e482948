"""What is measured: synthetic clips of fixed sizes, or a media file of the user's own."""

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

    images: (T, 360, 640, 3) uint8 per clip. audio: (samples,) float32 per clip. Both are empty for a media file, which
    is read anew for each call from `path`. description: what there is, in words. note: how it differs from its name.
    """

    name: str
    description: str
    images: tuple[NDArray[np.uint8], ...] = ()
    audio: tuple[NDArray[np.float32], ...] = ()
    path: Path | None = None
    note: str = ""

    @property
    def clips(self) -> int:
        """Clips answered by one call."""
        return 1 if self.path else len(self.images)


def check_workload(name: str | os.PathLike[str]) -> str:
    """The name of a workload or the absolute path of a file. Raises `UsageError` for anything else."""
    text = os.fspath(name)
    if text in WORKLOADS:
        return text
    if not os.path.isfile(text):
        raise UsageError(
            f"workload is {text!r}; wanted one of {', '.join(WORKLOADS)}, or an existing media file",
            hint="check the spelling or the path",
        )
    return os.path.abspath(text)


def workload_name(name: str) -> str:
    """What a checked workload is called in a report: a file goes by its name alone."""
    return name if name in WORKLOADS else os.path.basename(name)


def make_workload(name: str, most_frames: int, most_seconds: float, sampling_rate: int) -> Workload:
    """The clips of a checked workload name, for a model that takes so many frames and seconds of sound.

    Sizes beyond the model's are scaled down together, so that ragged clips stay ragged, and `note` says so.
    """
    if name not in WORKLOADS:
        return Workload(workload_name(name), "media file", path=Path(name))
    asked = WORKLOADS[name]
    sizes = _shrunk(asked, most_frames, most_seconds)
    note = ""
    if sizes != asked:
        note = f"shrunk: the model takes at most {most_frames} frames and {most_seconds:.3g} s of sound"
    return Workload(
        name,
        _describe(sizes),
        images=tuple(moving_picture(frames, seed) for seed, (frames, _) in enumerate(sizes)),
        audio=tuple(speech(seconds, sampling_rate, seed) for seed, (_, seconds) in enumerate(sizes)),
        note=note,
    )


def _shrunk(sizes: Sequence[tuple[int, float]], most_frames: int, most_seconds: float) -> tuple[tuple[int, float], ...]:
    frame_share = min(1.0, most_frames / max(frames for frames, _ in sizes))
    second_share = min(1.0, most_seconds / max(seconds for _, seconds in sizes))
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
    """(frames, 360, 640, 3) uint8: a tinted slope that turns from frame to frame, under grain."""
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
    """(samples,) float32 within [-1, 1]: harmonics of a wandering voice, four syllables a second, and breath."""
    random = np.random.default_rng(seed)
    time = np.arange(max(1, round(seconds * sampling_rate))) / sampling_rate
    pitch = random.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * 0.4 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / sampling_rate
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time + random.uniform(0, 6)), 0, None)
    wave = 0.2 * syllables * voice + random.normal(0, 0.005, len(time))
    return np.clip(wave, -1, 1).astype(np.float32)
