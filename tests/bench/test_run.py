from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.bench.conftest import TINY
from tvlt_deploy import fuse
from tvlt_deploy.bench import WORKLOADS, BenchReport, bench
from tvlt_deploy.bench.worker_client import Worker, WorkerError
from tvlt_deploy.errors import BundleError, UsageError


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_stage_of_every_workload(report: BenchReport) -> None:
    rows = [row for row in report.rows if row.stages]
    assert [row.workload for row in rows] == list(WORKLOADS)
    for row in rows:
        assert row.name == "onnxruntime fp32"
        assert set(row.stages) == {"image", "audio", "model", "end_to_end"}
        assert all(statistics.repeats >= 5 for statistics in row.stages.values())
        assert row.stages["end_to_end"].median >= row.stages["model"].median
        assert row.warm_up_calls >= 2
        assert row.peak_memory is None or row.peak_memory > 2**20
        assert row.note == "reduced: the model accepts at most 4 frames and 1.11 s of sound"


def test_ragged_batches_hold_every_clip(report: BenchReport) -> None:
    batches = next(row.batches for row in report.rows if row.workload == "ragged" and row.stages)
    assert sum(clips for clips, _, _ in batches) == 8
    assert len(batches) > 1, "clips are grouped by size"
    assert max(frames for _, frames, _ in batches) == TINY.num_frames
    assert max(rows for _, _, rows in batches) == TINY.spectrogram_length


def test_what_cannot_run_says_why(report: BenchReport) -> None:
    why = [(row.name, row.why) for row in report.rows if row.workload == "clip10"]
    assert [name for name, _ in why] == ["onnxruntime fp32", "onnxruntime int8"]
    assert why[0][1] == ""
    assert "int8" in why[1][1]
    assert report.ran


def test_the_fused_graph_tells_the_share_of_its_pre_processing(bundle: Path, tmp_path: Path) -> None:
    fused = fuse(shutil.copytree(bundle, tmp_path / "bundle"), verify=False)
    options: dict[str, Any] = {"workloads": ["ragged"], "seconds": 0, "threads": 1}
    result = bench(fused, backends=["onnxruntime", "fused"], precisions=["fp32", "int8"], **options)
    rows = {row.name: row for row in result.rows}
    row = rows["fused fp32"]
    assert set(row.stages) == {"model", "end_to_end"}
    assert row.preprocessing_share == 1 - row.stages["model"].median / row.stages["end_to_end"].median
    assert 0 < row.preprocessing_share < 1  # of this model nearly all
    assert f"{row.preprocessing_share:.1%} of the call is pre-processing" in row.remarks[-1]
    assert (row.clips, row.error is not None and row.error < 1e-4) == (8, True)
    assert rows["onnxruntime fp32"].preprocessing_share is None
    assert rows["fused int8"].why == "the fused graph is measured on the cpu in fp32"
    (without,) = bench(bundle, backends=["fused"], **options).rows
    assert "tvlt-deploy fuse BUNDLE" in without.why


def test_a_backend_that_lacks_its_files_says_why(bundle: Path) -> None:
    result = bench(bundle, backends=["torch"], workloads=["image10"], seconds=0)
    assert "exported without weights" in result.rows[0].why
    assert "export again without --no-weights" in result.rows[0].why
    assert not result.ran


def test_report_names_machine_and_versions(report: BenchReport, bundle: Path) -> None:
    assert {"python", "numpy", "onnxruntime", "tvlt_deploy"} <= set(report.versions)
    assert report.machine["cpu"]
    assert report.machine["cores"] >= 1
    assert (report.threads, report.device, report.task) == (1, "cpu", "audio-visual-classification")
    assert report.bundle == str(bundle)


def test_own_files_are_decoded_apart(bundle: Path, tmp_path: Path) -> None:
    files = pytest.importorskip("tests.media.files")
    film = files.write(tmp_path / "film & sound.mp4", files.steady(10), files.tone(0.4))
    text = tmp_path / "text.mp4"
    text.write_text("no film")
    result = bench(bundle, workloads=[film, text], seconds=0, threads=1)
    good, bad = result.rows
    assert (good.workload, good.description, good.clips) == ("film & sound.mp4", "media file", 1)
    assert set(good.stages) == {"decode", "image", "audio", "model", "end_to_end"}
    assert good.batches[0][:2] == (1, 4)
    assert bad.stages == {}
    assert "text.mp4" in bad.why


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"workloads": ["clip99"]}, "workload is 'clip99'"),
        ({"workloads": "clip10"}, "workloads is 'clip10'"),
        ({"workloads": []}, "at least one"),
        ({"backends": ["onnx"]}, "backend is 'onnx'"),
        ({"precisions": ["fp64"]}, "precision is 'fp64'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"seconds": -1}, "seconds is -1"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=expected):
        bench(tmp_path, **changes)


def test_an_altered_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    altered = shutil.copytree(bundle, tmp_path / "altered")
    with open(altered / "preprocessor_config.json", "a") as file:
        file.write(" ")
    with pytest.raises(BundleError, match=r"preprocessor_config\.json"):
        bench(altered, workloads=["image10"], seconds=0)


def test_an_interrupt_leaves_no_process(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = []

    def interrupted(worker: Worker, request: str, **arguments: Any) -> None:
        pids.append(worker.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(bundle, workloads=["image10"])
    assert len(pids) == 1
    assert not alive(pids[0])


def test_a_worker_that_dies_says_how() -> None:
    with Worker() as worker:
        os.kill(worker.pid, 9)
        with pytest.raises(WorkerError, match="was killed"):
            worker.ask("open")
    with Worker() as worker, pytest.raises(WorkerError, match="TypeError"):
        worker.ask("open")
