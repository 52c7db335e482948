"""Still and animated images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.media.files import frame, numbers, tone, write
from tvlt_deploy.errors import InputError, MediaError
from tvlt_deploy.media import Limits, read_clip, read_image, read_video


def picture() -> np.ndarray:
    """(40, 60, 3) uint8 whose four corners differ."""
    scene = np.zeros((40, 60, 3), np.uint8)
    scene[:20, :30], scene[:20, 30:], scene[20:, :30] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    return scene


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "gif"])
def test_lossless_images(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(picture()).save(path, lossless=True)
    assert np.array_equal(read_image(path), picture())
    clip = read_clip(path, start=5.0)
    assert np.array_equal(clip.frames, picture()[None])
    assert clip.frame_times == (0.0,)
    assert clip.waveform is None
    assert clip.duration == 0.0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = Image.fromarray(picture())
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "phone.jpg"
    stored.save(path, exif=exif, quality=95, subsampling=0)
    actual = read_image(path)
    assert actual.shape == (40, 60, 3)
    assert np.abs(actual.astype(int) - picture()).mean() < 4


def test_modes(tmp_path):
    grey = np.linspace(0, 65535, 100).astype(np.uint16).reshape(10, 10)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png"), np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, 2))
    Image.fromarray(picture()).convert("RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "alpha.png"), picture())
    Image.fromarray(picture()).quantize(8).save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png"), picture())
    Image.fromarray(picture()).convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(read_image(tmp_path / "bits.png"))) <= {0, 255}
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "ink.jpg")
    assert read_image(tmp_path / "ink.jpg").shape == (40, 60, 3)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(MediaError, match="mode 'F'"):
        read_image(tmp_path / "float.tiff")


def animation(path, durations):
    images = [Image.fromarray(frame(index)) for index in range(len(durations))]
    images[0].save(path, save_all=True, append_images=images[1:], duration=list(durations), loop=0, lossless=True)
    return path


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animations_are_sampled_in_time(tmp_path, suffix):
    path = animation(tmp_path / f"moving.{suffix}", [100] * 10 + [1000] * 4)
    clip = read_clip(path, frames=5)
    assert numbers(clip.frames) == [0, 10, 11, 12, 13]
    assert clip.frame_times == (0.0, 1.0, 2.0, 3.0, 4.0)
    assert clip.duration == 5.0
    part = read_video(path, start=0.25, duration=0.4, frames=2)
    assert numbers(part.frames) == [2, 4]
    with pytest.raises(InputError, match=r"the file ends at 5\.00 s"):
        read_clip(path, start=5.0)


def test_frames_without_a_duration_last_as_browsers_show_them(tmp_path):
    assert read_clip(animation(tmp_path / "fast.gif", [0] * 4)).duration == pytest.approx(0.4)


def test_a_picture_with_a_spoken_question(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "image.png")
    sound = write(tmp_path / "question.wav", sound=tone(2.0), sound_codec="pcm_s16le")
    clip = read_clip(tmp_path / "image.png", audio=sound, start=0.5)
    assert clip.frames.shape == (1, 40, 60, 3)
    assert len(clip.waveform) == 3 * 22050
    assert clip.duration == pytest.approx(1.5)


def test_an_image_by_any_other_name(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "image.mp4", format="PNG")
    assert np.array_equal(read_clip(tmp_path / "image.mp4").frames[0], picture())


def test_a_cut_animation_gives_what_it_holds(tmp_path):
    noise = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 60), np.uint8)) for i in range(10)]
    path = tmp_path / "cut.gif"
    noise[0].save(path, save_all=True, append_images=noise[1:], duration=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = read_clip(path, frames=10)
    assert 3 <= len(clip.frames) <= 6


def test_limits(tmp_path):
    path = animation(tmp_path / "moving.gif", [100] * 10)
    with pytest.raises(MediaError, match="160x48 pixels; at most 100 "):
        read_clip(path, limits=Limits(max_pixels=100))
    with pytest.raises(MediaError, match="more than 5 packets"):
        read_clip(path, limits=Limits(max_packets=5))
    with pytest.raises(MediaError, match="decoded frames would take"):
        read_clip(path, limits=Limits(max_decoded_bytes=50_000))
