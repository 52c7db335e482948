"""What a media file may cost: bytes, pixels, seconds, packets, memory, wall time."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, fields

from tvlt_deploy.errors import InputError, MediaError


@dataclass(frozen=True)
class Limits:
    """Caps for one file; passing one is a `MediaError` that names the cap, never a longer wait or a larger bill.

    `max_bytes`: size of the file. `max_pixels`: width * height of a frame. `max_frames`: frames asked for.
    `max_duration`: seconds of media that one call may read. `max_packets`: packets (or animation frames) that one pass
    may visit. `max_decoded_bytes`: memory of the frames, and of the sound, that are returned. `max_channels` and
    `max_sample_rate` (Hz): of a sound track. `timeout`: seconds of wall time for one file.
    """

    max_bytes: int = 16 * 2**30
    max_pixels: int = 8192 * 4320
    max_frames: int = 1024
    max_duration: float = 600.0
    max_packets: int = 500_000
    max_decoded_bytes: int = 2**30
    max_channels: int = 64
    max_sample_rate: int = 768_000
    timeout: float = 60.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InputError(f"limit {item.name} is {value!r}; wanted a positive, finite number")


class Watch:
    """The caps of one file, with the clock running since construction."""

    def __init__(self, path: str | os.PathLike[str], limits: Limits) -> None:
        self.path = path
        self.limits = limits
        self._deadline = time.monotonic() + limits.timeout

    def check_time(self) -> None:
        """Raise `MediaError` when the file has used up its wall time."""
        if time.monotonic() > self._deadline:
            raise MediaError(
                f"{self.path}: reading took longer than {self.limits.timeout:g} s",
                hint="raise Limits.timeout, or read a shorter window",
            )

    def check_packets(self, count: int) -> None:
        """Raise `MediaError` when a pass visits more packets than allowed; checks the time as well."""
        self.check_time()
        if count > self.limits.max_packets:
            raise MediaError(
                f"{self.path}: more than {self.limits.max_packets} packets in the window",
                hint="raise Limits.max_packets, or read a shorter window",
            )

    def check_pixels(self, width: int, height: int) -> None:
        """Raise `MediaError` for a frame without pixels or with too many."""
        if width < 1 or height < 1:
            raise MediaError(f"{self.path}: frames are {width}x{height} pixels", hint="the file's header is damaged")
        if width * height > self.limits.max_pixels:
            raise MediaError(
                f"{self.path}: frames are {width}x{height} pixels; at most {self.limits.max_pixels} pixels are read",
                hint="scale the file down, or raise Limits.max_pixels",
            )

    def check_decoded(self, size: int, what: str) -> None:
        """Raise `MediaError` when `size` bytes of decoded `what` are more than allowed."""
        if size > self.limits.max_decoded_bytes:
            raise MediaError(
                f"{self.path}: the decoded {what} would take {size / 2**20:.0f} MiB; "
                f"at most {self.limits.max_decoded_bytes / 2**20:.0f} MiB are held",
                hint="ask for fewer frames or a shorter window, or raise Limits.max_decoded_bytes",
            )
