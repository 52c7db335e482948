"""Frames of a video: a first pass reads the times of all packets, a second decodes only what it needs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvlt_deploy.errors import MediaError
from tvlt_deploy.media.source import Source, reason, stamp_of, translated
from tvlt_deploy.media.window import Window

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Frames:
    """Frames of one window of a video or image.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB, or None if no frame is shown in the window.
        times: T seconds at which the frames appear.
        end: Second at which the video ends.
        warnings: What was damaged or missing.
        still: Whether the only frame is an image and not part of a video.
    """

    frames: npt.NDArray[np.uint8] | None
    times: tuple[float, ...]
    end: float
    warnings: tuple[str, ...] = ()
    still: bool = False


@dataclass
class _Index:
    """When each frame of the window appears. Stamps, `begin` and `end` are ticks of the stream."""

    tick: Fraction
    origin: Fraction
    begin: Fraction
    end: Fraction
    stamps: list[int] = field(default_factory=list)
    keyframes: list[tuple[int, int]] = field(default_factory=list)
    """(stamp, index of the packet), ascending."""
    warnings: list[str] = field(default_factory=list)

    def seconds(self, stamp: Fraction | int) -> float:
        """Seconds from the start of the file."""
        return float(stamp * self.tick - self.origin)

    def place(self, stamp: int) -> int:
        """Index of the packet at which decoding starts for the frame at `stamp`: its keyframe."""
        count = bisect_right(self.keyframes, stamp, key=lambda keyframe: keyframe[0])
        return self.keyframes[count - 1][1] if count else 0

    def past(self, packet: Packet[Any]) -> bool:
        """Whether all frames from this packet on appear at `end` or later: no frame appears before it is decoded."""
        if packet.dts is not None:
            return packet.dts >= self.end
        return packet.pts is not None and packet.pts >= self.end + 1 / self.tick


def read_frames(source: Source, window: Window, count: int) -> Frames:
    """Read up to `count` evenly spaced frames of the part of the window that the video covers.

    Raises:
        MediaError: There is no video stream, or nothing in it can be decoded.
    """
    with translated(source.path):
        index = _index(source, window)
        begin = max(index.begin, Fraction(index.stamps[0])) if index.stamps else index.end
        if begin >= index.end:
            return Frames(None, (), index.seconds(index.end), tuple(index.warnings))
        to_end = index.end < (index.origin + window.end) / index.tick
        chosen = window.choose(index.stamps, begin, index.end, count, to_end=to_end)
        picked = _decode(source, window, index, [index.stamps[at] for at in chosen])
    return Frames(
        picked.frames(),
        tuple(index.seconds(stamp) for stamp in picked.stamps),
        index.seconds(index.end),
        (*index.warnings, *picked.warnings()),
    )


def _index(source: Source, window: Window) -> _Index:
    with source.read("video", window.start) as (container, stream, packets):
        assert stream.time_base is not None
        context: Any = stream.codec_context
        source.watch.check_pixels(context.width, context.height)
        tick, origin = stream.time_base, source.origin(container)
        index = _Index(tick, origin, (origin + window.start) / tick, (origin + window.end) / tick)
        durations: dict[int, int] = {}
        damaged = 0
        try:
            for place, packet in enumerate(packets):
                if index.past(packet):
                    reached_end = False
                    break
                stamp = stamp_of(packet)
                if stamp is None or not packet.size or packet.is_discard:
                    continue
                if packet.is_corrupt:
                    damaged += 1
                    continue
                durations[stamp] = packet.duration or 0
                if packet.is_keyframe:
                    index.keyframes.append((stamp, place))
            else:
                reached_end = True
        except source.av.error.FFmpegError as error:
            reached_end = True
            index.warnings.append(f"the video breaks off: {reason(error)}")
        if damaged:
            index.warnings.append(f"{damaged} damaged video packets skipped")
        index.stamps = sorted(durations)
        index.keyframes.sort()
        if reached_end:
            if not durations:
                raise MediaError(
                    f"{source.path}: its video stream contains no intact frame", hint="the file is cut or damaged"
                )
            last = index.stamps[-1]
            index.end = min(index.end, Fraction(last) + (durations[last] or _spacing(index, stream)))
            index.warnings += source.shortfall(container, stream, index.seconds(index.end), float(window.end))
        return index


def _spacing(index: _Index, stream: Any) -> Fraction:
    """Average ticks between frames."""
    if len(index.stamps) > 1:
        return Fraction(index.stamps[-1] - index.stamps[0], len(index.stamps) - 1)
    return 1 / (index.tick * Fraction(stream.average_rate or stream.guessed_rate or 25))


def _decode(source: Source, window: Window, index: _Index, stamps: list[int]) -> _Picked:
    picked = _Picked(source, stamps)
    with source.read("video", window.start) as (_, stream, packets):
        context: Any = stream.codec_context
        # Frame threads add a delay of several frames at each seek and were not faster.
        context.thread_type = "NONE"
        context.options = {"max_pixels": str(source.watch.limits.max_pixels)}
        decoding = False
        for place, packet in enumerate(_intact(source, packets)):
            if picked.done or index.past(packet):
                break
            if place < index.place(picked.next):
                if decoding:
                    context.flush_buffers()
                    decoding = False
                continue
            decoding = True
            # NONREF skips frames that no other frame depends on: the chosen frames stay the same.
            context.skip_frame = "DEFAULT" if stamp_of(packet) in picked.chosen else "NONREF"
            picked.offer(_frames(source, context, packet, picked))
        if not picked.done:
            picked.offer(_frames(source, context, None, picked))
    picked.settle()
    return picked


def _intact(source: Source, packets: Iterable[Packet[Any]]) -> Iterable[Packet[Any]]:
    """Packets up to where the file breaks off; the first pass has already warned about it."""
    try:
        yield from packets
    except source.av.error.FFmpegError:
        return


def _frames(source: Source, context: Any, packet: Packet[Any] | None, picked: _Picked) -> list[VideoFrame]:
    try:
        frames: list[VideoFrame] = context.decode(packet)
    except source.av.error.FFmpegError:
        picked.undecoded += packet is not None
        return []
    for frame in frames:
        source.watch.check_pixels(frame.width, frame.height)
    return frames


class _Picked:
    """Collects the chosen frames from the decoder's output, as upright RGB."""

    def __init__(self, source: Source, chosen: list[int]) -> None:
        self.chosen = set(chosen)
        self.stamps: list[int] = []
        self.undecoded = 0
        self._pending = chosen[::-1]
        self._source = source
        self._reformatter = source.av.video.reformatter.VideoReformatter()
        self._previous: VideoFrame | None = None
        self._size: tuple[int, int] | None = None
        self._frames: npt.NDArray[np.uint8] | None = None
        self._missing = self._damaged = self._scaled = 0

    @property
    def done(self) -> bool:
        """Whether every chosen frame was found or replaced."""
        return not self._pending

    @property
    def next(self) -> int:
        """The earliest stamp still pending."""
        return self._pending[-1]

    def offer(self, frames: Iterable[VideoFrame]) -> None:
        """Keep the chosen ones of some decoded frames, which come in the order of their stamps."""
        for frame in frames:
            stamp = _stamp(frame)
            while self._pending and stamp is not None and stamp >= self._pending[-1]:
                exact = stamp == self._pending.pop()
                self._missing += not exact
                self._keep(frame if exact or self._previous is None else self._previous)
            self._previous = frame

    def settle(self) -> None:
        """Replace frames that were not decoded by the last decoded one. Raises `MediaError` if there is none."""
        self._missing += len(self._pending)
        self._pending.clear()
        if self._frames is None and self._previous is not None:
            self._keep(self._previous)
        if self._frames is None:
            raise MediaError(
                f"{self._source.path}: no frame of its video can be decoded", hint="the file is damaged or encrypted"
            )

    def frames(self) -> npt.NDArray[np.uint8]:
        """(T, H, W, 3) uint8."""
        assert self._frames is not None
        return self._frames[: len(self.stamps)]

    def warnings(self) -> list[str]:
        """Warnings about damaged, missing and scaled frames."""
        counts = {
            "packets that could not be decoded": self.undecoded,
            "chosen frames missing, replaced by the frame before": self._missing,
            "chosen frames damaged": self._damaged,
            "chosen frames of another size, scaled to the first": self._scaled,
        }
        return [f"video: {count} {what}" for what, count in counts.items() if count]

    def _keep(self, frame: VideoFrame) -> None:
        stamp = _stamp(frame)
        if stamp is None:
            stamp = self.stamps[-1] if self.stamps else min(self.chosen)
        if stamp in self.stamps:
            return
        size = (frame.width, frame.height)
        self._size = self._size or size
        rgb = self._reformatter.reformat(frame, *self._size, format="rgb24", threads=1).to_ndarray()
        image = _upright(rgb, frame)
        if self._frames is None:
            shape = (len(self.chosen), *image.shape)
            self._source.watch.check_decoded(int(np.prod(shape)), "frames")
            self._frames = np.empty(shape, np.uint8)
        self._frames[len(self.stamps)] = image
        self.stamps.append(stamp)
        self._scaled += size != self._size
        self._damaged += frame.is_corrupt


def _stamp(frame: VideoFrame) -> int | None:
    return frame.pts if frame.pts is not None else frame.dts


def _upright(image: npt.NDArray[np.uint8], frame: VideoFrame) -> npt.NDArray[np.uint8]:
    """Apply the display matrix of the frame: rotation by multiples of 90 degrees and mirroring."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # Row-major 3x3 in native 32-bit integers, (x', y') = (x, y) @ [[a, b], [c, d]]; ffmpeg libavutil/display.h.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        image = image.transpose(1, 0, 2)
        a, d = c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
