"""Render a short clip of a bouncing ball, with a tone at each bounce, as input for the demo.

Usage: python examples/bouncing_ball.py OUTPUT.mp4
"""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SECONDS, FRAME_RATE, SAMPLE_RATE = 10, 25, 44100
WIDTH, HEIGHT, RADIUS = 640, 360, 28
BOUNCE = 1.25
"""Seconds between bounces."""


def frame_at(time: float) -> np.ndarray:
    """The scene at a time in seconds: (HEIGHT, WIDTH, 3) uint8."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    scene = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    scene[..., 0] = 40 + 60 * rows // HEIGHT
    scene[..., 1] = 50 + 50 * columns // WIDTH
    scene[..., 2] = 90
    scene[rows > HEIGHT - 30] = (70, 110, 60)
    phase = time % BOUNCE / BOUNCE
    floor = HEIGHT - 30 - RADIUS
    y = floor - 4 * phase * (1 - phase) * (floor - RADIUS - 10)
    x = RADIUS + (WIDTH - 2 * RADIUS) * time / SECONDS
    scene[(rows - y) ** 2 + (columns - x) ** 2 < RADIUS**2] = (235, 90, 50)
    return scene


def sound() -> np.ndarray:
    """A tone of 880 Hz at each bounce over faint noise: (samples,) float32."""
    times = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    since = times % BOUNCE
    ping = 0.5 * np.exp(-9 * since) * np.sin(2 * np.pi * 880 * since)
    hiss = 0.005 * np.random.default_rng(0).standard_normal(len(times))
    return (ping + hiss).astype(np.float32)


def render(path: Path) -> None:
    """Write the clip as MP4 with MPEG-4 video and AAC sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=FRAME_RATE)
        video.width, video.height, video.pix_fmt, video.bit_rate = WIDTH, HEIGHT, "yuv420p", 800_000
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for index in range(SECONDS * FRAME_RATE):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame_at(index / FRAME_RATE), format="rgb24")))
        container.mux(video.encode(None))
        samples, step = sound(), 1024
        for start in range(0, len(samples), step):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + step], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    render(Path(sys.argv[1]))
    print(f"wrote {sys.argv[1]}")
