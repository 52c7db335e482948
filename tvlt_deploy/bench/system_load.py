"""What the rest of the machine does while a benchmark runs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path


def _busy_seconds() -> float | None:
    """Core seconds that the machine has worked since it started, or None where the system does not tell."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except (OSError, IndexError):
        return None
    user, nice, system, _, _, interrupts, soft_interrupts, stolen, *_ = (int(ticks) for ticks in line.split()[1:])
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Core seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


@dataclass(frozen=True)
class Bystanders:
    """How much the rest of the machine works from now on: a busy neighbour makes times long and ratios wrong."""

    _start: float = field(default_factory=time.perf_counter)
    _busy: float | None = field(default_factory=_busy_seconds)
    _own: float = field(default_factory=_own_seconds)

    def cores(self) -> float | None:
        """Cores that other processes kept busy on average, or None where the system does not tell."""
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (_own_seconds() - self._own)
        return round(max(0.0, others / (time.perf_counter() - self._start)), 2)


def bystander_text(cores: float | None) -> str:
    """What the number of `Bystanders.cores` means for a reader."""
    if cores is None:
        return "what else the machine did is not known"
    warning = ": do not trust these times, and ratios still less" if cores > 0.1 else ""
    return f"other processes kept {cores:.2f} cores busy{warning}"
