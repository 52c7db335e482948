"""What machine this is and what can run on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tvlt_deploy._version import __version__

PACKAGES = (
    "numpy", "scipy", "pillow", "click", "rich", "torch", "onnx", "onnxscript", "safetensors", "onnxruntime",
    "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx", "cuda-bindings", "av", "soxr", "pyarrow",
    "huggingface_hub",
)  # fmt: skip


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Installed versions by distribution name, None where a package is not installed; nothing is imported."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_names() -> list[str]:
    """NVIDIA devices (name, memory, driver) as the driver's own tool lists them; empty without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        listed = subprocess.run(
            [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()] if listed.returncode == 0 else []


def describe_machine() -> dict[str, Any]:
    """CPU model, usable logical cores, memory in bytes, GPUs and operating system."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpu_names(),
        "os": platform.platform(),
    }


def imported_versions() -> dict[str, str]:
    """Of Python, this package and every module imported so far that a time or a number may depend on."""
    modules = ("numpy", "scipy", "PIL", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch", "av", "soxr")
    found = {name: str(sys.modules[name].__version__) for name in modules if name in sys.modules}
    return {"python": platform.python_version(), "tvlt_deploy": __version__, **found}
