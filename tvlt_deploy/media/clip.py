"""Read a clip: frames and sound of one window of a file, or of a file and a separate audio file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tvlt_deploy.errors import InputError, MediaError
from tvlt_deploy.media.audio import Resampler, Sound, read_sound, resample
from tvlt_deploy.media.image import is_image, read_animation, read_still
from tvlt_deploy.media.limits import Limits, Watch
from tvlt_deploy.media.source import Source, check_path
from tvlt_deploy.media.video import Frames, read_frames
from tvlt_deploy.media.window import LONGEST_SOUND, Window


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames and sound read from a media file.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB, upright, or None.
        frame_times: T seconds from the start of the file at which the frames appear.
        waveform: (samples,) float32, mono, 44100 Hz, or None.
        start: Start of the window that was read, in seconds.
        duration: Length of the window that was read, in seconds.
        warnings: What was damaged, missing or changed.
        source: Path of the file.
        still: Whether the only frame is an image and not part of a video.
    """

    frames: npt.NDArray[np.uint8] | None
    frame_times: tuple[float, ...]
    waveform: npt.NDArray[np.float32] | None
    start: float
    duration: float
    warnings: tuple[str, ...] = ()
    source: str = ""
    still: bool = False

    @property
    def pictures(self) -> npt.NDArray[np.uint8] | None:
        """Input for a processor: the image (H, W, 3) of a still, otherwise `frames`."""
        return self.frames[0] if self.still and self.frames is not None else self.frames


_LIMITS = Limits()


def read_clip(
    path: str | os.PathLike[str],
    *,
    frames: int = 8,
    audio: str | os.PathLike[str] | None = None,
    start: float = 0.0,
    duration: float | None = None,
    max_seconds: float = LONGEST_SOUND,
    by_number: bool = False,
    resampler: Resampler = resample,
    limits: Limits = _LIMITS,
) -> Clip:
    """Read frames and sound of the window [start, start + min(duration, max_seconds)) of a video, image or audio file.

    Args:
        path: Path of the file.
        frames: Maximum number of frames. They are the frames shown at that many evenly spaced times of the part of
            the window that the video covers, each once.
        audio: Separate audio file that replaces the sound of `path`; the window applies to it too.
        start: Start of the window in seconds from the start of the file.
        duration: Length of the window in seconds; None for `max_seconds`.
        max_seconds: Maximum length of the window in seconds.
        by_number: Space the frames by their index instead of by time.
        resampler: Converts sound of another rate to 44100 Hz.
        limits: Resource limits for each file.

    Returns:
        The clip. A modality that the file does not have, or not in the window, is None.

    Raises:
        InputError: Invalid arguments, or a window after the end of the file.
        MediaError: A file that cannot be used.
        EnvironmentLackError: PyAV or soxr is not installed.
    """
    window = Window.of(start, duration, max_seconds, limits, by_number)
    return _read(path, frames, audio, window, resampler, limits)


def read_video(
    path: str | os.PathLike[str],
    *,
    frames: int = 8,
    start: float = 0.0,
    duration: float | None = None,
    max_seconds: float = LONGEST_SOUND,
    limits: Limits = _LIMITS,
) -> Clip:
    """Read frames only: as `read_clip`, with `waveform` None.

    Args:
        path: Path of the file.
        frames: Maximum number of frames.
        start: Start of the window in seconds.
        duration: Length of the window in seconds; None for `max_seconds`.
        max_seconds: Maximum length of the window in seconds.
        limits: Resource limits for the file.

    Returns:
        The clip.

    Raises:
        InputError: Invalid arguments, or a window after the end of the file.
        MediaError: A file that cannot be used, or that has no frames.
        EnvironmentLackError: PyAV is not installed.
    """
    count, window = _count(frames, limits), Window.of(start, duration, max_seconds, limits)
    file = check_path(path)
    return _clip(file, window, _images(file, Watch(file, limits), window, count), None)


def read_audio(
    path: str | os.PathLike[str],
    *,
    start: float = 0.0,
    duration: float | None = None,
    max_seconds: float = LONGEST_SOUND,
    limits: Limits = _LIMITS,
) -> Clip:
    """Read sound only: as `read_clip`, with `frames` None.

    Args:
        path: Path of the file.
        start: Start of the window in seconds.
        duration: Length of the window in seconds; None for `max_seconds`.
        max_seconds: Maximum length of the window in seconds.
        limits: Resource limits for the file.

    Returns:
        The clip.

    Raises:
        InputError: Invalid arguments, or a window after the end of the file.
        MediaError: A file that cannot be used, or that has no sound.
        EnvironmentLackError: PyAV or soxr is not installed.
    """
    window = Window.of(start, duration, max_seconds, limits)
    file = check_path(path)
    return _clip(file, window, None, _sound(file, window, limits))


def read_image(path: str | os.PathLike[str], *, limits: Limits = _LIMITS) -> npt.NDArray[np.uint8]:
    """Read an image file, or the first frame of an animated image.

    Args:
        path: Path of the file.
        limits: Resource limits for the file.

    Returns:
        (H, W, 3) uint8 RGB, upright.

    Raises:
        MediaError: A file that is not a readable image.
    """
    file = check_path(path)
    return read_still(file, Watch(file, limits))


def _count(frames: object, limits: Limits) -> int:
    if isinstance(frames, bool) or not isinstance(frames, int | np.integer) or not 1 <= frames <= limits.max_frames:
        raise InputError(f"frames is {frames!r}; expected an int from 1 to {limits.max_frames}")
    return int(frames)


def _read(
    path: str | os.PathLike[str],
    frames: int,
    audio: str | os.PathLike[str] | None,
    window: Window,
    resampler: Resampler,
    limits: Limits,
) -> Clip:
    count = _count(frames, limits)
    file = check_path(path)
    other = None if audio is None else check_path(audio)
    watch = Watch(file, limits)
    sound: Sound | None = None
    if is_image(file, watch):
        images: Frames | None = read_animation(file, watch, window, count)
    else:
        source = Source(file, watch)
        kinds = source.kinds()
        if not kinds:
            raise MediaError(
                f"{file}: contains neither video nor sound; expected a complete file", hint="check that it plays"
            )
        if other is not None and "video" not in kinds:
            raise MediaError(
                f"{file}: contains no video, and {other} would replace its sound", hint="pass only one of the two"
            )
        images = read_frames(source, window, count) if "video" in kinds else None
        sound = read_sound(source, window, resampler) if other is None and "audio" in kinds else None
    if other is not None:
        sound = _sound(other, window, limits, resampler)
    return _clip(file, window, images, sound)


def _images(file: Path, watch: Watch, window: Window, count: int) -> Frames:
    if is_image(file, watch):
        return read_animation(file, watch, window, count)
    return read_frames(Source(file, watch), window, count)


def _sound(file: Path, window: Window, limits: Limits, resampler: Resampler = resample) -> Sound:
    watch = Watch(file, limits)
    if is_image(file, watch):
        raise MediaError(f"{file}: is an image; expected a file with sound")
    return read_sound(Source(file, watch), window, resampler)


def _clip(file: Path, window: Window, images: Frames | None, sound: Sound | None) -> Clip:
    parts = [part for part in (images, sound) if part is not None]
    frames = None if images is None else images.frames
    waveform = None if sound is None else sound.waveform
    end = max(part.end for part in parts)
    if frames is None and waveform is None:
        raise InputError(
            f"{file}: start is {float(window.start):g} s and the window is empty; the file ends at {end:.2f} s",
            hint="start earlier, or use a longer window",
        )
    warnings = [warning for part in parts for warning in part.warnings]
    if images is not None and frames is None:
        warnings.append("no frame is shown in the window")
    if sound is not None and waveform is None:
        warnings.append("the window contains no sound")
    return Clip(
        frames=frames,
        frame_times=() if images is None else images.times,
        waveform=waveform,
        start=float(window.start),
        duration=max(min(end, float(window.end)) - float(window.start), 0.0),
        warnings=tuple(dict.fromkeys(warnings)),
        source=str(file),
        still=images is not None and images.still,
    )
