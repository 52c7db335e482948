"""Reading pictures that a caller hands over: which videos there are, and each frame as RGB levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tvlt_deploy.errors import ConfigError, InputError

FIRST, LAST = "channels_first", "channels_last"

_DEEP_MODES = ("I", "F")  # Pillow's modes of more than 8 bits, which its own conversion to RGB clips at 255

_ARRAY_WANTED = "uint8, floats within [0, 1], or whole numbers within [0, 255]"

Frame = Any  # a PIL image, or an array (or tensor) of 2 or 3 dimensions
Pixels = Image.Image | NDArray[Any]  # an RGB image, uint8 (H, W, 3), or floats (H, W, 3) that no image can hold


@dataclass(frozen=True)
class Video:
    """Frames of one video after reading; `unit` says that levels 0..255 stand for floats within [0, 1]."""

    frames: list[Pixels]
    unit: bool = False


def frame_size(frame: Pixels) -> tuple[int, int]:
    """(height, width)."""
    return (frame.height, frame.width) if isinstance(frame, Image.Image) else (frame.shape[0], frame.shape[1])


def _array(value: Any, name: str) -> NDArray[Any]:
    """`value` as a numpy array of numbers."""
    if isinstance(value, str | bytes):
        raise InputError(f"{name} is text ({value[:40]!r}); wanted frames", hint="decode files with tvlt_deploy.media")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is no array: {error}", hint="for a tensor: tensor.detach().cpu().float()") from error
    if array.dtype.kind not in "uif":
        raise InputError(f"{name} has dtype {array.dtype}; wanted {_ARRAY_WANTED}")
    return array


def dimensions(value: Any, name: str) -> int:
    """3 for a frame, 4 for a video, 5 for a batch, going by an array's dimensions or a list's first element."""
    if isinstance(value, Image.Image):
        return 3
    if isinstance(value, list | tuple):
        if not value:
            raise InputError(f"{name} is an empty list; wanted frames")
        inner = {dimensions(item, name) for item in value}
        if len(inner) > 1:
            raise InputError(f"{name} mixes frames and videos in one list", hint="wrap a single frame: [frame]")
        return inner.pop() + 1
    shape = tuple(value.shape) if hasattr(value, "shape") else _array(value, name).shape
    if 0 in shape:
        raise InputError(f"{name} has shape {shape}, which holds no pixels")
    if not 2 <= len(shape) <= 5:
        raise InputError(f"{name} has shape {shape}; wanted a frame (H, W, 3), a video (T, H, W, 3) or a batch of them")
    return max(3, len(shape))


def nested(videos: Any) -> list[list[Frame]]:
    """A batch as a list of videos, each a list of frames."""
    depth = dimensions(videos, "the video")
    if depth > 5:
        raise InputError("the videos are nested deeper than batch, video, frame", hint="leave out one level of lists")
    if depth == 3:
        return [[videos]]
    if depth == 4:
        return [list(videos)]
    return [list(video) for video in videos]


def read_frames(frames: list[Frame], layout: str | None, name: str, resize: bool) -> Video:
    """The frames of one video as RGB levels where that loses nothing that resizing would keep."""
    pixels = [_rgb(frame, layout, f"{name}, frame {index}") for index, frame in enumerate(frames)]
    others = [item for item in pixels if isinstance(item, np.ndarray) and item.dtype != np.uint8]
    if not others:
        return Video(pixels)
    low, high = min(float(item.min()) for item in others), max(float(item.max()) for item in others)
    if not np.isfinite(low + high):
        raise InputError(f"{name} holds NaN or infinite values; wanted finite numbers")
    floats = any(item.dtype.kind == "f" for item in others)
    if floats and low >= 0 and high <= 1:
        if len(others) < len(pixels):
            raise InputError(f"{name} mixes floats within [0, 1] with 8-bit frames", hint="use one kind for all frames")
        # Truncation, as transformers has it; every u / 255 comes back as u.
        return Video([(item * 255).astype(np.float32).astype(np.uint8) for item in others] if resize else pixels, True)
    if low >= 0 and high <= 255 and all(item.dtype.kind != "f" or _whole(item) for item in others):
        return Video([item if isinstance(item, Image.Image) else np.rint(item).astype(np.uint8) for item in pixels])
    if resize or not floats or len(others) < len(pixels):
        raise InputError(
            f"{name} has {others[0].dtype} values from {low:g} to {high:g}; wanted {_ARRAY_WANTED}",
            hint="frames that are normalised already and of the right size pass with do_resize=False",
        )
    return Video(pixels)


def _whole(array: NDArray[Any]) -> bool:
    return bool(np.allclose(array, np.rint(array)))


def _rgb(frame: Frame, layout: str | None, name: str) -> Pixels:
    """One frame as an RGB image, or as an array (H, W, 3) of its own dtype."""
    if isinstance(frame, Image.Image):
        if 0 in frame.size:
            raise InputError(f"{name} is an image of {frame.width}x{frame.height}, which holds no pixels")
        try:
            frame.load()  # here and not in a thread: the same image may be in the list twice
        except OSError as error:
            raise InputError(f"{name} cannot be decoded: {error}") from error
        if not frame.mode.startswith(_DEEP_MODES):
            return frame if frame.mode == "RGB" else frame.convert("RGB")
    array = _array(frame, name)
    if array.ndim == 2:
        return np.repeat(array[..., None], 3, axis=2)
    first, last = array.shape[0], array.shape[-1]
    if layout is None:
        guesses = ((LAST, last == 3), (FIRST, first == 3), (LAST, last in (1, 4)), (FIRST, first in (1, 4)))
        layout = next((guess for guess, fits in guesses if fits), None)
    channels = last if layout == LAST else first
    if layout is None or channels not in (1, 3, 4):
        raise InputError(
            f"{name} has shape {array.shape}; wanted (H, W, C) or (C, H, W) with 1, 3 or 4 channels",
            hint="a video is a list of frames or an array of 4 dimensions, with the frames first",
        )
    if layout == FIRST:
        array = array.transpose(1, 2, 0)
    return np.repeat(array, 3, axis=2) if channels == 1 else array[..., :3]


def channel_layout(name: str, value: Any) -> str | None:
    """`value` as FIRST, LAST or, where nothing is said, None. Raises `ConfigError` for anything else."""
    if value is None or value in (FIRST, LAST):
        return None if value is None else FIRST if value == FIRST else LAST
    raise ConfigError(f"{name} is {value!r}; wanted {FIRST!r} or {LAST!r}")
