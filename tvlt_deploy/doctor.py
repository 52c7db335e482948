"""Which parts of the toolkit work on this machine, and what to install for the others."""

from __future__ import annotations

from dataclasses import dataclass

from tvlt_deploy._internal.machine import gpu_names, package_versions


@dataclass(frozen=True)
class Finding:
    """Whether one part works on this machine.

    Attributes:
        name: The part.
        works: Whether it works.
        detail: Versions and devices, or why it does not work.
        hint: What to do about it; empty if it works.
    """

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
        from tvlt_deploy.runtimes import onnxruntime_session as runtime
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
    """TensorRT-RTX builds on any machine. TensorRT builds on a machine with a GPU, where both run."""
    from tvlt_deploy.errors import EnvironmentLackError
    from tvlt_deploy.tensorrt.cuda import Cuda
    from tvlt_deploy.tensorrt.library import PACKAGES as ENGINES
    from tvlt_deploy.tensorrt.library import builds_for_targets, load_library

    findings = []
    for engine in ENGINES:
        building, running = f"building with {engine}", f"{engine} on cuda"
        try:
            library = load_library(engine)
            detail = f"{engine} {library.__version__}"
            if builds_for_targets(library):
                findings.append(Finding(building, True, f"{detail}, for all GPUs that it supports"))
            capability = Cuda(0).capability
        except EnvironmentLackError as error:
            missing = [name for name in (building, running) if name not in {finding.name for finding in findings}]
            findings += [Finding(name, False, error.message, error.hint) for name in missing]
            continue
        if not builds_for_targets(library):
            findings.append(Finding(building, True, f"{detail}, for sm{capability}"))
        findings.append(Finding(running, True, f"{detail}, sm{capability}"))
    return findings


def diagnose() -> list[Finding]:
    """Check exporting, media files, and every backend on every kind of device."""
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
