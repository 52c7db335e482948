"""The recipe of pre-processing that a bundle holds decides what its model sees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tvlt_deploy
from tests.inference.test_pipeline import Recorder, clip, sound
from tvlt_deploy import Pipeline
from tvlt_deploy.bench.worker import PipelineSession
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.changes import with_file, without_files
from tvlt_deploy.bundle.writer import file_entry, update_manifest
from tvlt_deploy.errors import BundleError, ConfigError, FileRefusedError
from tvlt_deploy.inference.files import answer_files, find_sources
from tvlt_deploy.processors import OriginalProcessor, TvltProcessor, original_masks, resample

RATE = 44100
RECIPE, HF_RECIPE = "preprocessing.json", "preprocessor_config.json"


def give_recipe(directory: Path) -> Bundle:
    """An existing bundle with the original recipe in place of its own."""
    bundle = Bundle(directory)
    OriginalProcessor.from_config(bundle.config).save_pretrained(directory)
    (directory / HF_RECIPE).unlink()
    entry = file_entry(directory / RECIPE)
    update_manifest(bundle, lambda manifest: with_file(without_files(manifest, HF_RECIPE), RECIPE, entry))
    return bundle


@pytest.fixture(scope="module")
def original(classification: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return give_recipe(shutil.copytree(classification.directory, tmp_path_factory.mktemp("original") / "bundle"))


@pytest.fixture
def recorded(original: Bundle) -> tuple[Pipeline, Recorder]:
    recorder = Recorder("audio-visual-classification", original.config)
    return Pipeline(original, recorder, OriginalProcessor.from_pretrained(original.directory)), recorder


def test_a_checkpoint_s_recipe_goes_into_the_bundle(
    classification: Bundle, checkpoint_of: Callable[..., Path], tmp_path: Path, traced_already: None
) -> None:
    checkpoint = shutil.copytree(
        checkpoint_of("TvltForAudioVisualClassification"), tmp_path / "checkpoint", dirs_exist_ok=True
    )
    processor = OriginalProcessor.from_config(classification.config)
    processor.save_pretrained(checkpoint)
    bundle = tvlt_deploy.export(checkpoint, tmp_path / "bundle", task="audio-visual-classification", verify=False)
    assert RECIPE in bundle.manifest.files
    assert HF_RECIPE not in bundle.manifest.files
    assert not (bundle.directory / HF_RECIPE).exists()
    with tvlt_deploy.load(bundle, threads=1) as pipe:
        assert pipe.processor == processor
    (checkpoint / RECIPE).write_text(json.dumps({**processor.to_dict(), "recipe": "tvlt-remix"}))
    with pytest.raises(ConfigError, match=r"preprocessing\.json: recipe is 'tvlt-remix'"):
        tvlt_deploy.export(checkpoint, tmp_path / "other", task="audio-visual-classification")
    OriginalProcessor.from_config(classification.config.replace(image_size=64)).save_pretrained(checkpoint)
    with pytest.raises(ConfigError, match=r"preprocessing\.json sets image_size to 64; config.json needs \(32, 32\)"):
        tvlt_deploy.export(checkpoint, tmp_path / "other", task="audio-visual-classification")
    assert not (tmp_path / "other").exists()


def test_the_recipe_is_hashed_and_there_is_one(original: Bundle, copy_of: Callable[[Bundle], Path]) -> None:
    directory = copy_of(original)
    text = (directory / RECIPE).read_text()
    (directory / RECIPE).write_text(text.replace("30", "31"))
    with pytest.raises(BundleError, match=r"preprocessing\.json has SHA-256"):
        tvlt_deploy.load(directory)
    (directory / RECIPE).write_text(text)
    bundle = Bundle(directory)
    update_manifest(bundle, lambda manifest: with_file(manifest, HF_RECIPE, manifest.files[RECIPE]))
    with pytest.raises(FileRefusedError, match=r"has preprocessor_config\.json and preprocessing\.json"):
        tvlt_deploy.load(bundle)


def test_answers_are_those_of_the_tensors_prepared_by_hand(original: Bundle, classification: Bundle) -> None:
    frames, wave = clip(4), sound(4.5)
    with tvlt_deploy.load(original, threads=1) as pipe:
        prepared = pipe.processor(frames, wave, sampling_rate=RATE)
        pixel_mask, audio_mask = original_masks(prepared["pixel_values"], prepared["audio_values"])
        feeds = {**prepared, "pixel_mask": pixel_mask, "audio_mask": audio_mask}
        by_hand = pipe.runtime.run(feeds)["logits"]
        answered = pipe([frames], [wave], RATE)["logits"]
    np.testing.assert_allclose(answered, by_hand, rtol=0, atol=1e-6)
    with tvlt_deploy.load(classification, threads=1) as pipe:
        assert isinstance(pipe.processor, TvltProcessor)
        assert np.abs(pipe([frames], [wave], RATE)["logits"] - answered).max() > 1e-4


def test_what_is_absent_silent_or_black_is_minus_one_and_masked(recorded: tuple[Pipeline, Recorder]) -> None:
    pipe, recorder = recorded
    pipe(images=[clip(4)])
    pipe(audio=[np.zeros(3 * 8192, np.float32)], sampling_rate=RATE)
    silent, blind = recorder.seen
    assert silent["pixel_mask"].all()
    assert not silent["audio_mask"].any()
    for feeds in recorder.seen:
        for name, mask in zip(("pixel", "audio"), original_masks(feeds["pixel_values"], feeds["audio_values"]),
                              strict=True):  # fmt: skip
            np.testing.assert_array_equal(feeds[f"{name}_mask"], mask)
    assert (blind["pixel_values"] == -1).all()
    assert (blind["audio_values"] == -1).all()
    assert blind["audio_mask"].shape == (1, 8)
    assert not blind["audio_mask"].any()


def test_a_clip_s_answer_does_not_depend_on_the_other_clips(original: Bundle) -> None:
    black, silence = np.zeros((4, 40, 48, 3), np.uint8), np.zeros(2 * 8192, np.float32)
    images = [clip(2, 1), None, clip(4, 2), clip(1, 3)[0], black, None, black]
    waves = [sound(3, 1), sound(6, 2), None, sound(0.5, 4), silence, silence, np.zeros(5 * 8192, np.float32)]
    with tvlt_deploy.load(original, threads=1) as pipe:
        together = pipe(images, waves, RATE)["logits"]
        alone = [pipe([image], [wave], RATE)["logits"][0] for image, wave in zip(images, waves, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wav(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A file of 3 s at 16 kHz and its samples."""
    wavfile = pytest.importorskip("scipy.io.wavfile")
    pytest.importorskip("av")
    wave = (0.2 * np.random.default_rng(5).standard_normal(48000)).astype(np.float32)
    wavfile.write(tmp_path / "sound.wav", 16000, wave)
    return tmp_path / "sound.wav", wave


def test_files_are_resampled_and_cut_as_the_recipe_says(
    recorded: tuple[Pipeline, Recorder], wav: tuple[Path, np.ndarray]
) -> None:
    pipe, recorder = recorded
    path, wave = wav
    longest = 111 * 512 + 1024  # samples that 112 rows see
    (whole,) = answer_files(pipe, find_sources([path]))
    assert whole.duration == pytest.approx(longest / RATE, abs=1e-3)
    heard = recorder.seen[0]["audio_values"]
    assert heard.shape == (1, 1, 112, pipe.config.frequency_length)
    (part,) = answer_files(pipe, find_sources([path]), start=2.5)
    assert part.duration == pytest.approx(0.5)
    extractor = pipe.processor.feature_extractor
    expected = extractor(resample(wave[40000:], 16000), sampling_rate=RATE)
    np.testing.assert_allclose(recorder.seen[1]["audio_values"], expected.audio_values, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(recorder.seen[1]["audio_mask"], expected.audio_mask)


def test_an_image_file_is_a_still_and_an_animation_a_video(recorded: tuple[Pipeline, Recorder], tmp_path: Path) -> None:
    pipe, recorder = recorded
    frames = clip(2)
    Image.fromarray(frames[0]).save(tmp_path / "still.png")
    Image.fromarray(frames[0]).save(
        tmp_path / "moving.png", save_all=True, append_images=[Image.fromarray(frames[1])], duration=200
    )
    for name, expected in (("still.png", frames[0]), ("moving.png", frames)):
        (answer,) = answer_files(pipe, find_sources([tmp_path / name]))
        assert answer.error is None
        made = pipe.processor.image_processor(expected).pixel_values
        np.testing.assert_array_equal(recorder.seen[-1]["pixel_values"], made)


def test_the_bench_measures_the_bundle_s_own_recipe(original: Bundle) -> None:
    session = PipelineSession(
        bundle=str(original.directory),
        backend="onnxruntime",
        device="cpu",
        precision="fp32",
        threads=1,
        trust_engine=None,
        workload="image10",
    )
    assert set(session.once()) >= {"image", "audio", "model"}
    assert isinstance(session.pipe.processor, OriginalProcessor)
