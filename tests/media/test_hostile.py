"""Files that are broken, lie, or mean harm: one typed error naming the file, or what could be read and a warning."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media.files import av, numbers, steady, tone, write
from tvlt_deploy.errors import EnvironmentLackError, InputError, MediaError, TvltError
from tvlt_deploy.media import Limits, read_audio, read_clip, read_image, read_video
from tvlt_deploy.media import source as source_module


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """4 s of video and sound, its index in front."""
    path = tmp_path_factory.mktemp("good") / "good.mp4"
    options = {"g": "12", "bf": "2"}
    return write(path, steady(100), tone(4), options=options, container_options={"movflags": "faststart"})


def refused(path, match: str, error: type[Exception] = MediaError, **options) -> None:
    with pytest.raises(error, match=match) as caught:
        read_clip(path, **options)
    assert Path(path).name in str(caught.value)
    assert isinstance(caught.value, TvltError)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_a_cut_file_gives_what_it_holds(good, tmp_path, share):
    data = good.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(len(data) * share)])
    clip = read_clip(path)
    whole = {round(time, 3): picture for time, picture in zip(*[iter_all(good)[key] for key in (0, 1)], strict=True)}
    assert 0.5 < clip.duration < 4
    assert any("the header states 4.00 s; the video ends at" in warning for warning in clip.warnings)
    for time, picture in zip(clip.frame_times, clip.frames, strict=True):
        np.testing.assert_array_equal(picture, whole[round(time, 3)])


def iter_all(path):
    clip = read_video(path, frames=100)
    return clip.frame_times, clip.frames


@pytest.mark.parametrize("suffix", ["mkv", "wav", "flac", "aiff"])
def test_other_cut_formats(tmp_path, suffix):
    codec = {"wav": "pcm_s16le", "aiff": "pcm_s16be", "flac": "flac", "mkv": "aac"}[suffix]
    path = write(tmp_path / f"cut.{suffix}", steady(100) if suffix == "mkv" else (), tone(4), sound_codec=codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = read_clip(path)
    assert len(clip.waveform) == pytest.approx(2 * 44100, rel=0.2)
    assert any("the header states 4.0" in warning for warning in clip.warnings)


def test_nothing_left(good, tmp_path):
    path = tmp_path / "cut.mp4"
    data = good.read_bytes()
    for share in (0.001, 0.01, 0.05):
        path.write_bytes(data[: int(len(data) * share)])
        refused(path, "expected a complete file|cannot be decoded here|no intact frame")
    at_the_end = write(tmp_path / "end.mp4", steady(100), tone(4))
    path.write_bytes(at_the_end.read_bytes()[: at_the_end.stat().st_size // 2])
    refused(path, "expected a complete file")
    path.write_bytes(data[: data.index(b"mdat") + 8])
    refused(path, "no intact frame")


def test_damage_in_the_middle(good, tmp_path):
    data = bytearray(good.read_bytes())
    middle = (data.index(b"mdat") + len(data)) // 2
    data[middle : middle + 3000] = bytes(3000)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    clip = read_clip(path)
    assert clip.warnings
    assert clip.frames.shape == (8, 48, 160, 3)
    assert numbers(clip.frames[:3]) == [0, 12, 25]
    assert len(clip.waveform) == 4 * 44100


def test_hundreds_of_small_damages(good, tmp_path):
    """Bit flips, cuts and blocks of noise: a clip or a `TvltError`, never anything else."""
    generator = np.random.default_rng(0)
    animation = tmp_path / "moving.gif"
    images = [Image.fromarray(generator.integers(0, 255, (20, 30), np.uint8)) for _ in range(4)]
    images[0].save(animation, save_all=True, append_images=images[1:], duration=100)
    mpegts = write(tmp_path / "x.ts", steady(20), tone(0.8))
    matroska = write(tmp_path / "x.mkv", steady(20), tone(0.8))
    flac = write(tmp_path / "x.flac", sound=tone(0.5), sound_codec="flac")
    photo = tmp_path / "x.jpg"
    images[0].save(photo)
    read = 0
    for original in (good, animation, mpegts, matroska, flac, photo):
        data = np.frombuffer(original.read_bytes(), np.uint8)
        for trial in range(40):
            broken = data.copy()
            if trial % 3 == 0:
                places = generator.integers(0, len(broken), 20)
                broken[places] ^= np.uint8(1) << generator.integers(0, 8, 20).astype(np.uint8)
            elif trial % 3 == 1:
                begin = int(generator.integers(0, len(broken)))
                broken[begin : begin + 200] = generator.integers(0, 255, len(broken[begin : begin + 200]), np.uint8)
            else:
                broken = broken[: int(generator.integers(1, len(broken)))]
            path = tmp_path / f"broken{original.suffix}"
            path.write_bytes(broken.tobytes())
            with contextlib.suppress(TvltError):
                clip = read_clip(path, frames=3, limits=Limits(timeout=5))
                assert clip.frames is not None or clip.waveform is not None
                read += 1
    assert read > 60


def test_what_is_not_media(tmp_path):
    cases = {
        "empty.mp4": (b"", "is empty"),
        "text.mp4": (b"hello world\n" * 100, "expected a complete file"),
        "zeros.mp4": (bytes(100_000), "expected a complete file"),
        "noise.mp4": (np.random.default_rng(0).bytes(100_000), "expected a complete file"),
        "page.mp4": (b"<!doctype html><html><body>404</body></html>", "expected a complete file"),
        "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "expected a complete file"),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "expected a complete file"),
    }
    for name, (data, match) in cases.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, match)


def test_what_is_not_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    refused(tmp_path, "is a directory")
    refused(tmp_path / "pipe.mp4", "pipe, socket or device")
    refused("/dev/zero", "pipe, socket or device")
    refused(tmp_path / "missing.mp4", "cannot be opened: No such file")
    refused(tmp_path / "loop.mp4", "cannot be opened: Too many levels")
    refused("http://example.com/clip.mp4", "addresses are not fetched")
    for name in ("concat:good.mp4", "subfile,,start,0,end,9,,:good.mp4", "-", "pipe:0", "data:video/mp4;base64,AAAA"):
        refused(name, "cannot be opened: No such file")
    for name in ("a\0b", None, 3, 1.5, ["a.mp4"]):
        with pytest.raises(InputError, match="is not the path of a file"):
            read_clip(name)


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:4,\n{secret}\n#EXT-X-ENDLIST\n",
    "list.mp4": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:4,\nfile://{secret}\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile '{secret}'\n",
    "concat.txt": "ffconcat version 1.0\nfile 'subfile,,start,0,end,100,,:{secret}'\n",
    "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
    ' mediaPresentationDuration="PT4S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet>'
    '<Representation id="0" bandwidth="1"><BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_file_cannot_open_another(good, tmp_path, name):
    path = tmp_path / name
    path.write_text(PLAYLISTS[name].format(secret=good))
    refused(path, "no video, sound or image can be read")


def test_no_file_is_opened_even_where_a_playlist_format_is_let_through(good, tmp_path, monkeypatch):
    """Two checks protect other files: the list of formats, and that no protocol is allowed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.mp4").write_bytes(good.read_bytes())
    path = tmp_path / "concat.mp4"
    path.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with av.open(str(path)) as container:
        assert container.streams.video, "the script works without these checks"
    monkeypatch.setattr(source_module, "FORMATS", (*source_module.FORMATS, "concat"))
    refused(path, "no video, sound or image can be read")


def test_ffmpeg_itself_honours_both_lists(good, tmp_path):
    path = tmp_path / "list.m3u8"
    path.write_text(PLAYLISTS["list.m3u8"].format(secret=good))
    with pytest.raises(av.error.FFmpegError), av.open(str(path), options={"format_whitelist": "mov,wav"}):
        pass
    with pytest.raises(av.error.FFmpegError), av.open(str(good), options={"protocol_whitelist": "http"}):
        pass


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, pixels: bytes, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_image_bombs(tmp_path, recwarn):
    whole = zlib.compress(bytes(31) * 10)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))
    cases = {
        "huge.png": (png(60000, 60000, b""), "far more than 35389440 pixels"),
        "large.png": (png(10000, 10000, b""), "10000x10000 pixels; at most 35389440"),
        "short.png": (png(1000, 1000, zlib.compress(bytes(10))), "truncated"),
        "text.png": (png(10, 10, whole, text), "too large"),
        "nothing.png": (png(10, 10, b""), "cannot be read|can be read"),
    }
    Image.new("P", (10, 10)).save(tmp_path / "plain.gif")
    gif = bytearray((tmp_path / "plain.gif").read_bytes())
    gif[6:10] = struct.pack("<HH", 60000, 60000)
    cases["huge.gif"] = (bytes(gif), "far more than 35389440 pixels")
    for name, (data, match) in cases.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, match)
        with pytest.raises(MediaError):
            read_image(tmp_path / name)
    (tmp_path / "profile.png").write_bytes(png(10, 10, whole, profile))
    with contextlib.suppress(MediaError):
        assert read_image(tmp_path / "profile.png").shape == (10, 10, 3)
    assert not recwarn.list


def test_a_video_that_claims_60000_pixels_a_side(tmp_path):
    path = write(tmp_path / "raw.avi", steady(2), codec="mpeg4")
    data = bytearray(path.read_bytes())
    place = data.index(b"strf") + 8
    data[place + 4 : place + 12] = struct.pack("<ii", 60000, 60000)
    data[place + 16 : place + 20] = b"DIB "
    data = data.replace(b"vidsFMP4", b"vidsDIB ")
    path.write_bytes(data)
    refused(path, "60000|can be read|no frame")


def test_limits(good):
    for limits, match in (
        (Limits(max_bytes=10), "bytes; at most 10 are allowed"),
        (Limits(max_pixels=1000), "160x48 pixels; at most 1000"),
        (Limits(max_packets=10), "more than 10 packets"),
        (Limits(max_decoded_bytes=1000), "decoded frames would take"),
        (Limits(timeout=1e-9), "took longer than 1e-09 s"),
        (Limits(timeout=2e-3), "took longer than 0.002 s"),
    ):
        refused(good, match, limits=limits)
    with pytest.raises(MediaError, match="decoded sound would take"):
        read_audio(good, limits=Limits(max_decoded_bytes=1000))
    with pytest.raises(InputError, match="at most 600 s can be read"):
        read_clip(good, max_seconds=601)
    for bad in (0, -1, math.nan, math.inf, "1", None, True):
        with pytest.raises(InputError, match="limit timeout is"):
            Limits(timeout=bad)


@pytest.mark.parametrize(
    "options",
    [
        *({"start": value} for value in (-1, math.nan, math.inf, 1e300, "x", None, True, 10**400)),
        *({"duration": value} for value in (0, -1, math.nan, math.inf, "x", 1e-9)),
        *({"max_seconds": value} for value in (0, -1, math.nan, None)),
        *({"frames": value} for value in (0, -1, 2.5, True, None, "8", 10**9)),
    ],
)
def test_arguments_that_mean_nothing(good, options):
    with pytest.raises(InputError, match=f"{next(iter(options))} is "):
        read_clip(good, **options)


@pytest.mark.parametrize("start", [4.0, 100.0, 1e8])
def test_behind_the_end(good, start):
    refused(good, "the file ends at 4.00 s", InputError, start=start)


def test_missing_parts(good, tmp_path):
    silent = write(tmp_path / "silent.mp4", steady(10))
    sound = write(tmp_path / "sound.wav", sound=tone(1), sound_codec="pcm_s16le")
    assert read_clip(silent).waveform is None
    assert read_clip(sound).frames is None
    assert read_clip(silent, audio=sound).waveform.shape == (44100,)
    assert read_clip(silent, audio=good).waveform.shape == (4 * 44100,)
    with pytest.raises(MediaError, match="has no audio stream; it contains video"):
        read_audio(silent)
    with pytest.raises(MediaError, match="has no video stream; it contains audio"):
        read_video(sound)
    with pytest.raises(MediaError, match=r"silent\.mp4: has no audio stream"):
        read_clip(good, audio=silent)
    with pytest.raises(MediaError, match="contains no video"):
        read_clip(sound, audio=sound)
    with pytest.raises(MediaError, match="cannot be opened"):
        read_clip(good, audio=tmp_path / "missing.wav")
    Image.new("RGB", (4, 4)).save(tmp_path / "image.png")
    with pytest.raises(MediaError, match="is an image; expected a file with sound"):
        read_clip(good, audio=tmp_path / "image.png")
    with pytest.raises(MediaError, match="no image can be read"):
        read_image(good)


def test_sound_that_ends_before_the_window(tmp_path):
    path = write(tmp_path / "short.mp4", steady(100), tone(1))
    clip = read_clip(path, start=2.0)
    assert clip.waveform is None
    assert "the window contains no sound" in clip.warnings
    assert numbers(clip.frames)[0] == 50


def test_cover_art_is_not_a_video(tmp_path):
    path = tmp_path / "song.mp3"
    cover = tmp_path / "cover.jpg"
    Image.new("RGB", (32, 32)).save(cover)
    plain = write(tmp_path / "plain.mp3", sound=tone(1), sound_codec="libmp3lame")
    with av.open(str(plain)) as song, av.open(str(cover)) as art, av.open(str(path), "w") as out:
        streams = {}
        for container in (song, art):
            stream = out.add_stream_from_template(container.streams[0])
            streams[container] = stream
        streams[art].disposition = av.stream.Disposition.attached_pic
        for container, stream in streams.items():
            for packet in container.demux():
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    with av.open(str(path)) as container:
        assert container.streams.video, "the cover is there"
    clip = read_clip(path)
    assert clip.frames is None
    assert len(clip.waveform) == 44100


def wav(rate: int, channels: int, size: int = 40_000) -> bytes:
    block = channels * 2
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * block % 2**32, block % 2**16, 16)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", size)


@pytest.mark.parametrize(
    ("rate", "channels"), [(0, 1), (1, 1), (2**31 - 1, 1), (2**32 - 1, 2), (44100, 0), (44100, 65), (44100, 65535)]
)
def test_absurd_sound(tmp_path, rate, channels):
    path = tmp_path / "absurd.wav"
    path.write_bytes(wav(rate, channels) + bytes(40_000))
    refused(path, "channels at|can be read|can be decoded")


def test_undecodable_names_and_texts(tmp_path):
    path = write(tmp_path / "t.mp4", steady(3))
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe: name\n.mp4"))
    odd.write_bytes(path.read_bytes())
    assert len(read_clip(odd).frames) == 3
    assert len(read_clip(os.fspath(path)).frames) == 3


def test_nothing_is_left_behind(good, tmp_path):
    """No descriptor and no thread stays, whether reading worked or not."""
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    text = tmp_path / "text.mp4"
    text.write_text("text" * 100)
    image = tmp_path / "image.png"
    image.write_bytes(png(60000, 60000, b""))

    def use() -> None:
        for path in (good, cut, text, image, tmp_path, tmp_path / "missing"):
            for options in ({}, {"limits": Limits(max_packets=5)}, {"start": 3.0}, {"limits": Limits(timeout=1e-4)}):
                with contextlib.suppress(TvltError):
                    read_clip(path, **options)

    use()
    descriptors = len(os.listdir("/proc/self/fd"))
    tasks = len(os.listdir("/proc/self/task"))
    for _ in range(5):
        use()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert len(os.listdir("/proc/self/task")) <= tasks
    assert threading.active_count() == 1 or threading.active_count() <= tasks


def test_nothing_is_printed(good, tmp_path, capfd):
    level = av.logging.get_level()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    read_clip(cut)
    with pytest.raises(MediaError):
        read_clip(write(tmp_path / "x.mp4", steady(5)), limits=Limits(max_pixels=100))
    assert capfd.readouterr() == ("", "")
    assert av.logging.get_level() == level


@pytest.mark.parametrize("missing", ["av", "soxr"])
def test_without_the_extra(tmp_path, missing):
    sound = write(tmp_path / "sound.wav", sound=tone(0.5, 16000), sound_codec="pcm_s16le", sound_rate=16000)
    image = tmp_path / "image.png"
    Image.new("RGB", (4, 4)).save(image)
    program = f"""
import sys
sys.modules[{missing!r}] = None
from tvlt_deploy import errors, media
assert not {{"av", "soxr", "torch"}} & {{name for name, module in sys.modules.items() if module}}
assert media.read_image({str(image)!r}).shape == (4, 4, 3)
assert media.read_clip({str(image)!r}).frames.shape == (1, 4, 4, 3)
try:
    media.read_clip({str(sound)!r})
except errors.EnvironmentLackError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'tvlt-deploy[media]'" in done.stdout
    assert issubclass(EnvironmentLackError, RuntimeError)
