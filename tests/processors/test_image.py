"""Pixels against transformers 4.40.2, bit by bit, and everything the image processor refuses."""

import hashlib
import logging
import warnings

import numpy as np
import pytest
from PIL import Image

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError, InputError
from tvlt_deploy.processors import TvltImageProcessor


@pytest.fixture(scope="module")
def hf():
    return pytest.importorskip("transformers").TvltImageProcessor


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def clip(height, width, frames=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def assert_same(hf, videos, settings=None, **call):
    theirs = hf(**(settings or {}))(videos, return_tensors="np", **call)
    ours = TvltImageProcessor(**(settings or {}))(videos, **call)
    assert list(ours) == list(theirs.keys())
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype, name
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


# Sizes: landscape, portrait, square, already right on one or both sides, odd, tiny, long and flat.
SIZES = [
    (360, 640), (640, 360), (480, 640), (300, 300), (224, 224), (224, 398), (398, 224), (225, 224), (223, 225),
    (333, 517), (401, 231), (100, 130), (7, 9), (5, 4), (1, 6), (90, 400), (120, 1000), (720, 405),
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_those_of_transformers(hf, size):
    assert_same(hf, list(clip(*size, frames=2)), input_data_format="channels_last")


def tall(height, width):
    y, x = np.mgrid[:height, :width].astype(np.int64)
    return np.stack([(7 * y + 3 * x) % 256, (y * y + x) % 256, (x * x // 5 + y * 13) % 256], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "digest"),
    [  # Image.resize of Pillow 12.3.0 to a short edge of 224, bilinear, in one call; the central 224 rows
        ((1000, 300), "26f99002d55d8572"),
        ((701, 201), "b8ce8b26524884e0"),
        ((1500, 224), "9fc3b7430f8350f8"),
        ((1001, 499), "dbe77883e12a3c1c"),
        ((960, 320), "0ee971b91d2e0c3a"),
    ],
)
def test_tall_frames_keep_the_order_of_pillow_12(size, digest):
    levels = TvltImageProcessor(do_rescale=False, do_normalize=False)([tall(*size)]).pixel_values[0, 0]
    found = levels.transpose(1, 2, 0).astype(np.uint8)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == digest


def test_known_numbers():
    y, x = np.mgrid[:180, :300]
    image = np.stack([(7 * y + 3 * x) % 256, (y * y + x) % 256, (x * x // 5 + y) % 256], axis=-1).astype(np.uint8)
    values = TvltImageProcessor()(image).pixel_values[0, 0]
    assert values.sum(dtype=np.float64) == pytest.approx(1371.35178, abs=1e-3)
    np.testing.assert_allclose(values[:, 0, 0], [0.39607847, -0.5372549, 0.52156866], atol=1e-7)
    np.testing.assert_allclose(values[:, 111, 123], [-0.41176468, 0.05882359, 0.17647064], atol=1e-7)
    np.testing.assert_allclose(values[:, 223, 223], [0.38823533, -0.8117647, -0.06666666], atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
        {"size": 64, "crop_size": 64},
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 80, "width": 70}},
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 32, "width": 130}},
        {"patch_size": [32, 32]},
        {"num_frames": 2},
        {"do_resize": False},
        {"do_resize": False, "crop_size": 100},
        {"do_center_crop": False, "size": 64},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [127.5, 100.0, 90.0], "image_std": [127.5, 60.0, 70.0]},
        {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        {"image_mean": 0.3, "image_std": 0.7},
        *({"resample": method} for method in range(6)),
    ],
    ids=str,
)
def test_settings_at_construction_and_per_call(hf, settings):
    video = list(clip(150, 240, frames=2))
    theirs = hf(**settings)(video, return_tensors="np")
    for ours in (TvltImageProcessor(**settings)(video), TvltImageProcessor()(video, **settings)):
        np.testing.assert_array_equal(ours.pixel_values, theirs["pixel_values"])
        assert ours.pixel_values.dtype == np.float32
        if not {"size", "crop_size", "do_resize", "do_center_crop"} & settings.keys():
            np.testing.assert_array_equal(ours.pixel_mask, theirs["pixel_mask"])


def test_every_level_of_every_channel(hf):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    for mean, std in (
        ([0.5] * 3, [0.5] * 3),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ([0, 0.1, 1], [1, 3, 0.01]),
    ):
        assert_same(hf, levels, {"image_mean": mean, "image_std": std, "crop_size": 16}, do_resize=False, size=16)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_output_and_input_layouts(hf, layout):
    video = clip(100, 120, frames=2)
    assert_same(hf, list(video), data_format=layout)
    first = np.ascontiguousarray(video.transpose(0, 3, 1, 2))
    assert_same(hf, first)
    assert_same(hf, first, input_data_format="channels_first", data_format=layout)
    assert_same(hf, video, is_mixed=True)


def test_ways_to_pass_videos(hf):
    torch = pytest.importorskip("torch")
    frames = clip(60, 80, frames=3)
    for videos in (
        frames, list(frames), [list(frames)], [frames], frames[None], [frames, frames], [list(frames), tuple(frames)],
        frames[0], [frames[0]], [Image.fromarray(frame) for frame in frames], Image.fromarray(frames[0]),
        [[Image.fromarray(frames[0])], [Image.fromarray(frames[1])]], torch.from_numpy(frames),
        [torch.from_numpy(frame).permute(2, 0, 1) for frame in frames],
    ):  # fmt: skip
        assert_same(hf, videos)


def test_frames_of_different_sizes(hf):
    assert_same(hf, [clip(60, 80)[0], clip(90, 50)[0]])


def test_ragged_videos_are_padded_and_masked():
    processor = TvltImageProcessor()
    long, short = clip(60, 80, frames=5), clip(60, 80, frames=2, seed=1)
    both = processor([long, short])
    assert both.pixel_values.shape == (2, 5, 3, 224, 224)
    assert both.pixel_mask.dtype == np.int64
    assert both.pixel_mask.sum(axis=1).tolist() == [5 * 196, 2 * 196]
    assert both.pixel_mask[1, : 2 * 196].all()
    assert not both.pixel_values[1, 2:].any()
    np.testing.assert_array_equal(both.pixel_values[1, :2], processor(short).pixel_values[0])
    torch = pytest.importorskip("torch")
    assert torch.equal(processor([long, short], return_tensors="pt").pixel_values, torch.from_numpy(both.pixel_values))


def test_mask_counts_patches_of_the_output():
    processor = TvltImageProcessor(size=256, patch_size=[16, 32])
    assert processor(clip(60, 80)).pixel_mask.shape == (1, 14 * 7)
    assert processor(clip(60, 80), crop_size=(64, 128)).pixel_mask.shape == (1, 4 * 4)


def test_size_by_height_and_width(hf):
    frame = clip(60, 80)[0]
    out = TvltImageProcessor(size={"height": 224, "width": 200}, crop_size=(224, 200))(
        frame, do_rescale=False, do_normalize=False, patch_size=[16, 20], data_format="channels_last"
    )
    np.testing.assert_array_equal(out.pixel_values[0, 0], hf().resize(frame, {"height": 224, "width": 200}, 2))
    assert out.pixel_mask.shape == (1, 14 * 10)


def test_num_frames_can_be_replaced_per_call():
    assert TvltImageProcessor()(clip(30, 30, frames=9), num_frames=9).pixel_values.shape[1] == 9
    with pytest.raises(InputError, match="video 0 has 3 frames; expected at most num_frames, which is 2"):
        TvltImageProcessor()(clip(30, 30, frames=3), num_frames=2)


def test_small_frames_are_padded_to_the_exact_crop(hf):
    frame = clip(99, 100)[0]
    ours = TvltImageProcessor(do_resize=False, crop_size=(124, 120))(frame).pixel_values[0, 0]
    theirs = hf(do_resize=False, crop_size={"height": 124, "width": 120})(frame, return_tensors="np")["pixel_values"]
    assert theirs.shape[-2:] == (123, 120)  # one row short
    assert ours.shape == (3, 124, 120)
    np.testing.assert_array_equal(ours[:, :123], theirs[0, 0])
    np.testing.assert_array_equal(ours[:, 123], -1)


# Floats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_unit_floats_equal_their_levels(dtype):
    video = clip(60, 80, frames=2)
    processor = TvltImageProcessor()
    expected = processor(video).pixel_values
    unit = (video / 255).astype(dtype)
    np.testing.assert_array_equal(processor(unit).pixel_values, expected)
    np.testing.assert_allclose(processor(unit, do_rescale=False).pixel_values, expected, atol=1e-6)
    np.testing.assert_allclose(
        processor(unit, do_resize=False).pixel_values, processor(video, do_resize=False).pixel_values, atol=2e-3
    )


def test_unit_floats_without_rescaling(hf):
    video = list(np.random.default_rng(0).random((2, 60, 80, 3), dtype=np.float32))
    assert_same(hf, video, do_rescale=False)
    assert_same(hf, video, do_rescale=False, do_resize=False)


def test_whole_floats_and_integers_equal_their_levels(hf):
    video = clip(60, 80, frames=2)
    expected = TvltImageProcessor()(video).pixel_values
    for dtype in (np.float32, np.float64, np.int64, np.int16, np.uint16):
        np.testing.assert_array_equal(TvltImageProcessor()(video.astype(dtype)).pixel_values, expected)
    assert_same(hf, list(video.astype(np.float32)))


def test_black_and_white_floats_are_unit_floats():
    frame = (clip(60, 80)[0] > 127).astype(np.float32)
    assert TvltImageProcessor()(frame).pixel_values.max() == 1


def test_normalised_frames_pass_without_resizing(hf):
    frame = np.random.default_rng(0).standard_normal((224, 224, 3)).astype(np.float32)
    assert_same(hf, frame, do_resize=False, do_rescale=False, do_normalize=False)
    assert_same(hf, frame, do_resize=False, do_rescale=False)
    with pytest.raises(InputError, match="do_resize=False"):
        TvltImageProcessor()(frame)


# Colours and shapes ------------------------------------------------------------------------------------------------


def test_images_of_other_modes_become_rgb():
    rgb = Image.fromarray(clip(60, 80)[0])
    grey = rgb.convert("L")
    expected = TvltImageProcessor()(grey.convert("RGB")).pixel_values
    for image in (grey, grey.convert("LA"), np.asarray(grey), np.asarray(grey)[..., None], np.asarray(grey)[None]):
        np.testing.assert_array_equal(TvltImageProcessor()(image).pixel_values, expected)
    transparent = rgb.copy()
    transparent.putalpha(7)
    expected = TvltImageProcessor()(rgb).pixel_values
    for image in (transparent, np.asarray(transparent), np.asarray(transparent).transpose(2, 0, 1)):
        np.testing.assert_array_equal(TvltImageProcessor()(image).pixel_values, expected)
    palette = rgb.convert("P")
    np.testing.assert_array_equal(
        TvltImageProcessor()(palette).pixel_values, TvltImageProcessor()(palette.convert("RGB")).pixel_values
    )
    deep = Image.fromarray(np.full((20, 20), 40000, np.uint16))
    with pytest.raises(InputError, match="uint16 values from 40000 to 40000"):
        TvltImageProcessor()(deep)


def test_files_are_decoded_by_pillow(tmp_path):
    frame = clip(60, 80)[0]
    Image.fromarray(frame).save(tmp_path / "frame.png")
    with Image.open(tmp_path / "frame.png") as image:
        twice = TvltImageProcessor()([image, image]).pixel_values
    np.testing.assert_array_equal(twice, TvltImageProcessor()([frame, frame]).pixel_values)
    (tmp_path / "cut.png").write_bytes((tmp_path / "frame.png").read_bytes()[:3000])
    with (
        Image.open(tmp_path / "cut.png") as image,
        pytest.raises(InputError, match="video 0, frame 0 cannot be decoded"),
    ):
        TvltImageProcessor()(image)


@pytest.mark.parametrize("height", [1, 3, 4])
def test_low_frames_are_not_misread(height):
    frame = clip(height, 50)[0]
    expected = TvltImageProcessor()(Image.fromarray(frame)).pixel_values
    np.testing.assert_array_equal(TvltImageProcessor()(frame).pixel_values, expected)
    narrow = np.ascontiguousarray(frame.transpose(2, 1, 0))  # 3 x 50 x height
    np.testing.assert_array_equal(
        TvltImageProcessor()(narrow, input_data_format="channels_first").pixel_values,
        TvltImageProcessor()(Image.fromarray(np.ascontiguousarray(frame.swapaxes(0, 1)))).pixel_values,
    )


def nan_frame(value):
    frame = np.full((20, 20, 3), 0.5, np.float32)
    frame[3, 4, 1] = value
    return frame


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([], "the video is an empty list"),
        ([[]], "empty list"),
        ("clip.mp4", "text"),
        (["clip.mp4"], "text"),
        (None, "dtype object"),
        (np.zeros((20, 20, 5), np.uint8), r"shape \(20, 20, 5\).*1, 3 or 4 channels"),
        (np.zeros((20, 20, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((8, 20, 20), np.uint8), "1, 3 or 4 channels.*frames first"),
        (np.zeros((20, 30, 3, 8), np.uint8), "30, 3, 8|20 frames"),
        (np.zeros((0, 20, 20, 3), np.uint8), "has no pixels"),
        (np.zeros((20, 0, 3), np.uint8), "has no pixels"),
        (np.zeros(20, np.uint8), "expected a frame"),
        (np.zeros((1, 1, 1, 20, 20, 3), np.uint8), "expected a frame"),
        ([[np.zeros((2, 20, 20, 3), np.uint8)]] * 2 + [[[np.zeros((2, 20, 20, 3), np.uint8)]]], "mixes|nested"),
        ([np.zeros((20, 20, 3), np.uint8), np.zeros((2, 20, 20, 3), np.uint8)], "mixes frames and videos"),
        (clip(20, 20, frames=9), "video 0 has 9 frames; expected at most num_frames, which is 8"),
        (nan_frame(np.nan), "NaN or infinite"),
        (nan_frame(np.inf), "NaN or infinite"),
        (nan_frame(-0.1), "from -0.1 to 0.5"),
        (nan_frame(1.5), "from 0.5 to 1.5"),
        (np.full((20, 20, 3), 256), "int64 values from 256"),
        (np.full((20, 20, 3), -1), "int64 values from -1"),
        (np.zeros((20, 20, 3), bool), "dtype bool"),
        (np.zeros((20, 20, 3), complex), "dtype complex"),
        ([np.full((20, 20, 3), 0.5), np.zeros((20, 20, 3), np.uint8)], "mixes floats"),
        (np.zeros((1, 5_000_000, 3), np.uint8), "less extreme shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_refused_videos(videos, message):
    with pytest.raises(InputError, match=message) as caught:
        TvltImageProcessor()(videos)
    assert isinstance(caught.value, ValueError)


def test_frames_that_come_out_in_different_sizes_are_refused():
    with pytest.raises(InputError, match=r"different sizes \(224x298, 298x224\)"):
        TvltImageProcessor(do_center_crop=False)([clip(60, 80)[0], clip(80, 60)[0]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"longest_edge": 224}}, "shortest_edge"),
        ({"size": 0}, "expected an int of at least 1"),
        ({"size": [224]}, "expected an int, a pair"),
        ({"crop_size": {"shortest_edge": 224}}, "'height' and 'width'"),
        ({"patch_size": 0}, "patch_size"),
        ({"num_frames": "8"}, "num_frames is '8'"),
        ({"resample": 9}, "BILINEAR"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_std": 0}, "image_std"),
        ({"rescale_factor": float("inf")}, "rescale_factor"),
    ],
    ids=str,
)
def test_refused_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        TvltImageProcessor(**settings)
    with pytest.raises(ConfigError, match=message):
        TvltImageProcessor()(clip(20, 20), **settings)


def test_refused_layouts():
    with pytest.raises(ConfigError, match="data_format is 'NCHW'"):
        TvltImageProcessor()(clip(20, 20), data_format="NCHW")
    with pytest.raises(InputError, match="1, 3 or 4 channels"):
        TvltImageProcessor()(clip(20, 30), input_data_format="channels_first")


def test_unknown_arguments_are_logged(caplog):
    with caplog.at_level(logging.WARNING):
        TvltImageProcessor()(clip(20, 20), do_rezise=False, mask_pixel=True)
    assert caplog.messages == ["unused keyword arguments: do_rezise"]


def test_from_config():
    processor = TvltImageProcessor.from_config(TvltConfig(image_size=(32, 48), image_patch_size=(8, 16), num_frames=3))
    out = processor(clip(60, 80, frames=3))
    assert out.pixel_values.shape == (1, 3, 3, 32, 48)
    assert out.pixel_mask.shape == (1, 3 * 4 * 3)
    assert processor.num_frames == 3
    with pytest.raises(ConfigError, match="num_image_channels"):
        TvltImageProcessor.from_config(TvltConfig(num_image_channels=1))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        {"do_rescale": False},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0},
    ],
)
def test_levels_come_back_from_pixels(settings):
    processor = TvltImageProcessor(size=16, crop_size=16, **settings)
    frames = np.arange(3 * 16 * 16, dtype=np.uint8).reshape(1, 16, 16, 3)
    pixels = processor(frames, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(processor.levels(pixels)[0], frames)
    np.testing.assert_array_equal(processor.levels(np.full((3, 1, 1), 1e4)), np.full((1, 1, 3), 255))
