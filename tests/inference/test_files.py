"""Media files to answers: their order, bad files, windows, and what is found in folders."""

from __future__ import annotations

import json
import warnings
import wave
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tvlt_deploy
from tests import truth
from tests.reference import hf
from tvlt_deploy import Pipeline
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.errors import InputError, MediaError, UsageError
from tvlt_deploy.inference.files import FileAnswer, answer_files, check_window, find_sources
from tvlt_deploy.runtimes.base import Closing

pytest.importorskip("av")

RATE = 44100


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)


def levels(seconds: float, seed: int) -> np.ndarray:
    """(samples,) int16."""
    noise = np.random.default_rng(seed).normal(size=round(seconds * RATE))
    return (3000 * noise).clip(-32768, 32767).astype(np.int16)


def write_wav(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def write_png(path: Path, seed: int) -> Path:
    Image.fromarray(pixels(seed)).save(path)
    return path


@pytest.fixture(scope="module")
def pipe(bundle_of: Callable[..., Bundle]) -> Iterator[Pipeline]:
    with tvlt_deploy.load(bundle_of("audio-visual-classification"), threads=2) as pipe:
        yield pipe


def hf_logits(bundle: Bundle, checkpoint: Path, frame: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """What transformers answers to one frame (height, width, 3) and its sound (samples,) float32."""
    settings = json.loads(bundle.path("preprocessor_config.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        feeds = {
            **hf.transformers.TvltImageProcessor(**settings["image_processor"])([frame], return_tensors="np"),
            **hf.transformers.TvltFeatureExtractor(**settings["feature_extractor"])(
                samples, sampling_rate=RATE, return_tensors="np"
            ),
        }
    return truth.hf_answers("audio-visual-classification", checkpoint, feeds)["logits"][0]


# Answers -------------------------------------------------------------------------------------------------------------


def test_files_are_answered_in_order_as_transformers_answers_them_and_a_bad_one_fails_alone(
    pipe: Pipeline, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    sources: list[tuple[Path, Path | None]] = []
    for seed in range(10):  # more than are read at a time
        sound = write_wav(tmp_path / f"{seed}.wav", levels(0.25 + 0.1 * (seed % 4), seed))
        sources.append((write_png(tmp_path / f"{seed}.png", seed), sound))
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    sources.insert(3, (tmp_path / "bad.mp4", None))
    answers = list(answer_files(pipe, sources))
    assert [(answer.media, answer.audio) for answer in answers] == sources
    bad = answers.pop(3)
    assert isinstance(bad.error, MediaError)
    assert "bad.mp4" in str(bad.error)
    assert (bad.answer, bad.prepared, bad.outputs) == (None, None, {})
    checkpoint = checkpoint_of("TvltForAudioVisualClassification")
    for seed, answer in enumerate(answers):
        assert answer.error is None
        samples = levels(0.25 + 0.1 * (seed % 4), seed).astype(np.float32) / 32768
        expected = hf_logits(pipe.bundle, checkpoint, pixels(seed), samples)
        np.testing.assert_allclose(answer.outputs["logits"], expected, rtol=0, atol=1e-4)
        assert answer.answer is not None
        assert answer.answer.label == f"LABEL_{expected.argmax()}"
        assert (answer.frames, answer.has_sound) == (1, True)


def test_a_window_of_a_file_is_answered_as_a_file_of_only_that_window(pipe: Pipeline, tmp_path: Path) -> None:
    samples = levels(1.5, 7)
    entire = write_wav(tmp_path / "entire.wav", samples)
    part = write_wav(tmp_path / "part.wav", samples[RATE // 2 : RATE])
    (window,) = answer_files(pipe, [(entire, None)], start=0.5, duration=0.5)
    (alone,) = answer_files(pipe, [(part, None)])
    assert (window.start, window.duration) == (0.5, 0.5)
    assert (alone.start, alone.duration) == (0.0, 0.5)
    np.testing.assert_array_equal(window.outputs["logits"], alone.outputs["logits"])
    (other,) = answer_files(pipe, [(entire, None)], start=0.0, duration=0.5)
    assert (other.outputs["logits"] != window.outputs["logits"]).any()


def test_a_file_that_ends_too_early_is_a_warning_or_with_strict_an_error(pipe: Pipeline, tmp_path: Path) -> None:
    cut = write_wav(tmp_path / "cut.wav", levels(1, 1))
    cut.write_bytes(cut.read_bytes()[: -cut.stat().st_size // 2])
    good = write_wav(tmp_path / "good.wav", levels(0.3, 2))
    for strict in (False, True):
        first, second = answer_files(pipe, [(cut, None), (good, None)], strict=strict)
        assert second.answer is not None
        if strict:
            assert isinstance(first.error, MediaError)
            assert "without --strict this is a warning" in str(first.error)
            assert first.answer is None
        else:
            assert first.answer is not None
            assert "the header states 1.00 s" in first.warnings[0]


class Refusing(Closing):
    """A runtime that refuses batches with a clip of one frame."""

    def __init__(self, runtime: Any) -> None:
        self.runtime, self.calls = runtime, 0
        self.backend, self.device, self.precision = runtime.backend, runtime.device, runtime.precision
        self.inputs, self.outputs = runtime.inputs, runtime.outputs

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        self.calls += 1
        frames = feeds["pixel_mask"].sum(axis=1)
        if (frames == self.runtime.config.patches_per_frame).any():
            raise InputError("one frame is refused")
        answers: dict[str, np.ndarray] = self.runtime.run(feeds)
        return answers


def test_a_clip_that_the_runtime_refuses_fails_alone(pipe: Pipeline, tmp_path: Path) -> None:
    refusing = Pipeline(pipe.bundle, Refusing(pipe.runtime), pipe.processor)
    sources: list[tuple[Path, Path | None]] = [
        (write_wav(tmp_path / "a.wav", levels(0.3, 1)), None),
        (write_png(tmp_path / "b.png", 2), None),
        (write_wav(tmp_path / "c.wav", levels(0.3, 3)), None),
    ]
    before, refused, after = answer_files(refusing, sources)
    assert str(refused.error) == "one frame is refused"
    assert refused.answer is None
    assert refused.to_dict()["error"] == "one frame is refused"
    expected = [answer.answer for answer in answer_files(pipe, [sources[0], sources[2]])]
    assert [before.answer, after.answer] == expected


def test_an_answer_is_json_without_its_arrays(bundle_of: Callable[..., Bundle], tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "a.wav", levels(0.5, 1))
    with tvlt_deploy.load(bundle_of("feature-extraction"), threads=2) as pipe:
        (answer,) = answer_files(pipe, [(sound, None)])
    row = json.loads(json.dumps(answer.to_dict()))
    assert (row["media"], row["audio"], row["error"], row["label"]) == (str(sound), None, None, None)
    # 44 rows of 512 samples fill three patches of 16 rows, each with two bands
    assert row["outputs"] == {
        "last_hidden_state": [7, 64], "last_pixel_hidden_state": [0, 64], "last_audio_hidden_state": [6, 64]
    }  # fmt: skip
    light = answer.without_arrays()
    assert light.prepared is None
    assert light.to_dict() == answer.to_dict()
    assert all(values.base.size == 1 for values in light.outputs.values())  # one number, whatever the shape


# Sources -------------------------------------------------------------------------------------------------------------


def test_a_folder_is_its_media_files_with_equal_stems_paired(tmp_path: Path) -> None:
    for name in ("b.mp4", "b.wav", "a.png", "c.flac", "notes.txt"):
        (tmp_path / name).touch()
    pairs = [(tmp_path / "a.png", None), (tmp_path / "b.mp4", tmp_path / "b.wav"), (tmp_path / "c.flac", None)]
    assert find_sources([tmp_path]) == pairs
    assert find_sources([tmp_path / "c.flac", str(tmp_path)]) == [pairs[2], *pairs]  # in the order of the arguments
    assert find_sources([tmp_path / "a.png"], audio=tmp_path / "c.flac") == [(tmp_path / "a.png", tmp_path / "c.flac")]


@pytest.mark.parametrize(
    ("media", "audio", "says"),
    [
        ([], None, "no media files were given; expected at least one"),
        (["nowhere.mp4"], None, "nowhere.mp4 does not exist .*paths of files or folders"),
        (["a.png"], "nowhere.wav", "nowhere.wav does not exist"),
        (["empty"], None, "empty contains no media files"),
        (["a.png", "a.png"], "b.wav", "--audio is the sound of one media file; 2 were given"),
        (["empty"], "b.wav", "--audio is the sound of one media file; .*empty is a folder"),
    ],
)
def test_files_that_cannot_be_meant_are_refused(media: list[str], audio: str | None, says: str, tmp_path: Path) -> None:
    for name in ("a.png", "b.wav"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=says) as caught:
        find_sources([tmp_path / name for name in media], None if audio is None else tmp_path / audio)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("start", "duration"), [(-1, None), (0, 0), (0, -2), (float("nan"), None)])
def test_a_window_that_no_file_has_is_refused(start: float, duration: float | None) -> None:
    with pytest.raises(InputError):
        check_window(start, duration)


def test_an_answer_knows_how_many_frames_the_model_received() -> None:
    assert FileAnswer(Path("a.mp4"), None, frame_times=(0.0, 0.5)).frames == 2
