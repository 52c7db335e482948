"""The report of a benchmark: a table, a JSON file or an HTML page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvlt_deploy._internal.atomic import write_json, write_text
from tvlt_deploy.bench.html import page
from tvlt_deploy.bench.results import END_TO_END, PARTS, STAGES, BenchResults, BenchRow, error_text, memory_text
from tvlt_deploy.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

REPORT_SUFFIXES = (".json", ".html")
CAPTION = (
    "median times of one call in ms; p90 and p99 of the call end to end; "
    "error: max difference of the answers from the reference's, divided by their deviation"
)


@dataclass(frozen=True)
class BenchReport(BenchResults):
    """The results of a benchmark, which can be printed and written to a file."""

    def render(self, console: Console) -> None:
        """Print the heading, a table and the remarks to a rich console."""
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
        """Write JSON or a self-contained HTML page, atomically.

        Args:
            path: A file whose suffix is `.json` or `.html`.

        Raises:
            UsageError: Another suffix, or the folder does not exist.
        """
        if check_report_path(path) == ".json":
            write_json(path, self.to_dict())
        else:
            write_text(path, page(self))


def check_report_path(path: str | os.PathLike[str]) -> str:
    """Check the path of a report file.

    Returns:
        Its suffix.

    Raises:
        UsageError: The suffix is not one of `REPORT_SUFFIXES`, or the folder does not exist.
    """
    file = Path(path)
    if file.suffix not in REPORT_SUFFIXES:
        raise UsageError(f"the report {file} ends in {file.suffix!r}; expected {' or '.join(REPORT_SUFFIXES)}")
    if not file.parent.is_dir():
        raise UsageError(f"the folder of the report {file} does not exist", hint="create it first")
    return file.suffix
