"""Still and animated images as upright RGB. Pixel limits are checked before decoding."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from tvlt_deploy.errors import MediaError, TvltError
from tvlt_deploy.media.limits import Watch
from tvlt_deploy.media.source import open_regular, reason, translated
from tvlt_deploy.media.video import Frames
from tvlt_deploy.media.window import Window

# Formats that Pillow decodes itself, without starting a program or opening another file.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")

# As browsers do: frames of less than 20 ms are shown for 100 ms.
_SHORTEST, _USUAL = 20, 100


def is_image(path: Path, watch: Watch) -> bool:
    """Whether a file starts with the signature of an image format; its name does not matter."""
    with open_regular(path, watch) as file, translated(path):
        head = file.read(16)
    return (
        head.startswith(_SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or head[4:12] in (b"ftypavif", b"ftypavis")
    )


def read_still(path: Path, watch: Watch) -> npt.NDArray[np.uint8]:
    """The image, or the first frame of an animation, as (H, W, 3) uint8 RGB. Raises `MediaError`."""
    with _opened(path, watch) as image:
        watch.check_decoded(image.width * image.height * 3, "frames")
        return _rgb(image)


def read_animation(path: Path, watch: Watch, window: Window, count: int) -> Frames:
    """As `read_frames` for a video. A still image is shown at all times and lasts 0 seconds."""
    with _opened(path, watch) as image:
        starts, end, notes = _times(image, watch)
        if len(starts) < 2:
            image.seek(0)
            return Frames(_rgb(image)[None], (0.0,), 0.0, tuple(notes), still=True)
        places = sorted(starts)
        stamps = [starts[place] for place in places]
        begin, stop = window.start * 1000, min(window.end * 1000, Fraction(end))
        if begin >= stop:
            return Frames(None, (), end / 1000, tuple(notes))
        chosen = window.choose(stamps, begin, stop, count, to_end=stop < window.end * 1000)
        watch.check_decoded(image.width * image.height * 3 * len(chosen), "frames")
        frames = []
        for at in chosen:
            watch.check_time()
            image.seek(places[at])
            frames.append(_rgb(image))
        times = tuple(stamps[at] / 1000 for at in chosen)
        return Frames(np.stack(frames), times, float(stop) / 1000, tuple(notes))


def _times(image: Image.Image, watch: Watch) -> tuple[dict[int, int], int, list[str]]:
    """Milliseconds at which each frame appears, by frame number; the end of the last frame; warnings."""
    starts: dict[int, int] = {}
    now = 0
    notes: list[str] = []
    if image.format not in _ANIMATED or not getattr(image, "is_animated", False):
        return {0: 0}, 0, notes
    # The default image of an animated PNG may not be part of the animation.
    number = 1 if getattr(image, "default_image", False) else 0
    while True:
        watch.check_packets(number)
        try:
            image.seek(number)
            watch.check_pixels(*image.size)
            image.load()
        except EOFError:
            break
        except TvltError:
            raise
        except Exception as error:
            if not starts:
                raise
            notes.append(f"the animation breaks off after {len(starts)} frames: {reason(error)}")
            break
        starts[number] = now
        duration = float(image.info.get("duration") or 0)
        now += round(duration) if duration >= _SHORTEST else _USUAL
        number += 1
    return starts, now, notes


@contextlib.contextmanager
def _opened(path: Path, watch: Watch) -> Iterator[Image.Image]:
    # Pillow warns about images near its own limit, which is above `Limits.max_pixels`, and about damaged metadata.
    with open_regular(path, watch) as file, translated(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(file, formats=_FORMATS)
        except TvltError:
            raise
        except Exception as error:
            cause = reason(error)
            if isinstance(error, Image.DecompressionBombError):
                cause = f"it has far more than {watch.limits.max_pixels} pixels"
            elif isinstance(error, UnidentifiedImageError):
                cause = "its content is none of them"
            raise MediaError(
                f"{path}: no image can be read from it: {cause}; expected one of {', '.join(_FORMATS)}",
                hint="check that it opens in a viewer, or convert it to PNG",
            ) from error
        with image:
            watch.check_pixels(*image.size)
            yield image


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Upright (H, W, 3) uint8. Transparency is dropped; 16-bit grey keeps its upper byte."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        grey = (np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if upright.mode in ("I", "F"):
        raise MediaError(f"pixels of mode {upright.mode!r}; expected 8 or 16 bits", hint="convert it to 8-bit RGB")
    return np.array(upright.convert("RGB"))
