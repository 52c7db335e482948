"""Bundles that were damaged, cut, forged or moved, and manifests that several processes write."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tvlt_deploy
from tests import truth
from tvlt_deploy._internal.atomic import sha256_of
from tvlt_deploy.bundle import Bundle, Manifest, is_bundle
from tvlt_deploy.bundle.manifest import StoredVerdict
from tvlt_deploy.bundle.writer import record_verdict, update_manifest
from tvlt_deploy.errors import BundleError, UsageError
from tvlt_deploy.runtimes import open_runtime

FILES = [
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "fp32/model.onnx",
    "fp32/model.onnx.data",
    "fp32/model.onnxruntime-cpu.onnx",
]
OPENED = {
    "onnxruntime": {*FILES[:2], "fp32/model.onnxruntime-cpu.onnx", "fp32/model.onnx.data"},
    "torch": {*FILES[:2], "model.safetensors"},
}  # fmt: skip


@pytest.fixture
def copy(classification: Bundle, copy_of: Callable[[Bundle], Path]) -> Path:
    return copy_of(classification)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(bytes(content))


def edit(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


# Reading -------------------------------------------------------------------------------------------------------------


def test_a_bundle_says_what_it_holds(classification: Bundle) -> None:
    assert is_bundle(classification.directory)
    assert classification.task.name == "audio-visual-classification"
    assert classification.precisions == ("fp32",)
    assert classification.variant("fp32").path == "fp32/model.onnx"
    assert classification.digest == sha256_of(classification.path("manifest.json"))
    assert sorted(classification.manifest.files) == sorted(FILES)
    with pytest.raises(
        UsageError,
        match=r"has no fp16 graph in the standard form; it has fp32 \(standard\), fp32 \(onnxruntime-cpu\) "
        r"\(export again with --precision fp32 --precision fp16\)",
    ):
        classification.variant("fp16")
    with pytest.raises(UsageError, match=r"in the odd form; .* \(choose one of its forms: standard, onnxruntime-cpu\)"):
        classification.variant("fp32", "odd")


def test_the_manifest_holds_the_hash_and_size_of_every_file(classification: Bundle) -> None:
    for name, entry in classification.manifest.files.items():
        assert entry.sha256 == sha256_of(classification.path(name))
        assert entry.size == classification.path(name).stat().st_size
    for variant in classification.manifest.to_dict()["variants"]:
        assert variant["sha256"] == sha256_of(classification.path(variant["path"]))
        assert variant["size"] == classification.path(variant["path"]).stat().st_size
    present = {path.relative_to(classification.directory).as_posix() for path in classification.directory.rglob("*.*")}
    assert present - {"manifest.json"} == set(classification.manifest.files)


def test_every_file_of_a_bundle_is_described(classification: Bundle) -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "bundle.md").read_text(encoding="utf-8")
    assert [name for name in classification.manifest.files if Path(name).name not in text] == []


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_one_changed_bit_is_found(name: str, copy: Path) -> None:
    flip(copy / name)
    says = rf"{name} has SHA-256 [0-9a-f]{{64}}; the manifest says [0-9a-f]{{64}} \(the file was altered: copy"
    with pytest.raises(BundleError, match=says) as caught:
        Bundle(copy).check()
    assert caught.value.exit_code == 5
    with pytest.raises(BundleError, match=says):
        tvlt_deploy.verify(copy)
    for backend, opened in OPENED.items():
        if name in opened:
            with pytest.raises(BundleError, match=says):
                tvlt_deploy.load(copy, backend=backend)
        else:
            tvlt_deploy.load(copy, backend=backend).close()


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_found(name: str, copy: Path) -> None:
    size = (copy / name).stat().st_size
    os.truncate(copy / name, size - 1)
    with pytest.raises(BundleError, match=rf"{name} has {size - 1} bytes; the manifest says {size} \(the copy is inc"):
        Bundle(copy).check()


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing from the bundle \(copy the complete bundle"):
        Bundle(copy).check()


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_files_are_hashed_before_anything_reads_them(name: str, copy: Path) -> None:
    (copy / name).write_text("{ broken")
    with pytest.raises(BundleError, match=rf"{name} has 8 bytes; the manifest says"):
        tvlt_deploy.load(copy)


# Forged manifests ----------------------------------------------------------------------------------------------------


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"absent is not a directory \(create a bundle with `tvlt-deploy export`\)"):
        Bundle(tmp_path / "absent")
    with pytest.raises(BundleError, match=r"has no readable manifest.json: No such file.* \(create a bundle with"):
        Bundle(tmp_path)
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(BundleError, match=r"has no readable manifest.json: Is a directory"):
        Bundle(tmp_path)
    assert not is_bundle(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xff", b"[" * 100_000, b'{"schema_version": ' + b"1" * 5000 + b"}"],
    ids=["empty", "cut", "no text", "deep", "long"],
)
def test_manifests_that_are_no_json_are_refused(content: bytes, copy: Path) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest.json is not JSON: .*\(export the bundle again\)"):
        Bundle(copy)


@pytest.mark.parametrize("content", ["[]", "1", "null", "{}", '{"schema_version": 3}', '{"schema_version": "2"}'])
def test_manifests_of_another_schema_are_refused(content: str, copy: Path) -> None:
    (copy / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=r"manifest.json has schema_version .*; expected 2 \(use the release"):
        Bundle(copy)


def test_a_manifest_of_the_first_schema_is_refused_with_the_way_to_upgrade(copy: Path) -> None:
    (copy / "manifest.json").write_text('{"schema_version": 1}')
    with pytest.raises(BundleError, match=r"schema_version 1; expected 2 \(upgrade .* `tvlt-deploy export OLD NEW`\)"):
        Bundle(copy)


def test_the_manifest_has_labels_and_limits_for_readers_without_python(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    assert (manifest["labels"], manifest["sign_labels"]) == (["LABEL_0", "LABEL_1"], None)
    assert manifest["limits"] == {
        "max_frames": 4,
        "image_height": 32,
        "image_width": 32,
        "patches_per_frame": 4,
        "max_rows": 112,
        "patch_rows": 16,
        "patches_per_step": 2,
        "sampling_rate": 44100,
        "min_samples": 512,
        "max_samples": 112 * 512,
        "shortest_edge": 32,
        "max_resized_pixels": 1 << 27,
        "max_amplitude": 64,
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.pop("task"), ": task is missing; expected one of feature-extraction"),
        (lambda m: m.update(task="speech"), ': task is "speech"; expected one of feature-extraction'),
        (lambda m: m.update(task=["speech"]), r': task is \["speech"\]; expected one of feature-extraction'),
        (lambda m: m.update(labels=[1]), r": labels\[0\] is 1; expected a string"),
        (lambda m: m.update(labels=2), ": labels is 2; expected a list or null"),
        (lambda m: m.update(sign_labels=["-"]), r': sign_labels is \["-"\]; expected a list of 2 values'),
        (lambda m: m["limits"].update(max_rows=0), ": limits.max_rows is 0; expected an integer of at least 1"),
        (lambda m: m["limits"].update(max_rows=True), ": limits.max_rows is true; expected an integer"),
        (lambda m: m["inputs"]["pixel_mask"].update(dtype=1), r": inputs\['pixel_mask'\].dtype is 1; expected a str"),
        (lambda m: m["inputs"]["pixel_values"].update(shape="b"), r"\.shape is \"b\"; expected a list"),
        (lambda m: m["inputs"]["pixel_mask"].update(shape=[None]), r"shape\[0\] is null; expected an integer or a s"),
        (lambda m: m.pop("files"), ": files is missing; expected an object"),
        (lambda m: m.update(files=[]), r": files is \[\]; expected an object"),
        (lambda m: m["files"].update({"config.json": {"sha256": "0"}}), r"\['config.json'\].size is missing; expected"),
        (lambda m: m["files"]["config.json"].update(size="3"), r"\['config.json'\].size is \"3\"; expected an int"),
        (lambda m: m["files"]["config.json"].update(size=-1), r"\['config.json'\].size is -1; expected an integer"),
        (lambda m: m["files"]["config.json"].update(sha256=None), r"\].sha256 is null; expected 64 hexadecimal digits"),
        (lambda m: m["files"]["config.json"].update(sha256="../x"), r"\].sha256 is \"../x\"; expected 64 hexadecimal"),
        (lambda m: m.pop("variants"), ": variants is missing; expected a list"),
        (lambda m: m.update(variants=[1]), r": variants\[0\] is 1; expected an object"),
        (lambda m: m["variants"][0].pop("opset"), r": variants\[0\].opset is missing; expected an integer"),
        (lambda m: m["variants"][0].update(path=5), r": variants\[0\].path is 5; expected a string"),
        (lambda m: m["variants"][0].update(files=[None]), r": variants\[0\].files\[0\] is null; expected a string"),
        (lambda m: m["variants"][0].update(files=["x.data"]), " uses 'x.data' but lists no hash for it"),
        (lambda m: m["files"].pop("fp32/model.onnx"), " uses 'fp32/model.onnx' but lists no hash for it"),
    ],
)  # fmt: skip
def test_manifests_with_wrong_fields_are_refused(
    change: Callable[[dict[str, Any]], Any], says: str, copy: Path
) -> None:
    with pytest.raises(BundleError, match=rf"manifest.json.*{says}.* \(export the bundle again\)") as caught:
        Bundle(edit(copy, change))
    assert caught.value.exit_code == 5


def test_fields_of_a_later_release_are_ignored(copy: Path) -> None:
    def add(manifest: dict[str, Any]) -> None:
        manifest["later"] = manifest["limits"]["later"] = manifest["variants"][0]["later"] = {"a": [1]}

    before = Bundle(copy).manifest
    assert Bundle(edit(copy, add)).manifest == before


def test_top_level_fields_of_a_later_release_survive_a_change(copy: Path) -> None:
    bundle = Bundle(edit(copy, lambda manifest: manifest.update(later={"a": [1]})))
    verdict = replace(bundle.variants[0].parity, verdict="fail")
    record_verdict(bundle, bundle.variants[0].path, verdict)
    written = json.loads((copy / "manifest.json").read_text())
    assert written["later"] == {"a": [1]}
    assert written["variants"][0]["parity"]["verdict"] == "fail"


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "fp32/../../secret", "..", ".", "", "fp32\\..\\..\\secret"]
)
def test_paths_that_leave_the_bundle_are_refused(path: str, copy: Path) -> None:
    says = r"which is outside the bundle \(do not use this bundle\)"
    with pytest.raises(BundleError, match=says):
        Bundle(edit(copy, lambda manifest: manifest["files"].update({path: {"sha256": "0" * 64, "size": 1}})))
    with pytest.raises(BundleError, match=says):
        Bundle(edit(copy, lambda manifest: manifest["variants"][0].update(path=path)))


def test_links_that_leave_the_bundle_are_refused(copy: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.move(copy / "config.json", outside / "config.json")
    (copy / "config.json").symlink_to(outside / "config.json")
    with pytest.raises(BundleError, match=r"config.json leads out of the bundle \(do not use this bundle\)"):
        Bundle(copy).check()
    shutil.move(copy / "fp32", outside / "fp32")
    (copy / "fp32").symlink_to(outside / "fp32")
    with pytest.raises(BundleError, match=r"model.* leads out of the bundle"):
        Bundle(copy).check(["fp32/model.onnx"])


def test_links_inside_and_to_the_bundle_are_fine(copy: Path, tmp_path: Path) -> None:
    (copy / "config.json").rename(copy / "the-config.json")
    (copy / "config.json").symlink_to("the-config.json")
    (tmp_path / "latest").symlink_to(copy)
    Bundle(tmp_path / "latest").check()


def test_only_listed_files_can_be_asked_for(copy: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    bundle = Bundle(copy)
    bundle.check()  # a file that no one lists is no one's concern
    with pytest.raises(BundleError, match=r"lists no file 'notes.txt'"):
        bundle.check(["notes.txt"])


def test_an_impossible_configuration_is_the_bundle_s_fault(copy: Path) -> None:
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**values, "num_frames": 0}))
    entry = {"sha256": sha256_of(copy / "config.json"), "size": (copy / "config.json").stat().st_size}
    with pytest.raises(BundleError, match="num_frames is 0"):
        _ = Bundle(edit(copy, lambda manifest: manifest["files"].update({"config.json": entry}))).config


# Writing -------------------------------------------------------------------------------------------------------------


def test_a_verdict_goes_into_the_manifest_and_changes_its_digest(copy: Path) -> None:
    bundle = Bundle(copy)
    before = bundle.digest
    verdict = StoredVerdict("fail", "onnxruntime", "cpu", "fp32", "standard")
    record_verdict(bundle, "fp32/model.onnx", verdict)
    assert bundle.digest != before
    assert bundle.digest == sha256_of(copy / "manifest.json")
    reread = Bundle(copy)
    assert reread.digest == bundle.digest
    assert reread.variant("fp32").parity == verdict
    assert reread.variant("fp32", "onnxruntime-cpu").parity.verdict == "pass"
    reread.check()
    assert {path.name for path in copy.iterdir()} == {
        "manifest.json", "config.json", "preprocessor_config.json", "model.safetensors", "fp32"
    }  # fmt: skip


def _record(directory: str, path: str, count: int) -> None:
    def see(manifest: Manifest) -> Manifest:
        keys = (*manifest.receipts.skipped_keys, path)
        return replace(manifest, receipts=replace(manifest.receipts, skipped_keys=keys))

    bundle = Bundle(directory)
    for number in range(count):
        record_verdict(bundle, path, StoredVerdict("not run", reason=str(number)))
        update_manifest(bundle, see)


def test_two_processes_that_write_lose_nothing_of_each_other(copy: Path) -> None:
    paths = ["fp32/model.onnx", "fp32/model.onnxruntime-cpu.onnx"]
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_record, args=(str(copy), path, 20)) for path in paths]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    bundle = Bundle(copy)
    assert [variant.parity.reason for variant in bundle.variants] == ["19", "19"]
    assert sorted(bundle.manifest.receipts.skipped_keys) == sorted(paths * 20)


def test_a_change_that_makes_no_sense_is_not_written_back_unseen(copy: Path) -> None:
    bundle, before = Bundle(copy), (copy / "manifest.json").read_bytes()

    def fail(manifest: Manifest) -> Manifest:
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        update_manifest(bundle, fail)
    with pytest.raises(BundleError, match='task is "speech"'):
        update_manifest(bundle, lambda manifest: replace(manifest, task="speech"))
    assert (copy / "manifest.json").read_bytes() == before


def test_a_bundle_that_cannot_be_written_runs_and_is_verified(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (copy / "manifest.json").read_bytes()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **rest: mode != os.W_OK and access(path, mode, **rest))

    def no_write(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("read-only")

    for name in ("replace", "mkdir"):
        monkeypatch.setattr(os, name, no_write)
    monkeypatch.setattr("tempfile.mkstemp", no_write)
    bundle = Bundle(copy)
    for backend in ("onnxruntime", "torch"):
        with tvlt_deploy.load(copy, backend=backend) as pipe:
            assert pipe.runtime.run(truth.feeds(bundle.config, 1, 1, 1))["logits"].shape == (1, 2)
    assert tvlt_deploy.verify(copy).passed
    assert (copy / "manifest.json").read_bytes() == before


def test_a_runtime_keeps_its_answers_when_the_bundle_goes(copy: Path) -> None:
    bundle = Bundle(copy)
    with open_runtime(bundle, "torch") as runtime:
        values = truth.feeds(bundle.config, 1, 1, 1)
        before = runtime.run(values)["logits"]
        shutil.rmtree(copy)
        assert (runtime.run(values)["logits"] == before).all()
