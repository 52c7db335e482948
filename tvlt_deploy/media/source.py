"""Open untrusted media files: regular files and known formats only; a file cannot refer to another file."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import stat
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvlt_deploy.errors import EnvironmentLackError, InputError, MediaError, TvltError
from tvlt_deploy.media.limits import Limits, Watch

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream

# Self-contained formats: no playlists, manifests, concat scripts, image sequences or devices.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "asf", "mpegts", "mpeg",
    "wav", "w64", "aiff", "au", "caf", "flac", "mp3", "aac", "ac3", "amr", "ogg",
)  # fmt: skip

# Containers whose header states a length; elsewhere ffmpeg estimates one from the bit rate.
_STATES_LENGTH = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flac", "aiff", "wav"}

# Seconds to seek ahead of the start, so that the decoder has the packets it needs there. None: read from the start.
_LEADS: tuple[int | None, ...] = (0, 10, None)


def check_path(path: object) -> Path:
    """`path` as a `Path`. Raises `InputError` if it is not a str or path, or contains NUL."""
    if not isinstance(path, str | os.PathLike) or "\0" in os.fsdecode(path):
        raise InputError(f"{path!r} is not the path of a file; expected a str or a path without NUL characters")
    return Path(os.fsdecode(path))


class _WatchedFile(io.FileIO):
    """A file whose reads raise after the time limit, also when a parser reads it."""

    watch: Watch

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        self.watch.check_time()
        return super().read(-1 if size is None else size) or b""


@contextlib.contextmanager
def open_regular(path: Path, watch: Watch) -> Iterator[_WatchedFile]:
    """Open a regular file for reading; never blocks on another process.

    Raises:
        MediaError: The file is missing, unreadable, empty, too large, or not a regular file.
    """
    try:
        # Opening a FIFO without a writer blocks, and opening some devices has effects: check the path first, and
        # check the opened file again in case the path was replaced in between.
        _check_status(path, os.stat(path), watch.limits)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = "pass the path of a file"
        if "://" in os.fspath(path) or ":/" in os.fspath(path):
            hint = "addresses are not fetched: download the file first"
        raise MediaError(f"{path}: cannot be opened: {error.strerror or error}", hint=hint) from None
    try:
        _check_status(path, os.fstat(descriptor), watch.limits)
        file = _WatchedFile(descriptor, closefd=False)
        file.watch = watch
        with file:
            yield file
    finally:
        os.close(descriptor)


def _check_status(path: Path, status: os.stat_result, limits: Limits) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"{path}: is a directory; expected a file", hint="pair_folder lists the clips of a folder")
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{path}: is a pipe, socket or device; expected a regular file", hint="copy it to a file")
    if status.st_size == 0:
        raise MediaError(f"{path}: is empty (0 bytes); expected a media file", hint="copy or download it again")
    if status.st_size > limits.max_bytes:
        raise MediaError(
            f"{path}: has {status.st_size} bytes; at most {limits.max_bytes} are allowed",
            hint="cut the file, or raise Limits.max_bytes",
        )


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn exceptions of a parser or decoder into `MediaError`; a `TvltError` passes unchanged.

    Catches every `Exception`, because damaged files make the libraries raise nearly every built-in exception.
    """
    try:
        yield
    except TvltError:
        raise
    except Exception as error:
        raise MediaError(f"{path}: cannot be read: {reason(error)}", hint="the file is damaged or cut short") from error


def reason(error: BaseException) -> str:
    """The text of an exception, without its error number and file name."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def import_av() -> Any:
    """Import PyAV. Raises `EnvironmentLackError` with the install command if it is missing."""
    try:
        import av
    except ImportError as error:
        raise EnvironmentLackError(
            f"reading video and sound needs PyAV, which cannot be imported: {error}",
            hint="pip install 'tvlt-deploy[media]'",
        ) from error
    return av


class Source:
    """A media file within limits. Each `open` or `read` opens the file again and closes it."""

    def __init__(self, path: Path, watch: Watch) -> None:
        self.path = path
        self.watch = watch
        self.av = import_av()

    @contextlib.contextmanager
    def open(self) -> Iterator[InputContainer]:
        """Open the demuxer. Raises `MediaError` for a file whose format is not one of `FORMATS`."""
        # ffmpeg reads from a Python file and needs no protocol, not even "file", so that no demuxer can open another
        # file or address. ("none" is not the name of a protocol.)
        options = {
            "format_whitelist": ",".join(FORMATS),
            "protocol_whitelist": "none",
            "max_pixels": str(self.watch.limits.max_pixels),
        }
        with open_regular(self.path, self.watch) as file, translated(self.path):
            try:
                container = self.av.open(file, mode="r", options=options, metadata_errors="replace")
            except TvltError:
                raise
            except Exception as error:
                cause = reason(error)
                if isinstance(error, self.av.error.ArgumentError):
                    cause = "it is a playlist, a script or another format that is not supported"
                raise MediaError(
                    f"{self.path}: no video, sound or image can be read from it: {cause}; expected a complete file",
                    hint="check that it plays, or convert it: ffmpeg -i IN OUT.mp4 (formats: docs/how-to/media.md)",
                ) from error
            with container:
                yield container

    def streams(self, container: InputContainer, kind: str) -> list[Stream]:
        """The streams of `kind` ("video" or "audio"), the default one first. Cover art does not count as video."""
        found: list[Stream] = [
            stream
            for stream in container.streams
            if stream.type == kind and not int(stream.disposition) & int(self.av.stream.Disposition.attached_pic)
        ]
        default = int(self.av.stream.Disposition.default)
        return sorted(found, key=lambda stream: not int(stream.disposition) & default)

    def kinds(self) -> set[str]:
        """Which of "video" and "audio" the file contains."""
        with self.open() as container:
            return {kind for kind in ("video", "audio") if self.streams(container, kind)}

    def stream(self, container: InputContainer, kind: str) -> Stream:
        """The first stream of `kind` that can be decoded. Raises `MediaError` if there is none."""
        found = self.streams(container, kind)
        if not found:
            others = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise MediaError(f"{self.path}: has no {kind} stream; it contains {others}")
        for stream in found:
            if stream.codec_context is not None and stream.time_base:
                return stream
        raise MediaError(
            f"{self.path}: its {kind} is in a codec that cannot be decoded here",
            hint="convert it: ffmpeg -i IN OUT.mp4",
        )

    def origin(self, container: InputContainer) -> Fraction:
        """Start of the earliest stream, in seconds of stream time; priming samples do not count."""
        starts = [
            stream.start_time * stream.time_base
            for kind in ("video", "audio")
            for stream in self.streams(container, kind)
            if stream.start_time is not None and stream.time_base
        ]
        return max(min(starts, default=Fraction(0)), Fraction(0))

    def shortfall(self, container: InputContainer, stream: Stream, actual: float, expected: float) -> list[str]:
        """A warning if the stream ends at `actual` s, before `expected` s and before the end that its header states."""
        name = container.format.name
        if name not in _STATES_LENGTH:
            return []
        if stream.duration and stream.time_base:
            stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base - self.origin(container))
        else:
            stated = (container.duration or 0) / 1e6
        if name == "wav":
            # ffmpeg computes the length from the size of the file if the two differ.
            stated *= self._riff_size() / self.path.stat().st_size
        if min(stated, expected) <= actual + 0.25 + 0.02 * stated:
            return []
        return [f"the header states {stated:.2f} s; the {stream.type} ends at {actual:.2f} s"]

    def _riff_size(self) -> int:
        """Size of the file in bytes according to its RIFF header; 0 if the header leaves it open."""
        with open_regular(self.path, self.watch) as file:
            head = file.read(8)
        size = int.from_bytes(head[4:], "little")
        return size + 8 if head[:4] == b"RIFF" and size < 2**32 - 1 else 0

    @contextlib.contextmanager
    def read(self, kind: str, start: Fraction) -> Iterator[tuple[InputContainer, Stream, Iterator[Packet[Any]]]]:
        """Read the packets of one stream, from a keyframe at or before `start` on. Calls are repeatable.

        Args:
            kind: "video" or "audio".
            start: Seconds from the start of the file.

        Yields:
            The container, the stream and an iterator of packets.
        """
        for lead in _LEADS:
            with self.open() as container:
                stream = self.stream(container, kind)
                assert stream.time_base is not None
                goal = (start + self.origin(container)) / stream.time_base
                packets = self._packets(container, stream)
                if lead is not None and start > lead:
                    try:
                        container.seek(int(goal - lead / stream.time_base), stream=stream)
                        head = _through_keyframe(packets)
                    except self.av.error.FFmpegError:
                        continue
                    stamp = stamp_of(head[-1]) if head else None
                    # A seek may land late, or where no keyframe follows: then start earlier.
                    if stamp is None or stamp > goal:
                        continue
                    packets = itertools.chain(head, packets)
                yield container, stream, packets
                return

    def _packets(self, container: InputContainer, stream: Stream) -> Iterator[Packet[Any]]:
        # The last packet of PyAV is empty: it flushes the decoder and is not a part of the file.
        for count, packet in enumerate(container.demux(stream), start=1):
            self.watch.check_packets(count)
            if packet.size or packet.pts is not None:
                yield packet


def _through_keyframe(packets: Iterator[Packet[Any]]) -> list[Packet[Any]]:
    head = []
    for packet in packets:
        head.append(packet)
        if packet.is_keyframe and stamp_of(packet) is not None:
            return head
    return []


def stamp_of(packet: Packet[Any]) -> int | None:
    """Presentation time of a packet, in ticks of its stream."""
    return packet.pts if packet.pts is not None else packet.dts
