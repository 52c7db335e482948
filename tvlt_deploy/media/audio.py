"""Sound of a file: one window of one stream, aligned by its time stamps, as mono float32 at 44.1 kHz."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvlt_deploy.errors import EnvironmentLackError, InputError, MediaError
from tvlt_deploy.media.limits import Watch
from tvlt_deploy.media.source import Source, reason, stamp_of, translated
from tvlt_deploy.media.window import Window

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.packet import Packet

SAMPLING_RATE = 44100
"""Samples per second of every waveform that this package returns."""

# Seconds decoded ahead of the window: transform codecs need the preceding packets to be exact.
_PREROLL = Fraction(1)
# A stamp that differs by less from the end of the previous samples is a rounding error of the container; by more, a
# gap.
_JITTER = Fraction(15, 1000)

# Lower rates come from damaged headers.
_MIN_RATE = 1000

_FLOAT_SCALE = {"u1": 2.0**-7, "i2": 2.0**-15, "i4": 2.0**-31}


@dataclass(frozen=True)
class Sound:
    """Sound of one window.

    Attributes:
        waveform: (samples,) float32, mono, 44100 Hz, or None if the window contains no sound.
        end: Second at which the sound ends.
        warnings: What was damaged or missing.
    """

    waveform: npt.NDArray[np.float32] | None
    end: float
    warnings: tuple[str, ...] = ()


Resampler = Callable[[npt.NDArray[np.float32], int], npt.NDArray[np.float32]]
"""Converts sound (samples,) float32 at a rate in Hz to `SAMPLING_RATE`."""


def resample(
    waveform: npt.NDArray[np.floating[Any]], from_rate: float, to_rate: float = SAMPLING_RATE
) -> npt.NDArray[np.float32]:
    """Resample mono sound with soxr's HQ quality.

    Args:
        waveform: (samples,) floating point.
        from_rate: Sampling rate of `waveform` in Hz.
        to_rate: Sampling rate of the result in Hz.

    Returns:
        (samples,) float32.

    Raises:
        InputError: Another shape or dtype, NaN or infinite samples, or a rate that is not positive.
        EnvironmentLackError: soxr is not installed.
    """
    sound = np.asarray(waveform)
    if sound.ndim != 1 or not np.issubdtype(sound.dtype, np.floating):
        raise InputError(
            f"the waveform is {sound.dtype} with shape {sound.shape}; expected floating point, (samples,)",
            hint="average the channels and divide integers by their full scale first",
        )
    for name, rate in (("from_rate", from_rate), ("to_rate", to_rate)):
        if isinstance(rate, bool) or not isinstance(rate, int | float | np.number) or not 0 < rate < float("inf"):
            raise InputError(f"{name} is {rate!r}; expected a positive number of samples per second")
    if not np.isfinite(sound).all():
        raise InputError("the waveform contains NaN or infinite samples; expected finite values")
    sound = np.ascontiguousarray(sound, np.float32)
    if from_rate == to_rate or not sound.size:
        return sound
    try:
        import soxr
    except ImportError as error:
        raise EnvironmentLackError(
            f"resampling needs soxr, which cannot be imported: {error}", hint="pip install 'tvlt-deploy[media]'"
        ) from error
    resampled: npt.NDArray[np.float32] = soxr.resample(sound, from_rate, to_rate, quality="HQ")
    return resampled


def read_sound(source: Source, window: Window, resampler: Resampler = resample) -> Sound:
    """Read the sound of the window. Gaps, and the time before the stream starts, are silence.

    Raises:
        MediaError: There is no audio stream, or nothing in it can be decoded.
        EnvironmentLackError: The stream has another rate than 44100 Hz and soxr is not installed.
    """
    with translated(source.path):
        track = _track(source, window)
        if track.rate is None:
            raise MediaError(f"{source.path}: none of its sound can be decoded", hint="the file is cut or damaged")
        mono = track.mono()
        if mono is None:
            return Sound(None, float(track.end), track.warnings())
        if not np.isfinite(mono).all():
            raise MediaError(f"{source.path}: its sound contains NaN or infinite samples", hint="export it again")
        waveform = resampler(mono, track.rate)
        return Sound(waveform, float(track.end), track.warnings())


def _track(source: Source, window: Window) -> _Track:
    track = _Track(source.watch, window)
    with source.read("audio", max(window.start - _PREROLL, Fraction(0))) as (container, stream, packets):
        origin, tick = source.origin(container), stream.time_base
        assert tick is not None
        context: Any = stream.codec_context
        context.thread_type = "NONE"
        last: Packet[Any] | None = None
        try:
            for packet in packets:
                stamp = stamp_of(packet)
                if track.full or (stamp is not None and stamp * tick - origin >= window.end + 1):
                    track.pad()
                    return track
                track.add(_frames(source, context, packet, track), tick, origin)
                last = packet if packet.size else last
        except source.av.error.FFmpegError as error:
            track.notes.append(f"the sound breaks off: {reason(error)}")
        track.add(_frames(source, context, None, track), tick, origin)
        if last is not None and track.rate and tick * track.rate == 1 and last.pts is not None and last.duration:
            # Encoder padding: the last packet is shorter than the samples in it (edit lists of mp4).
            track.trim((last.pts + last.duration) * tick - origin)
        if track.rate and not track.full:
            track.notes += source.shortfall(container, stream, float(track.end), float(window.end))
    return track


def _frames(source: Source, context: Any, packet: Packet[Any] | None, track: _Track) -> list[AudioFrame]:
    try:
        frames: list[AudioFrame] = context.decode(packet)
    except source.av.error.FFmpegError:
        track.undecoded += packet is not None
        return []
    return frames


class _Track:
    """Decoded samples of the window at the source rate, placed by their time stamps."""

    def __init__(self, watch: Watch, window: Window) -> None:
        self.rate: int | None = None
        self.undecoded = 0
        self.notes: list[str] = []
        self._watch = watch
        self._window = window
        self._pieces: list[npt.NDArray[np.float32]] = []
        self._filled = 0
        self._next: int | None = None
        self._last = 0
        self._limit = 0
        self._gaps = 0

    @property
    def full(self) -> bool:
        """Whether the window is complete."""
        return self.rate is not None and self._filled >= self._limit

    @property
    def end(self) -> Fraction:
        """End of the decoded sound, in seconds from the start of the file."""
        return self._window.start + Fraction(self._next or 0, self.rate or 1)

    def add(self, frames: Iterable[AudioFrame], tick: Fraction, origin: Fraction) -> None:
        """Append frames in order: at their stamp if there is a gap, otherwise after the previous frame."""
        for frame in frames:
            self._check(frame)
            assert self.rate is not None
            samples = _mono(frame)
            place = self._next
            if frame.pts is not None:
                stamped = round((frame.pts * tick - origin - self._window.start) * self.rate)
                if place is None or abs(stamped - place) > _JITTER * self.rate:
                    self._gaps += place is not None and stamped > max(place, 0)
                    place = stamped
            self._lay(0 if place is None else place, samples)

    def pad(self) -> None:
        """Fill up to the end of the window with silence; used if the sound continues after it."""
        if self._filled:
            self._lay(self._limit, np.empty(0, np.float32))

    def trim(self, end: Fraction) -> None:
        """Drop samples at or after `end`, in seconds from the start of the file."""
        place = round((end - self._window.start) * (self.rate or 1))
        if self._next is None or not 0 < self._next - place < self._last:
            return
        self._next = place
        excess = min(self._filled - max(place, 0), self._last)
        if excess > 0:
            self._pieces[-1] = self._pieces[-1][:-excess]
            self._filled -= excess

    def mono(self) -> npt.NDArray[np.float32] | None:
        """(samples,) float32 at `rate`, or None if the window contains no sound."""
        return np.concatenate(self._pieces) if self._filled else None

    def warnings(self) -> tuple[str, ...]:
        """Warnings about undecoded packets and gaps."""
        warnings = list(self.notes)
        if self.undecoded:
            warnings.append(f"sound: {self.undecoded} packets that could not be decoded")
        if self._gaps:
            warnings.append(f"sound: {self._gaps} gaps filled with silence")
        return tuple(warnings)

    def _lay(self, place: int, samples: npt.NDArray[np.float32]) -> None:
        self._next, self._last = place + len(samples), len(samples)
        samples = samples[max(self._filled - place, 0) :]
        silence = min(max(place, self._filled), self._limit) - self._filled
        if silence and (samples.size or self._filled) and (self._filled or place < self._limit):
            self._pieces.append(np.zeros(silence, np.float32))
            self._filled += silence
        samples = samples[: self._limit - self._filled]
        if samples.size and place < self._limit:
            self._pieces.append(samples)
            self._filled += len(samples)

    def _check(self, frame: AudioFrame) -> None:
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        limits = self._watch.limits
        if not _MIN_RATE <= rate <= limits.max_sample_rate or not 0 < channels <= limits.max_channels:
            raise MediaError(
                f"{self._watch.path}: its sound has {channels} channels at {rate} Hz; expected at most "
                f"{limits.max_channels} channels and {_MIN_RATE} to {limits.max_sample_rate} Hz",
                hint="convert it: ffmpeg -i IN -ac 1 -ar 44100 OUT.wav",
            )
        if self.rate is None:
            self.rate = rate
            self._limit = round((self._window.end - self._window.start) * rate)
            self._watch.check_decoded(4 * max(self._limit, int(self._limit * SAMPLING_RATE / rate)), "sound")
        elif rate != self.rate:
            raise MediaError(
                f"{self._watch.path}: its sampling rate changes from {self.rate} Hz to {rate} Hz; expected one rate",
                hint="convert it: ffmpeg -i IN -ac 1 -ar 44100 OUT.wav",
            )


def _mono(frame: AudioFrame) -> npt.NDArray[np.float32]:
    """Mean of the channels. Integers are scaled to [-1, 1) by their full range, as ffmpeg does."""
    samples = frame.to_ndarray()
    channels = frame.layout.nb_channels
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    values = samples.astype(np.float64) - (128 if samples.dtype == np.uint8 else 0)
    values *= _FLOAT_SCALE.get(samples.dtype.str[1:], 1.0)
    mono: npt.NDArray[np.float32] = values.mean(axis=0).astype(np.float32)
    return mono
