"""Which frames are chosen, whether they are the ones a full decode gives, and how they are turned."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.media.files import av, frame, numbers, steady, write
from tvlt_deploy.media import Limits, read_clip, read_video
from tvlt_deploy.media import video as video_module

CODECS = {
    "mp4": {"options": {"g": "12", "bf": "0"}},
    "mov": {"options": {"g": "12", "bf": "3"}},
    "mkv": {"options": {"g": "12", "bf": "3", "x264-params": "open-gop=1"}},
    "ts": {"options": {"g": "12", "bf": "2"}},
    "webm": {"codec": "libvpx-vp9", "options": {"g": "12", "cpu-used": "8", "deadline": "realtime"}},
    "mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "m4v": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
}


def every_frame(path) -> dict[float, np.ndarray]:
    """Independent of the code under test: the complete file decoded, by presentation time from its first frame."""
    with av.open(str(path)) as container:
        frames = {float(item.time): item.to_ndarray(format="rgb24") for item in container.decode(video=0)}
    first = min(frames)
    return {round(time - first, 3): picture for time, picture in frames.items()}


@pytest.mark.parametrize("suffix", CODECS)
def test_frames_are_those_of_a_full_decode(tmp_path, suffix):
    path = write(tmp_path / f"clip.{suffix}", steady(60), **CODECS[suffix])
    truth = every_frame(path)
    for window in ({}, {"start": 0.9, "duration": 1.0}, {"start": 1.5}):
        clip = read_video(path, **window)
        assert clip.warnings == ()
        assert len(clip.frames) == 8
        for time, picture in zip(clip.frame_times, clip.frames, strict=True):
            np.testing.assert_array_equal(picture, truth[round(time, 3)])


@pytest.mark.parametrize(("count", "requested"), [(60, 8), (60, 7), (10, 8), (8, 8), (100, 10), (30, 1)])
@pytest.mark.parametrize("rate", [25, 30])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_constant_rate_gives_the_indices_of_linspace(tmp_path, count, requested, rate, suffix):
    path = write(tmp_path / f"clip.{suffix}", steady(count, rate), rate=rate, options={"preset": "ultrafast"})
    clip = read_video(path, frames=requested)
    expected = [index * count // requested for index in range(requested)]
    assert numbers(clip.frames) == expected
    np.testing.assert_allclose(clip.frame_times, [index / rate for index in expected], atol=6e-4)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_by_number_are_those_of_the_original_code(tmp_path, suffix):
    golden = json.loads((Path(__file__).parents[1] / "data" / "original" / "preprocess_numbers.json").read_text())
    windows = golden["frame_sampling_timestamp_dataset"]
    path = write(tmp_path / f"clip.{suffix}", steady(windows["frames"]), options={"preset": "ultrafast", "bf": "2"})
    for name, indices in windows["indices"].items():
        start, end, requested = map(float, re.fullmatch(r"(.*)-(.*)s->(.*)", name).groups())
        clip = read_clip(path, frames=int(requested), start=start, duration=end - start, by_number=True)
        assert numbers(clip.frames) == indices, name
    whole = read_clip(path, frames=8, by_number=True)
    assert numbers(whole.frames) == [0, 31, 62, 93, 125, 156, 187, 218]


@pytest.mark.parametrize("count", [1, 2, 5, 7, 8, 30, 100])
def test_few_frames_by_number_come_once_each(tmp_path, count):
    golden = json.loads((Path(__file__).parents[1] / "data" / "original" / "preprocess_numbers.json").read_text())
    path = write(tmp_path / "clip.mp4", steady(count), options={"preset": "ultrafast"})
    for requested in (1, 3, 8):
        clip = read_clip(path, frames=requested, by_number=True)
        assert numbers(clip.frames) == sorted(set(golden["frame_sampling_no_timestamp"][f"{count}->{requested}"]))


def test_ntsc_rate_in_a_millisecond_container(tmp_path):
    stamps = [index * 1001 / 30000 for index in range(100)]
    path = write(tmp_path / "clip.mkv", stamps, rate=30)
    assert numbers(read_video(path, frames=10).frames) == list(range(0, 100, 10))


def test_variable_rate_is_sampled_in_time(tmp_path):
    stamps = [index / 50 for index in range(50)] + [1.0 + index for index in range(9)]
    path = write(tmp_path / "clip.mp4", stamps)
    clip = read_video(path, frames=10)
    span = stamps[-1] + (clip.duration - stamps[-1])
    shown = [max(index for index, stamp in enumerate(stamps) if stamp <= k * span / 10 + 1e-3) for k in range(10)]
    assert numbers(clip.frames) == shown
    assert max(np.diff(clip.frame_times)) <= 2.0
    assert min(np.diff(clip.frame_times)) >= 0.5


def test_a_frame_is_given_once_however_long_it_is_shown(tmp_path):
    path = write(tmp_path / "slides.mp4", [0, 4, 4.04, 8])
    clip = read_video(path, frames=8)
    assert numbers(clip.frames) == sorted(set(numbers(clip.frames)))
    assert {0, 2} <= set(numbers(clip.frames))
    assert numbers(read_video(write(tmp_path / "three.mp4", steady(3)), frames=8).frames) == [0, 1, 2]
    assert numbers(read_video(write(tmp_path / "one.mp4", [0]), frames=8).frames) == [0]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_window(tmp_path, suffix):
    path = write(tmp_path / f"clip.{suffix}", steady(150), options={"g": "25"})
    clip = read_video(path, start=2.0, duration=2.0, frames=4)
    assert numbers(clip.frames) == [50, 62, 75, 87]
    assert (clip.start, clip.duration) == (2.0, 2.0)
    # 1.99 s still shows frame 49; 0.12 s is frame 3 although the double 0.12 lies below 3/25.
    assert numbers(read_video(path, start=1.99, duration=0.5, frames=1).frames) == [49]
    assert numbers(read_video(path, start=0.12, duration=0.5, frames=1).frames) == [3]
    late = read_video(path, start=5.0, frames=4)
    assert numbers(late.frames) == [125, 131, 137, 143]
    assert late.duration == pytest.approx(1.0, abs=0.002)


def test_the_window_is_capped(tmp_path):
    path = write(tmp_path / "clip.mp4", steady(100))
    clip = read_video(path, max_seconds=2.0, frames=2)
    assert numbers(clip.frames) == [0, 25]
    assert clip.duration == 2.0


def test_only_the_groups_that_are_needed_are_decoded(tmp_path, monkeypatch):
    decoded = []
    real = video_module._frames
    monkeypatch.setattr(video_module, "_frames", lambda *arguments: decoded.append(arguments[2]) or real(*arguments))
    path = write(tmp_path / "clip.mp4", steady(600), options={"g": "10", "bf": "0", "preset": "ultrafast"})
    clip = read_video(path, frames=8, max_seconds=60)
    assert numbers(clip.frames) == [index * 75 for index in range(8)]
    assert len(decoded) <= 8 * 11


def test_reading_stops_behind_the_window(tmp_path):
    path = write(tmp_path / "clip.mp4", steady(600), options={"g": "10", "preset": "ultrafast"})
    assert numbers(read_video(path, start=20, duration=0.4, frames=2, limits=Limits(max_packets=40)).frames) == [
        500,
        505,
    ]


def test_pictures_before_and_after_an_edit_list_are_not_shown(tmp_path):
    path = write(tmp_path / "clip.mp4", [0.48 + index / 25 for index in range(50)])
    clip = read_video(path, frames=2)
    assert numbers(clip.frames) == [0, 25]
    assert clip.frame_times[1] - clip.frame_times[0] == pytest.approx(1.0)


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotated_videos_come_upright(tmp_path, rotation, mirrored):
    scene = np.full((48, 160, 3), 20, np.uint8)
    scene[:24, :80] = 220
    stored = scene[:, ::-1] if mirrored else scene
    # The matrix turns counter-clockwise, so what is stored is turned clockwise; it is rotated first, then mirrored.
    turned = np.rot90(stored, -rotation // 90)
    options = {"rotation": rotation, "mirrored": mirrored}
    path = write(tmp_path / "phone.mp4", steady(3), picture=lambda _: turned, **options)
    clip = read_video(path, frames=1)
    assert clip.frames[0].shape == scene.shape
    assert np.abs(clip.frames[0].astype(int) - scene).mean() < 6


def test_size_changes_on_the_way(tmp_path):
    """Two sizes in one stream: what a camera does when it is turned, here by joining two MPEG streams."""
    small = write(tmp_path / "a.mpg", steady(20), codec="mpeg2video")
    large = write(
        tmp_path / "b.mpg", steady(20), codec="mpeg2video", picture=lambda n: frame(n).repeat(2, 0).repeat(2, 1)
    )
    parts = []
    for path in (small, large):
        with av.open(str(path)) as container:
            parts += [bytes(packet) for packet in container.demux(video=0) if packet.size]
    path = tmp_path / "both.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 48, "yuv420p"
        for index, data in enumerate(parts):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, index * 3600, index * 3600
            packet.time_base = stream.time_base or 1
            packet.is_keyframe = index % 20 == 0
            container.mux(packet)
    clip = read_video(path, frames=8)
    assert clip.frames.shape[1:] == (48, 160, 3)
    assert any("another size" in warning for warning in clip.warnings)


def test_colours_and_layout(tmp_path):
    red = np.zeros((48, 160, 3), np.uint8)
    red[..., 0] = 255
    clip = read_video(write(tmp_path / "red.mp4", steady(3), picture=lambda _: red))
    assert clip.frames.dtype == np.uint8
    assert clip.waveform is None
    assert np.abs(clip.frames.astype(int) - red).max() <= 6
