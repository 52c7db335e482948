"""CPU load by other processes while a benchmark runs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path


def _busy_seconds() -> float | None:
    """Busy core seconds of the machine since it started; None if the system does not provide them."""
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
class SystemLoad:
    """CPU load by other processes since this object was created: it makes times longer and ratios wrong."""

    _start: float = field(default_factory=time.perf_counter)
    _busy: float | None = field(default_factory=_busy_seconds)
    _own: float = field(default_factory=_own_seconds)

    def other_cores(self) -> float | None:
        """Average number of cores kept busy by other processes; None if the system does not provide it."""
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (_own_seconds() - self._own)
        return round(max(0.0, others / (time.perf_counter() - self._start)), 2)


def system_load_text(cores: float | None) -> str:
    """`SystemLoad.other_cores` in words, with a warning from 0.1 cores on."""
    if cores is None:
        return "the load by other processes is not known"
    warning = ": times and ratios are not reliable" if cores > 0.1 else ""
    return f"other processes kept {cores:.2f} cores busy{warning}"
