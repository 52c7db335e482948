"""The sound window: its place, its scale, its gaps, and the quality of resampling."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tests.media.files import av, ramp, steady, tone, write
from tvlt_deploy.errors import InputError, MediaError
from tvlt_deploy.media import SAMPLING_RATE, Limits, read_audio, read_clip, resample

FULL_SCALE = 32768.0


@pytest.mark.parametrize(("suffix", "codec"), [("wav", "pcm_s16le"), ("flac", "flac"), ("aiff", "pcm_s16be")])
def test_windows_are_exact_to_the_sample(tmp_path, suffix, codec):
    sound = ramp(5 * 44100)
    path = write(tmp_path / f"ramp.{suffix}", sound=sound, sound_codec=codec)
    for start, duration in ((0.0, None), (1.0, 0.5), (2.34567, 1.23456), (4.5, 3.0), (0.00001, 0.001)):
        clip = read_audio(path, start=start, duration=duration)
        begin = round(start * 44100)
        expected = sound[begin : begin + (len(sound) if duration is None else round(duration * 44100))]
        assert clip.waveform.dtype == np.float32
        np.testing.assert_array_equal(clip.waveform, (expected / FULL_SCALE).astype(np.float32))
        assert clip.duration == pytest.approx(len(expected) / 44100, abs=2e-5)
        assert clip.frames is None
        assert clip.frame_times == ()


CLICKS = (0.5, 1.5, 2.25)


def clicks(rate: int) -> np.ndarray:
    sound = np.zeros(4 * rate, np.float32)
    sound[[round(second * rate) for second in CLICKS]] = 0.9
    return sound


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "tolerance"),
    [
        ("wav", "pcm_f32le", 44100, 0),
        ("m4a", "aac", 44100, 0),
        ("mp4", "aac", 48000, 1),
        ("mp3", "libmp3lame", 44100, 0),
        ("mka", "aac", 44100, 44),  # Matroska's millisecond ticks
        ("webm", "libopus", 48000, 44),
    ],
)
def test_events_are_where_they_were_put(tmp_path, suffix, codec, rate, tolerance):
    path = write(tmp_path / f"clicks.{suffix}", sound=clicks(rate), sound_codec=codec, sound_rate=rate)
    for start in (0.0, 1.25, 1.0):
        sound = np.abs(read_audio(path, start=start).waveform)
        for second in CLICKS:
            if second > start:
                place = round((second - start) * SAMPLING_RATE)
                near = sound[max(place - 4000, 0) : place + 4000]
                assert abs(int(near.argmax()) + max(place - 4000, 0) - place) <= tolerance


@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("mp3", "libmp3lame"), ("mka", "aac")])
def test_a_window_equals_the_same_stretch_of_the_whole(tmp_path, suffix, codec):
    path = write(tmp_path / f"tone.{suffix}", sound=tone(5), sound_codec=codec)
    whole = read_audio(path).waveform
    part = read_audio(path, start=3.0, duration=0.5).waveform
    shifts = range(-44, 45) if suffix == "mka" else (0,)
    error = min(np.abs(whole[132300 + shift : 132300 + shift + len(part)] - part).max() for shift in shifts)
    assert error < 1e-4


def test_padding_of_the_encoder_is_not_sound(tmp_path):
    path = write(tmp_path / "tone.m4a", sound=tone(1.0))
    assert len(read_audio(path).waveform) == 44100


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_integers_become_fractions_of_full_scale(tmp_path, codec):
    sound = tone(0.5, level=0.75)
    path = write(tmp_path / "tone.wav", sound=sound, sound_codec=codec)
    tolerance = 1.01 / 128 if codec == "pcm_u8" else 1.01 / FULL_SCALE
    assert np.abs(read_audio(path).waveform - sound).max() <= tolerance


def test_channels_are_averaged(tmp_path):
    left, right = tone(1, hertz=440), tone(1, hertz=1000, level=0.25)
    path = write(tmp_path / "stereo.wav", sound=np.stack([left, right]), sound_codec="pcm_f32le")
    np.testing.assert_allclose(read_audio(path).waveform, (left + right) / 2, atol=1e-7)
    opposite = write(tmp_path / "opposite.wav", sound=np.stack([left, -left]), sound_codec="pcm_f32le")
    assert not read_audio(opposite).waveform.any()


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000, 96000])
def test_resampling_against_the_closed_form(rate):
    """A sine keeps its frequency, phase and level: -110 dB of error away from the edges."""
    for hertz in (100.0, 1000.0, 0.25 * min(rate, 44100)):
        wave = resample(tone(1, rate, hertz), rate)
        assert len(wave) == 44100
        truth = 0.5 * np.sin(2 * np.pi * hertz * np.arange(44100) / 44100)
        assert np.abs(wave - truth)[4000:-4000].max() < 0.5 * 10 ** (-110 / 20)


def test_resampling_leaves_no_images_or_aliases():
    aliased = resample(tone(1, 96000, 30000.0), 96000)
    assert np.abs(aliased[2000:-2000]).max() < 0.5 * 10 ** (-90 / 20)
    spectrum = np.abs(np.fft.rfft(resample(tone(1, 16000, 7000.0), 16000)[2000:-2000] * np.hanning(40100)))
    assert 20 * np.log10(spectrum[8500:].max() / spectrum.max()) < -90


def test_a_file_of_another_rate_is_resampled_after_the_mean(tmp_path):
    channels = np.stack([tone(1, 16000), tone(1, 16000, 700)])
    path = write(tmp_path / "speech.wav", sound=channels, sound_codec="pcm_f32le", sound_rate=16000)
    np.testing.assert_array_equal(read_audio(path).waveform, resample(channels.mean(0), 16000))


@pytest.mark.parametrize(
    ("wave", "rate"),
    [
        (np.zeros((2, 10), np.float32), 16000),
        (np.zeros(10, np.int16), 16000),
        (np.full(10, np.nan, np.float32), 16000),
        (np.zeros(10, np.float32), 0),
        (np.zeros(10, np.float32), float("nan")),
        (np.zeros(10, np.float32), "16000"),
    ],
)
def test_resample_refuses(wave, rate):
    with pytest.raises(InputError):
        resample(wave, rate)


def test_equal_rates_change_nothing():
    wave = tone(0.1)
    np.testing.assert_array_equal(resample(wave, 44100), wave)
    assert resample(np.zeros(0, np.float32), 16000).shape == (0,)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_sound_that_begins_later_than_the_video_is_preceded_by_silence(tmp_path, suffix):
    sound = np.full(2 * 44100, 0.5, np.float32) * np.sign(tone(2, hertz=300))
    codec = "mp2" if suffix == "ts" else "aac"
    path = write(tmp_path / f"late.{suffix}", steady(100), sound, sound_start=1.0, sound_codec=codec)
    clip = read_clip(path)
    loud = np.flatnonzero(np.abs(clip.waveform) > 0.2)
    assert loud[0] == pytest.approx(44100, abs=1200 if suffix == "ts" else 100)
    assert not clip.waveform[:42000].any()
    later = read_clip(path, start=0.5, duration=1.0)
    assert np.flatnonzero(np.abs(later.waveform) > 0.2)[0] == pytest.approx(22050, abs=1200 if suffix == "ts" else 100)


def test_a_gap_in_the_sound_is_silence_and_a_warning(tmp_path):
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=44100)
        stream.layout = "mono"
        for begin in (0, 44100 // 2, 2 * 44100, 44100 * 5 // 2):
            piece = av.AudioFrame.from_ndarray(ramp(22050)[None] + np.int16(1), format="s16", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = 44100, begin, Fraction(1, 44100)
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    clip = read_audio(path)
    assert len(clip.waveform) == 3 * 44100
    assert not clip.waveform[44100:88200].any()
    assert clip.waveform[:44100].all()
    assert clip.waveform[88200:].all()
    assert clip.warnings == ("sound: 1 gaps filled with silence",)
    assert not read_audio(path, start=0.9, duration=1.0).waveform[4410:].any()


def test_frames_and_sound_come_from_one_window(tmp_path):
    """A flash and a click at 2.4 s stay together in every window."""
    sound = np.zeros(4 * 44100, np.float32)
    sound[round(2.4 * 44100)] = 0.9
    path = write(
        tmp_path / "sync.mp4",
        steady(100),
        sound,
        picture=lambda n: np.full((48, 160, 3), 235 if n == 60 else 20, np.uint8),
    )
    for start in (0.0, 1.0, 2.0, 2.36):
        clip = read_clip(path, start=start, duration=2.0 if start else None, frames=100)
        flash = clip.frame_times[int(clip.frames.mean((1, 2, 3)).argmax())]
        click = start + np.abs(clip.waveform).argmax() / SAMPLING_RATE
        assert flash == pytest.approx(2.4)
        assert click == pytest.approx(2.4, abs=3e-5)


def test_reading_stops_at_the_end_of_the_window(tmp_path):
    path = write(tmp_path / "long.wav", sound=np.zeros(44100 * 120, np.int16), sound_codec="pcm_s16le")
    clip = read_audio(path, limits=Limits(max_packets=2000))
    assert clip.duration == pytest.approx(23.77)
    assert len(clip.waveform) == round(23.77 * 44100)


def test_samples_that_are_not_finite_are_refused(tmp_path):
    sound = tone(0.5)
    sound[100] = np.inf
    path = write(tmp_path / "inf.wav", sound=sound, sound_codec="pcm_f32le")
    with pytest.raises(MediaError, match="NaN or infinite"):
        read_audio(path)
