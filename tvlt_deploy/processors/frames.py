"""Read the frames that a caller passes: which videos there are, and each frame as RGB levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tvlt_deploy.errors import ConfigError, InputError

FIRST, LAST = "channels_first", "channels_last"

_DEEP_MODES = ("I", "F")  # Pillow's modes of more than 8 bits; its conversion to RGB clips them at 255

_EXPECTED = "uint8, floats within [0, 1], or integers within [0, 255]"

Frame = Any  # a PIL image, or an array (or tensor) of 2 or 3 dimensions
Pixels = Image.Image | NDArray[Any]  # an RGB image, uint8 (H, W, 3), or floats (H, W, 3)


@dataclass(frozen=True)
class Video:
    """Frames of one video after reading.

    Attributes:
        frames: The frames.
        unit: Levels 0..255 represent floats within [0, 1].
    """

    frames: list[Pixels]
    unit: bool = False


def frame_size(frame: Pixels) -> tuple[int, int]:
    """(height, width)."""
    return (frame.height, frame.width) if isinstance(frame, Image.Image) else (frame.shape[0], frame.shape[1])


def _array(value: Any, name: str) -> NDArray[Any]:
    """`value` as a numpy array of numbers."""
    if isinstance(value, str | bytes):
        raise InputError(
            f"{name} is text ({value[:40]!r}); expected frames", hint="decode files with tvlt_deploy.media"
        )
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} is not an array: {error}", hint="for a tensor: tensor.detach().cpu().float()"
        ) from error
    if array.dtype.kind not in "uif":
        raise InputError(f"{name} has dtype {array.dtype}; expected {_EXPECTED}")
    return array


def dimensions(value: Any, name: str) -> int:
    """3 for a frame, 4 for a video, 5 for a batch, from the dimensions of an array or the elements of a list.

    Raises:
        InputError: The value is none of these.
    """
    if isinstance(value, Image.Image):
        return 3
    if isinstance(value, list | tuple):
        if not value:
            raise InputError(f"{name} is an empty list; expected frames")
        inner = {dimensions(item, name) for item in value}
        if len(inner) > 1:
            raise InputError(f"{name} mixes frames and videos in one list", hint="wrap a single frame: [frame]")
        return inner.pop() + 1
    shape = tuple(value.shape) if hasattr(value, "shape") else _array(value, name).shape
    if 0 in shape:
        raise InputError(f"{name} has shape {shape}, which has no pixels")
    if not 2 <= len(shape) <= 5:
        raise InputError(
            f"{name} has shape {shape}; expected a frame (H, W, 3), a video (T, H, W, 3) or a batch of them"
        )
    return max(3, len(shape))


def nested(videos: Any) -> list[list[Frame]]:
    """A batch as a list of videos, each a list of frames.

    Raises:
        InputError: The value is not a frame, a video or a batch.
    """
    depth = dimensions(videos, "the video")
    if depth > 5:
        raise InputError("the videos are nested deeper than batch, video, frame", hint="remove one level of lists")
    if depth == 3:
        return [[videos]]
    if depth == 4:
        return [list(videos)]
    return [list(video) for video in videos]


def read_frames(frames: list[Frame], layout: str | None, name: str, resize: bool) -> Video:
    """Read the frames of one video, as 8-bit RGB levels where resizing would round to these anyway.

    Args:
        frames: PIL images, arrays or tensors.
        layout: `FIRST` or `LAST`; None to derive it from each shape.
        name: What error messages call the video.
        resize: The frames are resized afterwards.

    Returns:
        The video.

    Raises:
        InputError: A frame is not an image, or its values are out of range.
    """
    pixels = [_rgb(frame, layout, f"{name}, frame {index}") for index, frame in enumerate(frames)]
    others = [item for item in pixels if isinstance(item, np.ndarray) and item.dtype != np.uint8]
    if not others:
        return Video(pixels)
    low, high = min(float(item.min()) for item in others), max(float(item.max()) for item in others)
    if not np.isfinite(low + high):
        raise InputError(f"{name} has NaN or infinite values; expected finite numbers")
    floats = any(item.dtype.kind == "f" for item in others)
    if floats and low >= 0 and high <= 1:
        if len(others) < len(pixels):
            raise InputError(f"{name} mixes floats within [0, 1] with 8-bit frames", hint="use one kind for all frames")
        # Truncation, as in transformers; every u / 255 becomes u again.
        return Video([(item * 255).astype(np.float32).astype(np.uint8) for item in others] if resize else pixels, True)
    if low >= 0 and high <= 255 and all(item.dtype.kind != "f" or _whole(item) for item in others):
        return Video([item if isinstance(item, Image.Image) else np.rint(item).astype(np.uint8) for item in pixels])
    if resize or not floats or len(others) < len(pixels):
        raise InputError(
            f"{name} has {others[0].dtype} values from {low:g} to {high:g}; expected {_EXPECTED}",
            hint="for frames that are normalized and of the right size set do_resize=False",
        )
    return Video(pixels)


def _whole(array: NDArray[Any]) -> bool:
    return bool(np.allclose(array, np.rint(array)))


def _rgb(frame: Frame, layout: str | None, name: str) -> Pixels:
    """One frame as an RGB image, or as an array (H, W, 3) of its own dtype."""
    if isinstance(frame, Image.Image):
        if 0 in frame.size:
            raise InputError(f"{name} is an image of {frame.width}x{frame.height}, which has no pixels")
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
            f"{name} has shape {array.shape}; expected (H, W, C) or (C, H, W) with 1, 3 or 4 channels",
            hint="a video is a list of frames or an array of 4 dimensions, with the frames first",
        )
    if layout == FIRST:
        array = array.transpose(1, 2, 0)
    return np.repeat(array, 3, axis=2) if channels == 1 else array[..., :3]


def channel_layout(name: str, value: Any) -> str | None:
    """`value` as `FIRST`, `LAST` or None.

    Raises:
        ConfigError: It is something else.
    """
    if value is None or value in (FIRST, LAST):
        return None if value is None else FIRST if value == FIRST else LAST
    raise ConfigError(f"{name} is {value!r}; expected {FIRST!r} or {LAST!r}")
