"""`TvltImageProcessor`: frames of any size to normalized pixels of one size."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError, InputError
from tvlt_deploy.processors.frames import FIRST, LAST, Pixels, channel_layout, frame_size, nested, read_frames
from tvlt_deploy.processors.output import BatchFeature
from tvlt_deploy.processors.parallel import parallel_map
from tvlt_deploy.processors.serialization import Part, patch_pair, positive_int

logger = logging.getLogger(__name__)

MAX_RESIZED_PIXELS = 1 << 27
"""Pixels of one resized frame: a very long one, resized to a short edge of 224, would fill the memory."""


class TvltImageProcessor(Part):
    """Converts videos to `pixel_values` and `pixel_mask`: resize, center crop, rescale, normalize.

    Source: transformers 4.40.2 `TvltImageProcessor`.

    Args:
        do_resize: Resize frames to `size`.
        size: {"shortest_edge": n} (or an int) keeps the aspect ratio; {"height": h, "width": w} (or a pair) does not.
        patch_size: (height, width) of an image patch, or one number for both.
        num_frames: Maximum number of frames of a video.
        resample: A `PIL.Image.Resampling`.
        do_center_crop: Crop the center of `crop_size`.
        crop_size: {"height": h, "width": w} (or an int); smaller frames are padded with black.
        do_rescale: Multiply levels 0..255 by `rescale_factor`.
        rescale_factor: The factor.
        do_normalize: Subtract `image_mean` and divide by `image_std`.
        image_mean: A number, or one per channel, in units of rescaled levels.
        image_std: As `image_mean`.
        **kwargs: Ignored.

    Raises:
        ConfigError: A setting is invalid. It is a `ValueError`.
    """

    model_input_names = ("pixel_values", "pixel_mask", "pixel_values_mixed", "pixel_mask_mixed")
    section = "image_processor"
    type_key = "image_processor_type"
    padding_value = 0.0
    """The value of frames added after those of a video."""

    def __init__(
        self,
        do_resize: bool = True,
        size: int | Sequence[int] | Mapping[str, int] | None = None,
        patch_size: int | Sequence[int] = (16, 16),
        num_frames: int = 8,
        resample: int = Image.Resampling.BILINEAR,
        do_center_crop: bool = True,
        crop_size: int | Sequence[int] | Mapping[str, int] | None = None,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] = (0.5, 0.5, 0.5),
        image_std: float | Sequence[float] = (0.5, 0.5, 0.5),
        **kwargs: Any,
    ) -> None:
        self.do_resize = bool(do_resize)
        self.size = _size("size", {"shortest_edge": 224} if size is None else size, square=False)
        self.patch_size = patch_pair(patch_size)
        self.num_frames = positive_int("num_frames", num_frames)
        self.resample = _resampling(resample)
        self.do_center_crop = bool(do_center_crop)
        self.crop_size = _size("crop_size", 224 if crop_size is None else crop_size, square=True)
        self.do_rescale = bool(do_rescale)
        self.rescale_factor = _numbers("rescale_factor", rescale_factor)[0]
        self.do_normalize = bool(do_normalize)
        self.image_mean = _numbers("image_mean", image_mean, 3)
        self.image_std = _numbers("image_std", image_std, 3)
        if 0 in self.image_std:
            raise ConfigError(f"image_std is {self.image_std}; expected numbers other than 0")

    @classmethod
    def from_config(cls, config: TvltConfig) -> Self:
        """The image processor for a model of this configuration.

        For frames that are not square the short edge becomes the long one of the model, so that the crop never pads.

        Raises:
            ConfigError: `num_image_channels` is not 3.
        """
        if config.num_image_channels != 3:
            raise ConfigError(f"num_image_channels is {config.num_image_channels}; frames are RGB and have 3")
        height, width = config.image_shape
        return cls(
            size={"shortest_edge": max(height, width)},
            crop_size={"height": height, "width": width},
            patch_size=config.image_patch,
            num_frames=config.num_frames,
        )

    def _settings(self) -> dict[str, Any]:
        return {
            "crop_size": dict(self.crop_size),
            "do_center_crop": self.do_center_crop,
            "do_normalize": self.do_normalize,
            "do_rescale": self.do_rescale,
            "do_resize": self.do_resize,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
            "num_frames": self.num_frames,
            "patch_size": list(self.patch_size),
            "resample": self.resample,
            "rescale_factor": self.rescale_factor,
            "size": dict(self.size),
        }

    def to_dict(self) -> dict[str, Any]:
        """The settings under Hugging Face's keys, in JSON types."""
        return {"image_processor_type": type(self).__name__, **self._settings()}

    def __call__(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """As `preprocess`."""
        return self.preprocess(videos, **kwargs)

    def preprocess(
        self,
        videos: Any,
        do_resize: bool | None = None,
        size: int | Sequence[int] | Mapping[str, int] | None = None,
        patch_size: int | Sequence[int] | None = None,
        num_frames: int | None = None,
        resample: int | None = None,
        do_center_crop: bool | None = None,
        crop_size: int | Sequence[int] | Mapping[str, int] | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        is_mixed: bool = False,
        return_tensors: str | None = None,
        data_format: str | None = FIRST,
        input_data_format: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Pixels of one video or of a batch, padded with zeros to the largest number of frames.

        Args:
            videos: One frame; one video (a list of frames, or an array of 4 dimensions); a batch (a list of videos, or
                an array of 5 dimensions). A frame is a PIL image, or an array or tensor (H, W), (H, W, C) or (C, H, W)
                with C of 1, 3 or 4, of uint8, floats within [0, 1] or integers within [0, 255]; gray is repeated,
                alpha dropped. In an ambiguous shape an axis of 3 is the channels, the last axis first.
            is_mixed: Append `_mixed` to the names of the outputs.
            return_tensors: None or "np" for arrays, "pt" for torch tensors.
            data_format: "channels_first", or "channels_last" for (batch, frames, height, width, 3).
            input_data_format: The same of the frames; by default derived from their shapes.
            **kwargs: Unknown ones are logged. All other arguments replace settings of the processor for this call.

        Returns:
            `pixel_values` (batch, frames, 3, height, width) float32, and `pixel_mask` (batch, frames * patches) int64,
            1 for every patch of a real frame.

        Raises:
            InputError: An array is not a frame, has NaN or infinite values, or a video has too many frames.
        """
        unused = kwargs.keys() - {"mask_pixel"}
        if unused:
            logger.warning("unused keyword arguments: %s", ", ".join(sorted(unused)))
        chosen = self._with(
            do_resize=do_resize, size=size, patch_size=patch_size, num_frames=num_frames, resample=resample,
            do_center_crop=do_center_crop, crop_size=crop_size, do_rescale=do_rescale, rescale_factor=rescale_factor,
            do_normalize=do_normalize, image_mean=image_mean, image_std=image_std,
        )  # fmt: skip
        pixels, counts = chosen._pixels(videos, channel_layout("input_data_format", input_data_format))
        mask = chosen._patch_mask(pixels, counts)
        if channel_layout("data_format", data_format) == LAST:
            pixels = np.ascontiguousarray(np.moveaxis(pixels, 2, -1))
        suffix = "_mixed" if is_mixed else ""
        return BatchFeature.of({f"pixel_values{suffix}": pixels, f"pixel_mask{suffix}": mask}, return_tensors)

    def _with(self, **settings: Any) -> Self:
        """A processor with other settings; None keeps one."""
        changed = {name: value for name, value in settings.items() if value is not None}
        return type(self)(**{**self._settings(), **changed}) if changed else self

    def _patch_mask(self, pixels: NDArray[np.float32], counts: list[int]) -> NDArray[np.int64]:
        """1 for every patch of the first `counts` frames of each video: (batch, frames * patches)."""
        rows, columns = (side // patch for side, patch in zip(pixels.shape[-2:], self.patch_size, strict=True))
        patches = rows * columns
        mask: NDArray[np.bool_] = np.arange(pixels.shape[1] * patches) < np.array(counts)[:, None] * patches
        return mask.astype(np.int64)

    def _pixels(self, videos: Any, layout: str | None) -> tuple[NDArray[np.float32], list[int]]:
        """(batch, frames, 3, height, width) with zeros after each video's own frames, and the frame counts."""
        batch = nested(videos)
        for index, frames in enumerate(batch):
            if len(frames) > self.num_frames:
                raise InputError(
                    f"video {index} has {len(frames)} frames; expected at most num_frames, which is {self.num_frames}",
                    hint="pick frames evenly; a list of single images needs one list per image: [[image], ...]",
                )
        read = [read_frames(frames, layout, f"video {index}", self.do_resize) for index, frames in enumerate(batch)]
        sides = {self._output_size(frame_size(frame)) for video in read for frame in video.frames}
        if len(sides) > 1:
            sizes = ", ".join(f"{height}x{width}" for height, width in sorted(sides))
            raise InputError(
                f"the processed frames have different sizes ({sizes}); expected one", hint="use do_center_crop=True"
            )
        height, width = sides.pop()
        counts = [len(video.frames) for video in read]
        out = np.empty((len(read), max(counts), 3, height, width), dtype=np.float32)
        jobs = []
        for video, target in zip(read, out, strict=True):
            jobs += [(frame, video.unit, values) for frame, values in zip(video.frames, target, strict=False)]
            target[len(video.frames) :] = self.padding_value
        parallel_map(lambda job: self._frame(*job), jobs)
        return out, counts

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) after resizing; the long edge is truncated, as torchvision and transformers do."""
        if not self.do_resize:
            return size
        if "height" in self.size:
            return self.size["height"], self.size["width"]
        (height, width), short = size, self.size["shortest_edge"]
        target = (int(short * height / width), short) if width <= height else (short, int(short * width / height))
        if target[0] * target[1] > MAX_RESIZED_PIXELS:
            raise InputError(
                f"a frame of {height}x{width} resizes to {target[0]}x{target[1]}, "
                f"more than {MAX_RESIZED_PIXELS} pixels",
                hint="crop it to a less extreme shape first",
            )
        return target

    def _output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) after all steps."""
        return (self.crop_size["height"], self.crop_size["width"]) if self.do_center_crop else self._resized(size)

    def _frame(self, frame: Pixels, unit: bool, out: NDArray[np.float32]) -> None:
        """Write one frame into `out` (3, height, width)."""
        height, width = self._resized(frame_size(frame))
        (top, above), (left, before) = _window(height, out.shape[1]), _window(width, out.shape[2])
        inside = out[:, above, before]
        if isinstance(frame, np.ndarray) and frame.dtype != np.uint8:
            black: NDArray[Any] = np.zeros((3, 1, 1), frame.dtype)
            levels = self._scaled(frame[top, left].transpose(2, 0, 1), unit)
            inside[...] = levels
            border = self._scaled(black, unit)
        else:
            image = frame if isinstance(frame, Image.Image) else Image.fromarray(np.ascontiguousarray(frame))
            # Two calls: Pillow 13 resizes tall frames in height first, up to one level away from Pillow 12 and before
            # (python-pillow/Pillow#9549). Columns are independent in the second call, so the cropped ones are left
            # out. Rows cannot be: a `box` shifts the filter by its rounding.
            if width != image.width:
                image = image.resize((width, image.height), self.resample)
            if (left.start, left.stop) != (0, width):
                image = image.crop((left.start, 0, left.stop, image.height))
            if height != image.height:
                image = image.resize((image.width, height), self.resample)
            if (top.start, top.stop) != (0, height):
                image = image.crop((0, top.start, image.width, top.stop))
            table = self._table(unit)
            for channel, values, band in zip(table, inside, image.split(), strict=True):
                np.take(channel, np.asarray(band), out=values, mode="clip")
            border = table[:, 0, None, None]
        if inside.shape != out.shape:
            rows, columns = np.ones(out.shape[1], bool), np.ones(out.shape[2], bool)
            rows[above], columns[before] = False, False
            out[:, rows] = border
            out[:, :, columns] = border

    def _scaled(self, pixels: NDArray[Any], unit: bool) -> NDArray[Any]:
        """Rescale and normalize (3, ...) values; `unit`: they are floats within [0, 1], not levels."""
        values = pixels
        if self.do_rescale:
            factor = self.rescale_factor * (255 if unit else 1)
            values = (values * factor).astype(np.float32) if factor != 1 else values
        if not np.issubdtype(values.dtype, np.floating):
            values = values.astype(np.float32)
        if self.do_normalize:
            mean, std = (
                np.array(numbers, values.dtype).reshape(3, *[1] * (values.ndim - 1))
                for numbers in (self.image_mean, self.image_std)
            )
            values = (values - mean) / std
        return values

    def levels(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Pixels of the model as levels for display: the inverse of rescaling and normalizing, clipped.

        Args:
            pixels: (..., 3, height, width).

        Returns:
            (..., height, width, 3) uint8 RGB.
        """
        values = np.moveaxis(pixels, -3, -1).astype(np.float64)
        if self.do_normalize:
            values = values * self.image_std + self.image_mean
        if self.do_rescale:
            values = values / self.rescale_factor
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)

    def level_table(self) -> NDArray[np.float32]:
        """The rescaled and normalized value of each level 0..255 of an 8-bit frame: (3, 256) float32."""
        return self._table(unit=False)

    def _table(self, unit: bool) -> NDArray[np.float32]:
        """The value of each level 0..255 of each channel: (3, 256)."""
        return _level_table(
            # Levels that represent floats within [0, 1] are divided by 255 even without rescaling.
            self.rescale_factor if self.do_rescale else 1 / 255 if unit else None,
            (tuple(self.image_mean), tuple(self.image_std)) if self.do_normalize else None,
        )


@functools.lru_cache(maxsize=16)
def _level_table(
    factor: float | None, normal: tuple[tuple[float, ...], tuple[float, ...]] | None
) -> NDArray[np.float32]:
    """Double precision for the rescaling and single precision for the rest, as in transformers."""
    levels = np.arange(256)
    values = (levels if factor is None else levels * factor).astype(np.float32)
    table = np.broadcast_to(values, (3, 256))
    if normal is not None:
        mean, std = (np.array(numbers, np.float32)[:, None] for numbers in normal)
        table = (table - mean) / std
    return np.ascontiguousarray(table)


def _window(size: int, crop: int) -> tuple[slice, slice]:
    """The centered part of `size` samples to keep, and its place among `crop` ones."""
    if size >= crop:
        start = (size - crop) // 2
        return slice(start, start + crop), slice(0, crop)
    start = (crop - size) // 2
    return slice(0, size), slice(start, start + size)


# Settings ----------------------------------------------------------------------------------------------------------


def _size(name: str, value: Any, *, square: bool) -> dict[str, int]:
    """A size as {"shortest_edge": n} or {"height": h, "width": w}; an int is the latter when `square`."""
    if isinstance(value, Mapping):
        sides = dict(value)
    elif isinstance(value, list | tuple) and len(value) == 2:
        sides = {"height": value[0], "width": value[1]}
    elif isinstance(value, list | tuple):
        sides = {}
    else:
        sides = {"height": value, "width": value} if square else {"shortest_edge": value}
    for keys in (("height", "width"), () if square else ("shortest_edge",)):
        if keys and all(key in sides for key in keys):
            return {key: positive_int(f"{name}[{key!r}]", sides[key]) for key in keys}
    expected = "an int, a pair, or a dict with 'height' and 'width'" + ("" if square else " or with 'shortest_edge'")
    raise ConfigError(f"{name} is {value!r}; expected {expected}")


def _resampling(value: Any) -> int:
    try:
        return int(Image.Resampling(value))
    except ValueError:
        names = ", ".join(f"{int(item)} ({item.name})" for item in Image.Resampling)
        raise ConfigError(f"resample is {value!r}; expected one of {names}") from None


def _numbers(name: str, value: Any, count: int = 1) -> list[float]:
    """`value`, or one per channel, as finite floats."""
    try:
        numbers = [float(item) for item in value] if isinstance(value, list | tuple) else [float(value)] * count
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise ValueError
    except (TypeError, ValueError):
        expected = "a finite number" if count == 1 else f"a finite number, or {count} of them"
        raise ConfigError(f"{name} is {value!r}; expected {expected}") from None
    return numbers
