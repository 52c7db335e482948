"""One workload on one backend: what a benchmark measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvlt_deploy.bench.timing import Statistics
from tvlt_deploy.bundle.manifest import FUSED_FORM

PARTS = ("decode", "image", "audio", "model")
END_TO_END = "end_to_end"
STAGES = (*PARTS, END_TO_END)


@dataclass(frozen=True)
class BenchRow:
    """One workload on one backend in one precision.

    why: what kept it from running; everything below is then empty.
    stages: statistics in seconds by stage (of `STAGES`, those the workload has), each per call, that is for all clips.
    clips: answered by one call. batches: (clips, frames, rows) of each batch the pipeline made of them.
    peak_memory: bytes, the most that a fresh process held which loaded the bundle and answered this workload alone.
    stable: whether times had settled when the warm-up of `warm_up_calls` calls ended.
    error: largest difference of its answers from those of `reference`, over their deviation; None without one.
    reference: backend and precision whose answers count as right; its own name where it is the one.
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
        """Clips per second over all calls, end to end; 0 for a row that did not run."""
        return self.clips / self.stages[END_TO_END].mean if self.stages else 0.0

    @property
    def other(self) -> float:
        """Seconds of the median call outside the stages: grouping and stacking clips."""
        medians = {name: statistics.median for name, statistics in self.stages.items()}
        return max(0.0, medians.pop(END_TO_END, 0.0) - sum(medians.values()))

    @property
    def remarks(self) -> list[str]:
        """What a reader of this row's numbers must know."""
        unsettled = f"times had not settled after {self.warm_up_calls} warm-up calls" if not self.stable else ""
        share = self.preprocessing_share
        inside = f"{share:.1%} of the call is pre-processing inside the graph" if share is not None else ""
        return [remark for remark in (self.why, unsettled, inside) if remark]

    @property
    def preprocessing_share(self) -> float | None:
        """What part of the fused graph's median call its model alone does not take; None for any other backend."""
        if self.backend != FUSED_FORM or not self.stages:
            return None
        decode = self.stages["decode"].median if "decode" in self.stages else 0.0
        return max(0.0, 1 - self.stages["model"].median / (self.stages[END_TO_END].median - decode))


def error_text(row: BenchRow) -> str:
    """How far the answers are off, as a share of their deviation."""
    if row.error is None:
        return "-"
    return "reference" if row.reference == row.name else f"{row.error:.1e}"


def memory_text(size: int | None) -> str:
    """Bytes as MiB."""
    return "-" if size is None else f"{size / 2**20:.0f} MiB"
