"""Resource limits for reading a media file: bytes, pixels, seconds, packets, memory, wall time."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, fields

from tvlt_deploy.errors import InputError, MediaError


@dataclass(frozen=True)
class Limits:
    """Limits for reading one file. A file over a limit is refused with a `MediaError` that names the limit.

    Attributes:
        max_bytes: Size of the file.
        max_pixels: Width times height of a frame.
        max_frames: Frames that one call may request.
        max_duration: Seconds of media that one call may read.
        max_packets: Packets (or animation frames) that one pass over the file may visit.
        max_decoded_bytes: Memory of the frames, and of the sound, that are returned.
        max_channels: Channels of an audio stream.
        max_sample_rate: Sampling rate of an audio stream in Hz.
        timeout: Seconds of wall time for one file.

    Raises:
        InputError: A limit is not a positive, finite number.
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
                raise InputError(f"limit {item.name} is {value!r}; expected a positive, finite number")


class Watch:
    """Checks one file against its limits. The time limit counts from construction."""

    def __init__(self, path: str | os.PathLike[str], limits: Limits) -> None:
        self.path = path
        self.limits = limits
        self._deadline = time.monotonic() + limits.timeout

    def check_time(self) -> None:
        """Raise `MediaError` if reading the file has exceeded `Limits.timeout`."""
        if time.monotonic() > self._deadline:
            raise MediaError(
                f"{self.path}: reading took longer than {self.limits.timeout:g} s",
                hint="raise Limits.timeout, or read a shorter window",
            )

    def check_packets(self, count: int) -> None:
        """Raise `MediaError` if a pass visits more than `Limits.max_packets` packets; also checks the time."""
        self.check_time()
        if count > self.limits.max_packets:
            raise MediaError(
                f"{self.path}: more than {self.limits.max_packets} packets in the window",
                hint="raise Limits.max_packets, or read a shorter window",
            )

    def check_pixels(self, width: int, height: int) -> None:
        """Raise `MediaError` for a frame without pixels or with more than `Limits.max_pixels`."""
        if width < 1 or height < 1:
            raise MediaError(f"{self.path}: frames are {width}x{height} pixels", hint="the file's header is damaged")
        if width * height > self.limits.max_pixels:
            raise MediaError(
                f"{self.path}: frames are {width}x{height} pixels; at most {self.limits.max_pixels} pixels are allowed",
                hint="scale the file down, or raise Limits.max_pixels",
            )

    def check_decoded(self, size: int, what: str) -> None:
        """Raise `MediaError` if `size` bytes of decoded `what` exceed `Limits.max_decoded_bytes`."""
        if size > self.limits.max_decoded_bytes:
            raise MediaError(
                f"{self.path}: the decoded {what} would take {size / 2**20:.0f} MiB; "
                f"at most {self.limits.max_decoded_bytes / 2**20:.0f} MiB are allowed",
                hint="request fewer frames or a shorter window, or raise Limits.max_decoded_bytes",
            )
