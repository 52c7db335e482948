"""From a checkpoint to a bundle: what is kept, refused, replaced, and left behind when something fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import truth
from tests.conftest import SMALL
from tests.reference import hf
from tvlt_deploy import export, verify
from tvlt_deploy._internal.atomic import sha256_of
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import CheckpointError, ConfigError, EnvironmentLackError, UsageError, VerdictError
from tvlt_deploy.exporters import onnx
from tvlt_deploy.processors import TvltProcessor
from tvlt_deploy.reference import TvltForAudioVisualClassification, init_checkpoint
from tvlt_deploy.runtimes import open_runtime

pytestmark = pytest.mark.usefixtures("classification", "traced_already")

CLASSIFIER = "TvltForAudioVisualClassification"


@pytest.fixture
def checkpoint(checkpoint_of: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint_of(CLASSIFIER), tmp_path / "checkpoint"))


def content(directory: Path) -> dict[str, str]:
    return {path.relative_to(directory).as_posix(): sha256_of(path) for path in directory.rglob("*") if path.is_file()}


def quick_export(checkpoint: Path, bundle: Path, **options: Any) -> Bundle:
    return export(checkpoint, bundle, **{"verify": False, **options})


# What a bundle is ----------------------------------------------------------------------------------------------------


def test_a_bundle_holds_the_promised_files_and_its_verdicts(classification: Bundle) -> None:
    assert set(content(classification.directory)) == {
        "manifest.json", "config.json", "preprocessor_config.json", "model.safetensors",
        "fp32/model.onnx", "fp32/model.onnxruntime-cpu.onnx", "fp32/model.onnx.data",
    }  # fmt: skip
    assert [(v.precision, v.form, v.opset) for v in classification.variants] == [
        ("fp32", "standard", 20),
        ("fp32", "onnxruntime-cpu", 20),
    ]
    for variant in classification.variants:
        assert variant.parity.verdict == "pass"
        assert variant.parity.form == variant.form
        assert all(row.passed for row in variant.parity.rows)
    receipts = classification.manifest.receipts
    assert receipts.skipped_keys == ()
    assert receipts.versions["torch"] == torch.__version__


def test_outputs_are_named_as_asked(checkpoint: Path, tmp_path: Path) -> None:
    bundle = quick_export(checkpoint, tmp_path / "bundle", labels=["calm", "loud"])
    assert bundle.config.id2label == {0: "calm", 1: "loud"}
    assert (bundle.manifest.lineage, bundle.manifest.original) == ("huggingface", None)
    assert bundle.manifest.activation == "softmax"


def test_the_checkpoint_is_left_as_it_was(checkpoint: Path, tmp_path: Path) -> None:
    before = content(checkpoint)
    quick_export(checkpoint, tmp_path / "bundle")
    assert content(checkpoint) == before


def test_a_bundle_is_a_model_directory_for_transformers_and_for_us(classification: Bundle) -> None:
    values = truth.feeds(classification.config, 2, 2, 3)
    theirs = hf.transformers.TvltForAudioVisualClassification.from_pretrained(classification.directory).eval()
    ours = TvltForAudioVisualClassification.from_pretrained(classification.directory)
    tensors = {name: torch.from_numpy(array) for name, array in values.items()}
    with torch.no_grad():
        assert torch.allclose(theirs(**tensors).logits, ours(**tensors).logits, atol=1e-6)
    config = hf.transformers.TvltConfig.from_pretrained(classification.directory)
    assert config.architectures == [CLASSIFIER]
    assert hf.transformers.TvltProcessor.from_pretrained(classification.directory) is not None


def test_a_bundle_can_be_exported_again(classification: Bundle, tmp_path: Path) -> None:
    again = quick_export(classification.directory, tmp_path / "again")
    assert again.manifest.files["model.safetensors"] == classification.manifest.files["model.safetensors"]
    assert again.task == classification.task


def test_the_head_that_a_task_does_not_use_is_skipped_and_listed(matching: Bundle, reconstruction: Bundle) -> None:
    assert "decoder.layernorm.weight" in matching.manifest.receipts.skipped_keys
    assert list(reconstruction.manifest.receipts.skipped_keys) == [
        "matching_head.fc.bias", "matching_head.fc.weight",
        "matching_head.pooler.dense.bias", "matching_head.pooler.dense.weight",
    ]  # fmt: skip
    assert matching.config.task_mae is False
    assert reconstruction.config.task_matching is False


def test_the_task_defaults_to_what_the_checkpoint_names(
    checkpoint_of: Callable[..., Path], checkpoint: Path, tmp_path: Path
) -> None:
    assert quick_export(checkpoint, tmp_path / "a").task.name == "audio-visual-classification"
    assert quick_export(checkpoint_of("TvltForPreTraining"), tmp_path / "b").task.name == "audio-visual-matching"
    assert quick_export(checkpoint_of("TvltModel"), tmp_path / "c").task.name == "feature-extraction"


def test_the_encoder_of_a_classifier_can_be_exported_alone(checkpoint: Path, tmp_path: Path) -> None:
    bundle = quick_export(checkpoint, tmp_path / "bundle", task="feature-extraction")
    assert bundle.config.architectures == ("TvltModel",)
    assert any(key.startswith("classifier.") for key in bundle.manifest.receipts.skipped_keys)


def test_weights_in_half_precision_are_exported_in_full(checkpoint: Path, tmp_path: Path) -> None:
    model = hf.transformers.TvltForAudioVisualClassification.from_pretrained(checkpoint).half()
    model.save_pretrained(tmp_path / "half")
    bundle = quick_export(tmp_path / "half", tmp_path / "bundle")
    assert bundle.config.extras["torch_dtype"] == "float32"


# Pre-processing ------------------------------------------------------------------------------------------------------


def test_pre_processing_follows_the_configuration_when_the_checkpoint_has_none(classification: Bundle) -> None:
    processor = TvltProcessor.from_pretrained(classification.directory)
    assert processor == TvltProcessor.from_config(classification.config)
    assert processor.image_processor.crop_size == {"height": 32, "width": 32}


def test_the_checkpoint_s_own_pre_processing_is_carried_over(checkpoint: Path, tmp_path: Path) -> None:
    processor = TvltProcessor.from_config(TvltConfig.from_pretrained(checkpoint))
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(checkpoint)
    bundle = quick_export(checkpoint, tmp_path / "bundle")
    assert TvltProcessor.from_pretrained(bundle.directory) == processor


@pytest.mark.parametrize(
    ("part", "key", "value", "says"),
    [
        ("image_processor", "crop_size", {"height": 48, "width": 32}, r"crop_size to \{'height': 48, 'width': 32\}"),
        ("image_processor", "patch_size", [8, 8], r"image patch_size to \[8, 8\]; config.json needs \[16, 16\]"),
        ("feature_extractor", "patch_size", [8, 16], r"audio patch_size to \[8, 16\]; config.json needs \[16, 16\]"),
        ("feature_extractor", "feature_size", 64, r"feature_size to 64; config.json needs 32"),
    ],
)
def test_pre_processing_that_does_not_fit_the_model_is_refused(
    part: str, key: str, value: Any, says: str, checkpoint: Path, tmp_path: Path
) -> None:
    file = checkpoint / "preprocessor_config.json"
    TvltProcessor.from_config(TvltConfig.from_pretrained(checkpoint)).save_pretrained(checkpoint)
    settings = json.loads(file.read_text())
    settings[part][key] = value
    file.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=rf"preprocessor_config.json sets {says}"):
        quick_export(checkpoint, tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_channels_that_no_processor_makes_are_said_and_the_rest_is_exported(
    tmp_path: Path,
) -> None:
    init_checkpoint(tmp_path / "c", TvltConfig(**{**hf.TINY, **SMALL, "num_image_channels": 1}), 0, "TvltModel")
    lines: list[str] = []
    bundle = quick_export(tmp_path / "c", tmp_path / "bundle", progress=lines.append)
    assert "preprocessor_config.json" not in bundle.manifest.files
    assert any(line.startswith("no pre-processing in the bundle: ") for line in lines)


# Refusals ------------------------------------------------------------------------------------------------------------


def test_a_directory_that_is_no_bundle_is_never_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(UsageError, match=r"thesis is not empty and not a bundle \(choose another path"):
            export(checkpoint, tmp_path / "thesis", force=force)
    assert content(tmp_path / "thesis").keys() == {"chapter.txt"}
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    for name in ("file", "link"):
        with pytest.raises(UsageError, match=rf"{name} exists and is not a directory"):
            export(checkpoint, tmp_path / name, force=True)


def test_a_bundle_is_replaced_only_on_demand(checkpoint: Path, tmp_path: Path) -> None:
    first = quick_export(checkpoint, tmp_path / "bundle")
    before = content(first.directory)
    with pytest.raises(UsageError, match=r"bundle is an existing bundle \(--force overwrites it\)") as caught:
        quick_export(checkpoint, tmp_path / "bundle")
    assert caught.value.exit_code == 2
    assert content(first.directory) == before
    quick_export(checkpoint, tmp_path / "bundle", task="feature-extraction", force=True)
    assert Bundle(tmp_path / "bundle").task.name == "feature-extraction"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "checkpoint"]


def test_an_empty_directory_may_become_a_bundle(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    assert quick_export(checkpoint, tmp_path / "bundle").directory == tmp_path / "bundle"
    assert quick_export(checkpoint, tmp_path / "not/yet/there").has_weights


def test_replacing_never_deletes_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    bundle = quick_export(checkpoint, tmp_path / "bundle").directory
    shutil.copytree(checkpoint, bundle / "checkpoint")
    for source in (bundle, bundle / "checkpoint"):
        with pytest.raises(UsageError, match=r"overwriting .*bundle would delete the checkpoint"):
            quick_export(source, bundle, force=True)
    assert (bundle / "checkpoint" / "config.json").is_file()


@pytest.mark.parametrize(
    ("precision", "says"),
    [
        ("int8", r"int8 is not exported: .* \(export fp32, then tvlt-deploy quantize BUNDLE --clips DIR\)"),
        ("fp8", r"fp8 is not exported: .* \(export fp32, then tvlt-deploy quantize BUNDLE --clips DIR\)"),
        ("fp64", r"precision is 'fp64'; expected one of fp32, fp16, bf16, int8, fp8"),
    ],
)
def test_precisions_that_cannot_be_exported_say_why(
    precision: str, says: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        export(checkpoint, tmp_path / "bundle", precisions=["fp32", precision])
    assert not (tmp_path / "bundle").exists()


def test_tasks_that_the_checkpoint_cannot_do_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"task is 'asr'; expected one of feature-extraction, audio-visual-class"):
        export(checkpoint, tmp_path / "bundle", task="asr")
    with pytest.raises(
        CheckpointError,
        match=r"no head for .*; the tasks it can serve: feature-extraction, audio-visual-classification",
    ):
        export(checkpoint, tmp_path / "bundle", task="masked-reconstruction")
    with pytest.raises(CheckpointError, match=r"checkpoint directory .*nowhere does not exist"):
        export(tmp_path / "nowhere", tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_a_missing_package_is_named(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(EnvironmentLackError, match=r"exporting needs onnx.*\(pip install 'tvlt-deploy\[export,cpu\]'"):
        export(checkpoint, tmp_path / "bundle")


# Failures midway -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [RuntimeError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("step", ["build_graph", "save_graphs"])
def test_a_failure_leaves_the_old_bundle_and_no_trace_of_the_new(
    step: str, failure: BaseException, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = quick_export(checkpoint, tmp_path / "bundle")
    before = content(old.directory)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise failure

    monkeypatch.setattr(onnx, step, fail)
    for place in ("bundle", "fresh"):
        with pytest.raises(type(failure)):
            quick_export(checkpoint, tmp_path / place, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "checkpoint"]
    assert content(old.directory) == before


def test_a_missed_tolerance_says_by_how_much_and_leaves_no_bundle(checkpoint: Path, tmp_path: Path) -> None:
    # the graph is traced from other weights than those of the checkpoint
    model = hf.transformers.TvltForAudioVisualClassification.from_pretrained(checkpoint)
    with torch.no_grad():
        model.classifier[3].bias += 2e-3
    model.save_pretrained(checkpoint)
    says = (
        r"\d of \d+ checks missed: onnxruntime cpu fp32 standard: .*difference of logits: 0\.002, expected <= 0\.0001 "
        r"\(missed by 0\.0019\); onnxruntime cpu fp32 onnxruntime-cpu: .*difference of logits"
    )
    with pytest.raises(VerdictError, match=says) as caught:
        export(checkpoint, tmp_path / "bundle")
    assert caught.value.exit_code == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


# Without weights -----------------------------------------------------------------------------------------------------


def test_a_bundle_without_weights_runs_and_says_what_it_cannot_do(checkpoint: Path, tmp_path: Path) -> None:
    bundle = export(checkpoint, tmp_path / "bundle", weights=False)
    assert not bundle.has_weights
    assert "model.safetensors" not in content(bundle.directory)
    assert {variant.parity.verdict for variant in bundle.variants} == {"pass"}
    bundle.check()
    values = truth.feeds(bundle.config, 1, 2, 3)
    with open_runtime(bundle, "onnxruntime") as runtime:
        expected = truth.hf_answers("audio-visual-classification", checkpoint, values)["logits"]
        np.testing.assert_allclose(runtime.run(values)["logits"], expected, atol=1e-4, rtol=0)
    says = r"exported without weights, which the torch backend needs \(export again without --no-weights\)"
    with pytest.raises(UsageError, match=says):
        open_runtime(bundle, "torch")
    with pytest.raises(UsageError, match=says):
        verify(bundle)
