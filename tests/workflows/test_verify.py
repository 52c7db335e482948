"""Verdicts: broken runtimes fail exactly the right checks, and verdicts are stored in the manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvlt_deploy import verify
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import NOT_RUN
from tvlt_deploy.bundle.writer import record_verdict, update_manifest
from tvlt_deploy.errors import EnvironmentLackError, UsageError, VerdictError
from tvlt_deploy.runtimes import open_runtime
from tvlt_deploy.runtimes.base import Closing
from tvlt_deploy.tasks import TASKS, TOLERANCES
from tvlt_deploy.workflows import verify as parity

NAN = float("nan")


# Broken runtimes -----------------------------------------------------------------------------------------------------

Break = Callable[[Mapping[str, np.ndarray], dict[str, np.ndarray], int], dict[str, np.ndarray]]


class Broken(Closing):
    """The reference with a fault."""

    def __init__(self, runtime: Any, fault: Break) -> None:
        self.runtime, self.fault, self.calls = runtime, fault, 0
        self.device, self.inputs, self.outputs = "cpu", runtime.inputs, runtime.outputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        outputs = {name: values.copy() for name, values in self.runtime.run(feeds).items()}
        return self.fault(feeds, outputs, self.calls)


def shifted(feeds: Any, outputs: dict[str, np.ndarray], calls: int) -> dict[str, np.ndarray]:
    return {name: values + np.float32(2e-3) for name, values in outputs.items()}


def by_batch(feeds: Any, outputs: dict[str, np.ndarray], calls: int) -> dict[str, np.ndarray]:
    return {name: values + np.float32(5e-5) * (len(values) > 1) for name, values in outputs.items()}


def by_place(feeds: Any, outputs: dict[str, np.ndarray], calls: int) -> dict[str, np.ndarray]:
    place = lambda values: np.arange(len(values), dtype=np.float32).reshape(-1, *[1] * (values.ndim - 1))  # noqa: E731
    return {name: values + np.float32(2e-5) * place(values) for name, values in outputs.items()}


def leaky(feeds: Any, outputs: dict[str, np.ndarray], calls: int) -> dict[str, np.ndarray]:
    leak = np.float32(9e-5 * (np.abs(feeds["pixel_values"]).max() > 0) * (feeds["pixel_mask"].min() == 0))
    leak = leak * np.float32(np.abs(feeds["pixel_values"][:, -1]).mean())
    return {name: values + leak for name, values in outputs.items()}


def padding_counts(feeds: Any, outputs: dict[str, np.ndarray], calls: int) -> dict[str, np.ndarray]:
    return {name: values + np.float32(4e-5) * (feeds["pixel_mask"].min() == 0) for name, values in outputs.items()}


def not_a_number(feeds: Any, outputs: dict[str, np.ndarray], calls: int) -> dict[str, np.ndarray]:
    if not feeds["pixel_mask"].any() and not feeds["audio_mask"].any():
        return {name: np.full_like(values, NAN) for name, values in outputs.items()}
    return outputs


def restless(feeds: Any, outputs: dict[str, np.ndarray], calls: int) -> dict[str, np.ndarray]:
    return {**outputs, "pixel_logits": outputs["pixel_logits"] + np.float32(1e-6) * (calls % 2)}


def frozen(feeds: Any, outputs: dict[str, np.ndarray], calls: int) -> dict[str, np.ndarray]:
    return {name: np.zeros_like(values) for name, values in outputs.items()}


@pytest.mark.parametrize(
    ("fault", "task", "missed"),
    [
        (shifted, "audio-visual-classification", {"difference", "difference / deviation"}),
        (shifted, "feature-extraction", {"difference"}),
        (by_batch, "audio-visual-matching", {"batch of one"}),
        (by_place, "audio-visual-matching", {"identical rows", "permuted rows", "batch of one"}),
        (leaky, "audio-visual-matching", {"masked content"}),
        (padding_counts, "audio-visual-matching", {"padding"}),
        (not_a_number, "audio-visual-classification", {"difference", "difference / deviation", "label agreement"}),
        (not_a_number, "feature-extraction", {"difference", "min cosine"}),
        (restless, "masked-reconstruction", {"same call twice"}),
        (frozen, "feature-extraction", {"difference", "min cosine"}),
    ],
)
def test_a_broken_runtime_misses_exactly_the_right_checks(
    fault: Break,
    task: str,
    missed: set[str],
    bundle_of: Callable[..., Bundle],
    copy_of: Callable[[Bundle], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def open_broken(bundle: Bundle, backend: str, *args: Any, **options: Any) -> Any:
        options.pop("form", None)
        runtime = open_runtime(bundle, "torch", *args, **options)
        return runtime if backend == "torch" else Broken(runtime, fault)

    bundle = Bundle(copy_of(bundle_of(task)))
    update_manifest(
        bundle, lambda manifest: dataclasses.replace(manifest, variants=manifest.variants[:-1])
    )  # one graph is enough
    monkeypatch.setattr(parity, "open_runtime", open_broken)
    report = verify(bundle, backends=["onnxruntime"])
    assert not report.passed
    rows = report.verdicts[0].rows
    assert {row.check for row in rows if not row.passed} == missed, [row.text for row in rows if not row.passed]
    with pytest.raises(VerdictError, match=r"\d+ of \d+ checks missed: onnxruntime cpu fp32 standard: .*missed by"):
        report.raise_on_failure()


# Verify --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_exported_graphs_keep_every_promise(task: str, bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of(task)
    for variant in bundle.variants:
        assert variant.parity.verdict == "pass"
        checks = {(row.check, row.output) for row in variant.parity.rows}
        for name in TASKS[task].output_names:
            expected = {"difference", "identical rows", "permuted rows", "batch of one", "same call twice"}
            if task != "masked-reconstruction":
                expected |= {"padding", "masked content"}
            if name.startswith("last_") or name in ("pixel_logits", "audio_logits"):
                expected |= {"min cosine"}
            if name.endswith("logits") and task.startswith("audio-visual"):
                expected |= {"difference / deviation", "label agreement"}
            assert {check for check, output in checks if output == name} == expected, name
        worst = {row.check: row.value for row in variant.parity.rows}
        assert worst["same call twice"] == 0


def test_verdicts_go_into_the_manifest(classification: Bundle, copy_of: Callable[[Bundle], Path]) -> None:
    copy = Bundle(copy_of(classification))
    for variant in copy.variants:
        record_verdict(copy, variant.path, NOT_RUN)
    lines: list[str] = []
    report = verify(copy.directory, backends=["onnxruntime"], progress=lines.append)
    assert report.passed
    report.raise_on_failure()
    assert lines[0] == "hashing every file"
    assert any(line.startswith("onnxruntime cpu fp32 onnxruntime-cpu 11/11") for line in lines)
    stored = Bundle(copy.directory)
    assert [variant.parity.to_dict() for variant in stored.variants] == [
        verdict.to_dict() for verdict in report.verdicts
    ]
    stored.check()


def test_a_failed_verdict_is_stored_too(classification: Bundle, copy_of: Callable[[Bundle], Path]) -> None:
    strict = {**TOLERANCES, "fp32": dataclasses.replace(TOLERANCES["fp32"], relative=0.0)}
    copy = copy_of(classification)
    assert not verify(copy, backends=["onnxruntime"], tolerances=strict).passed
    assert {variant.parity.verdict for variant in Bundle(copy).variants} == {"fail"}


def test_torch_in_bf16_is_verified_against_fp32(features: Bundle, copy_of: Callable[[Bundle], Path]) -> None:
    copy = copy_of(features)
    before = (copy / "manifest.json").read_bytes()
    report = verify(copy, backends=["torch"])
    (verdict,) = report.verdicts
    assert verdict.name == "torch cpu bf16"
    assert report.passed, [row.text for row in verdict.rows if not row.passed]
    values = {row.check: row.value for row in verdict.rows if row.output == "last_hidden_state"}
    assert 0.99 < values["min cosine"] < 0.999999
    # a verdict of no file of the bundle is not written into it
    assert (copy / "manifest.json").read_bytes() == before
    assert verify(copy, backends=["torch"], precisions=["fp32"]).verdicts[0].rows[0].value == 0


def test_what_cannot_be_verified_is_refused_before_any_work(classification: Bundle) -> None:
    lines: list[str] = []
    with pytest.raises(UsageError, match=r"has no fp16 graph in the standard form; it has fp32"):
        verify(classification, precisions=["fp16"], progress=lines.append)
    with pytest.raises(EnvironmentLackError, match="torch on cpu does not run fp16"):
        verify(classification, backends=["torch"], precisions=["fp16"], progress=lines.append)
    with pytest.raises(UsageError, match="backend is 'tflite'"):
        verify(classification, backends=["tflite"], progress=lines.append)
    assert set(lines) == {"hashing every file"}
