"""Writers of small media files whose content says which frame, or which moment, it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
pytest.importorskip("soxr")

BITS, STRIPE, HEIGHT = 10, 16, 48
WIDTH = BITS * STRIPE
TICK = 12800


def frame(number: int) -> np.ndarray:
    """(48, 160, 3) uint8: ten stripes, black or white, that spell the number; most significant bit on the left."""
    bits = [(number >> bit) & 1 for bit in reversed(range(BITS))]
    return np.repeat(np.repeat(np.uint8(bits) * 200 + 20, STRIPE)[None, :, None], 3, 2).repeat(HEIGHT, 0)


def number(picture: np.ndarray) -> int:
    """The number that a decoded `frame` spells."""
    stripes = picture[:, : WIDTH // BITS * BITS].astype(float).mean((0, 2)).reshape(BITS, -1).mean(1)
    return int("".join("1" if level > 120 else "0" for level in stripes), 2)


def numbers(frames: np.ndarray) -> list[int]:
    return [number(picture) for picture in frames]


def tone(seconds: float, rate: int = 44100, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    """(samples,) float32 sine."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def ramp(count: int) -> np.ndarray:
    """(samples,) int16 in which each value says where it is, modulo 20000."""
    return (np.arange(count) % 20000).astype(np.int16)


def write(
    path: Path,
    stamps: Sequence[float] = (),
    sound: np.ndarray | None = None,
    *,
    codec: str = "libx264",
    rate: int = 25,
    options: dict[str, str] | None = None,
    picture: Callable[[int], np.ndarray] = frame,
    sound_codec: str = "aac",
    sound_rate: int = 44100,
    sound_start: float = 0.0,
    rotation: float = 0.0,
    mirrored: bool = False,
    container_options: dict[str, str] | None = None,
) -> Path:
    """A file with a frame at each of `stamps` (seconds) and `sound` ((samples,) or (channels, samples))."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        video = audio = None
        if len(stamps):
            first = picture(0)
            video = container.add_stream(codec, rate=rate, options=options or {})
            video.height, video.width = first.shape[:2]
            video.pix_fmt = "rgb24" if codec in ("png", "rawvideo") else "yuv420p"
            video.codec_context.time_base = Fraction(1, rate if codec in ("mpeg4", "mpeg2video", "flv1") else TICK)
            if rotation or mirrored:
                video.set_display_rotation(rotation, hflip=mirrored)
        if sound is not None:
            sound = np.atleast_2d(sound)
            audio = container.add_stream(sound_codec, rate=sound_rate)
            audio.layout = {1: "mono", 2: "stereo"}.get(len(sound), f"{len(sound)} channels")
        for index, stamp in enumerate(stamps):
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(index)), format="rgb24")
            image.time_base = video.codec_context.time_base
            image.pts = round(stamp / image.time_base)
            container.mux(video.encode(image))
        if audio is not None:
            for packet in sound_packets(audio, sound, sound_rate, sound_start):
                container.mux(packet)
        if video is not None:
            container.mux(video.encode())
    return path


def sound_packets(audio, sound: np.ndarray, rate: int, start: float) -> Iterable:
    form = {"i": "s16p", "f": "fltp"}[sound.dtype.kind]
    resampler = av.AudioResampler(format=audio.codec_context.format.name, layout=audio.layout.name, rate=rate)
    for begin in range(0, sound.shape[1], 1024):
        block = np.ascontiguousarray(sound[:, begin : begin + 1024])
        piece = av.AudioFrame.from_ndarray(block, format=form, layout=audio.layout.name)
        piece.sample_rate, piece.time_base, piece.pts = rate, Fraction(1, rate), begin + round(start * rate)
        for converted in resampler.resample(piece):
            yield from audio.encode(converted)
    for converted in resampler.resample(None):
        yield from audio.encode(converted)
    yield from audio.encode()


def steady(count: int, rate: int = 25) -> list[float]:
    return [index / rate for index in range(count)]
