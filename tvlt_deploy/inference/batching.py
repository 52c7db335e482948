"""Which clips share a batch, how they are padded, and how their outputs are trimmed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.inference.prepared import Prepared
from tvlt_deploy.processors import Processor
from tvlt_deploy.processors.masking_noise import masking_noise
from tvlt_deploy.tasks import AUDIO_PATCHES, PIXEL_PATCHES, TOKENS, Task, TensorSpec, token_counts

MAX_PADDING = 0.05
"""Max share of the tokens of a batch that is padding."""
MAX_BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
"""Max tokens of one batch by kind of device. On a CPU, larger batches need more memory and are not faster."""


def is_per_token(spec: TensorSpec) -> bool:
    """Whether an output has an axis of tokens or patches, whose length depends on the clip."""
    return any(axis in spec.shape for axis in (TOKENS, PIXEL_PATCHES, AUDIO_PATCHES))


def group_clips(clips: Sequence[Prepared], task: Task, config: TvltConfig, device: str) -> Iterator[list[int]]:
    """Divide clips into batches of similar sizes.

    Masked reconstruction counts padding among the patches that it hides, and a clip without a valid patch attends to
    padding: in these cases only clips of equal sizes share a batch.

    Args:
        clips: the clips, at least one.
        task: the task of the model.
        config: the configuration of the model.
        device: `cpu`, `cuda` or `cuda:N`.

    Yields:
        The indices of the clips of one batch, smallest clips first.
    """
    max_tokens = MAX_BATCH_TOKENS[device.partition(":")[0]]
    allowed = 0.0 if task.needs_noise else MAX_PADDING
    tokens = lambda frames, rows: 1 + sum(token_counts(config, frames, rows))  # noqa: E731
    group: list[int] = []
    frames = rows = used = 0
    visible = True
    for index in sorted(range(len(clips)), key=lambda i: (clips[i].frames, clips[i].rows)):
        clip = clips[index]
        padded = max(frames, clip.frames), max(rows, clip.rows)
        own, total = tokens(clip.frames, clip.rows), (len(group) + 1) * tokens(*padded)
        visible = visible and clip.visible
        padding = total - (used + own)
        if group and (total > max_tokens or padding > (allowed * total if visible else 0)):
            yield group
            group, used, padded, visible = [], 0, (clip.frames, clip.rows), clip.visible
        group.append(index)
        used += own
        frames, rows = padded
    yield group


def pad_batch(
    clips: Sequence[Prepared], task: Task, config: TvltConfig, processor: Processor, seed: int
) -> dict[str, np.ndarray]:
    """Pad clips to the largest of them.

    Args:
        clips: the clips of one batch.
        task: the task of the model.
        config: the configuration of the model.
        processor: the pre-processing, which has the values of padding.
        seed: seed of the masking noise, for a task that has it. All clips get the same noise.

    Returns:
        The inputs of the task, float32, with a batch axis.
    """
    size = len(clips)
    frames, rows = max(clip.frames for clip in clips), max(clip.rows for clip in clips)
    pixel_patches, audio_patches = token_counts(config, frames, rows)
    pixels = (size, frames, *clips[0].pixel_values.shape[1:])
    sound = (size, config.num_audio_channels, rows, config.frequency_length)
    feeds = {
        "pixel_values": np.full(pixels, processor.image_processor.padding_value, np.float32),
        "audio_values": np.full(sound, processor.feature_extractor.padding_value, np.float32),
        "pixel_mask": np.zeros((size, pixel_patches), np.float32),
        "audio_mask": np.zeros((size, audio_patches), np.float32),
    }
    for row, clip in enumerate(clips):
        feeds["pixel_values"][row, : clip.frames] = clip.pixel_values
        feeds["audio_values"][row, :, : clip.rows] = clip.audio_values
        feeds["pixel_mask"][row, : len(clip.pixel_mask)] = clip.pixel_mask
        feeds["audio_mask"][row, : len(clip.audio_mask)] = clip.audio_mask
    if task.needs_noise:
        noise = masking_noise(config, frames, rows, seed)
        for name, values in zip(("pixel_noise", "audio_noise"), noise, strict=True):
            feeds[name] = np.tile(values, (size, 1))
    return feeds


def trim_outputs(
    outputs: Mapping[str, np.ndarray],
    specs: Mapping[str, TensorSpec],
    config: TvltConfig,
    clip: Prepared,
    padded_frames: int,
) -> dict[str, np.ndarray]:
    """Remove the tokens of padding and of absent modalities from the outputs of one clip.

    Args:
        outputs: the outputs of one clip, without the batch axis.
        specs: dtype and axes of each output.
        config: the configuration of the model.
        clip: the clip.
        padded_frames: number of frames of its batch.

    Returns:
        The outputs in the order of `specs`; those without a token axis are unchanged.
    """
    padded_pixels, _ = token_counts(config, padded_frames, 0)
    pixels, audio = token_counts(config, clip.frames, clip.rows)
    pixels, audio = pixels * clip.has_picture, audio * clip.has_sound
    trimmed = {}
    for name, spec in specs.items():
        values = outputs[name]
        if TOKENS in spec.shape:
            start = 1 + padded_pixels
            values = np.concatenate([values[: 1 + pixels], values[start : start + audio]])
        elif PIXEL_PATCHES in spec.shape:
            values = values[:pixels]
        elif AUDIO_PATCHES in spec.shape:
            values = values[:audio]
        trimmed[name] = values
    return trimmed
