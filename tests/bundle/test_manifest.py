"""The manifest as typed values: the JSON Schema, the documentation, and changes that leave the old one as it is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.bundle import field_lists
from tvlt_deploy._internal.typed_json import fields_of
from tvlt_deploy.bundle import Bundle, Engine, Manifest, Variant, changes, manifest, receipts
from tvlt_deploy.bundle.limits import input_limits
from tvlt_deploy.bundle.manifest import NOT_RUN, FileEntry, StoredCheck, StoredVerdict
from tvlt_deploy.bundle.receipts import EngineReceipt
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.processors import OriginalProcessor, TvltFeatureExtractor, TvltImageProcessor, TvltProcessor
from tvlt_deploy.tasks import TASKS, TensorSpec

TYPES = {
    kind.__name__: kind
    for kind in (TensorSpec, *vars(manifest).values(), *vars(receipts).values())
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind.__module__.startswith("tvlt_deploy")
}
PATH = "fp32/model.onnx"
ENTRY = FileEntry("0" * 64, 3)


def engine(path: str = "fp16/some.engine") -> Engine:
    receipt = EngineReceipt(2, 2, {"Half": 9}, 0, 0, 1 << 20, 30)
    return Engine("tensorrt", "11.4", "sm89", "linux-x86_64", "fp16", path, "1" * 64, (), receipt, NOT_RUN)


@pytest.fixture
def some(classification: Bundle) -> Manifest:
    return classification.manifest


# The schema ----------------------------------------------------------------------------------------------------------


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(field_lists.schema())


def test_the_schema_and_the_types_name_the_same_fields() -> None:
    assert field_lists.objects().keys() == TYPES.keys()
    for name, entry in field_lists.objects().items():
        fields = fields_of(TYPES[name])
        assert (name, set(entry["properties"])) == (name, set(fields))
        required = {field for field, (_, required) in fields.items() if required}
        assert set(entry["required"]) - {"schema_version"} == required


def test_every_field_has_a_description() -> None:
    for entry in field_lists.objects().values():
        assert entry["description"]
        assert all(field["description"] for field in entry["properties"].values())


@pytest.mark.parametrize("task", list(TASKS))
def test_manifests_of_exports_are_valid(bundle_of: Callable[..., Bundle], task: str) -> None:
    content = bundle_of(task).path("manifest.json").read_text()
    jsonschema.validate(json.loads(content), field_lists.schema())


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("labels"),
        lambda m: m.update(schema_version=1),
        lambda m: m["limits"].update(max_rows="112"),
        lambda m: m["files"]["config.json"].update(sha256="0"),
        lambda m: m["variants"][0]["parity"].update(verdict="passed"),
    ],
)  # fmt: skip
def test_the_schema_refuses_what_the_package_refuses(change: Callable[[dict[str, Any]], Any], some: Manifest) -> None:
    values = json.loads(json.dumps(some.to_dict()))
    change(values)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, field_lists.schema())


def test_the_documentation_lists_the_fields_of_the_schema() -> None:
    page = field_lists.PAGE.read_text(encoding="utf-8")
    assert field_lists.with_field_lists(page) == page, "run: python -m tests.bundle.field_lists"


# JSON ----------------------------------------------------------------------------------------------------------------


def test_json_and_back_is_the_same_manifest(some: Manifest) -> None:
    numbers = tuple(
        StoredCheck("difference", "logits", value, 0.1, False, False) for value in (float("inf"), float("-inf"), 1.0)
    )
    changed = changes.with_engine(some, engine(), ENTRY)
    changed = changes.with_verdict(changed, PATH, StoredVerdict("fail", "onnxruntime", "cpu", "fp32", "x", numbers))
    text = json.dumps(changed.to_dict(), allow_nan=False)
    assert Manifest.from_json(text.encode(), "m") == changed
    assert list(changed.to_dict()) == [
        "schema_version", "created_by", "lineage", "original", "task", "activation", "labels", "sign_labels", "limits",
        "inputs", "outputs", "variants", "engines", "files", "receipts",
    ]  # fmt: skip


def test_entries_repeat_the_hash_and_size_of_their_file(some: Manifest) -> None:
    values = changes.with_engine(some, engine(), ENTRY).to_dict()
    assert {name: values["engines"][0][name] for name in ("sha256", "size")} == {"sha256": "0" * 64, "size": 3}
    assert list(values["variants"][0]) == [
        "precision", "form", "path", "files", "sha256", "size", "opset", "parity"
    ]  # fmt: skip
    assert values["variants"][0]["sha256"] == some.files[PATH].sha256


def test_verdicts_keep_their_layout() -> None:
    assert NOT_RUN.to_dict() == {"verdict": "not run"}
    assert StoredVerdict("not run", reason="no room").to_dict() == {"verdict": "not run", "reason": "no room"}
    check = {"check": "x", "output": "y", "value": "nan", "limit": 0.1, "at_least": True, "passed": False}
    values = {
        "verdict": "fail", "backend": "tensorrt", "device": "cuda", "precision": "fp16", "form": None, "rows": [check]
    }  # fmt: skip
    verdict = StoredVerdict.from_dict(values)
    assert verdict.rows[0].value != verdict.rows[0].value
    assert list(verdict.to_dict()) == list(values)
    assert verdict.to_dict() == values


# Changes -------------------------------------------------------------------------------------------------------------


def test_changes_leave_the_old_manifest_as_it_is(some: Manifest) -> None:
    before = json.dumps(some.to_dict())
    changes.with_verdict(some, PATH, NOT_RUN)
    changes.with_engine(some, engine(), ENTRY)
    changes.without_graphs(some, ("fp32",))
    changes.without_files(some, "model.safetensors")
    changes.with_file(some, "a", ENTRY)
    assert json.dumps(some.to_dict()) == before


def test_engines_come_and_go_with_their_files(some: Manifest) -> None:
    added = changes.with_engine(some, engine(), ENTRY)
    assert added.engines == (engine(),)
    assert list(added.files) == sorted([*some.files, "fp16/some.engine"])
    assert changes.without_engine(added, "fp16/some.engine") == dataclasses.replace(
        some, files=dict(sorted(some.files.items()))
    )
    verdict = StoredVerdict("pass", "tensorrt", "cuda", "fp16")
    changed = changes.with_verdict(added, "fp16/some.engine", verdict)
    assert changed.engines[0].verdict == verdict
    assert changed.variants == some.variants


def test_graphs_go_with_the_engines_of_their_directory(some: Manifest) -> None:
    added = changes.with_engine(some, engine("fp32/some.engine"), ENTRY)
    gone = changes.without_graphs(added, ("fp32", "int8"))
    assert (gone.variants, gone.engines) == ((), ())
    assert [path for path in gone.files if path.startswith("fp32/")] == []
    again = changes.with_graphs_of(gone, some)
    assert again.variants == some.variants
    assert again.files == some.files


def test_a_file_in_use_cannot_be_lost(some: Manifest) -> None:
    variant = Variant("fp16", "standard", "fp16/model.onnx", ("fp16/model.onnx",), 20, NOT_RUN)
    broken = dataclasses.replace(some, variants=(*some.variants, variant))
    with pytest.raises(KeyError):
        broken.to_dict()


# Labels and limits ---------------------------------------------------------------------------------------------------


def test_labels_are_those_of_the_task(bundle_of: Callable[..., Bundle]) -> None:
    labels = {task: bundle_of(task).manifest.labels for task in TASKS}
    assert labels == {
        "feature-extraction": None,
        "audio-visual-classification": ("LABEL_0", "LABEL_1"),
        "audio-visual-matching": ("match", "mismatch"),
        "masked-reconstruction": None,
    }


def test_signs_of_a_regression_have_names() -> None:
    config = TvltConfig(loss_type="regression", id2label={0: "sentiment"}, sign_labels=("negative", "positive"))
    assert TASKS["audio-visual-classification"].labels(config) == ("sentiment",)


def test_limits_follow_the_pre_processing() -> None:
    config = TvltConfig(image_size=64, spectrogram_length=100)
    sound = TvltFeatureExtractor(spectrogram_length=100, sampling_rate=16000, hop_length=160, n_fft=401)
    fixed = TvltProcessor(TvltImageProcessor(size={"height": 64, "width": 64}), sound)
    limits = input_limits(config, fixed)
    assert (limits.max_rows, limits.patch_rows, limits.patches_per_step) == (96, 16, 8)
    assert (limits.sampling_rate, limits.min_samples, limits.max_samples) == (16000, 161, 16000)
    assert (limits.shortest_edge, limits.max_resized_pixels, limits.max_amplitude) == (None, 1 << 27, 64)
    limits = input_limits(config, TvltProcessor(TvltImageProcessor(do_resize=False), sound))
    assert (limits.shortest_edge, limits.max_resized_pixels) == (None, None)
    limits = input_limits(config, OriginalProcessor.from_config(config.replace(spectrogram_length=2048)))
    assert (limits.sampling_rate, limits.min_samples, limits.shortest_edge) == (44100, 1, None)


def test_limits_without_pre_processing_are_those_of_the_model() -> None:
    limits = dataclasses.asdict(input_limits(TvltConfig(), None))
    assert list(limits.values())[:7] == [8, 224, 224, 196, 2048, 16, 8]
    assert list(limits.values())[7:] == [None] * 6


def test_a_shipped_schema_is_read_from_the_package() -> None:
    assert (Path(manifest.__file__).parent / "manifest.schema.json").is_file()
