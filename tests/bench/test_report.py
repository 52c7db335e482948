from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from tvlt_deploy.bench import BenchReport, BenchRow, check_report_path
from tvlt_deploy.bench.html import page
from tvlt_deploy.bench.system_load import system_load_text
from tvlt_deploy.bench.timing import Statistics
from tvlt_deploy.errors import UsageError


def row(backend: str, seconds: float, **changes: Any) -> BenchRow:
    parts = {"image": 0.1, "audio": 0.2, "model": seconds}
    stages = {**parts, "end_to_end": seconds + 0.4}
    values = {"clips": 8, "batches": ((8, 1, 16),), "peak_memory": 2**30, "description": "eight <clips>"} | changes
    return BenchRow(
        "ragged", backend, "fp32", stages={stage: Statistics.of([value]) for stage, value in stages.items()}, **values
    )


@pytest.fixture
def made() -> BenchReport:
    return BenchReport(
        bundle="a <bundle> [bold]",
        manifest_sha256="0" * 64,
        task="feature-extraction",
        device="cpu",
        threads=2,
        order="in turns",
        bystander_cores=1.5,
        machine={"cpu": "a CPU", "cores": 2, "memory": 2**34, "os": "Linux", "gpus": ["a GPU"]},
        versions={"python": "3.11"},
        rows=(
            row("torch", 3.6),
            row("onnxruntime", 1.6, stable=False, warm_up_calls=4),
            BenchRow("ragged", "<tensorrt>", "fp16", why="tensorrt is not [installed]"),
        ),
    )


def test_derived_numbers(made: BenchReport) -> None:
    torch, ours, absent = made.rows
    assert made.speedup(ours) == pytest.approx(2)
    assert made.speedup(ours, "model") == pytest.approx(3.6 / 1.6)
    assert made.speedup(torch) == 1
    assert made.speedup(absent) is None
    assert ours.throughput == pytest.approx(4)
    assert ours.other == pytest.approx(0.1)
    assert (absent.throughput, absent.other) == (0, 0)
    assert made.ran


def test_json_holds_everything(made: BenchReport, tmp_path: Path) -> None:
    made.write(tmp_path / "report.json")
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"], "nothing temporary is left"
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == json.loads(json.dumps(made.to_dict()))
    ours = read["rows"][1]
    assert ours["stages"]["model"] == {
        "repeats": 1, "median": 1.6, "p90": 1.6, "p99": 1.6, "mean": 1.6, "minimum": 1.6,
    }  # fmt: skip
    assert ours["speedup_over_torch"]["end_to_end"] == pytest.approx(2)
    assert read["rows"][2]["why"] == "tensorrt is not [installed]"


def test_page_is_whole_and_escaped(made: BenchReport, tmp_path: Path) -> None:
    made.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"], "nothing temporary is left"
    assert "a &lt;bundle&gt;" in text
    assert "http" not in text, "nothing from elsewhere"
    body = ElementTree.fromstring(text[text.index("<body>") : text.index("</html>")].replace("<br>", ""))
    assert len(body.findall(".//svg")) == 2
    widths = [sum(float(bar.get("width", 0)) for bar in svg.findall("rect")) for svg in body.findall(".//svg")]
    assert widths == pytest.approx([720, 360], abs=0.1), "bars are to scale"
    assert "tensorrt is not [installed]" in "".join(body.itertext())


def test_table_says_everything(made: BenchReport) -> None:
    console = Console(file=io.StringIO(), width=200)
    made.render(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in (
        "a <bundle> [bold]",
        "a GPU",
        "2.00x",
        "1024 MiB",
        "ragged: eight <clips>",
        "onnxruntime fp32: times were not stable after 4 warm-up calls",
        "<tensorrt> fp16: tensorrt is not [installed]",
        "other processes kept 1.50 cores busy: times and ratios are not reliable",
    ):
        assert expected in text


def test_bystanders_in_words() -> None:
    assert system_load_text(None) == "the load by other processes is not known"
    assert system_load_text(0.04) == "other processes kept 0.04 cores busy"


@pytest.mark.parametrize("name", ["report.png", "report", "report.html.txt"])
def test_other_suffixes_are_refused(made: BenchReport, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"expected \.json or \.html"):
        made.write(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        check_report_path(tmp_path / "nowhere" / "report.json")


def test_errors_stand_beside_the_speed(made: BenchReport) -> None:
    rows = tuple(
        dataclasses.replace(row, error=error, reference="torch fp32")
        for row, error in zip(made.rows, (0.0, 0.0125, None), strict=True)
    )
    made = dataclasses.replace(made, rows=rows)
    text = io.StringIO()
    made.render(Console(file=text, width=200))
    lines = [line.strip("│ \n").split("│") for line in text.getvalue().splitlines() if "ragged" in line]
    assert [line[-1].strip() for line in lines[:2]] == ["reference", "1.3e-02"]
    assert "<td>1.3e-02</td>" in page(made)
    assert made.to_dict()["rows"][1]["error"] == 0.0125
