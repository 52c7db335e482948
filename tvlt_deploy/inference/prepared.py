"""From frames and sound to the model inputs of each clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import InputError
from tvlt_deploy.processors import Processor


@dataclass(frozen=True, eq=False)
class Prepared:
    """The model inputs of one clip, float32, without a batch axis. An absent modality is one masked frame or patch.

    Attributes:
        pixel_values: (frames, channels, height, width).
        audio_values: (channels, rows, bins), a whole number of patches of rows.
        pixel_mask: (pixel patches,), 1 for a valid patch.
        audio_mask: (audio patches,), 1 for a valid patch.
        has_picture: whether the clip has frames.
        has_sound: whether the clip has sound.
    """

    pixel_values: np.ndarray
    audio_values: np.ndarray
    pixel_mask: np.ndarray
    audio_mask: np.ndarray
    has_picture: bool
    has_sound: bool

    @property
    def frames(self) -> int:
        """Number of frames; 1 for a clip without frames."""
        return len(self.pixel_values)

    @property
    def rows(self) -> int:
        """Number of spectrogram rows, a whole number of patches."""
        return int(self.audio_values.shape[1])

    @property
    def visible(self) -> bool:
        """Whether any patch is valid. Without one, attention is spread evenly over all patches, padding included."""
        return bool(self.pixel_mask.any() or self.audio_mask.any())

    def with_sound_of(self, other: Prepared) -> Prepared:
        """The frames of this clip with the sound of another. Arrays are shared, not copied."""
        return dataclasses.replace(
            self, audio_values=other.audio_values, audio_mask=other.audio_mask, has_sound=other.has_sound
        )


def prepare_clips(
    processor: Processor,
    config: TvltConfig,
    images: Sequence[Any] | None,
    audio: Sequence[Any] | None,
    sampling_rate: int | None,
) -> list[Prepared]:
    """Pre-process clips.

    Args:
        processor: the pre-processing of the bundle.
        config: the configuration of the model.
        images: the frames of each clip, or None where a clip has none; None where no clip has any.
        audio: the sound of each clip, in the same way.
        sampling_rate: of the sound, in Hz.

    Returns:
        The model inputs of each clip, in order.

    Raises:
        InputError: the lists do not describe clips, a clip has neither frames nor sound, or the processors refuse it.
            With several clips the message starts with the index of the clip.
    """
    images, audio = _paired(images, audio)
    clips = []
    for index, (image, sound) in enumerate(zip(images, audio, strict=True)):
        if image is None and sound is None:
            raise InputError(f"clip {index} has neither frames nor sound", hint="leave it out")
        try:
            clips.append(_prepare(processor, config, image, sound, sampling_rate))
        except InputError as error:
            if len(images) == 1:
                raise
            raise InputError(f"clip {index}: {error.message}", hint=error.hint) from error
    return clips


def _frame_count(clip: Any) -> int | None:
    """Frames of a (T, H, W, 3) array or a list; None for a single image."""
    if isinstance(clip, (list, tuple)):
        return len(clip)
    return np.shape(clip)[0] if np.ndim(clip) == 4 else None


def _paired(images: Any, audio: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    """Both lists at equal length. Raises `InputError` with a hint for the likely mistake."""
    for name, values in (("images", images), ("audio", audio)):
        if values is not None and not isinstance(values, (list, tuple)):
            kind = f"{type(values).__name__} of shape {np.shape(values)}" if np.ndim(values) else repr(values)
            raise InputError(
                f"{name} is a {kind}; expected a list with one entry per clip", hint=f"for one clip: {name}=[...]"
            )
    if images is None and audio is None:
        raise InputError("images and audio are both None; expected at least one of them")
    single_images = images is not None and len(images) > 1 and all(
        image is not None and _frame_count(image) is None for image in images
    )  # fmt: skip
    flat = "a flat list of frames is one clip: images=[[frame, frame, ...]]; for clips of one frame each: "
    if audio is None:
        if single_images:
            raise InputError(
                f"images is a flat list of {len(images)} frames; expected a list of clips",
                hint=flat + "images=[[frame], [frame], ...]",
            )
        audio = [None] * len(images)
    if images is None:
        images = [None] * len(audio)
    if len(images) != len(audio):
        raise InputError(
            f"images has {len(images)} entries and audio {len(audio)}; expected one of each per clip",
            hint=flat + "one sound (or None) per frame" if single_images else "use None for an absent one",
        )
    if not images:
        raise InputError("images and audio are empty; expected at least one clip")
    return images, audio


def _prepare(processor: Processor, config: TvltConfig, image: Any, sound: Any, sampling_rate: int | None) -> Prepared:
    image_processor, feature_extractor = processor.image_processor, processor.feature_extractor
    if image is None:
        shape: tuple[int, ...] = (1, config.num_image_channels, *config.image_shape)
        pixels = np.full(shape, image_processor.padding_value, np.float32)
        pixel_mask = np.zeros(config.patches_per_frame)
    else:
        clip = list(image) if isinstance(image, (list, tuple)) else image
        single = _frame_count(clip) is None and np.ndim(clip) <= 3
        processed = image_processor(clip if single else [clip], return_tensors="np")
        pixels, pixel_mask = processed["pixel_values"][0], processed["pixel_mask"][0]
    if sound is None:
        shape = (config.num_audio_channels, config.audio_patch[0], config.frequency_length)
        rows = np.full(shape, feature_extractor.padding_value, np.float32)
        audio_mask = np.zeros(config.frequency_patches)
    else:
        processed = feature_extractor([sound], return_tensors="np", sampling_rate=sampling_rate)
        rows, audio_mask = processed["audio_values"][0], processed["audio_mask"][0]
    return Prepared(pixels, rows, pixel_mask, audio_mask, image is not None, sound is not None)
