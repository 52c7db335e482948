"""The clips that a graph is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.media import SAMPLING_RATE
from tvlt_deploy.processors.masking_noise import masking_noise
from tvlt_deploy.tasks import Task

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A named batch of model inputs."""

    name: str
    feeds: Feeds


def synthetic_clip(config: TvltConfig, frames: int, steps: int, seed: int) -> Feeds:
    """One clip (batch 1) of `frames` frames and `steps` patches of sound, values in [-1, 1], all valid.

    Pictures are a tint, a slope and noise; sounds are bands and noise. Amplitudes vary, so that answers do.
    """
    random = np.random.default_rng(seed)
    height, width = config.image_shape
    channels, rows = config.num_image_channels, steps * config.audio_patch[0]
    tint = random.uniform(-1, 1, (frames, channels, 1, 1))
    slope = random.normal(size=(frames, channels, 1, 1)) * np.linspace(-1, 1, width)
    noise = random.uniform(0, 1) * random.uniform(-1, 1, (frames, channels, height, width))
    bands = random.uniform(-1, 1, (config.num_audio_channels, 1, config.frequency_length))
    swell = np.cos(np.arange(rows) * random.uniform(0.02, 0.5))[None, :, None]
    hiss = random.uniform(0, 0.5) * random.uniform(-1, 1, (config.num_audio_channels, rows, config.frequency_length))
    clip = {
        "pixel_values": np.clip(tint + slope + noise, -1, 1)[None],
        "audio_values": np.clip(bands * swell + hiss, -1, 1)[None],
        "pixel_mask": np.ones((1, frames * config.patches_per_frame)),
        "audio_mask": np.ones((1, steps * config.frequency_patches)),
    }
    return {name: values.astype(np.float32) for name, values in clip.items()}


def pad_clip(config: TvltConfig, clip: Feeds, frames: int, steps: int, fill: float = 0.0) -> Feeds:
    """The clip with masked frames and rows of the value `fill` appended, up to `frames` and `steps`."""
    pixel, audio = clip["pixel_values"], clip["audio_values"]
    more_frames, more_rows = frames - pixel.shape[1], steps * config.audio_patch[0] - audio.shape[2]
    patches = lambda mask, total: np.pad(mask, ((0, 0), (0, total - mask.shape[1])))  # noqa: E731
    return {
        "pixel_values": np.pad(pixel, ((0, 0), (0, more_frames), (0, 0), (0, 0), (0, 0)), constant_values=fill),
        "audio_values": np.pad(audio, ((0, 0), (0, 0), (0, more_rows), (0, 0)), constant_values=fill),
        "pixel_mask": patches(clip["pixel_mask"], frames * config.patches_per_frame),
        "audio_mask": patches(clip["audio_mask"], steps * config.frequency_patches),
    }


def stack_clips(clips: Sequence[Feeds]) -> Feeds:
    """One batch of clips of equal sizes."""
    return {name: np.concatenate([clip[name] for clip in clips]) for name in clips[0]}


def add_noise(task: Task, config: TvltConfig, feeds: Feeds, seeds: Sequence[int] | None = None) -> Feeds:
    """The feeds with masking noise where the task wants it, row by row from `seeds`."""
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
    """The corners of what the model takes, sizes between, padding, absent modalities, and a batch of them."""
    most_frames, most_steps = config.num_frames, config.time_patches
    frames, steps = max(1, (most_frames + 1) // 2), max(1, min(most_steps, 27))
    clip = lambda frames, steps, seed: synthetic_clip(config, frames, steps, seed)  # noqa: E731
    padded = lambda f, s, seed: pad_clip(config, clip(f, s, seed), frames, steps)  # noqa: E731
    silent, blind = clip(frames, 1, 8), clip(1, steps, 9)
    silent["audio_mask"][:] = 0
    blind["pixel_mask"][:] = 0
    neither = clip(1, 1, 10)
    neither["audio_mask"][:] = neither["pixel_mask"][:] = 0
    batches = {
        "one frame, one patch of sound": clip(1, 1, 1),
        "most frames, shortest sound": clip(most_frames, 1, 2),
        "one frame, longest sound": clip(1, most_steps, 3),
        "most frames, longest sound": clip(most_frames, most_steps, 4),
        "sizes between": clip(frames, steps, 5),
        "padded video": stack_clips([clip(frames, steps, 6), padded(1, steps, 7)]),
        "padded sound": stack_clips([clip(frames, steps, 11), padded(frames, max(1, steps // 3), 12)]),
        "no sound": silent,
        "no picture": blind,
        "nothing valid": neither,
        "mixed batch": stack_clips([padded(1, 1, 13), clip(frames, steps, 14), padded(frames, max(1, steps // 2), 15)]),
    }
    for name, feeds in batches.items():
        yield Case(name, add_noise(task, config, feeds))


@dataclass(frozen=True)
class RawCase:
    """A named clip for the fused graph; see `tvlt_deploy.tasks.RAW_INPUTS`. An absent part is None."""

    name: str
    frames: np.ndarray | None
    waveform: np.ndarray | None


def raw_cases(config: TvltConfig, hop: int, rows: int) -> Iterator[RawCase]:
    """Frames of many sizes and sounds of many lengths and kinds, for a spectrogram of `rows` rows of `hop` samples."""
    random = np.random.default_rng(31)

    def picture(frames: int, height: int, width: int) -> np.ndarray:
        slope = np.linspace(0, 255, width)[:, None] * random.uniform(0, 1, (frames, height, 1, 3))
        noise = random.uniform(0, 255, (frames, height, width, 3)) * random.uniform(0, 1)
        return np.clip(slope + noise, 0, 255).astype(np.uint8)

    def sound(samples: int) -> np.ndarray:
        time = np.arange(samples) / SAMPLING_RATE
        tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in random.uniform(50, 15000, 3)) / 8
        hiss = random.uniform(0, 0.2) * random.normal(size=samples)
        wave: np.ndarray = (tones + hiss * np.cos(9 * time)).astype(np.float32)
        return wave

    middle = hop * max(1, min(rows, 430)) + hop // 3
    tone = (0.5 * np.sin(np.arange(middle) / 9)).astype(np.float32)
    most = config.num_frames
    yield RawCase("one pixel, shortest sound", picture(1, 1, 1), sound(hop))
    yield RawCase("most frames, longest sound", picture(most, 90, 160), sound(hop * rows + 5 * hop))
    yield RawCase("landscape", picture(max(1, most // 2), 361, 641), sound(middle))
    yield RawCase("portrait, sound of less than a frame", picture(1, 233, 97), sound(2 * hop + 1))
    yield RawCase("the model's own size, a tone", picture(1, *config.image_shape), tone)
    yield RawCase("silence", picture(min(2, most), 48, 64), np.zeros(middle, np.float32))
    yield RawCase("no sound", picture(most, 120, 90), None)
    yield RawCase("no picture", None, sound(middle))
