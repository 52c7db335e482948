"""What was measured, as data, as a table and as a page."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvlt_deploy._internal.atomic import write_json, write_text
from tvlt_deploy.bench.html import page
from tvlt_deploy.bench.results import END_TO_END, PARTS, STAGES, BenchRow, error_text, memory_text
from tvlt_deploy.bench.system_load import bystander_text
from tvlt_deploy.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

REPORT_SUFFIXES = (".json", ".html")
_BASELINE = ("torch", "fp32")
CAPTION = (
    "median times of one call in ms; p90 and p99 of the call end to end; "
    "error: largest difference of the answers from the reference's, over their deviation"
)


@dataclass(frozen=True)
class BenchReport:
    """All rows, and what they belong to: bundle, machine, versions, threads.

    threads: CPU threads of every backend. order: how the rows of one workload took turns.
    bystander_cores: kept busy by other processes on average during the run; None where the system does not tell.
    """

    bundle: str
    manifest_sha256: str
    task: str
    device: str
    threads: int
    order: str
    bystander_cores: float | None
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    rows: tuple[BenchRow, ...]

    @property
    def ran(self) -> bool:
        """Whether anything was measured."""
        return any(row.stages for row in self.rows)

    def speedup(self, row: BenchRow, stage: str = END_TO_END) -> float | None:
        """Median of torch in fp32 over the row's, same workload and stage; None where either did not run."""
        for other in self.rows:
            baseline = (other.backend, other.precision) == _BASELINE and other.workload == row.workload
            if baseline and stage in other.stages and stage in row.stages:
                return other.stages[stage].median / row.stages[stage].median
        return None

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON holds; times in seconds, memory in bytes, `speedup_over_torch` by stage."""
        rows = []
        for row in self.rows:
            speedups = {stage: self.speedup(row, stage) for stage in ("model", END_TO_END)}
            rows.append(
                {
                    **dataclasses.asdict(row),
                    "batches": [list(batch) for batch in row.batches],
                    "throughput": row.throughput,
                    "preprocessing_share": row.preprocessing_share,
                    "speedup_over_torch": {stage: value for stage, value in speedups.items() if value is not None},
                }
            )
        return {**dataclasses.asdict(dataclasses.replace(self, rows=())), "rows": rows}

    def heading(self) -> list[str]:
        """Where and how it was measured, in lines of text."""
        machine = self.machine
        gpus = "".join(f", {gpu}" for gpu in machine["gpus"])
        return [
            f"{self.bundle}: {self.task} on {self.device}, {self.threads} threads",
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB{gpus}; {machine['os']}",
            ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            f"{self.order}; {bystander_text(self.bystander_cores)}",
        ]

    def descriptions(self, workload: str) -> list[str]:
        """What a workload is, and how it differs from its name."""
        rows = [row for row in self.rows if row.workload == workload]
        return [text for text in dict.fromkeys(text for row in rows for text in (row.description, row.note)) if text]

    def render(self, console: Console) -> None:
        """Print the heading, a table and the remarks."""
        from rich.markup import escape
        from rich.table import Table

        for line in self.heading():
            console.print(line, markup=False, highlight=False)
        table = Table(caption=CAPTION)
        table.add_column("workload")
        table.add_column("backend")
        for title in (*PARTS, "end to end", "p90", "p99", "clips/s", "memory", "vs torch", "error"):
            table.add_column(title, justify="right")
        for row in self.rows:
            table.add_row(*(escape(cell) for cell in self._cells(row)))
        console.print(table)
        for workload in dict.fromkeys(row.workload for row in self.rows):
            for text in self.descriptions(workload):
                console.print(f"{workload}: {text}", markup=False, highlight=False)
        for row in self.rows:
            for remark in row.remarks:
                console.print(f"{row.workload}, {row.name}: {remark}", markup=False, highlight=False)

    def _cells(self, row: BenchRow) -> list[str]:
        if not row.stages:
            return [row.workload, row.name, "not run"]
        milliseconds = lambda seconds: f"{1000 * seconds:.4g}"  # noqa: E731
        whole, ratio = row.stages[END_TO_END], self.speedup(row)
        return [
            row.workload,
            row.name,
            *(milliseconds(row.stages[stage].median) if stage in row.stages else "-" for stage in STAGES),
            milliseconds(whole.p90),
            milliseconds(whole.p99),
            f"{row.throughput:.4g}",
            memory_text(row.peak_memory),
            "-" if ratio is None else f"{ratio:.2f}x",
            error_text(row),
        ]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write JSON or a self-contained HTML page, by the suffix and in one piece. Raises `UsageError` for others."""
        if check_report_path(path) == ".json":
            write_json(path, self.to_dict())
        else:
            write_text(path, page(self))


def check_report_path(path: str | os.PathLike[str]) -> str:
    """The suffix of a report file. Raises `UsageError` for one that no report is written in, or a missing folder."""
    file = Path(path)
    if file.suffix not in REPORT_SUFFIXES:
        raise UsageError(f"the report {file} ends in {file.suffix!r}; wanted {' or '.join(REPORT_SUFFIXES)}")
    if not file.parent.is_dir():
        raise UsageError(f"the folder of the report {file} does not exist", hint="make it first")
    return file.suffix
