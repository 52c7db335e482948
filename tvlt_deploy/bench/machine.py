"""The machine and the versions that a measurement belongs to."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvlt_deploy import __version__

_MODULES = ("numpy", "scipy", "PIL", "onnxruntime", "torch", "av", "soxr")


def usable_cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def describe() -> dict[str, Any]:
    """CPU model, usable logical cores, memory in bytes, operating system and GPUs."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": platform.platform(),
        "gpus": _gpus(),
    }


def versions() -> dict[str, str]:
    """Of Python, this package and every imported module that a time may depend on."""
    found = {name: str(sys.modules[name].__version__) for name in _MODULES if name in sys.modules}
    return {"python": platform.python_version(), "tvlt_deploy": __version__, **found}


def _cpu_model() -> str:
    try:
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """One line per GPU: name, memory, driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
