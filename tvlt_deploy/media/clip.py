"""A clip: frames and sound of one window of one file, or of a file and its separate sound."""

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
from tvlt_deploy.media.video import Pictures, read_pictures
from tvlt_deploy.media.window import LONGEST_SOUND, Window


@dataclass(frozen=True, eq=False)
class Clip:
    """What was read of a media file.

    `frames` (T, H, W, 3) uint8 RGB and upright, or None; `frame_times` T seconds from the start of the file at which
    those frames appear; `waveform` (samples,) float32, mono, 44100 Hz, or None; `start` and `duration` the window that
    was read, in seconds; `warnings` what was damaged, missing or changed; `source` the path of the file; `still`
    whether the only frame is an image and no moment of a video.
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
        """What a processor takes: the one image (H, W, 3) of a still, else `frames`."""
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
    """Read frames and sound of the window [start, start + min(duration, max_seconds)) of a video, image or sound file.

    `frames` is the most frames wanted: those on show at so many evenly spaced times of the part of the window that the
    video covers, each once; `by_number` spaces them by their number instead. `resampler` makes 44100 Hz of sound of
    another rate. `audio` is a separate sound file that replaces the sound of `path`; the window applies to
    it too. A part that the file has no stream for, or none in the window, is None. Raises `InputError` for arguments
    that mean no window and for a window behind the end, `MediaError` for a file that cannot be used,
    `EnvironmentLackError` without PyAV or soxr.
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
    """As `read_clip` without the sound: `waveform` is None. Raises `MediaError` for a file without pictures."""
    count, window = _count(frames, limits), Window.of(start, duration, max_seconds, limits)
    file = check_path(path)
    return _clip(file, window, _pictures(file, Watch(file, limits), window, count), None)


def read_audio(
    path: str | os.PathLike[str],
    *,
    start: float = 0.0,
    duration: float | None = None,
    max_seconds: float = LONGEST_SOUND,
    limits: Limits = _LIMITS,
) -> Clip:
    """As `read_clip` without the pictures: `frames` is None. Raises `MediaError` for a file without sound."""
    window = Window.of(start, duration, max_seconds, limits)
    file = check_path(path)
    return _clip(file, window, None, _sound(file, window, limits))


def read_image(path: str | os.PathLike[str], *, limits: Limits = _LIMITS) -> npt.NDArray[np.uint8]:
    """An image file, or the first frame of an animated one, as (H, W, 3) uint8 RGB and upright. Raises `MediaError`."""
    file = check_path(path)
    return read_still(file, Watch(file, limits))


def _count(frames: object, limits: Limits) -> int:
    if isinstance(frames, bool) or not isinstance(frames, int | np.integer) or not 1 <= frames <= limits.max_frames:
        raise InputError(f"frames is {frames!r}; wanted an int from 1 to {limits.max_frames}")
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
        pictures: Pictures | None = read_animation(file, watch, window, count)
    else:
        source = Source(file, watch)
        kinds = source.kinds()
        if not kinds:
            raise MediaError(
                f"{file}: holds neither video nor sound; wanted a whole media file", hint="check that it plays"
            )
        if other is not None and "video" not in kinds:
            raise MediaError(
                f"{file}: holds no pictures, and {other} was to replace its sound", hint="give one of them"
            )
        pictures = read_pictures(source, window, count) if "video" in kinds else None
        sound = read_sound(source, window, resampler) if other is None and "audio" in kinds else None
    if other is not None:
        sound = _sound(other, window, limits, resampler)
    return _clip(file, window, pictures, sound)


def _pictures(file: Path, watch: Watch, window: Window, count: int) -> Pictures:
    if is_image(file, watch):
        return read_animation(file, watch, window, count)
    return read_pictures(Source(file, watch), window, count)


def _sound(file: Path, window: Window, limits: Limits, resampler: Resampler = resample) -> Sound:
    watch = Watch(file, limits)
    if is_image(file, watch):
        raise MediaError(f"{file}: is an image; wanted a file with sound")
    return read_sound(Source(file, watch), window, resampler)


def _clip(file: Path, window: Window, pictures: Pictures | None, sound: Sound | None) -> Clip:
    parts = [part for part in (pictures, sound) if part is not None]
    frames = None if pictures is None else pictures.frames
    waveform = None if sound is None else sound.waveform
    end = max(part.end for part in parts)
    if frames is None and waveform is None:
        raise InputError(
            f"{file}: start is {float(window.start):g} s and nothing is in the window; the file ends at {end:.2f} s",
            hint="start earlier, or take a longer window",
        )
    warnings = [warning for part in parts for warning in part.warnings]
    if pictures is not None and frames is None:
        warnings.append("no frame is on show in the window")
    if sound is not None and waveform is None:
        warnings.append("the window holds no sound")
    return Clip(
        frames=frames,
        frame_times=() if pictures is None else pictures.times,
        waveform=waveform,
        start=float(window.start),
        duration=max(min(end, float(window.end)) - float(window.start), 0.0),
        warnings=tuple(dict.fromkeys(warnings)),
        source=str(file),
        still=pictures is not None and pictures.still,
    )
