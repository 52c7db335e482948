"""The synthetic clips that graphs are measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.media import SAMPLING_RATE
from tvlt_deploy.processors.masking_noise import masking_noise
from tvlt_deploy.tasks import Task

Feeds = dict[str, np.ndarray]
"""Model inputs by name, each with a batch axis."""


@dataclass(frozen=True)
class Case:
    """A named batch of model inputs.

    Attributes:
        name: what is special about the batch, for progress lines.
        feeds: the inputs of the task, float32.
    """

    name: str
    feeds: Feeds


def synthetic_clip(config: TvltConfig, frames: int, time_patches: int, seed: int) -> Feeds:
    """Create the model inputs of one clip without padding.

    A frame is the sum of a colour, a gradient and noise; the spectrogram is the sum of frequency bands and noise. The
    amplitudes are random, so that clips of different seeds get different answers.

    Args:
        config: the configuration of the model.
        frames: number of frames.
        time_patches: length of the spectrogram in patches.
        seed: seed of the random values.

    Returns:
        `pixel_values` (1, frames, channels, height, width) and `audio_values` (1, channels, rows, bins) in [-1, 1],
        and masks of ones, all float32.
    """
    random = np.random.default_rng(seed)
    height, width = config.image_shape
    channels, rows = config.num_image_channels, time_patches * config.audio_patch[0]
    colour = random.uniform(-1, 1, (frames, channels, 1, 1))
    gradient = random.normal(size=(frames, channels, 1, 1)) * np.linspace(-1, 1, width)
    image_noise = random.uniform(0, 1) * random.uniform(-1, 1, (frames, channels, height, width))
    bands = random.uniform(-1, 1, (config.num_audio_channels, 1, config.frequency_length))
    envelope = np.cos(np.arange(rows) * random.uniform(0.02, 0.5))[None, :, None]
    sound_shape = config.num_audio_channels, rows, config.frequency_length
    sound_noise = random.uniform(0, 0.5) * random.uniform(-1, 1, sound_shape)
    clip = {
        "pixel_values": np.clip(colour + gradient + image_noise, -1, 1)[None],
        "audio_values": np.clip(bands * envelope + sound_noise, -1, 1)[None],
        "pixel_mask": np.ones((1, frames * config.patches_per_frame)),
        "audio_mask": np.ones((1, time_patches * config.frequency_patches)),
    }
    return {name: values.astype(np.float32) for name, values in clip.items()}


def pad_clip(config: TvltConfig, clip: Feeds, frames: int, time_patches: int, fill: float = 0.0) -> Feeds:
    """Append masked frames and masked spectrogram rows to a batch of clips.

    Args:
        config: the configuration of the model.
        clip: the inputs of `synthetic_clip`.
        frames: number of frames after padding.
        time_patches: length of the spectrogram in patches after padding.
        fill: value of the padding.

    Returns:
        New arrays of the padded size.
    """
    pixel, audio = clip["pixel_values"], clip["audio_values"]
    more_frames, more_rows = frames - pixel.shape[1], time_patches * config.audio_patch[0] - audio.shape[2]
    patches = lambda mask, total: np.pad(mask, ((0, 0), (0, total - mask.shape[1])))  # noqa: E731
    return {
        "pixel_values": np.pad(pixel, ((0, 0), (0, more_frames), (0, 0), (0, 0), (0, 0)), constant_values=fill),
        "audio_values": np.pad(audio, ((0, 0), (0, 0), (0, more_rows), (0, 0)), constant_values=fill),
        "pixel_mask": patches(clip["pixel_mask"], frames * config.patches_per_frame),
        "audio_mask": patches(clip["audio_mask"], time_patches * config.frequency_patches),
    }


def stack_clips(clips: Sequence[Feeds]) -> Feeds:
    """Join clips of equal sizes into one batch."""
    return {name: np.concatenate([clip[name] for clip in clips]) for name in clips[0]}


def add_noise(task: Task, config: TvltConfig, feeds: Feeds, seeds: Sequence[int] | None = None) -> Feeds:
    """Add masking noise to the inputs of a task that needs it.

    Args:
        task: the task; tasks without noise get the same inputs back.
        config: the configuration of the model.
        feeds: a batch of clips.
        seeds: a seed for each clip; by default 0, 1, ...

    Returns:
        The inputs with `pixel_noise` (batch, pixel patches) and `audio_noise` (batch, audio patches), float32.
    """
    if not task.needs_noise:
        return feeds
    frames, rows = feeds["pixel_values"].shape[1], feeds["audio_values"].shape[2]
    seeds = range(len(feeds["pixel_values"])) if seeds is None else seeds
    pairs = [masking_noise(config, frames, rows, seed) for seed in seeds]
    return {
        **feeds,
        "pixel_noise": np.stack([pixel for pixel, _ in pairs]),
        "audio_noise": np.stack([audio for _, audio in pairs]),
    }


def fidelity_cases(task: Task, config: TvltConfig) -> Iterator[Case]:
    """Create the clips that `verify` measures: min and max sizes, sizes between, padding and absent modalities.

    Args:
        task: the task, which decides whether there is masking noise.
        config: the configuration of the model, which limits the sizes.

    Yields:
        Cases of one to three clips.
    """
    max_frames, max_patches = config.num_frames, config.time_patches
    frames, patches = max(1, (max_frames + 1) // 2), max(1, min(max_patches, 27))
    clip = lambda frames, patches, seed: synthetic_clip(config, frames, patches, seed)  # noqa: E731
    padded = lambda f, p, seed: pad_clip(config, clip(f, p, seed), frames, patches)  # noqa: E731
    no_sound, no_frames = clip(frames, 1, 8), clip(1, patches, 9)
    no_sound["audio_mask"][:] = 0
    no_frames["pixel_mask"][:] = 0
    neither = clip(1, 1, 10)
    neither["audio_mask"][:] = neither["pixel_mask"][:] = 0
    batches = {
        "one frame, one patch of sound": clip(1, 1, 1),
        "max frames, shortest sound": clip(max_frames, 1, 2),
        "one frame, longest sound": clip(1, max_patches, 3),
        "max frames, longest sound": clip(max_frames, max_patches, 4),
        "sizes between": clip(frames, patches, 5),
        "padded video": stack_clips([clip(frames, patches, 6), padded(1, patches, 7)]),
        "padded sound": stack_clips([clip(frames, patches, 11), padded(frames, max(1, patches // 3), 12)]),
        "no sound": no_sound,
        "no frames": no_frames,
        "nothing valid": neither,
        "mixed batch": stack_clips(
            [padded(1, 1, 13), clip(frames, patches, 14), padded(frames, max(1, patches // 2), 15)]
        ),
    }
    for name, feeds in batches.items():
        yield Case(name, add_noise(task, config, feeds))


@dataclass(frozen=True)
class RawCase:
    """A named clip before pre-processing, as `tvlt_deploy.tasks.RAW_INPUTS` describes it.

    Attributes:
        name: what is special about the clip.
        frames: (frames, height, width, 3) uint8 RGB; None for a clip without frames.
        waveform: (samples,) float32, mono at 44100 Hz; None for a clip without sound.
    """

    name: str
    frames: np.ndarray | None
    waveform: np.ndarray | None


def raw_cases(config: TvltConfig, hop: int, rows: int) -> Iterator[RawCase]:
    """Create clips of different frame sizes and sound lengths, for pre-processing to run on.

    Args:
        config: the configuration of the model.
        hop: samples between two rows of the spectrogram.
        rows: max rows of the spectrogram.

    Yields:
        Clips with frames, with sound, or with both.
    """
    random = np.random.default_rng(31)

    def image(frames: int, height: int, width: int) -> np.ndarray:
        gradient = np.linspace(0, 255, width)[:, None] * random.uniform(0, 1, (frames, height, 1, 3))
        noise = random.uniform(0, 255, (frames, height, width, 3)) * random.uniform(0, 1)
        return np.clip(gradient + noise, 0, 255).astype(np.uint8)

    def sound(samples: int) -> np.ndarray:
        time = np.arange(samples) / SAMPLING_RATE
        tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in random.uniform(50, 15000, 3)) / 8
        noise = random.uniform(0, 0.2) * random.normal(size=samples)
        wave: np.ndarray = (tones + noise * np.cos(9 * time)).astype(np.float32)
        return wave

    middle = hop * max(1, min(rows, 430)) + hop // 3
    tone = (0.5 * np.sin(np.arange(middle) / 9)).astype(np.float32)
    max_frames = config.num_frames
    yield RawCase("one pixel, shortest sound", image(1, 1, 1), sound(hop))
    yield RawCase("max frames, longest sound", image(max_frames, 90, 160), sound(hop * rows + 5 * hop))
    yield RawCase("landscape", image(max(1, max_frames // 2), 361, 641), sound(middle))
    yield RawCase("portrait, sound of less than a frame", image(1, 233, 97), sound(2 * hop + 1))
    yield RawCase("the model's own size, a tone", image(1, *config.image_shape), tone)
    yield RawCase("silence", image(min(2, max_frames), 48, 64), np.zeros(middle, np.float32))
    yield RawCase("no sound", image(max_frames, 120, 90), None)
    yield RawCase("no frames", None, sound(middle))
