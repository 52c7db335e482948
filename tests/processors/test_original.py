"""The original recipe against outputs of the original code, torch's own interpolation and Pillow."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError, FileRefusedError, InputError
from tvlt_deploy.processors import (
    OriginalFeatureExtractor,
    OriginalImageProcessor,
    OriginalProcessor,
    original_masks,
    resample,
)
from tvlt_deploy.processors.original.bicubic import resize_bicubic
from tvlt_deploy.processors.original.image import content_box, square
from tvlt_deploy.processors.recipe import read_recipe, recipe_file
from tvlt_deploy.processors.serialization import PREPROCESSOR_FILE

RATE = 44100
DATA = Path(__file__).parents[1] / "data" / "original"
NUMBERS = json.loads((DATA / "preprocess_numbers.json").read_text())


@pytest.fixture(scope="module")
def sound():
    return load_file(DATA / "preprocess_audio.safetensors")


@pytest.fixture(scope="module")
def video():
    return load_file(DATA / "preprocess_video.safetensors")


def features(wave):
    return OriginalFeatureExtractor()(wave, sampling_rate=RATE).audio_values


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


# Sound ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "golden", "cut"),
    [
        ("main44k", "main44k", slice(None)),
        ("aligned", "aligned", slice(8000)),
        ("short", "short", slice(100)),
        ("main44k_0.2s_to_0.7s", "main44k_0.2s_to_0.7s", slice(8820, 30870)),
    ],
)
def test_features_are_those_of_the_original_code(sound, name, golden, cut):
    pcm = sound["main44k.pcm16"][cut]
    numbers = NUMBERS["audio"].get(name) or {"shape": [1, 1, 48, 128]}
    for wave in (pcm, (pcm / 32768).astype(np.float32)):
        values = features(wave)
        assert values.shape == tuple(numbers["shape"])
        np.testing.assert_allclose(values, sound[f"{golden}.features"], rtol=0, atol=1e-5)


def test_a_constant_is_taken_off(sound):
    wave = (sound["main44k.pcm16"][:8000] / 32768).astype(np.float32)
    np.testing.assert_allclose(features(wave + np.float32(0.25)), sound["aligned.features"], rtol=0, atol=1e-5)


def test_resampling_and_features_of_stereo(sound):
    channels = (sound["stereo16k.pcm16"] / 32768).astype(np.float32)
    wave = np.mean([resample(channel, 16000) for channel in channels], axis=0)
    first, last = (sound[f"stereo16k.resampled_44k_per_channel_mean_{part}"] for part in ("first_4410", "last_441"))
    assert wave.shape == (17640,)
    np.testing.assert_allclose(wave[:4410], first, rtol=0, atol=5e-6)
    np.testing.assert_allclose(wave[-441:], last, rtol=0, atol=5e-6)
    np.testing.assert_allclose(features(wave), sound["stereo16k.features"], rtol=0, atol=1e-3)


def test_silence_is_minus_one_and_masked():
    made = OriginalFeatureExtractor()(np.zeros(5000, np.float32), sampling_rate=RATE)
    assert made.audio_values.shape == tuple(NUMBERS["audio"]["silence"]["shape"])
    assert (made.audio_values == -1).all()
    assert not made.audio_mask.any()


def test_long_sound_is_cut_and_what_follows_moves_the_floor(sound):
    n = np.arange(560000)
    wave = ((((n * n) // 97 + 31 * n) % 2048 - 1024) / 2**18).astype(np.float32)
    quiet = features(wave[:524800])
    wave[530000:] = ((n[530000:] // 37) % 2) * 2 - 1
    values = features(wave)
    assert values.shape == quiet.shape == tuple(NUMBERS["audio"]["long"]["shape"])
    assert values.sum(dtype=np.float64) == pytest.approx(NUMBERS["audio"]["long"]["sum"], abs=0.05)
    for start in (0, 504, 1008):
        golden = sound[f"long.features_rows_{start}_{start + 16}"]
        np.testing.assert_allclose(values[:, :, start : start + 16], golden, rtol=0, atol=1e-5)
    assert np.abs(values - quiet).max() > 0.4


@pytest.mark.parametrize(("samples", "rows"), [(1, 16), (7679, 16), (7680, 32), (8191, 32), (8192, 32), (15872, 48),
                                               (523775, 1024), (523776, 1024), (600000, 1024)])  # fmt: skip
def test_a_whole_patch_of_rows_is_followed_by_another(samples, rows):
    assert features(noise(samples)).shape == (1, 1, rows, 128)


def test_no_sample_beyond_the_longest_sound_reaches_a_row():
    extractor = OriginalFeatureExtractor(spectrogram_length=48)
    wave = noise(extractor.max_samples)
    assert extractor.max_samples == 47 * 512 + 1024
    # A mean of zero and one loudness throughout: neither the mean nor the floor moves with what follows.
    wave -= wave.mean()
    longer = np.concatenate([wave, wave])
    np.testing.assert_allclose(extractor.features(longer), extractor.features(wave), rtol=0, atol=1e-5)
    shorter = extractor.features(wave[:-1000])
    assert np.abs(shorter[-1] - extractor.features(wave)[-1]).max() > 1e-3


def test_a_batch_is_padded_with_minus_one():
    waves = [noise(3000), noise(20000, 1), np.zeros(600, np.float32)]
    made = OriginalFeatureExtractor()(waves, sampling_rate=RATE)
    assert made.audio_values.shape == (3, 1, 48, 128)
    for row, wave in enumerate(waves):
        alone = features(wave)[0]
        np.testing.assert_array_equal(made.audio_values[row, :, : alone.shape[1]], alone)
        assert (made.audio_values[row, :, alone.shape[1] :] == -1).all()
    assert made.audio_mask.sum(axis=1).tolist() == [8, 24, 0]
    assert OriginalFeatureExtractor()(waves, sampling_rate=RATE, return_attention_mask=False).keys() == {"audio_values"}


@pytest.mark.parametrize("from_rate", [8000, 11025, 22050, 44099, 48000, 96000])
def test_resampled_tones_stay_tones(from_rate):
    rates = np.arange(from_rate) / from_rate, np.arange(RATE) / RATE
    before, after = (np.sin(2 * np.pi * 440 * time + 0.3) for time in rates)
    made = resample(before, from_rate)
    assert made.dtype == np.float32
    assert made.shape == (RATE,)
    # So short a filter ripples by up to a thousandth in its pass band.
    np.testing.assert_allclose(made[1000:-1000], after[1000:-1000], rtol=0, atol=2e-3)
    assert len(resample(noise(7), from_rate)) == -(-7 * RATE // from_rate)


def test_resampling_refuses_what_it_cannot_mean():
    np.testing.assert_array_equal(resample(noise(5), RATE), noise(5))
    for wave, rate in ((noise(5), 0), (noise(5), 22050.5), (np.zeros((2, 5)), 16000), (np.zeros(5, np.int16), 16000),
                       (np.array([np.nan]), 16000)):  # fmt: skip
        with pytest.raises(InputError):
            resample(wave, rate)


def test_refused_sound():
    extractor = OriginalFeatureExtractor()
    with pytest.raises(InputError, match=r"sampling_rate is 16000; expected 44100.*tvlt_deploy\.processors\.resample"):
        extractor(noise(2000), sampling_rate=16000)
    for wave in (np.empty(0, np.float32), np.full(99, np.nan, np.float32), np.zeros((2, 99), np.float32)):
        with pytest.raises(InputError):
            extractor(wave, sampling_rate=RATE)


# Pictures ------------------------------------------------------------------------------------------------------------


def test_pixels_are_those_of_the_original_code(video):
    made = OriginalImageProcessor(num_frames=3, image_size=32)(video["frames"])
    np.testing.assert_array_equal(made.pixel_values[0], video["pixels_32_sampled3"])
    assert made.pixel_mask.shape == (1, 12)
    levels = OriginalImageProcessor(num_frames=5, image_size=32)(list(video["frames"])).pixel_values[0]
    np.testing.assert_array_equal(levels, video["normalise_lut"][video["resized_32_uint8"]])


def test_pixels_of_full_size(video):
    values = OriginalImageProcessor(num_frames=5)(video["frames"]).pixel_values
    numbers = NUMBERS["video"]["demo_224"]
    assert values.shape == tuple(numbers["shape"])
    levels = np.searchsorted(video["normalise_lut"], values[0, 0, :, ::7])
    np.testing.assert_array_equal(levels, video["resized_224_frame0_rows_0_7_14_uint8"])
    # A few levels of 752640 may turn by one.
    assert values.sum(dtype=np.float64) == pytest.approx(numbers["sum"], abs=0.1)
    assert np.abs(values).sum(dtype=np.float64) == pytest.approx(numbers["abs_sum"], abs=0.1)
    assert (values == -1).sum() == pytest.approx(numbers["count_minus_one"], abs=3)


def test_borders_are_those_of_the_frames_that_are_sampled(video):
    numbers, frames = NUMBERS["video"], video["frames"]
    for chosen, boxes in ((frames, numbers), (frames[numbers["sampled_indices_3_of_5"]], numbers["sampled3"])):
        box = content_box(list(chosen))
        for name, slices in (("border_crop", box), ("square", square(*box))):
            assert [[part.start, part.stop] for part in slices] == [boxes[f"{name}_rows"], boxes[f"{name}_cols"]]


def test_a_border_is_dark_in_any_channel_and_frames_without_content_stay_whole():
    frames = np.zeros((2, 20, 30, 3), np.uint8)
    assert content_box(list(frames)) == (slice(0, 20), slice(0, 30))
    frames[:, 4:9, 7:12] = (255, 31, 40)
    frames[1, 4, :, 2] = 30  # one channel of one frame is enough
    assert content_box(list(frames)) == (slice(5, 9), slice(7, 12))
    frames[:] = 30
    assert content_box(list(frames)) == (slice(0, 20), slice(0, 30))


@pytest.mark.parametrize("size", [(90, 60), (61, 100), (32, 33), (5, 4), (1, 1)])
def test_an_odd_pixel_goes_off_the_top_and_the_left(size):
    height, width = size
    side = min(size)
    rows, columns = square(slice(0, height), slice(0, width))
    assert (rows.stop - rows.start, columns.stop - columns.start) == (side, side)
    assert rows.start == np.ceil((height - side) / 2)
    assert columns.start == np.ceil((width - side) / 2)


@pytest.mark.parametrize("side", [1, 2, 7, 33, 100, 224, 360, 448, 500, 1081])
def test_bicubic_is_that_of_torch_without_antialiasing(side):
    torch = pytest.importorskip("torch")
    frame = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    tensor = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, (224, 224), mode="bicubic", align_corners=False)
    expected = expected.clamp(0, 255).round()[0].permute(1, 2, 0).numpy()
    away = np.abs(resize_bicubic(frame, 224, 224) - expected)
    assert away.max() <= 1
    assert (away > 0).mean() <= 1e-4


@pytest.mark.parametrize("count", [1, 3, 8])
def test_frames_are_sampled_and_repeated_as_in_the_original(count):
    processor = OriginalImageProcessor(num_frames=count, image_size=16)
    for name, indices in NUMBERS["frame_sampling_no_timestamp"].items():
        actual, expected = map(int, name.split("->"))
        if expected == count:
            levels = np.linspace(40, 255, actual).astype(np.uint8)
            frames = np.broadcast_to(levels[:, None, None, None], (actual, 20, 24, 3))
            values = processor(frames).pixel_values[0]
            np.testing.assert_allclose(values[:, 0, 5, 5], levels[indices] / 127.5 - 1, rtol=0, atol=1e-6)


def test_a_still_image_is_squashed(video):
    made = OriginalImageProcessor(num_frames=3, image_size=32)(video["frames"][0])
    assert made.pixel_values.shape == (1, 1, 3, 32, 32)
    np.testing.assert_allclose(made.pixel_values[0], video["image_lanczos_32"], rtol=0, atol=1e-6)
    image = Image.fromarray(video["frames"][0])
    np.testing.assert_array_equal(OriginalImageProcessor(3, 32)(image).pixel_values, made.pixel_values)
    as_video = OriginalImageProcessor(num_frames=3, image_size=32)([image]).pixel_values
    assert as_video.shape == (1, 3, 3, 32, 32)
    assert np.abs(as_video[0, 0] - made.pixel_values[0, 0]).max() > 0.1


def test_black_patches_are_masked():
    frames = np.full((2, 32, 32, 3), 200, np.uint8)
    frames[1, 16:, :16] = 0
    made = OriginalImageProcessor(num_frames=2, image_size=32)([frames, frames[:1]], is_mixed=True)
    assert list(made) == ["pixel_values_mixed", "pixel_mask_mixed"]
    assert made.pixel_mask_mixed.tolist() == [[1, 1, 1, 1, 1, 1, 0, 1], [1] * 8]
    still = np.zeros((32, 32, 3), np.uint8)
    still[:16, 16:] = 9
    assert OriginalImageProcessor(2, 32)(still).pixel_mask.tolist() == [[0, 1, 0, 0]]


def test_refused_videos():
    processor = OriginalImageProcessor()
    with pytest.raises(InputError, match="different sizes"):
        processor([np.zeros((20, 30, 3), np.uint8), np.zeros((21, 30, 3), np.uint8)])
    for video in ([], "clip.mp4", np.full((2, 20, 30, 3), np.nan), np.zeros((2, 20, 30, 3), np.complex64)):
        with pytest.raises(InputError):
            processor(video)


# Both, and the file --------------------------------------------------------------------------------------------------


def test_one_call_gives_what_the_parts_give(video):
    processor = OriginalProcessor(OriginalImageProcessor(3, 32), OriginalFeatureExtractor())
    frames, wave = video["frames"], noise(9000)
    made = processor(frames, wave, sampling_rate=RATE)
    assert list(made) == ["audio_values", "audio_mask", "pixel_values", "pixel_mask"]
    pixel_mask, audio_mask = original_masks(made["pixel_values"], made["audio_values"])
    np.testing.assert_array_equal(made["pixel_mask"], pixel_mask)
    np.testing.assert_array_equal(made["audio_mask"], audio_mask)
    assert audio_mask.sum() == 16  # 18 rows of sound, all of the 32 in patches that hold some
    np.testing.assert_array_equal(made["audio_values"], features(wave))
    with pytest.raises(InputError):
        processor()


CONFIG = TvltConfig(image_size=32, num_frames=4, spectrogram_length=112, frequency_length=32)


def test_the_file_says_what_the_recipe_is(tmp_path):
    processor = OriginalProcessor.from_config(CONFIG)
    processor.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["preprocessing.json"]
    values = json.loads((tmp_path / "preprocessing.json").read_text())
    assert values["recipe"] == "tvlt-original"
    assert values["image"]["num_frames"] == 4
    assert values["image"]["border_level"] == 30
    assert values["sound"]["spectrogram_length"] == 112
    assert values["sound"]["sampling_rate"] == RATE
    again = read_recipe(recipe_file(tmp_path))
    assert isinstance(again, OriginalProcessor)
    assert again == processor == OriginalProcessor.from_pretrained(tmp_path / "preprocessing.json")
    assert again != OriginalProcessor.from_config(CONFIG.replace(num_frames=3))


def test_a_model_of_longer_sound_still_takes_1024_rows():
    extractor = OriginalProcessor.from_config(TvltConfig()).feature_extractor
    assert extractor.spectrogram_length == 1024
    assert extractor.max_samples / RATE == pytest.approx(11.9, abs=0.01)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (None, "recipe", "tvlt-huggingface"),
        (None, "sound", None),
        ("image", "border_level", 20),
        ("image", "patch_size", "big"),
        ("image", "num_frames", 0),
        ("sound", "hop_length", 441),
        ("sound", "edges", "reflect"),
        ("sound", "unknown", 1),
        ("sound", "spectrogram_length", "many"),
    ],
)
def test_numbers_that_the_recipe_does_not_have_are_refused(tmp_path, section, key, value):
    values = OriginalProcessor.from_config(CONFIG).to_dict()
    (values if section is None else values[section])[key] = value
    (tmp_path / "preprocessing.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=rf"preprocessing\.json: .*{key}"):
        OriginalProcessor.from_pretrained(tmp_path)


def test_broken_missing_and_ambiguous_files_are_refused(tmp_path):
    assert recipe_file(tmp_path) is None
    with pytest.raises(FileRefusedError, match=r"pass a directory with a preprocessing\.json"):
        OriginalProcessor.from_pretrained(tmp_path)
    for name in ("preprocessing.json", PREPROCESSOR_FILE):
        (tmp_path / name).write_text("{")
    with pytest.raises(FileRefusedError, match="preprocessing"):
        OriginalProcessor.from_pretrained(tmp_path)
    with pytest.raises(FileRefusedError, match=r"has preprocessor_config\.json and preprocessing\.json"):
        recipe_file(tmp_path)
    assert recipe_file(tmp_path, ["preprocessing.json"]) == tmp_path / "preprocessing.json"


def test_models_that_the_recipe_cannot_feed_are_refused():
    for changes in ({"image_size": (32, 48)}, {"num_image_channels": 1}, {"num_audio_channels": 2}):
        with pytest.raises(ConfigError):
            OriginalProcessor.from_config(CONFIG.replace(**changes))
    processor = OriginalProcessor.from_config(CONFIG)
    assert not list(processor.misfits(CONFIG, RATE))
    wrong = CONFIG.replace(image_size=64, num_frames=3, spectrogram_length=64, frequency_length=64)
    names = {name for name, _, _ in processor.misfits(wrong, RATE)}
    assert names == {"image_size", "num_frames", "spectrogram_length", "feature_size"}
