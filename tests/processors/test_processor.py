"""Both halves together, their file in both directions with transformers 4.40.2, and what an import costs."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError, FileRefusedError
from tvlt_deploy.processors import TvltFeatureExtractor, TvltImageProcessor, TvltProcessor
from tvlt_deploy.processors.serialization import PREPROCESSOR_FILE

RATE = 44100
IMAGE = {
    "size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 64}, "patch_size": [8, 8], "num_frames": 5,
    "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6],
}  # fmt: skip
SOUND = {"spectrogram_length": 96, "patch_size": [8, 8], "feature_size": 64, "hop_length_to_sampling_rate": 100}


@pytest.fixture(scope="module")
def hf():
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def wave():
    return (np.random.default_rng(0).standard_normal(30000) * 0.1).astype(np.float32)


def test_calls_equal_transformers(hf, frames, wave):
    theirs = hf.TvltProcessor(hf.TvltImageProcessor(), hf.TvltFeatureExtractor())
    ours = TvltProcessor(TvltImageProcessor(), TvltFeatureExtractor())
    for call in (
        {"images": list(frames), "audio": wave, "images_mixed": list(frames[::-1]), "sampling_rate": RATE},
        {"images": list(frames)},
        {"audio": [wave, wave[:700]], "sampling_rate": RATE, "mask_audio": True},
        {"audio": wave, "images_mixed": list(frames), "sampling_rate": RATE, "mask_pixel": True},
    ):
        expected, found = theirs(**call, return_tensors="np"), ours(**call)
        assert type(found) is dict
        assert list(found) == list(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=5e-7, err_msg=name)
            assert found[name].dtype == array.dtype
    assert sorted(ours.model_input_names) == sorted(theirs.model_input_names)


def test_keyword_arguments_reach_their_part(frames, wave):
    processor = TvltProcessor(TvltImageProcessor(), TvltFeatureExtractor())
    out = processor(frames, wave, sampling_rate=RATE, resample=0, return_attention_mask=False, size=448, crop_size=448)
    assert list(out) == ["audio_values", "pixel_values", "pixel_mask"]
    assert out["pixel_values"].shape == (1, 2, 3, 448, 448)
    torch = pytest.importorskip("torch")
    assert all(isinstance(value, torch.Tensor) for value in processor(frames, wave, return_tensors="pt").values())


def test_nothing_to_do_is_refused(frames):
    processor = TvltProcessor(TvltImageProcessor(), TvltFeatureExtractor())
    for call in ({}, {"images_mixed": frames}):
        with pytest.raises(ValueError, match="images and audio are both None"):
            processor(**call)
    with pytest.raises(TypeError):
        processor(frames, None, None, None, False, False, "np")


# Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "settings"), [(TvltImageProcessor, IMAGE), (TvltFeatureExtractor, SOUND)])
def test_parts_round_trip(hf, tmp_path, ours, settings):
    part = ours(**settings)
    part.save_pretrained(tmp_path / "ours")
    assert ours.from_pretrained(tmp_path / "ours") == part
    assert ours.from_pretrained(tmp_path / "ours" / PREPROCESSOR_FILE) == part
    assert ours.from_dict(json.loads(part.to_json_string())) == part
    theirs = getattr(hf, ours.__name__).from_pretrained(tmp_path / "ours")
    for name, value in settings.items():
        if hasattr(theirs, name):
            assert getattr(theirs, name) == value, name
    getattr(hf, ours.__name__)(**settings).save_pretrained(tmp_path / "theirs")
    assert ours.from_pretrained(tmp_path / "theirs") == part


def test_merged_file_round_trips(hf, tmp_path, frames, wave):
    processor = TvltProcessor(TvltImageProcessor(**IMAGE), TvltFeatureExtractor(**SOUND))
    processor.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PREPROCESSOR_FILE]
    assert TvltProcessor.from_pretrained(tmp_path) == processor
    assert TvltImageProcessor.from_pretrained(tmp_path) == processor.image_processor
    assert TvltFeatureExtractor.from_pretrained(tmp_path) == processor.feature_extractor
    for theirs in (hf.TvltProcessor.from_pretrained(tmp_path), hf.AutoProcessor.from_pretrained(tmp_path)):
        expected = theirs(list(frames), wave, sampling_rate=RATE, return_tensors="np")
        found = processor(frames, wave, sampling_rate=RATE)
        for name in ("audio_values", "audio_mask", "pixel_values"):
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=5e-7, err_msg=name)
    assert isinstance(hf.AutoImageProcessor.from_pretrained(tmp_path), hf.TvltImageProcessor)
    assert isinstance(hf.AutoFeatureExtractor.from_pretrained(tmp_path), hf.TvltFeatureExtractor)


def test_patch_sizes_that_differ_both_survive(tmp_path):
    processor = TvltProcessor(TvltImageProcessor(patch_size=[32, 16]), TvltFeatureExtractor(patch_size=[8, 4]))
    processor.save_pretrained(tmp_path)
    again = TvltProcessor.from_pretrained(tmp_path)
    assert again.image_processor.patch_size == [32, 16]
    assert again.feature_extractor.patch_size == [8, 4]
    assert json.loads((tmp_path / PREPROCESSOR_FILE).read_text())["patch_size"] == [8, 4]


def test_custom_hop_survives(hf, tmp_path):
    hf.TvltFeatureExtractor(hop_length_to_sampling_rate=100).save_pretrained(tmp_path)
    assert hf.TvltFeatureExtractor.from_pretrained(tmp_path).hop_length == 512  # forgotten
    ours = TvltFeatureExtractor.from_pretrained(tmp_path)
    assert ours.hop_length == 441
    ours.save_pretrained(tmp_path)
    assert hf.TvltFeatureExtractor.from_pretrained(tmp_path).hop_length == 441
    assert TvltFeatureExtractor.from_pretrained(tmp_path, hop_length_to_sampling_rate=50).hop_length == 882
    assert TvltFeatureExtractor.from_pretrained(tmp_path, hop_length=300).hop_length == 300
    odd = TvltFeatureExtractor(hop_length=500)  # no whole ratio gives it
    odd.save_pretrained(tmp_path)
    assert TvltFeatureExtractor.from_pretrained(tmp_path) == odd


def test_file_in_which_transformers_lost_the_image_settings(hf, tmp_path):
    hf.TvltProcessor(hf.TvltImageProcessor(**IMAGE), hf.TvltFeatureExtractor(**SOUND)).save_pretrained(tmp_path)
    alone = TvltProcessor.from_pretrained(tmp_path)
    assert alone.feature_extractor == TvltFeatureExtractor(**SOUND)
    assert alone.image_processor == TvltImageProcessor(patch_size=SOUND["patch_size"])
    config = TvltConfig(image_size=64, image_patch_size=(32, 32), num_frames=3)
    config.save_pretrained(tmp_path)
    beside = TvltProcessor.from_pretrained(tmp_path)
    assert beside.feature_extractor == TvltFeatureExtractor(**SOUND)
    assert beside.image_processor == TvltImageProcessor.from_config(config)


def test_file_of_the_image_processor_alone(hf, tmp_path):
    hf.TvltImageProcessor(**IMAGE).save_pretrained(tmp_path)
    TvltConfig(spectrogram_length=96).save_pretrained(tmp_path)
    processor = TvltProcessor.from_pretrained(tmp_path)
    assert processor.image_processor == TvltImageProcessor(**IMAGE)
    assert processor.feature_extractor == TvltFeatureExtractor(spectrogram_length=96)


def test_flat_file_of_both_parts_and_unknown_keys():
    values = {**IMAGE, **SOUND, "init_mask_generator": False, "random_generator": None, "_valid_processor_keys": []}
    processor = TvltProcessor.from_dict(values)
    assert processor.image_processor == TvltImageProcessor(**IMAGE)
    assert processor.feature_extractor == TvltFeatureExtractor(**SOUND)


@pytest.mark.parametrize("content", ["{", "[1]", "null", "\xff", "[" * 100000])
@pytest.mark.parametrize("kind", [TvltProcessor, TvltImageProcessor, TvltFeatureExtractor])
def test_broken_files_are_refused_by_name(tmp_path, kind, content):
    (tmp_path / PREPROCESSOR_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(FileRefusedError, match=PREPROCESSOR_FILE):
        kind.from_pretrained(tmp_path)


def test_missing_files_and_bad_values_are_refused_by_name(tmp_path):
    with pytest.raises(FileRefusedError, match=r"pass a directory with a preprocessor_config\.json"):
        TvltProcessor.from_pretrained(tmp_path)
    (tmp_path / PREPROCESSOR_FILE).write_text('{"patch_size": "big"}')
    for kind in (TvltProcessor, TvltImageProcessor, TvltFeatureExtractor):
        with pytest.raises(ConfigError, match=r"preprocessor_config\.json: patch_size is 'big'"):
            kind.from_pretrained(tmp_path)


def test_from_config_feeds_the_model():
    config = TvltConfig(
        image_size=32, image_patch_size=(16, 16), num_frames=4, spectrogram_length=64, frequency_length=32,
        audio_patch_size=(8, 16),
    )  # fmt: skip
    processor = TvltProcessor.from_config(config)
    out = processor(np.zeros((4, 20, 30, 3), np.uint8), np.zeros(100_000, np.float32), sampling_rate=RATE)
    assert out["pixel_values"].shape == (1, 4, 3, 32, 32)
    assert out["pixel_mask"].shape == (1, 4 * config.patches_per_frame)
    assert out["audio_values"].shape == (1, 1, 64, 32)
    assert out["audio_mask"].shape == (1, config.time_patches * config.frequency_patches)


def test_import_needs_neither_torch_nor_transformers():
    code = (
        "import sys, numpy as np\n"
        "from tvlt_deploy.processors import TvltProcessor, TvltImageProcessor, TvltFeatureExtractor\n"
        "p = TvltProcessor(TvltImageProcessor(), TvltFeatureExtractor())\n"
        "p(np.zeros((2, 20, 30, 3), np.uint8), np.zeros(600, np.float32), sampling_rate=44100)\n"
        "print(sorted({'torch', 'transformers', 'onnxruntime', 'av'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tensors_without_torch_say_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeError, match="pip install torch"):
        TvltImageProcessor()(np.zeros((20, 30, 3), np.uint8), return_tensors="pt")


def test_every_documented_difference_has_its_test():
    root = Path(__file__).parents[2]
    named = set(
        re.findall(r"`(test_\w+)`", (root / "docs/reference/differences-processors.md").read_text(encoding="utf-8"))
    )
    written = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert named
    assert not {name for name in named if f"def {name}(" not in written}
