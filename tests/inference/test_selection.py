"""The choice of backend and precision: the fastest that is right on this machine, tried once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tvlt_deploy import load
from tvlt_deploy.bench import bench
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.cli import main
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.inference import selection as auto
from tvlt_deploy.inference.selection import choose
from tvlt_deploy.parity.cases import synthetic_clip
from tvlt_deploy.tasks import TOLERANCES
from tvlt_deploy.workflows.verify import verify

PAIRS = [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cached(cache: Path) -> list[Path]:
    return sorted(cache.glob("tvlt-deploy/bundles/*/auto/*.json"))


def test_all_that_the_bundle_holds_is_tried_and_the_fastest_taken(classification: Bundle, cache: Path) -> None:
    choice = choose(classification, "cpu", threads=1)
    assert [(tried.backend, tried.precision) for tried in choice.candidates] == PAIRS
    times = {(tried.backend, tried.precision): tried.seconds for tried in choice.candidates}
    assert times[choice.backend, choice.precision] == min(time for time in times.values() if time is not None)
    (path,) = cached(cache)
    assert path.parent.parent.name == classification.digest
    written = json.loads(path.read_text())
    assert written["candidates"] == [dataclasses.asdict(tried) for tried in choice.candidates]
    assert written["situation"]["versions"]["onnxruntime"]


def test_a_choice_is_cached_until_the_situation_changes(
    classification: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    first = choose(classification, "cpu", threads=1, progress=lines.append)
    assert lines[0].startswith("measuring 3 combinations")
    lines.clear()
    assert choose(Bundle(classification.directory), "cpu", threads=1, progress=lines.append) == first
    assert lines == []
    choose(classification, "cpu", precision="bf16", threads=1, progress=lines.append)
    assert lines[0].startswith("measuring 1 combinations")
    lines.clear()
    monkeypatch.setattr("tvlt_deploy._internal.machine.cpu_model", lambda: "another processor")
    choose(classification, "cpu", precision="bf16", threads=1, progress=lines.append)
    assert len(lines) > 1
    assert len(cached(cache)) == 3


@pytest.mark.parametrize("text", ["", "{}", '{"candidates": []}', '{"candidates": [{"backend": 3}]}', "[1"])
def test_a_cache_that_cannot_be_read_is_written_again(text: str, classification: Bundle, cache: Path) -> None:
    choose(classification, "cpu", precision="bf16", threads=1)
    (path,) = cached(cache)
    path.write_text(text)
    assert choose(classification, "cpu", precision="bf16", threads=1).precision == "bf16"
    assert json.loads(path.read_text())["candidates"]


def test_a_home_that_cannot_be_written_costs_time_only(
    classification: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    lines: list[str] = []
    choice = choose(classification, "cpu", precision="bf16", threads=1, progress=lines.append)
    assert (choice.backend, choice.precision) == ("openvino", "bf16")
    assert lines[0].startswith("the choice cannot be cached: ")


def test_a_cache_that_cannot_be_written_costs_time_only(
    classification: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_write(*args: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(auto, "write_json", no_write)
    lines: list[str] = []
    assert choose(classification, "cpu", precision="bf16", threads=1, progress=lines.append).precision == "bf16"
    assert lines[-1] == "the choice cannot be cached: read-only"


def test_what_misses_its_tolerance_is_never_taken(classification: Bundle, cache: Path) -> None:
    strict = {**TOLERANCES, "bf16": dataclasses.replace(TOLERANCES["bf16"], relative=1e-9)}
    choice = choose(classification, "cpu", threads=1, tolerances=strict)
    missed = choice.candidates[2]
    assert (choice.precision, missed.seconds) == ("fp32", None)
    assert "difference / deviation of logits" in missed.why
    with pytest.raises(EnvironmentLackError, match=r"in bf16.*missed by"):
        choose(classification, "cpu", precision="bf16", threads=1, tolerances=strict)
    assert len(cached(cache)) == 1


def test_a_device_that_is_not_there_is_an_error_unless_falling_back_was_allowed(classification: Bundle) -> None:
    with pytest.raises(EnvironmentLackError, match=r"onnxruntime fp32: .*CUDA"):
        choose(classification, "cuda", threads=1)
    assert choose(classification, "cuda", threads=1, allow_fallback=True).device == "cpu"


def test_without_fp32_answers_there_is_no_choice(classification: Bundle, copy_of: Callable[[Bundle], Path]) -> None:
    directory = copy_of(classification)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["variants"] = [{**manifest["variants"][0], "precision": "fp16"}]
    manifest["files"].pop("model.safetensors")
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EnvironmentLackError, match=r"no fp32 outputs.*torch: the bundle contains no fp32"):
        choose(Bundle(directory), "cpu", threads=1)
    with pytest.raises(EnvironmentLackError, match="cpu in int8: the bundle contains nothing for that"):
        choose(Bundle(directory), "cpu", precision="int8")
    with pytest.raises(UsageError, match="'fp64'"):
        choose(Bundle(directory), "cpu", precision="fp64")


def test_what_runs_is_what_was_chosen(classification: Bundle) -> None:
    choice = choose(classification, "cpu", threads=1)
    feeds = synthetic_clip(classification.config, 2, 3, 1)
    with load(classification, "auto", threads=1) as pipe:
        assert (pipe.runtime.backend, pipe.runtime.precision) == (choice.backend, choice.precision)
        found = pipe.runtime.run(feeds)["logits"]
    with load(classification, choice.backend, precision=choice.precision, threads=1) as pipe:
        assert np.array_equal(found, pipe.runtime.run(feeds)["logits"])


def test_verify_and_bench_take_it_too(classification: Bundle, copy_of: Callable[[Bundle], Path]) -> None:
    bundle = Bundle(copy_of(classification))
    choice = choose(bundle, "cpu", precision="bf16", threads=1)
    verdicts = verify(bundle, backends=["auto"], precisions=["bf16"], threads=1).verdicts
    assert [(verdict.backend, verdict.precision) for verdict in verdicts] == [(choice.backend, "bf16")]
    report = bench(bundle, ["auto"], ["bf16"], ["image10"], threads=1, seconds=0)
    (row,) = report.rows
    assert (row.name, row.reference) == ("openvino bf16", "onnxruntime fp32")
    assert row.error is not None
    assert 0 < row.error < 0.1


def test_the_command_says_what_it_tries(classification: Bundle, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    arguments = ["run", str(classification.directory), str(tmp_path / "red.png"), "--backend", "auto", "--json"]
    first = CliRunner().invoke(main, [*arguments, "--threads", "1"])
    assert first.exit_code == 0, first.stderr
    assert "openvino bf16: " in first.stderr
    again = CliRunner().invoke(main, [*arguments, "--threads", "1"])
    assert "openvino bf16: " not in again.stderr
    assert "auto uses " in again.stderr
    assert again.stdout == first.stdout
