"""Opening a file that nobody vouches for: regular files only, known formats only, no way from one file to another."""

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

# Containers that hold their media themselves: no playlists, manifests, concat scripts, image sequences or devices.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "asf", "mpegts", "mpeg",
    "wav", "w64", "aiff", "au", "caf", "flac", "mp3", "aac", "ac3", "amr", "ogg",
)  # fmt: skip

# Containers whose header states a length; elsewhere ffmpeg estimates one from the bit rate.
_STATES_LENGTH = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flac", "aiff", "wav"}

# Seconds to start in front of a place, so that a decoder has the packets that it needs there; None is the whole file.
_LEADS: tuple[int | None, ...] = (0, 10, None)


def check_path(path: object) -> Path:
    """A path from the caller, as a `Path`. Raises `InputError` for what cannot name a file."""
    if not isinstance(path, str | os.PathLike) or "\0" in os.fsdecode(path):
        raise InputError(f"{path!r} is not the path of a file; wanted a str or a path without NUL characters")
    return Path(os.fsdecode(path))


class _WatchedFile(io.FileIO):
    """A file whose reads stop at the deadline, even deep inside a parser."""

    watch: Watch

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        self.watch.check_time()
        return super().read(-1 if size is None else size) or b""


@contextlib.contextmanager
def open_regular(path: Path, watch: Watch) -> Iterator[_WatchedFile]:
    """Open a regular file for reading without ever waiting for another process.

    Raises `MediaError` for a missing, unreadable, empty or too large file, and for anything that is not a regular file.
    """
    try:
        # A FIFO without a writer blocks a plain open, and some devices act on it: look first, and look again at what
        # was opened in case the name changed hands between.
        _check_status(path, os.stat(path), watch.limits)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = "give the path of a file"
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
        raise MediaError(f"{path}: is a directory; wanted a file", hint="pair_folder lists the clips of a folder")
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{path}: is a pipe, socket or device; wanted a regular file", hint="copy it to a file first")
    if status.st_size == 0:
        raise MediaError(f"{path}: is empty (0 bytes); wanted a media file", hint="copy or download it again")
    if status.st_size > limits.max_bytes:
        raise MediaError(
            f"{path}: has {status.st_size} bytes; at most {limits.max_bytes} are opened",
            hint="cut the file, or raise Limits.max_bytes",
        )


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn whatever a parser or decoder raises about a file into `MediaError`.

    Broken files make the libraries raise nearly every built-in exception, so the net is wide; own errors pass.
    """
    try:
        yield
    except TvltError:
        raise
    except Exception as error:
        raise MediaError(f"{path}: cannot be read: {reason(error)}", hint="the file is damaged or cut short") from error


def reason(error: BaseException) -> str:
    """What an exception says, without its number and file name."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def import_av() -> Any:
    """PyAV, or `EnvironmentLackError` with the way to get it."""
    try:
        import av
    except ImportError as error:
        raise EnvironmentLackError(
            f"reading video and sound needs PyAV, which cannot be imported: {error}",
            hint="pip install 'tvlt-deploy[media]'",
        ) from error
    return av


class Source:
    """A media file behind its limits. Each `open` or `read` starts afresh and closes what it opened."""

    def __init__(self, path: Path, watch: Watch) -> None:
        self.path = path
        self.watch = watch
        self.av = import_av()

    @contextlib.contextmanager
    def open(self) -> Iterator[InputContainer]:
        """The demuxer. Raises `MediaError` for a file that is not one of `FORMATS`."""
        # The bytes come through a Python file, so ffmpeg needs no protocol, not even "file": no demuxer can open
        # another file or address, whatever the bytes say. ("none" is the name of no protocol.)
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
                found = reason(error)
                if isinstance(error, self.av.error.ArgumentError):
                    found = "it is a playlist, a script or another format that is not opened"
                raise MediaError(
                    f"{self.path}: no video, sound or image can be read from it: {found}; wanted a whole media file",
                    hint="check that it plays, or convert it: ffmpeg -i IN OUT.mp4 (formats: docs/how-to/media.md)",
                ) from error
            with container:
                yield container

    def streams(self, container: InputContainer, kind: str) -> list[Stream]:
        """The streams of `kind` ("video" or "audio"), default first; cover art is not a video."""
        found: list[Stream] = [
            stream
            for stream in container.streams
            if stream.type == kind and not int(stream.disposition) & int(self.av.stream.Disposition.attached_pic)
        ]
        default = int(self.av.stream.Disposition.default)
        return sorted(found, key=lambda stream: not int(stream.disposition) & default)

    def kinds(self) -> set[str]:
        """Which of "video" and "audio" the file has streams of."""
        with self.open() as container:
            return {kind for kind in ("video", "audio") if self.streams(container, kind)}

    def stream(self, container: InputContainer, kind: str) -> Stream:
        """The stream of `kind` that is read. Raises `MediaError` when there is none that can be decoded."""
        found = self.streams(container, kind)
        if not found:
            held = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise MediaError(f"{self.path}: has no {kind} stream; it holds {held}")
        for stream in found:
            if stream.codec_context is not None and stream.time_base:
                return stream
        raise MediaError(
            f"{self.path}: its {kind} is in a codec that cannot be decoded here",
            hint="convert it: ffmpeg -i IN OUT.mp4",
        )

    def origin(self, container: InputContainer) -> Fraction:
        """Seconds of stream time at which the file starts: its earliest stream, priming samples not counted."""
        starts = [
            stream.start_time * stream.time_base
            for kind in ("video", "audio")
            for stream in self.streams(container, kind)
            if stream.start_time is not None and stream.time_base
        ]
        return max(min(starts, default=Fraction(0)), Fraction(0))

    def shortfall(self, container: InputContainer, stream: Stream, held: float, wanted: float) -> list[str]:
        """A warning when the header promises more of a stream than the file holds of the `wanted` seconds."""
        name = container.format.name
        if name not in _STATES_LENGTH:
            return []
        if stream.duration and stream.time_base:
            promised = float(((stream.start_time or 0) + stream.duration) * stream.time_base - self.origin(container))
        else:
            promised = (container.duration or 0) / 1e6
        if name == "wav":
            # ffmpeg takes the length from the size of the file where the two differ.
            promised *= self._riff_size() / self.path.stat().st_size
        if min(promised, wanted) <= held + 0.25 + 0.02 * promised:
            return []
        return [f"the header promises {promised:.2f} s; the {stream.type} ends at {held:.2f} s"]

    def _riff_size(self) -> int:
        """Bytes that a RIFF header says the file has; 0 when it was written without knowing."""
        with open_regular(self.path, self.watch) as file:
            head = file.read(8)
        size = int.from_bytes(head[4:], "little")
        return size + 8 if head[:4] == b"RIFF" and size < 2**32 - 1 else 0

    @contextlib.contextmanager
    def read(self, kind: str, start: Fraction) -> Iterator[tuple[InputContainer, Stream, Iterator[Packet[Any]]]]:
        """Packets of one stream, from a keyframe at or before `start` (seconds from the start of the file) onwards.

        The same arguments give the same packets each time.
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
                    # A seek may land late, or where no keyframe follows: then start further in front.
                    if stamp is None or stamp > goal:
                        continue
                    packets = itertools.chain(head, packets)
                yield container, stream, packets
                return

    def _packets(self, container: InputContainer, stream: Stream) -> Iterator[Packet[Any]]:
        # The last packet that PyAV gives is its request to drain the decoder, not a part of the file.
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
    """When a packet's content appears, in ticks of its stream."""
    return packet.pts if packet.pts is not None else packet.dts
