"""The most memory a process ever held."""

from __future__ import annotations

import re
from pathlib import Path


def peak_memory(status: Path = Path("/proc/self/status")) -> int | None:
    """Bytes of this process's resident memory at its highest (VmHWM), or None where the system does not tell.

    `getrusage` is no substitute: on Linux its figure survives exec, so that a child starts with its parent's.
    """
    try:
        match = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None
