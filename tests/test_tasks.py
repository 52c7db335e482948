"""The task table: names, shapes and the default of a checkpoint."""

from __future__ import annotations

import pytest

from tvlt_deploy import reference
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import UsageError
from tvlt_deploy.tasks import PRECISIONS, TASKS, TOLERANCES, default_task, get_task, token_counts


def test_the_tasks_and_precisions_there_are() -> None:
    assert list(TASKS) == [
        "feature-extraction", "audio-visual-classification", "audio-visual-matching", "masked-reconstruction",
    ]  # fmt: skip
    assert PRECISIONS == ("fp32", "fp16", "bf16", "int8", "fp8")
    for task in TASKS.values():
        assert hasattr(reference, task.reference)
        assert get_task(task.name) is task


def test_tolerances_are_those_promised() -> None:
    relative = {name: limits.relative for name, limits in TOLERANCES.items()}
    assert relative == {"fp32": 1e-4, "fp16": 0.01, "bf16": 0.05, "int8": 0.2, "fp8": 0.2}
    cosine = {name: limits.cosine for name, limits in TOLERANCES.items()}
    assert cosine == {"fp32": 0.99999, "fp16": 0.9999, "bf16": 0.999, "int8": 0.99, "fp8": 0.99}
    assert (TOLERANCES["fp32"].absolute_logits, TOLERANCES["fp32"].absolute_hidden) == (1e-4, 1e-3)
    assert [TOLERANCES[name].invariant for name in ("fp32", "fp16", "bf16", "int8")] == [1e-5, 2e-3, 2e-2, 0.1]


def test_shapes_follow_the_configuration() -> None:
    inputs = TASKS["masked-reconstruction"].inputs(TvltConfig())
    assert {name: spec.shape for name, spec in inputs.items()} == {
        "pixel_values": ("batch", "frames", 3, 224, 224),
        "audio_values": ("batch", 1, "rows", 128),
        "pixel_mask": ("batch", "pixel_patches"),
        "audio_mask": ("batch", "audio_patches"),
        "pixel_noise": ("batch", "pixel_patches"),
        "audio_noise": ("batch", "audio_patches"),
    }
    assert {spec.dtype for spec in inputs.values()} == {"float32"}
    assert list(TASKS["audio-visual-classification"].inputs(TvltConfig())) == list(inputs)[:4]
    config = TvltConfig(num_labels=7, image_patch_size=(8, 16), hidden_size=36)
    assert TASKS["audio-visual-classification"].outputs(config)["logits"].shape == ("batch", 7)
    assert TASKS["masked-reconstruction"].outputs(config)["pixel_logits"].shape == ("batch", "pixel_patches", 384)
    assert TASKS["feature-extraction"].outputs(config)["last_hidden_state"].shape == ("batch", "tokens", 36)


def test_tokens_are_counted_in_whole_patches() -> None:
    assert token_counts(TvltConfig(), 8, 864) == (1568, 432)
    assert token_counts(TvltConfig(audio_patch_size=(8, 32)), 1, 24) == (196, 12)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "feature-extraction"),
        ({"architectures": ["TvltModel"]}, "feature-extraction"),
        ({"architectures": ["TvltForAudioVisualClassification"]}, "audio-visual-classification"),
        ({"architectures": ["TvltForPreTraining"]}, "audio-visual-matching"),
        ({"architectures": ["TvltForPreTraining"], "task_matching": False}, "masked-reconstruction"),
    ],
)
def test_a_checkpoint_names_its_task(changes: dict[str, object], name: str) -> None:
    assert default_task(TvltConfig(**changes)).name == name  # type: ignore[arg-type]


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="task is 'speech'; expected one of feature-extraction, audio-visual-class"):
        get_task("speech")
    with pytest.raises(UsageError, match=r"architectures are ViTModel; expected one of TvltModel, .* \(select a task"):
        default_task(TvltConfig(architectures=("ViTModel",)))
