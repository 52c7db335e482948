"""Exported graphs on ONNX Runtime against transformers 4.40.2 on the same checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import truth
from tests.conftest import FORMS, SMALL
from tests.reference import hf
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError
from tvlt_deploy.exporters.inference_model import Masking, inference_form, kept_fraction, standard_attention
from tvlt_deploy.reference import init_checkpoint, open_checkpoint
from tvlt_deploy.tasks import TASKS

IDS = ["-".join(map(str, case)).replace(" ", "_") for case in truth.CASES]


def case_feeds(task: str, config: TvltConfig, case: tuple[Any, ...]) -> truth.Feeds:
    values = truth.feeds(config, *case)
    return truth.with_noise(config, values) if TASKS[task].needs_noise else values


@pytest.mark.parametrize("case", truth.CASES, ids=IDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", TASKS)
def test_answers_are_those_of_transformers(
    task: str, form: str, case: tuple[Any, ...], runtime_of: Callable[..., Any], checkpoint_of: Callable[..., Path]
) -> None:
    runtime = runtime_of(task, form)
    values = case_feeds(task, runtime.config, case)
    found = runtime.run(values)
    truth.assert_close(found, truth.hf_answers(task, checkpoint_of(TASKS[task].architecture), values))
    shapes = {"batch": case[0], "pixel_patches": case[1] * 4, "audio_patches": case[2] * 2}
    shapes["tokens"] = 1 + shapes["pixel_patches"] + shapes["audio_patches"]
    for name, spec in runtime.outputs.items():
        assert found[name].shape == tuple(shapes.get(axis, axis) for axis in spec.shape)


def test_the_cases_can_tell_right_from_wrong(features: Bundle, runtime_of: Callable[..., Any]) -> None:
    # A mask that did nothing would pass if the answers did not depend on it.
    runtime = runtime_of("feature-extraction")
    for case in truth.CASES:
        values = truth.feeds(features.config, *case)
        whole = {**values, "pixel_mask": np.ones_like(values["pixel_mask"])}
        whole["audio_mask"] = np.ones_like(values["audio_mask"])
        difference = np.abs(runtime.run(values)["last_hidden_state"] - runtime.run(whole)["last_hidden_state"]).max()
        masked = any(not values[name].all() for name in ("pixel_mask", "audio_mask"))
        # where nothing at all is valid, attention is uniform: neither masked nor plain
        assert (difference > 1e-2) == masked, case


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "quick_gelu": ("audio-visual-classification", {"hidden_act": "quick_gelu"}),
    "relu": ("audio-visual-classification", {"hidden_act": "relu"}),
    "gelu_new": ("feature-extraction", {"hidden_act": "gelu_new"}),
    "no qkv bias": ("feature-extraction", {"qkv_bias": False}),
    "mean pooling": ("audio-visual-matching", {"use_mean_pooling": True}),
    "mean pooling, features": ("feature-extraction", {"use_mean_pooling": True}),
    "oblong audio patches": ("masked-reconstruction", {"audio_patch_size": [8, 16]}),
    "oblong image patches": ("audio-visual-classification", {"image_patch_size": [8, 16], "audio_patch_size": [4, 32]}),
    "oblong images": ("masked-reconstruction", {"image_size": [32, 48]}),
    "odd head size": ("feature-extraction", {"hidden_size": 60, "num_attention_heads": 5}),
    "one head": ("audio-visual-matching", {"num_attention_heads": 1}),
    "one label": ("audio-visual-classification", {"num_labels": 1}),
    "six labels": ("audio-visual-classification", {"num_labels": 6}),
    "regression": ("audio-visual-classification", {"loss_type": "regression", "num_labels": 1}),
    "patch level": ("masked-reconstruction", {"audio_mask_type": "patch_level", "audio_mask_ratio": 0.5}),
    "nothing hidden": ("masked-reconstruction", {"pixel_mask_ratio": 0.0, "audio_mask_ratio": 0.0}),
    "0.3 hidden": ("masked-reconstruction", {"pixel_mask_ratio": 0.3, "audio_mask_ratio": 0.3}),
    "half hidden": ("masked-reconstruction", {"pixel_mask_ratio": 0.5, "audio_mask_ratio": 0.5}),
    "0.9 hidden": ("masked-reconstruction", {"pixel_mask_ratio": 0.9, "image_size": 64, "audio_mask_ratio": 0.4}),
    "one layer": ("audio-visual-classification", {"num_hidden_layers": 1}),
    "one decoder layer of one head": (
        "masked-reconstruction",
        {"num_hidden_layers": 1, "decoder_num_attention_heads": 1},
    ),
    "one frame": ("feature-extraction", {"num_frames": 1}),
    "one step": ("audio-visual-matching", {"spectrogram_length": 16}),
    "one patch in a frame": ("audio-visual-classification", {"image_size": 16}),
    "one band": ("audio-visual-classification", {"frequency_length": 16}),
    "other channels": ("feature-extraction", {"num_image_channels": 1, "num_audio_channels": 2}),
    "large epsilon": ("audio-visual-classification", {"layer_norm_eps": 0.01}),
    "rows left over": ("feature-extraction", {"spectrogram_length": 120}),
    "two frames": ("masked-reconstruction", {"num_frames": 2, "spectrogram_length": 32}),
}  # fmt: skip
SMALLEST = {
    "num_frames": 1, "spectrogram_length": 16, "image_size": 16, "frequency_length": 16, "num_hidden_layers": 1,
    "hidden_act": "quick_gelu", "qkv_bias": False, "use_mean_pooling": True, "num_labels": 1,
}  # fmt: skip


def variant_cases(config: TvltConfig) -> list[tuple[Any, ...]]:
    frames, steps = config.num_frames, config.time_patches
    return [
        (1, 1, 1, "all", "float32"),
        (3, frames, steps, "padded both", "bool"),
        (2, max(1, frames - 1), max(1, steps - 1), "scattered", "float32"),
        (2, max(1, frames - 2), max(1, steps // 2), "one row without anything", "int64"),
        (1, frames, 1, "no audio", "float32"),
        (1, 1, steps, "no video", "float32"),
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_inference_forms_of_every_configuration_answer_as_transformers(
    name: str, checkpoint_of: Callable[..., Path]
) -> None:
    task, changes = VARIANTS[name]
    checkpoint = checkpoint_of(TASKS[task].architecture, **changes)
    model = open_checkpoint(checkpoint).load(task)
    form = inference_form(model, TASKS[task], standard_attention)
    for case in variant_cases(model.config):
        values = case_feeds(task, model.config, case)
        inputs = [torch.from_numpy(values[name].astype(np.float32)) for name in TASKS[task].inputs(model.config)]
        with torch.no_grad():
            found = dict(zip(TASKS[task].output_names, (x.numpy() for x in form(*inputs)), strict=True))
        truth.assert_close(found, truth.hf_answers(task, checkpoint, values))


def assert_exports_right(
    task: str, changes: dict[str, Any], runtime_of: Callable[..., Any], checkpoint_of: Callable[..., Path]
) -> None:
    for form in FORMS:
        runtime = runtime_of(task, form, **changes)
        for case in variant_cases(runtime.config):
            values = case_feeds(task, runtime.config, case)
            expected = truth.hf_answers(task, checkpoint_of(TASKS[task].architecture, **changes), values)
            truth.assert_close(runtime.run(values), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_configuration_exports(
    name: str, runtime_of: Callable[..., Any], checkpoint_of: Callable[..., Path]
) -> None:
    task, changes = VARIANTS[name]
    assert_exports_right(task, changes, runtime_of, checkpoint_of)


def test_the_smallest_model_exports(runtime_of: Callable[..., Any], checkpoint_of: Callable[..., Path]) -> None:
    # every axis but the batch can have one size only, which tracers take for a constant
    assert_exports_right("audio-visual-classification", SMALLEST, runtime_of, checkpoint_of)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [0, 3])
def test_any_number_of_layers_exports(
    layers: int, runtime_of: Callable[..., Any], checkpoint_of: Callable[..., Path]
) -> None:
    assert_exports_right("audio-visual-matching", {"num_hidden_layers": layers}, runtime_of, checkpoint_of)


@pytest.mark.slow
def test_an_untrained_model_passes_its_verdicts(tmp_path: Path) -> None:
    # drawn as for training, its answers hardly differ from clip to clip
    from tvlt_deploy import export

    torch.manual_seed(0)
    hf.transformers.TvltForAudioVisualClassification(hf.hf_config(**SMALL)).save_pretrained(tmp_path / "checkpoint")
    bundle = export(tmp_path / "checkpoint", tmp_path / "bundle")
    assert {variant.parity.verdict for variant in bundle.variants} == {"pass"}


# Kept patches --------------------------------------------------------------------------------------------------------


def counts(ratio: float, per_step: int, steps: int) -> dict[int, int]:
    return {per_step * n: int(per_step * n * (1 - ratio)) for n in range(1, steps + 1)}


@pytest.mark.parametrize(("per_step", "steps"), [(196, 8), (8, 128), (4, 4), (2, 7), (1, 30), (49, 16)])
def test_kept_patches_are_counted_as_double_precision_counts_them(per_step: int, steps: int) -> None:
    found = 0
    for ratio in [*(percent / 100 for percent in range(100)), 0.125, 1 / 3, 2 / 3, 0.999, 1e-9]:
        table = counts(ratio, per_step, steps)
        # no fraction can do it where one n asks for at least what another n forbids
        if any(table[n] * m >= (table[m] + 1) * n for n in table for m in table):
            with pytest.raises(ConfigError, match="no integer rule reproduces"):
                kept_fraction(table, ratio)
            continue
        rule, found = kept_fraction(table, ratio), found + 1
        assert all(n * rule.numerator // rule.denominator == kept for n, kept in table.items()), ratio
    assert found >= 90


def test_the_default_ratios_have_simple_rules() -> None:
    assert str(kept_fraction(counts(0.75, 196, 8), 0.75)) == "1/4"
    assert str(kept_fraction(counts(0.0, 196, 8), 0.0)) == "1"
    audio = kept_fraction(counts(0.15, 8, 128), 0.15)
    assert [n * audio.numerator // audio.denominator for n in (432, 1024, 864)] == [367, 870, 734]


def test_a_ratio_that_rounds_both_ways_is_refused() -> None:
    table = counts(0.3, 8, 128)
    with pytest.raises(ConfigError, match=r"mask ratio 0\.3 keeps .* no integer rule reproduces \(choose a ratio"):
        kept_fraction(table, 0.3)


def test_a_ratio_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mask ratio 0\.9 keeps none of 4 patches; .* \(lower pixel_mask_ratio"):
        Masking(counts(0.9, 4, 4), 0.9)


# Size ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_of_full_size_answers_as_transformers(tmp_path: Path) -> None:
    from tvlt_deploy import export
    from tvlt_deploy.runtimes import open_runtime

    checkpoint = tmp_path / "checkpoint"
    init_checkpoint(checkpoint, TvltConfig(), seed=1, architecture="TvltForAudioVisualClassification")
    bundle = export(checkpoint, tmp_path / "bundle")
    assert {variant.parity.verdict for variant in bundle.variants} == {"pass"}
    graphs = [bundle.directory / variant.path for variant in bundle.variants]
    assert sum(graph.stat().st_size for graph in graphs) < 2_000_000
    assert (bundle.directory / "fp32/model.onnx.data").stat().st_size > 300_000_000
    with open_runtime(bundle, "onnxruntime") as runtime:
        for case in ((1, 1, 27, "all"), (2, 3, 20, "padded both")):
            values = truth.feeds(bundle.config, *case)
            expected = truth.hf_answers("audio-visual-classification", checkpoint, values)
            truth.assert_close(runtime.run(values), expected)
