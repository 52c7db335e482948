"""Facts about this machine: processor, memory, GPUs and installed packages."""

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
    """Versions of installed packages, without importing them.

    Args:
        names: Names of distributions.

    Returns:
        Version by name; None for a package that is not installed.
    """
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def cpu_model() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Number of logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_names() -> list[str]:
    """NVIDIA devices as nvidia-smi lists them (`name, memory, driver`); empty if it is missing, fails or hangs."""
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
    """Facts for reports.

    Returns:
        `cpu` (model), `cores` (usable logical cores), `memory` (bytes), `gpus` (as `gpu_names`) and `os`.
    """
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpu_names(),
        "os": platform.platform(),
    }


def imported_versions() -> dict[str, str]:
    """Versions of Python, this package and every imported module that timings and outputs may depend on."""
    modules = ("numpy", "scipy", "PIL", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch", "av", "soxr")
    found = {name: str(sys.modules[name].__version__) for name in modules if name in sys.modules}
    return {"python": platform.python_version(), "tvlt_deploy": __version__, **found}
