"""Bundles of the authors' files: their answers through ONNX Runtime, and what the manifest says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import original
from tests.conftest import FORMS
from tvlt_deploy import export
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import Origin
from tvlt_deploy.errors import CheckpointError, ConfigError, UsageError
from tvlt_deploy.exporters.inference_model import inference_form, standard_attention
from tvlt_deploy.exporters.quantization.observers import Watch
from tvlt_deploy.inference.pipeline import load
from tvlt_deploy.processors import resample
from tvlt_deploy.reference import OriginalCheckpoint
from tvlt_deploy.runtimes import open_runtime
from tvlt_deploy.tasks import TASKS

LIMIT = 1e-4


@pytest.fixture(scope="module")
def original_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """(file, kind of its settings, options) -> a bundle that was exported and verified."""
    made: dict[str, Bundle] = {}

    def make(path: Path, kind: str, **options: Any) -> Bundle:
        key = f"{path} {sorted(options.items())}"
        if key not in made:
            place = tmp_path_factory.mktemp("original") / "bundle"
            made[key] = export(path, place, settings=original.settings_of(kind), **options)
        return made[key]

    return make


def answers(bundle: Bundle, form: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with open_runtime(bundle, "onnxruntime", threads=1, form=form) as runtime:
        return runtime.run(feeds)


def assert_near(actual: np.ndarray, expected: Any, limit: float = LIMIT) -> None:
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=0, atol=limit)


def test_sentiment(original_bundle: Callable[..., Bundle]) -> None:
    bundle = original_bundle(original.path_of("mosei_sentiment"), "mosei_sentiment")
    assert bundle.task.name == "audio-visual-classification"
    assert (bundle.manifest.lineage, bundle.manifest.activation) == ("original", "none")
    assert bundle.manifest.original == Origin("mosei_sentiment", "classifier")
    assert all(variant.parity.verdict == "pass" for variant in bundle.variants)
    for form in FORMS:
        for case in ("plain", "padded"):
            logits = answers(bundle, form, original.feeds(case))["logits"]
            assert_near(logits, original.golden("mosei_sentiment")[f"{case}.classifier"])
        logits = answers(bundle, form, original.end_to_end_feeds())["logits"]
        assert_near(logits, original.golden("mosei_sentiment")["e2e.classifier"])
        logits = answers(bundle, form, original.feeds("all_minus_one"))["logits"]
        assert_near(logits, original.classified(original.weights("mosei_sentiment"), "classifier", "all_minus_one"))


@pytest.fixture
def reconstruction(original_bundle: Callable[..., Bundle]) -> Bundle:
    return original_bundle(original.path_of("pretrain"), "pretrain", task="masked-reconstruction")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain.mae_frame", "padded.mae_frame"])
def test_masked_reconstruction(case: str, reconstruction: Bundle) -> None:
    assert all(variant.parity.verdict == "pass" for variant in reconstruction.variants)
    for form in FORMS:
        actual, expected = answers(reconstruction, form, original.masked_feeds(case)), original.golden("pretrain")
        for ours, theirs in (("pixel", "video"), ("audio", "audio")):
            assert_near(actual[f"{ours}_logits"], expected[f"{case}.pred_{theirs}"])
            assert_near(actual[f"{ours}_label_mask"], expected[f"{case}.loss_mask_{theirs}"], 0)


@pytest.mark.slow
def test_matching(original_bundle: Callable[..., Bundle]) -> None:
    bundle = original_bundle(original.path_of("pretrain"), "pretrain")
    assert bundle.manifest.original == Origin("pretrain", "matching_score")
    assert bundle.manifest.activation == "sigmoid"
    for form in FORMS:
        for case in ("plain", "padded"):
            logits = answers(bundle, form, original.feeds(case))["matching_logits"]
            assert_near(logits, original.golden("pretrain")[f"{case}.matching_score"])


@pytest.mark.slow
def test_features(original_bundle: Callable[..., Bundle]) -> None:
    bundle = original_bundle(original.path_of("pretrain"), "pretrain", task="feature-extraction")
    assert bundle.manifest.activation is None
    for form in FORMS:
        for case in original.CASES:
            tokens = answers(bundle, form, original.feeds(case))["last_hidden_state"]
            expected = original.golden("pretrain")[f"{case}.tokens"]
            assert_near(np.concatenate([tokens[:, :1], tokens[:, 13:], tokens[:, 1:13]], axis=1), expected)


@pytest.mark.slow
def test_spoken_questions(original_bundle: Callable[..., Bundle]) -> None:
    bundle = original_bundle(original.path_of("vqa"), "vqa", labels=("yes", "no", "two", "red", "left"))
    assert list((bundle.config.id2label or {}).values()) == ["yes", "no", "two", "red", "left"]
    assert bundle.manifest.activation == "sigmoid"
    for form in FORMS:
        for case in ("plain", "padded"):
            logits = answers(bundle, form, original.feeds(case, "vqa"))["logits"]
            assert_near(logits, original.golden("vqa")[f"{case}.vqa_classifier"])


@pytest.mark.slow
@pytest.mark.parametrize("head", [None, "matching_score"])
def test_retrieval(head: str | None, tmp_path: Path, original_bundle: Callable[..., Bundle]) -> None:
    path = tmp_path / "retrieval.safetensors"
    content = original.made(path, original.matcher("matching_score"), original.matcher("rank_output"))
    bundle = original_bundle(path, "mosei_sentiment", head=head)
    assert bundle.manifest.original == Origin("retrieval", head or "rank_output")
    for form in FORMS:
        for case in original.CASES:
            logits = answers(bundle, form, original.feeds(case))["matching_logits"]
            assert_near(logits, original.matched(content, head or "rank_output", case))


@pytest.mark.slow
def test_emotions(tmp_path: Path, original_bundle: Callable[..., Bundle]) -> None:
    content = original.made(tmp_path / "emotion.safetensors", original.classifier("classifier", 6))
    bundle = original_bundle(tmp_path / "emotion.safetensors", "mosei_sentiment", precisions=("fp32", "fp16", "bf16"))
    assert {variant.precision for variant in bundle.variants} == {"fp32", "fp16", "bf16"}
    for form in FORMS:
        for case in original.CASES:
            logits = answers(bundle, form, original.feeds(case))["logits"]
            assert_near(logits, original.classified(content, "classifier", case))


@pytest.mark.slow
def test_a_bundle_can_be_exported_again(original_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = original_bundle(original.path_of("mosei_sentiment"), "mosei_sentiment")
    again = export(bundle.directory, tmp_path / "again", verify=False)
    for entry in ("lineage", "original", "activation", "task"):
        assert getattr(again.manifest, entry) == getattr(bundle.manifest, entry)
    assert (again.path("model.safetensors")).read_bytes() == (bundle.path("model.safetensors")).read_bytes()


def test_frames_and_sound_go_in_and_the_authors_answer_comes_out(original_bundle: Callable[..., Bundle]) -> None:
    bundle = original_bundle(original.path_of("mosei_sentiment"), "mosei_sentiment")
    assert "preprocessing.json" in bundle.manifest.files
    assert "preprocessor_config.json" not in bundle.manifest.files
    sounds, pictures = (load_file(original.DATA / f"preprocess_{kind}.safetensors") for kind in ("audio", "video"))
    wave = sounds["main44k.pcm16"].numpy() / np.float32(32768)
    low = sounds["stereo16k.pcm16"].numpy().astype(np.float32).mean(axis=0) / 32768
    with load(bundle, threads=1) as pipe:
        known = original.golden("mosei_sentiment")["e2e.classifier"]
        (first,) = pipe(images=[pictures["frames"].numpy()], audio=[wave], sampling_rate=44100)["logits"]
        assert_near(first, known[0])
        (second,) = pipe(images=[None], audio=[resample(low, 16000)], sampling_rate=44100)["logits"]
        assert_near(second, known[1], limit=1e-3)  # resampled by another filter


def test_calibration_counts_no_masked_patch_in_the_place_of_a_class_token() -> None:
    settings = original.settings_of("pretrain")
    model = OriginalCheckpoint(original.path_of("pretrain"), settings).load("masked-reconstruction")
    form = inference_form(model, TASKS["masked-reconstruction"], standard_attention)
    values = original.masked_feeds("plain.mae_frame")
    values["pixel_mask"][:] = 0  # of three patches shown none is valid, of twenty of sound all are
    with Watch(form) as watched, torch.inference_mode():
        form(*original.tensors(values).values())
    assert watched.observers["encoder.layers.0.key"].histogram.counts.sum() == 20 * 24


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (
            {"task": "masked-reconstruction"},
            CheckpointError,
            "tasks it can serve: feature-extraction, audio-visual-class",
        ),
        ({"head": "rank_output"}, UsageError, "has no head 'rank_output'; it has classifier"),
        ({"labels": ["a", "b"]}, ConfigError, "2 labels were given; the classifier has 1 outputs"),
        ({"settings": None}, UsageError, "does not state its num_heads, num_frames"),
    ],
)
def test_refusals_leave_nothing(options: dict[str, Any], error: type[Exception], says: str, tmp_path: Path) -> None:
    settings = original.settings_of("mosei_sentiment")
    with pytest.raises(error, match=says):
        export(original.path_of("mosei_sentiment"), tmp_path / "bundle", **{"settings": settings, **options})
    assert list(tmp_path.iterdir()) == []


def test_settings_are_for_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file of the authors' code"):
        export(tmp_path, tmp_path / "bundle", settings={})
