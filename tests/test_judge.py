"""The trained model, its task and its measurements can be relied on to see what reduced precision costs."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from benchmarks.accuracy.judge import (
    CHECKPOINT,
    evaluate,
    judge,
    judge_methods,
    judge_naive,
    logits_of,
    row_cosines,
    top1_agreement,
)
from benchmarks.accuracy.naive import naive_int8
from benchmarks.accuracy.outliers import inject
from benchmarks.accuracy.synthetic import CLASSES, CONFIG, RATE, Clips, make_clips, raw_clip, write_files
from tvlt_deploy import export
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.writer import write_manifest
from tvlt_deploy.exporters.quantization.histogram import METHODS
from tvlt_deploy.media import pair_folder, read_clip
from tvlt_deploy.reference import TvltForAudioVisualClassification, TvltModel
from tvlt_deploy.tasks import TASKS

CLIPS = 400


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make_clips("held-out", CLIPS)


@pytest.fixture(scope="module")
def calibration() -> Clips:
    return make_clips("calibration", 64)


@pytest.fixture(scope="module")
def model() -> TvltForAudioVisualClassification:
    return TvltForAudioVisualClassification.from_pretrained(CHECKPOINT)


def test_checkpoint_is_small_and_fits_the_task(model):
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 2e6
    assert model.dtype == torch.float32
    assert model.config.replace(architectures=(), extras={}) == CONFIG


def test_clips_are_seeded_and_splits_differ(clips):
    again = make_clips("held-out", 3)
    for name, values in again.feeds.items():
        np.testing.assert_array_equal(values, clips.feeds[name][:3])
    sounds = [raw_clip(split, 0, seed).waveform for split in ("train", "held-out", "calibration") for seed in (0, 1)]
    assert len({sound.tobytes() for sound in sounds}) == len(sounds)
    assert np.bincount(clips.labels, minlength=CLASSES).min() > CLIPS / CLASSES / 2


def test_clips_have_many_sizes_and_padding(clips):
    frames = clips.feeds["pixel_mask"].sum(axis=1)
    steps = clips.feeds["audio_mask"].sum(axis=1)
    assert len(set(frames)) >= 3
    assert len(set(steps)) >= 4


def test_files_give_the_very_same_clips(tmp_path):
    labels = write_files(tmp_path, "calibration", 6)
    for index, (pictures, sound) in enumerate(pair_folder(tmp_path)):
        read, raw = read_clip(pictures, audio=sound, frames=CONFIG.num_frames), raw_clip("calibration", index)
        assert labels[index] == raw.label
        np.testing.assert_array_equal(read.frames, raw.frames)
        np.testing.assert_array_equal(np.rint(read.waveform * 32768), raw.waveform)
    assert RATE == 44100


def test_accuracy_is_high_but_not_full(model, clips):
    assert 0.95 <= evaluate(model, clips) < 1


@pytest.mark.parametrize("sense", ["pixel", "audio"])
def test_both_senses_are_needed(model, clips, sense):
    assert evaluate(model, clips.without(sense)) < 1 / CLASSES + 0.1


def test_padding_changes_no_answer(model, clips):
    whole = model(**{name: torch.from_numpy(values[:32]) for name, values in clips.feeds.items()}).logits
    some = Clips({name: values[:32] for name, values in clips.feeds.items()}, clips.seen[:32], clips.heard[:32])
    alone = np.concatenate([logits_of(model, clip) for clip in _singles(some)])
    np.testing.assert_allclose(alone, whole.detach().numpy(), atol=1e-4)


def _singles(clips: Clips) -> list[Clips]:
    return [
        Clips(
            {name: values[[index]] for name, values in clips.feeds.items()}, clips.seen[[index]], clips.heard[[index]]
        )
        for index in range(len(clips))
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_outliers_keep_the_function(model, clips, seed):
    expected = logits_of(model, clips)
    actual = logits_of(inject(model, seed=seed), clips)
    assert not torch.equal(inject(model).tvlt.encoder.layer[0].layernorm_before.weight, _first_gain(model))
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def _first_gain(model: TvltForAudioVisualClassification) -> torch.Tensor:
    return model.tvlt.encoder.layer[0].layernorm_before.weight


def test_naive_int8_is_fine_without_outliers_and_wrecked_with_them(model, clips, calibration):
    def accuracy_in_int8(changed: TvltForAudioVisualClassification) -> float:
        return evaluate(naive_int8(changed, calibration.batches()), clips)

    full = evaluate(model, clips)
    assert accuracy_in_int8(model) >= full - 0.01
    assert accuracy_in_int8(inject(model)) <= full - 0.02
    assert accuracy_in_int8(inject(model, factor=100)) <= full - 0.2


def test_measures_of_a_model_against_itself_are_perfect(model, clips):
    encoder = TvltModel.from_pretrained(CHECKPOINT)
    assert top1_agreement(model, model, clips) == 1
    np.testing.assert_allclose(row_cosines(encoder, encoder, clips), 1)
    assert row_cosines(naive_int8(encoder, clips.batches()), encoder, clips).min() < 0.99999


@pytest.mark.parametrize(
    ("task", "measured"),
    [
        ("audio-visual-classification", {"accuracy", "agreement"}),
        ("feature-extraction", {"min_cosine", "mean_cosine"}),
    ],
)
def test_judge_measures_what_the_task_has(tmp_path, clips, task, measured):
    shutil.copytree(CHECKPOINT, tmp_path / "bundle")
    write_manifest(tmp_path / "bundle", TASKS[task], CONFIG, [])
    bundle = Bundle(tmp_path / "bundle")
    scores = [*judge(bundle, clips), judge_naive(bundle, clips, "bundle")]
    assert [(score.backend, score.precision, score.method) for score in scores] == [
        ("torch", "fp32", ""),
        ("torch", "bf16", ""),
        ("torch", "int8", "naive minmax"),
    ]
    for score in scores:
        values = {name: getattr(score, name) for name in ("accuracy", "agreement", "min_cosine", "mean_cosine")}
        assert {name for name, value in values.items() if value is not None} == measured
        assert (score.bundle, score.reason) == ("bundle", "")
    assert scores[0].agreement in (None, 1)
    assert scores[0].min_cosine in (None, pytest.approx(1))


@pytest.mark.slow
def test_judge_scores_every_graph_and_method(tmp_path):
    bundle, clips = export(CHECKPOINT, tmp_path / "bundle", verify=False), make_clips("held-out", 32)
    exact = [score for score in judge(bundle, clips) if score.precision == "fp32" and not score.reason]
    assert {score.form for score in exact if score.backend == "onnxruntime"} == {v.form for v in bundle.variants}
    assert all(score.agreement == 1 for score in exact)
    scores = list(judge_methods(bundle, clips))
    assert {score.method for score in scores} == {f"{m}{s}" for m in METHODS for s in ("", " + smooth")}
    assert all(score.accuracy > 0.8 for score in scores if not score.reason)
