"""What machine this is and what can run on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvlt_deploy import __version__

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


@dataclass(frozen=True)
class Finding:
    """Whether one thing works here, and if not, why and what to do."""

    name: str
    works: bool
    detail: str
    hint: str = ""


def _packages_finding(name: str, needed: tuple[str, ...], extra: str) -> Finding:
    versions = package_versions(needed)
    missing = [package for package, version in versions.items() if version is None]
    if missing:
        return Finding(name, False, f"missing {', '.join(missing)}", f"pip install 'tvlt-deploy[{extra}]'")
    return Finding(name, True, ", ".join(f"{package} {version}" for package, version in versions.items()))


def _onnxruntime_findings() -> list[Finding]:
    from tvlt_deploy.errors import EnvironmentLackError

    try:
        from tvlt_deploy.runtimes import onnxruntime as runtime
    except EnvironmentLackError as error:
        return [Finding(f"onnxruntime on {kind}", False, error.message, error.hint) for kind in ("cpu", "cuda")]
    packages = ", ".join(f"{name} {version}" for name, version in runtime.installed_packages().items())
    findings = [Finding("onnxruntime on cpu", True, packages)]
    try:
        runtime.check_cuda_provider()
    except EnvironmentLackError as error:
        findings.append(Finding("onnxruntime on cuda", False, error.message, error.hint))
    else:
        devices = gpu_names()
        findings.append(
            Finding("onnxruntime on cuda", True, ", ".join(devices))
            if devices
            else Finding("onnxruntime on cuda", False, "no NVIDIA device is visible", "check nvidia-smi")
        )
    return findings


def _engine_findings() -> list[Finding]:
    """TensorRT-RTX builds on any machine; TensorRT builds, and both run, on one with a GPU only."""
    from tvlt_deploy.engines import PACKAGES as ENGINES
    from tvlt_deploy.engines import builds_for_targets, load_library
    from tvlt_deploy.errors import EnvironmentLackError
    from tvlt_deploy.runtimes.cuda import Cuda

    findings = []
    for engine in ENGINES:
        building, running = f"building with {engine}", f"{engine} on cuda"
        try:
            library = load_library(engine)
            detail = f"{engine} {library.__version__}"
            if builds_for_targets(library):
                findings.append(Finding(building, True, f"{detail}, for any GPU it knows"))
            capability = Cuda(0).capability
        except EnvironmentLackError as error:
            lacking = [name for name in (building, running) if name not in {finding.name for finding in findings}]
            findings += [Finding(name, False, error.message, error.hint) for name in lacking]
            continue
        if not builds_for_targets(library):
            findings.append(Finding(building, True, f"{detail}, for sm{capability}"))
        findings.append(Finding(running, True, f"{detail}, sm{capability}"))
    return findings


def diagnose() -> list[Finding]:
    """What of the toolkit works on this machine: exporting, media, and every backend on every kind of device."""
    findings = [
        _packages_finding("export and verify", ("torch", "onnx", "onnxscript", "safetensors"), "export"),
        _packages_finding("verify --locate", ("polygraphy", "onnx-ir", "onnxruntime"), "cpu,polygraphy"),
        _packages_finding("media files", ("av", "soxr"), "media"),
        _packages_finding("Parquet files", ("pyarrow",), "parquet"),
        _packages_finding("models of the hub", ("huggingface_hub",), "hub"),
        _packages_finding("torch on cpu", ("torch", "safetensors"), "export"),
    ]
    devices = gpu_names()
    if findings[-1].works and devices:
        import torch

        if torch.cuda.is_available():
            findings.append(Finding("torch on cuda", True, ", ".join(devices)))
        else:
            findings.append(Finding("torch on cuda", False, f"torch {torch.__version__} sees no device",
                                    "install a CUDA build of torch"))  # fmt: skip
    else:
        findings.append(Finding("torch on cuda", False, "no NVIDIA device is visible", "check nvidia-smi"))
    findings += _onnxruntime_findings()
    findings.append(_packages_finding("openvino on cpu", ("openvino",), "openvino"))
    return findings + _engine_findings()
