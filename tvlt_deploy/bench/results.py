"""The results of a benchmark: rows, and the conditions they were measured under."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tvlt_deploy.bench.system_load import system_load_text
from tvlt_deploy.bench.timing import Statistics
from tvlt_deploy.bundle.manifest import FUSED_FORM

PARTS = ("decode", "image", "audio", "model")
END_TO_END = "end_to_end"
STAGES = (*PARTS, END_TO_END)
_BASELINE = ("torch", "fp32")


@dataclass(frozen=True)
class BenchRow:
    """One workload on one backend in one precision.

    Attributes:
        workload: Name of the workload, or of the media file.
        backend: Name of the backend, or `fused`.
        precision: One of `tvlt_deploy.tasks.PRECISIONS`.
        why: Why it did not run; all that follows is then empty.
        description: The clips of the workload, in words.
        note: How they differ from the named workload, if they do.
        clips: Number of clips answered by one call.
        batches: (clips, frames, rows) of each batch that the pipeline formed.
        stages: Statistics in seconds per call (for all clips), by those of `STAGES` that the workload has.
        load_seconds: Time to open the bundle.
        peak_memory: Bytes, peak of a new process that opened the bundle and answered this workload alone.
        warm_up_calls: Number of calls before the measurement.
        stable: Whether times were stable at the end of the warm-up.
        error: Max difference of its answers from those of `reference`, divided by their deviation; None without a
            reference.
        reference: Backend and precision that the answers are compared with; its own name if it is the reference.
    """

    workload: str
    backend: str
    precision: str
    why: str = ""
    description: str = ""
    note: str = ""
    clips: int = 0
    batches: tuple[tuple[int, int, int], ...] = ()
    stages: Mapping[str, Statistics] = field(default_factory=dict)
    load_seconds: float = 0.0
    peak_memory: int | None = None
    warm_up_calls: int = 0
    stable: bool = True
    error: float | None = None
    reference: str = ""

    @property
    def name(self) -> str:
        """Backend and precision."""
        return f"{self.backend} {self.precision}"

    @property
    def throughput(self) -> float:
        """Clips per second over all calls, end to end; 0 if the row did not run."""
        return self.clips / self.stages[END_TO_END].mean if self.stages else 0.0

    @property
    def other(self) -> float:
        """Seconds of the median call outside the stages: grouping and stacking clips."""
        medians = {name: statistics.median for name, statistics in self.stages.items()}
        return max(0.0, medians.pop(END_TO_END, 0.0) - sum(medians.values()))

    @property
    def remarks(self) -> list[str]:
        """Notes on the numbers of this row."""
        unstable = f"times were not stable after {self.warm_up_calls} warm-up calls" if not self.stable else ""
        share = self.preprocessing_share
        inside = f"{share:.1%} of the call is pre-processing inside the graph" if share is not None else ""
        return [remark for remark in (self.why, unstable, inside) if remark]

    @property
    def preprocessing_share(self) -> float | None:
        """Share of the fused graph's median call that is not the model; None for any other backend."""
        if self.backend != FUSED_FORM or not self.stages:
            return None
        decode = self.stages["decode"].median if "decode" in self.stages else 0.0
        return max(0.0, 1 - self.stages["model"].median / (self.stages[END_TO_END].median - decode))


@dataclass(frozen=True)
class BenchResults:
    """All rows of a benchmark, and the conditions they were measured under.

    Attributes:
        bundle: Directory of the bundle.
        manifest_sha256: SHA-256 of its manifest.
        task: Name of the task.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads of every backend.
        order: How the rows of one workload took turns.
        bystander_cores: Average number of cores kept busy by other processes; None if the system does not provide it.
        machine: Facts about the machine, as of `describe_machine`.
        versions: Versions of the packages that ran, by name.
        rows: One for each workload, backend and precision.
        engine_options: Options of the backends that were set, by name.
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
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ran(self) -> bool:
        """Whether anything was measured."""
        return any(row.stages for row in self.rows)

    def speedup(self, row: BenchRow, stage: str = END_TO_END) -> float | None:
        """Median time of torch in fp32 divided by the row's, on the same workload; None if either did not run."""
        for other in self.rows:
            baseline = (other.backend, other.precision) == _BASELINE and other.workload == row.workload
            if baseline and stage in other.stages and stage in row.stages:
                return other.stages[stage].median / row.stages[stage].median
        return None

    def to_dict(self) -> dict[str, Any]:
        """All values in JSON types: times in seconds, memory in bytes, `speedup_over_torch` by stage."""
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
        """The conditions of the measurement, in lines of text."""
        machine, options = self.machine, self.engine_options
        gpus = "".join(f", {gpu}" for gpu in machine["gpus"])
        return [
            f"{self.bundle}: {self.task} on {self.device}, {self.threads} threads",
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB{gpus}; {machine['os']}",
            ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            f"{self.order}; {system_load_text(self.bystander_cores)}",
            *([f"engine options: {', '.join(f'{k}={v}' for k, v in options.items())}"] if options else []),
        ]

    def descriptions(self, workload: str) -> list[str]:
        """The clips of a workload, and how they differ from the named workload."""
        rows = [row for row in self.rows if row.workload == workload]
        return [text for text in dict.fromkeys(text for row in rows for text in (row.description, row.note)) if text]


def error_text(row: BenchRow) -> str:
    """The error of a row as text."""
    if row.error is None:
        return "-"
    return "reference" if row.reference == row.name else f"{row.error:.1e}"


def memory_text(size: int | None) -> str:
    """Bytes as MiB."""
    return "-" if size is None else f"{size / 2**20:.0f} MiB"
