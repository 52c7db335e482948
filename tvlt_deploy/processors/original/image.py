"""`OriginalImageProcessor`: frames and still images to pixels as in the original TVLT code."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError, InputError
from tvlt_deploy.processors.frames import Pixels, channel_layout, dimensions, frame_size, nested, read_frames
from tvlt_deploy.processors.original import bicubic
from tvlt_deploy.processors.original.masks import visible_patches
from tvlt_deploy.processors.output import BatchFeature
from tvlt_deploy.processors.parallel import parallel_map
from tvlt_deploy.processors.serialization import patch_pair, positive_int

logger = logging.getLogger(__name__)

BORDER_LEVEL = 30
"""Levels up to this one are a black border."""

_LEVELS = np.arange(256)
_OF_FRAMES = _LEVELS.astype(np.float32) / np.float32(127.5) - np.float32(1)
_OF_STILLS = (_LEVELS / 255 * 2 - 1).astype(np.float32)  # in double precision until it is collated, in the original


@dataclass
class OriginalImageProcessor:
    """Converts videos and still images to `pixel_values` and `pixel_mask`, as the original TVLT code does.

    Source: zinengtang/TVLT, `model/data/datasets/rawvideo_utils.py` and, for still images, `base_image_dataset.py`.

    Attributes:
        num_frames: Number of frames of a video that the model receives.
        image_size: Height and width of a frame.
        patch_size: (height, width) of an image patch.

    Raises:
        ConfigError: A setting is invalid. It is a `ValueError`.
    """

    num_frames: int = 8
    image_size: int = 224
    patch_size: tuple[int, int] = (16, 16)

    model_input_names: ClassVar = ("pixel_values", "pixel_mask", "pixel_values_mixed", "pixel_mask_mixed")
    padding_value: ClassVar = -1.0

    def __post_init__(self) -> None:
        self.num_frames = positive_int("num_frames", self.num_frames)
        self.image_size = positive_int("image_size", self.image_size)
        height, width = patch_pair(self.patch_size)
        self.patch_size = height, width
        if self.image_size % height or self.image_size % width:
            raise ConfigError(f"image_size {self.image_size} is not a multiple of the patch size of {height}x{width}")

    @classmethod
    def from_config(cls, config: TvltConfig) -> Self:
        """The image processor for a model of this configuration.

        Raises:
            ConfigError: `num_image_channels` is not 3, or frames are not square.
        """
        if config.num_image_channels != 3:
            raise ConfigError(f"num_image_channels is {config.num_image_channels}; frames are RGB and have 3")
        height, width = config.image_shape
        if height != width:
            raise ConfigError(f"image_size is {height}x{width}; the original pre-processing makes squares")
        return cls(config.num_frames, height, config.image_patch)

    def to_dict(self) -> dict[str, Any]:
        """The settings and the fixed numbers, in JSON types."""
        return {
            **asdict(self),
            "patch_size": list(self.patch_size),
            "border_level": BORDER_LEVEL,
            "crop": "square",
            "resize": {"filter": "bicubic", "a": float(bicubic.A), "antialias": False},
            "resize_still": {"filter": "lanczos", "keep_ratio": False},
            "rescale": {"divide": 127.5, "subtract": 1},
            "padding_value": self.padding_value,
        }

    def levels(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Pixels of the model (..., 3, height, width) as levels for display (..., height, width, 3) uint8 RGB."""
        values = (np.moveaxis(pixels, -3, -1).astype(np.float64) + 1) * 127.5
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)

    def __call__(
        self,
        videos: Any,
        is_mixed: bool = False,
        return_tensors: str | None = None,
        input_data_format: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Pixels of one still image, one video or a batch of videos.

        A video has `num_frames` frames in the output, picked evenly, repeated where it has fewer; it is cropped to a
        square after its black borders. A still image is resized to a square without keeping its aspect ratio.

        Args:
            videos: One still image; one video (a list of frames, or an array of 4 dimensions); a batch (a list of
                videos, or an array of 5 dimensions). Frames are as for `TvltImageProcessor.preprocess`; those of one
                video have one size.
            is_mixed: Append `_mixed` to the names of the outputs.
            return_tensors: None or "np" for arrays, "pt" for torch tensors.
            input_data_format: "channels_first" or "channels_last"; by default derived from the shapes.
            **kwargs: Unknown ones are logged.

        Returns:
            `pixel_values` (batch, frames, 3, image_size, image_size) float32 and `pixel_mask` (batch, frames * patches)
            float32, 0 for a patch in which every value is -1.

        Raises:
            InputError: An array is not a frame, has NaN or infinite values, or the frames of a video differ in size.
        """
        unused = kwargs.keys() - {"mask_pixel"}
        if unused:
            logger.warning("unused keyword arguments: %s", ", ".join(sorted(unused)))
        layout = channel_layout("input_data_format", input_data_format)
        still = dimensions(videos, "the video") == 3
        read = [
            read_frames(frames, layout, f"video {index}", resize=True).frames
            for index, frames in enumerate(nested(videos))
        ]
        prepared = [self._still(read[0][0])] if still else [self._video(*item) for item in enumerate(read)]
        size = self.image_size
        pixels = np.full((len(prepared), max(map(len, prepared)), 3, size, size), self.padding_value, np.float32)
        for target, frames in zip(pixels, prepared, strict=True):
            target[: len(frames)] = frames
        suffix = "_mixed" if is_mixed else ""
        arrays = {
            f"pixel_values{suffix}": pixels,
            f"pixel_mask{suffix}": visible_patches(pixels, self.patch_size),
        }
        return BatchFeature.of(arrays, return_tensors)

    def _still(self, image: Pixels) -> NDArray[np.float32]:
        """(1, 3, size, size) of one image; the aspect ratio is not kept."""
        size = self.image_size
        still = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
        # Two calls: width, then height, as Pillow 12 and before do in one.
        for target in ((size, still.height), (size, size)):
            still = still.resize(target, Image.Resampling.LANCZOS)
        levels = np.asarray(still).transpose(2, 0, 1)
        return np.take(_OF_STILLS, levels, mode="clip")[None]

    def _video(self, index: int, frames: Sequence[Pixels]) -> NDArray[np.float32]:
        """(num_frames, 3, size, size) of one video."""
        sizes = {frame_size(frame) for frame in frames}
        if len(sizes) > 1:
            listed = ", ".join(f"{height}x{width}" for height, width in sorted(sizes))
            raise InputError(f"video {index} has frames of different sizes ({listed}); expected one")
        numbers = np.linspace(0, len(frames), self.num_frames, endpoint=False).astype(int)
        picked, repeats = np.unique(numbers, return_inverse=True)
        arrays = [np.asarray(frames[number]) for number in picked]
        rows, columns = square(*content_box(arrays))
        size = self.image_size
        out = np.empty((len(arrays), 3, size, size), np.float32)

        def resize(job: tuple[NDArray[np.uint8], NDArray[np.float32]]) -> None:
            frame, values = job
            levels = bicubic.resize_bicubic(frame[rows, columns], size, size)
            np.take(_OF_FRAMES, levels.transpose(2, 0, 1), out=values, mode="clip")

        parallel_map(resize, zip(arrays, out, strict=True))
        return out if len(picked) == self.num_frames else out[repeats]


def content_box(frames: Sequence[NDArray[np.uint8]]) -> tuple[slice, slice]:
    """The smallest box around the pixels above `BORDER_LEVEL` in every channel of every frame.

    Args:
        frames: (H, W, 3) each, of one size.

    Returns:
        Rows and columns; those of the frame where there is no such pixel.
    """
    darkest = functools.reduce(np.minimum, frames)
    bright = functools.reduce(np.minimum, np.moveaxis(darkest, -1, 0)) > BORDER_LEVEL
    rows, columns = (np.flatnonzero(bright.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, bright.shape[0]), slice(0, bright.shape[1])
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def square(rows: slice, columns: slice) -> tuple[slice, slice]:
    """Rows and columns of the largest centered square of a box; an odd pixel is cut at the top or left."""
    side = min(rows.stop - rows.start, columns.stop - columns.start)
    starts = [edge.start + -(-(edge.stop - edge.start - side) // 2) for edge in (rows, columns)]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)
