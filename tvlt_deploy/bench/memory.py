"""Peak memory of a process."""

from __future__ import annotations

import re
from pathlib import Path


def peak_memory(status: Path = Path("/proc/self/status")) -> int | None:
    """Peak resident memory of this process.

    `getrusage` is no substitute: on Linux its value survives exec, so that a child starts with its parent's.

    Args:
        status: The status file of the process; its VmHWM is read.

    Returns:
        Bytes; None if the system does not provide them.
    """
    try:
        match = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None
