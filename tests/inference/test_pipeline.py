"""Clips in, answers out: order, other clips, absent modalities, labels, and every misunderstanding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tvlt_deploy
from tests.conftest import SMALL
from tests.reference import hf
from tvlt_deploy import Answer, Pipeline
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.changes import without_files
from tvlt_deploy.bundle.writer import update_manifest
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import BundleError, InputError, UsageError
from tvlt_deploy.inference import batching
from tvlt_deploy.processors import TvltProcessor
from tvlt_deploy.processors.masking_noise import masking_noise
from tvlt_deploy.reference import init_checkpoint
from tvlt_deploy.runtimes.base import Closing, check_feeds
from tvlt_deploy.tasks import TASKS

RATE = 44100
STEP = 16 * 512
"""Samples of one patch of sound."""


def clip(frames: int, seed: int = 0, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    return np.random.default_rng([seed, frames]).integers(0, 256, (frames, *size, 3), dtype=np.uint8)


def sound(steps: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng([seed, int(steps * 100)])
    return (0.3 * random.standard_normal(int(steps * STEP))).astype(np.float32)


@pytest.fixture(scope="module")
def pipe_of(bundle_of: Callable[..., Bundle]) -> Iterator[Callable[[str], Pipeline]]:
    opened: dict[str, Pipeline] = {}

    def get(task: str) -> Pipeline:
        if task not in opened:
            opened[task] = tvlt_deploy.load(bundle_of(task), threads=2)
        return opened[task]

    yield get
    for pipe in opened.values():
        pipe.close()


@pytest.fixture
def pipe(pipe_of: Callable[[str], Pipeline]) -> Pipeline:
    return pipe_of("audio-visual-classification")


class Recorder(Closing):
    """A runtime that keeps its feeds and answers with zeros."""

    backend, device, precision = "fake", "cpu", "fp32"

    def __init__(self, task: str, config: TvltConfig) -> None:
        self.config, self.inputs, self.outputs = config, TASKS[task].inputs(config), TASKS[task].outputs(config)
        self.seen: list[dict[str, np.ndarray]] = []

    def run(self, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
        self.seen.append(check_feeds(feeds, self.inputs, self.config))
        batch, pixel = self.seen[-1]["pixel_mask"].shape
        sizes = {"batch": batch, "pixel_patches": pixel, "audio_patches": self.seen[-1]["audio_mask"].shape[1]}
        sizes["tokens"] = 1 + sizes["pixel_patches"] + sizes["audio_patches"]
        return {
            name: np.zeros([sizes.get(axis, axis) for axis in spec.shape], np.float32)  # type: ignore[arg-type,misc]
            for name, spec in self.outputs.items()
        }


@pytest.fixture
def recorded(bundle_of: Callable[..., Bundle]) -> Callable[[str], tuple[Pipeline, Recorder]]:
    def make(task: str) -> tuple[Pipeline, Recorder]:
        bundle = bundle_of(task)
        recorder = Recorder(task, bundle.config)
        return Pipeline(bundle, recorder, TvltProcessor.from_pretrained(bundle.directory)), recorder

    return make


# Company -------------------------------------------------------------------------------------------------------------

MIXED_IMAGES = [clip(2, 1), None, clip(4, 2), clip(1, 3), clip(4, 4), clip(3, 5), None, clip(2, 6)]
MIXED_AUDIO = [sound(3, 1), sound(7, 2), None, sound(0.5, 4), sound(6.2, 5), None, sound(1, 7), sound(3, 8)]


@pytest.mark.parametrize("task", TASKS)
def test_a_clip_s_answer_does_not_depend_on_the_other_clips_or_its_index(
    task: str, pipe_of: Callable[[str], Pipeline]
) -> None:
    pipe = pipe_of(task)
    together = pipe(images=MIXED_IMAGES, audio=MIXED_AUDIO, sampling_rate=RATE)
    backwards = pipe(images=MIXED_IMAGES[::-1], audio=MIXED_AUDIO[::-1], sampling_rate=RATE)
    assert list(together) == list(TASKS[task].output_names)
    alone = [
        pipe(images=[image], audio=[wave], sampling_rate=RATE)
        for image, wave in zip(MIXED_IMAGES, MIXED_AUDIO, strict=True)
    ]
    for name, rows in together.items():
        assert len(rows) == 8
        for index, row in enumerate(rows):
            np.testing.assert_allclose(row, alone[index][name][0], rtol=0, atol=1e-5, err_msg=f"{name} of {index}")
            np.testing.assert_allclose(row, backwards[name][7 - index], rtol=0, atol=1e-5)
    if task == "audio-visual-classification":
        assert np.abs(np.diff(np.asarray(together["logits"]), axis=0)).min() > 1e-5  # no two clips answer alike


def test_answers_are_those_of_the_tensors_prepared_by_hand(pipe: Pipeline) -> None:
    prepared = pipe.processor([clip(3)], [sound(4.5)], sampling_rate=RATE, return_tensors="np")
    by_hand = pipe.runtime.run({name: prepared[name] for name in pipe.runtime.inputs})["logits"]
    np.testing.assert_allclose(pipe([clip(3)], [sound(4.5)], RATE)["logits"], by_hand, rtol=0, atol=1e-6)


def test_little_is_computed_for_padding(recorded: Callable[[str], tuple[Pipeline, Recorder]]) -> None:
    pipe, recorder = recorded("audio-visual-classification")
    random = np.random.default_rng(0)
    frames, steps = random.integers(1, 5, 60), random.integers(1, 8, 60)
    pipe([clip(int(n)) for n in frames], [sound(int(n)) for n in steps], RATE)
    needed = sum(1 + 4 * f + 2 * s for f, s in zip(frames, steps, strict=True))
    computed = sum(len(feeds["pixel_mask"]) * (1 + feeds["pixel_mask"].shape[1] + feeds["audio_mask"].shape[1])
                   for feeds in recorder.seen)  # fmt: skip
    assert sum(len(feeds["pixel_mask"]) for feeds in recorder.seen) == 60
    assert needed <= computed <= needed / 0.95
    assert len(recorder.seen) <= 28  # and yet sizes that are equal share a batch: there are 28 sizes
    valid = sum(feeds["pixel_mask"].sum() + feeds["audio_mask"].sum() for feeds in recorder.seen)
    assert valid == needed - 60


def test_batches_stay_within_the_memory_of_a_cpu(
    recorded: Callable[[str], tuple[Pipeline, Recorder]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(batching.MAX_BATCH_TOKENS, "cpu", 100)
    pipe, recorder = recorded("audio-visual-classification")
    pipe([clip(4)] * 10, [sound(7)] * 10, RATE)  # 31 tokens each
    assert [len(feeds["pixel_mask"]) for feeds in recorder.seen] == [3, 3, 3, 1]


def test_reconstruction_shares_a_batch_among_equal_sizes_only(
    recorded: Callable[[str], tuple[Pipeline, Recorder]],
) -> None:
    pipe, recorder = recorded("masked-reconstruction")
    pipe([clip(2), clip(4), clip(2), clip(2)], [sound(3), sound(3), sound(3), sound(4)], RATE, seed=5)
    assert sorted(len(feeds["pixel_mask"]) for feeds in recorder.seen) == [1, 1, 2]
    for feeds in recorder.seen:
        assert feeds["pixel_mask"].all()
        assert feeds["audio_mask"].all()
        noise = masking_noise(pipe.config, feeds["pixel_values"].shape[1], feeds["audio_values"].shape[2], 5)
        for row in range(len(feeds["pixel_mask"])):
            np.testing.assert_array_equal(feeds["pixel_noise"][row], noise[0])
            np.testing.assert_array_equal(feeds["audio_noise"][row], noise[1])


def test_the_seed_decides_what_is_hidden(pipe_of: Callable[[str], Pipeline]) -> None:
    pipe = pipe_of("masked-reconstruction")
    first, again, other = (pipe([clip(4)], [sound(7)], RATE, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["pixel_label_mask"][0], again["pixel_label_mask"][0])
    assert (first["pixel_label_mask"][0] != other["pixel_label_mask"][0]).any()
    assert first["pixel_label_mask"][0].sum() == 12  # 3/4 of 16 patches
    assert first["audio_label_mask"][0].sum() == 14 - int(14 * 0.85)


# Modalities ----------------------------------------------------------------------------------------------------------


def test_an_absent_modality_is_one_masked_frame_or_patch(
    recorded: Callable[[str], tuple[Pipeline, Recorder]],
) -> None:
    pipe, recorder = recorded("audio-visual-classification")
    pipe(images=[clip(2)])
    pipe(audio=[sound(3)], sampling_rate=RATE)
    silent, blind = recorder.seen
    assert silent["pixel_mask"].all()
    assert silent["audio_mask"].shape == (1, 2)
    assert not silent["audio_mask"].any()
    assert blind["pixel_values"].shape == (1, 1, 3, 32, 32)
    assert not blind["pixel_mask"].any()
    assert blind["audio_mask"].shape == (1, 6)
    assert blind["audio_mask"].all()


def test_outputs_per_token_are_trimmed_to_what_is_valid(pipe_of: Callable[[str], Pipeline]) -> None:
    images, waves = [clip(2), None, clip(4), clip(2)], [sound(3), sound(7), None, sound(2.5)]
    features = pipe_of("feature-extraction")(images, waves, RATE)
    assert [row.shape for row in features["last_hidden_state"]] == [(15, 64), (15, 64), (17, 64), (15, 64)]
    assert [row.shape for row in features["last_pixel_hidden_state"]] == [(8, 64), (0, 64), (16, 64), (8, 64)]
    assert [row.shape for row in features["last_audio_hidden_state"]] == [(6, 64), (14, 64), (0, 64), (6, 64)]
    for whole, pixel, audio in zip(*features.values(), strict=True):
        np.testing.assert_array_equal(whole[1:], np.concatenate([pixel, audio]))
    rebuilt = pipe_of("masked-reconstruction")(images, waves, RATE)
    assert [row.shape for row in rebuilt["pixel_logits"]] == [(8, 768), (0, 768), (16, 768), (8, 768)]
    assert [row.shape for row in rebuilt["audio_label_mask"]] == [(6,), (14,), (0,), (6,)]
    fixed = pipe_of("audio-visual-matching")(images, waves, RATE)["matching_logits"]
    assert isinstance(fixed, np.ndarray)
    assert fixed.shape == (4, 1)


def test_clips_come_in_many_wrappings(pipe: Pipeline) -> None:
    frames = clip(3)
    expected = pipe(images=[frames])["logits"]
    for wrapped in (list(frames), tuple(frames), [Image.fromarray(frame) for frame in frames]):
        np.testing.assert_array_equal(pipe(images=[wrapped])["logits"], expected)
    np.testing.assert_array_equal(pipe(images=(frames,))["logits"], expected)
    one = pipe(images=[frames[:1]])["logits"]
    for single in (frames[0], [frames[0]], Image.fromarray(frames[0])):
        np.testing.assert_array_equal(pipe(images=[single])["logits"], one)
    both = pipe(images=[frames, frames[:1]])["logits"]
    np.testing.assert_allclose(both, np.concatenate([expected, one]), rtol=0, atol=1e-5)
    heard = pipe(audio=[sound(2)], sampling_rate=RATE)["logits"]
    np.testing.assert_array_equal(pipe(audio=[sound(2).tolist()], sampling_rate=RATE)["logits"], heard)


# Labels --------------------------------------------------------------------------------------------------------------


def answering(bundle: Bundle, config: TvltConfig) -> Pipeline:
    pipe = Pipeline(bundle, Recorder(bundle.task.name, config), TvltProcessor.from_pretrained(bundle.directory))
    pipe.config = config
    return pipe


def test_classes_get_softmax_scores_in_the_model_s_order(classification: Bundle) -> None:
    config = classification.config.replace(id2label={0: "sad", 1: "glad", 2: "calm"})
    logits = np.array([[0.0, np.log(3), 0.0], [1000.0, 0.0, -1000.0]], np.float32)
    first, second = answering(classification, config).answers(logits)
    assert first.label == "glad"
    assert list(first.scores) == ["sad", "glad", "calm"]
    assert list(first.scores.values()) == pytest.approx([0.2, 0.6, 0.2], abs=1e-6)
    assert first.score == first.scores["glad"]
    assert second == Answer("sad", 1.0, {"sad": 1.0, "glad": 0.0, "calm": 0.0})


def test_regression_and_a_single_label_give_the_value(classification: Bundle) -> None:
    for changes in ({"loss_type": "regression", "id2label": {0: "mood"}}, {"id2label": {0: "mood"}}):
        (answer,) = answering(classification, classification.config.replace(**changes)).answers(np.array([[-1.25]]))
        assert answer == Answer("mood", -1.25, {"mood": -1.25})
    several = classification.config.replace(loss_type="regression", id2label={0: "a", 1: "b"})
    (answer,) = answering(classification, several).answers(np.array([[0.5, 2.0]]))
    assert answer == Answer("b", 2.0, {"a": 0.5, "b": 2.0})


@pytest.mark.filterwarnings("error")
def test_labels_that_do_not_exclude_each_other_get_a_score_each(classification: Bundle) -> None:
    labels = {0: "happy", 1: "sad", 2: "angry"}
    config = classification.config.replace(problem_type="multi_label_classification", id2label=labels)
    first, second = answering(classification, config).answers(np.array([[np.log(3), 0.0, np.log(4)], [-2000, -2, -3]]))
    assert first.scores == pytest.approx({"happy": 0.75, "sad": 0.5, "angry": 0.8})
    assert (first.label, first.score) == ("angry", first.scores["angry"])
    assert second.label == "sad"
    assert second.scores["happy"] == 0.0


def test_the_sign_of_a_sentiment_has_a_name(classification: Bundle) -> None:
    config = classification.config.replace(
        loss_type="regression", id2label={0: "sentiment"}, sign_labels=("negative", "positive")
    )
    found = answering(classification, config).answers(np.array([[1.25], [0.0], [-0.5]]))
    assert [answer.label for answer in found] == ["positive", "positive", "negative"]
    assert found[2] == Answer("negative", -0.5, {"sentiment": -0.5})


@pytest.mark.filterwarnings("error")
def test_matching_is_a_sigmoid(matching: Bundle) -> None:
    pipe = answering(matching, matching.config)
    likely, unlikely, certain, never = pipe.answers(np.array([[np.log(4)], [-np.log(4)], [2000.0], [-2000.0]]))
    assert likely.label == "match"
    assert likely.score == pytest.approx(0.8)
    assert likely.scores == pytest.approx({"match": 0.8, "mismatch": 0.2})
    assert unlikely.label == "mismatch"
    assert unlikely.score == pytest.approx(0.8)
    assert certain.scores == {"match": 1.0, "mismatch": 0.0}
    assert never.label == "mismatch"


def test_predictions_are_the_answers_to_the_outputs(pipe: Pipeline) -> None:
    logits = np.asarray(pipe(MIXED_IMAGES, MIXED_AUDIO, RATE)["logits"])
    answers = pipe.predict(MIXED_IMAGES, MIXED_AUDIO, RATE)
    assert answers == pipe.answers(logits)
    assert [answer.label for answer in answers] == [f"LABEL_{row.argmax()}" for row in logits]
    for answer in answers:
        assert sum(answer.scores.values()) == pytest.approx(1)


@pytest.mark.parametrize("task", ["feature-extraction", "masked-reconstruction"])
def test_tasks_without_labels_cannot_predict(task: str, pipe_of: Callable[[str], Pipeline]) -> None:
    with pytest.raises(UsageError, match=rf"{task} returns arrays, not labels \(call the pipeline itself\)"):
        pipe_of(task).predict(images=[clip(1)])


# Misunderstandings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({}, "images and audio are both None; expected at least one of them"),
        ({"images": [], "audio": []}, "images and audio are empty; expected at least one clip"),
        ({"images": clip(2)}, r"images is a ndarray of shape \(2, 40, 48, 3\); expected a list .* images=\[...\]"),
        ({"audio": sound(1)}, r"audio is a ndarray of shape \(8192,\); expected a list with one entry per clip"),
        ({"images": "video.mp4"}, "images is a 'video.mp4'; expected a list with one entry per clip"),
        (
            {"images": list(clip(3))},
            r"images is a flat list of 3 frames; expected a list of clips \(a flat list of frames is one clip: "
            r"images=\[\[frame, frame, ...\]\]",
        ),
        (
            {"images": list(clip(3)), "audio": [sound(1)]},
            r"images has 3 entries and audio 1; expected one of each per clip \(a flat list of frames is one clip",
        ),
        ({"images": [clip(1)], "audio": [None, None]}, r"images has 1 entries and audio 2; .* \(use None for"),
        ({"images": [clip(1), None], "audio": [None, None]}, r"clip 1 has neither frames nor sound \(leave it out\)"),
        ({"audio": [sound(1)], "sampling_rate": 16000}, "resampl"),
        ({"images": [clip(1), clip(2)], "audio": [sound(1), sound(0.01)]}, "^clip 1: .*81 samples; expected .* 512"),
        ({"audio": [np.full(4000, np.nan, np.float32)]}, "NaN"),
        ({"audio": [np.zeros((2, 4000), np.float32)]}, "2, 4000"),
        ({"images": [clip(5)]}, "5 frames"),
    ],
)  # fmt: skip
def test_misunderstandings_are_explained(call: dict[str, Any], says: str, pipe: Pipeline) -> None:
    with pytest.raises(InputError, match=says) as caught:
        pipe(**{"sampling_rate": RATE, **call})
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 2


def test_a_bundle_without_pre_processing_says_what_to_do_instead(
    bundle_of: Callable[..., Bundle], copy_of: Callable[[Bundle], Any]
) -> None:
    copy = copy_of(bundle_of("audio-visual-classification"))
    bundle = Bundle(copy)
    update_manifest(bundle, lambda manifest: without_files(manifest, "preprocessor_config.json"))
    with pytest.raises(
        BundleError,
        match=r"has no preprocessor_config.json or preprocessing.json: .* \(use tvlt_deploy.runtimes.open_run",
    ):
        tvlt_deploy.load(copy)


def test_loading_passes_on_what_was_asked(bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of("audio-visual-classification")
    with tvlt_deploy.load(str(bundle.directory), backend="torch", precision="bf16") as pipe:
        assert (pipe.runtime.backend, pipe.runtime.precision) == ("torch", "bf16")
        assert pipe.predict(images=[clip(1)])[0].label in ("LABEL_0", "LABEL_1")
    with pytest.raises(InputError, match="this runtime is closed"):
        pipe.predict(images=[clip(1)])
    with tvlt_deploy.load(bundle, device="cuda", allow_fallback=True) as pipe:
        assert pipe.runtime.device == "cpu"


@pytest.mark.slow
def test_a_model_of_other_sizes_answers_from_end_to_end(tmp_path: Any) -> None:
    config = TvltConfig(**{**hf.TINY, **SMALL, "image_size": [32, 48], "audio_patch_size": [8, 16], "num_labels": 3})
    init_checkpoint(tmp_path / "c", config, 0, "TvltForAudioVisualClassification")
    tvlt_deploy.export(tmp_path / "c", tmp_path / "b", verify=False)
    with tvlt_deploy.load(tmp_path / "b") as fast, tvlt_deploy.load(tmp_path / "b", backend="torch") as slow:
        np.testing.assert_allclose(
            fast(MIXED_IMAGES, MIXED_AUDIO, RATE)["logits"],
            slow(MIXED_IMAGES, MIXED_AUDIO, RATE)["logits"],
            rtol=0,
            atol=1e-5,
        )
