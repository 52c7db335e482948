"""A seeded audio-visual task that needs both modalities.

The frames of a clip show a blob that moves from the centre in one of four directions. Its sound is a tone whose pitch
follows one of four contours. The label is (direction + contour) mod 4, so one modality alone has no information about
it. Backgrounds, sizes, speeds, colours, static distractors, other tones and noise vary, as do the number of frames and
the length of the sound. Clips are frames and waveforms; `make_clips` runs them through the package's processors.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.processors import TvltProcessor

Feeds = dict[str, np.ndarray]

DIRECTIONS = ("right", "left", "down", "up")
CLASSES = len(DIRECTIONS)
SPLITS = {"train": 0, "held-out": 1, "calibration": 2}
RATE = 44100

CONFIG = TvltConfig(
    image_size=32,
    image_patch_size=16,
    num_frames=4,
    spectrogram_length=96,
    frequency_length=64,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=256,
    initializer_range=0.1,
    id2label={index: f"sum {index}" for index in range(CLASSES)},
)
"""The model of this task: 4 tokens a frame and 4 for each 16 rows of sound."""

_MOVES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])  # (x, y) of each direction
_SHORTEST, _LONGEST = 32, 96  # rows of sound
_FRAME_MS = 200


@dataclass(frozen=True)
class RawClip:
    """Frames (T, 32, 32, 3) uint8, waveform (samples,) int16 at 44100 Hz, and the class of each modality."""

    frames: np.ndarray
    waveform: np.ndarray
    seen: int
    heard: int

    @property
    def label(self) -> int:
        """The class of the clip."""
        return (self.seen + self.heard) % CLASSES


def _blob(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Soft discs at (x, y), each (T,): weights (T, size, size, 1)."""
    rows, columns = np.mgrid[0 : CONFIG.image_shape[0], 0 : CONFIG.image_shape[1]]
    distance = np.hypot(columns - x[:, None, None], rows - y[:, None, None])
    return np.clip(radius + 0.5 - distance, 0, 1)[..., None]


def _frames(random: np.random.Generator, seen: int) -> np.ndarray:
    size, count = CONFIG.image_shape[0], int(random.integers(2, CONFIG.num_frames + 1))
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    slope = random.normal(0, 6, 2)
    scene = random.uniform(60, 130, 3) + (slope[0] * rows + slope[1] * columns)[..., None]
    still = _blob(*random.uniform(0, size, (2, 1)), random.uniform(2, 4))
    scene = scene + still * random.uniform(-60, 0, 3)
    along, across = random.uniform(6, 11), random.normal(0, 1.5)
    travel = along * _MOVES[seen] + across * _MOVES[seen][::-1]
    start = (size - 1) / 2 + random.normal(0, 1.5, 2)
    x, y = start[:, None] + travel[:, None] * np.linspace(0, 1, count)
    tint = random.uniform(30, 90) + random.normal(0, 5, 3)
    clip = scene + _blob(x, y, random.uniform(2.5, 4.5)) * tint
    clip = clip + random.uniform(3, 12) * random.standard_normal(clip.shape, dtype=np.float32)
    return np.clip(np.rint(clip), 0, 255).astype(np.uint8)


def _tone(pitch: np.ndarray | float, seconds: np.ndarray) -> np.ndarray:
    """A sine of the given pitch in Hz, fixed or one for each sample."""
    cycles = pitch * seconds if isinstance(pitch, float) else np.cumsum(pitch, dtype=np.float64) / RATE
    return np.sin((2 * np.pi * (cycles - np.floor(cycles))).astype(np.float32))


def _waveform(random: np.random.Generator, heard: int) -> np.ndarray:
    rows = int(random.integers(_SHORTEST, _LONGEST + 1))
    seconds = np.arange(rows * 512) / RATE
    times = np.linspace(-1, 1, len(seconds), dtype=np.float32)
    contour = (times, -times, 1 - 2 * times**2, 2 * times**2 - 1)[heard]  # rising, falling, arch, valley
    middle, depth, overtone, other = random.uniform((np.log2(900), 0.25, 0, 0), (np.log2(3200), 0.8, 0.5, 0.8))
    octaves = np.float32(depth) * contour + 0.03 * _tone(random.uniform(3, 9), seconds)
    pitch = np.exp2(np.float32(middle) + octaves)
    sound = _tone(pitch, seconds) + overtone * _tone(2 * pitch, seconds)
    sound *= 1 + 0.5 * _tone(random.uniform(1, 8), seconds + random.uniform(0, 1))
    sound += other * _tone(2.0 ** random.uniform(np.log2(400), np.log2(8000)), seconds)
    sound += 10 ** random.uniform(-1.5, 0.5) * random.standard_normal(len(times), dtype=np.float32)
    sound *= random.uniform(0.1, 0.9) / np.abs(sound).max()
    return np.rint(sound * 32767).astype(np.int16)


def raw_clip(split: str, index: int, seed: int = 0) -> RawClip:
    """Clip number `index` of a split, independent of other clips. Splits and seeds share no clips."""
    random = np.random.default_rng([seed, SPLITS[split], index])
    seen, heard = (int(value) for value in random.integers(CLASSES, size=2))
    return RawClip(_frames(random, seen), _waveform(random, heard), seen, heard)


@dataclass(frozen=True)
class Clips:
    """Model inputs of n clips, padded to the max size of the model, and the classes of frames and sound, (n,) ints."""

    feeds: Feeds
    seen: np.ndarray
    heard: np.ndarray

    def __len__(self) -> int:
        return len(self.seen)

    @property
    def labels(self) -> np.ndarray:
        """The class of each clip."""
        return (self.seen + self.heard) % CLASSES

    def batches(self, size: int = 64) -> Iterator[Feeds]:
        """The inputs in order, `size` clips at a time, each batch padded to its own longest clip."""
        for start in range(0, len(self), size):
            yield trim({name: values[start : start + size] for name, values in self.feeds.items()})

    def without(self, sense: str) -> Clips:
        """The same clips with one modality, `pixel` or `audio`, masked and zeroed."""
        gone = {name: np.zeros_like(self.feeds[name]) for name in (f"{sense}_values", f"{sense}_mask")}
        return Clips({**self.feeds, **gone}, self.seen, self.heard)


def trim(feeds: Feeds) -> Feeds:
    """The batch without frames and rows that are padding in every clip; at least one of each is kept."""
    per_frame, per_step = CONFIG.patches_per_frame, CONFIG.frequency_patches
    frames = max(1, int(feeds["pixel_mask"].any(axis=0).sum()) // per_frame)
    steps = max(1, int(feeds["audio_mask"].any(axis=0).sum()) // per_step)
    return {
        "pixel_values": feeds["pixel_values"][:, :frames],
        "audio_values": feeds["audio_values"][:, :, : steps * CONFIG.audio_patch[0]],
        "pixel_mask": feeds["pixel_mask"][:, : frames * per_frame],
        "audio_mask": feeds["audio_mask"][:, : steps * per_step],
    }


def make_clips(split: str, count: int, seed: int = 0) -> Clips:
    """The first `count` clips of a split as model inputs."""
    processor = TvltProcessor.from_config(CONFIG)
    frames, steps = CONFIG.num_frames, CONFIG.time_patches
    feeds = {
        "pixel_values": np.zeros((count, frames, 3, *CONFIG.image_shape), np.float32),
        "audio_values": np.zeros((count, 1, steps * CONFIG.audio_patch[0], CONFIG.frequency_length), np.float32),
        "pixel_mask": np.zeros((count, frames * CONFIG.patches_per_frame), np.float32),
        "audio_mask": np.zeros((count, steps * CONFIG.frequency_patches), np.float32),
    }
    seen, heard = np.zeros(count, int), np.zeros(count, int)
    for index in range(count):
        clip = raw_clip(split, index, seed)
        arrays = processor(images=[clip.frames], audio=[clip.waveform], sampling_rate=RATE)
        for name, values in feeds.items():
            part = arrays[name]
            values[(index, *(slice(size) for size in part.shape[1:]))] = part[0]
        seen[index], heard[index] = clip.seen, clip.heard
    return Clips(feeds, seen, heard)


def write_files(directory: Path, split: str, count: int, seed: int = 0) -> list[int]:
    """Write the first `count` clips of a split as pairs of an animation (PNG) and a sound (WAV). Returns their labels.

    Both formats are lossless: reading the files results in the inputs of `make_clips`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    labels = []
    for index in range(count):
        clip = raw_clip(split, index, seed)
        stem = directory / f"{split}-{index:05d}"
        first, *rest = (Image.fromarray(frame) for frame in clip.frames)
        first.save(stem.with_suffix(".png"), save_all=True, append_images=rest, duration=_FRAME_MS)
        with wave.open(str(stem.with_suffix(".wav")), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(clip.waveform.tobytes())
        labels.append(clip.label)
    return labels
