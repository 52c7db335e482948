"""Sessions of ONNX Runtime, and the packages that it comes in."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import Variant
from tvlt_deploy.errors import BundleError, EnvironmentLackError

__all__ = [
    "CPU_PROVIDER",
    "CUDA_PROVIDER",
    "check_cuda_provider",
    "installed_packages",
    "open_graph",
    "open_session",
    "ort",
    "shared_library",
]

_INSTALL = "pip install 'tvlt-deploy[cpu]', or 'tvlt-deploy[gpu]' for CUDA; never both in one environment"

try:
    import onnxruntime as ort
except ImportError as error:
    raise EnvironmentLackError("onnxruntime is not installed", hint=_INSTALL) from error

ort.disable_telemetry_events()

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"


def installed_packages() -> dict[str, str]:
    """Versions of the ONNX Runtime packages that are installed, by name. Both packages install into one folder."""
    versions = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def shared_library() -> Path:
    """The path of the library inside the installed package, which a C++ program can load.

    Raises:
        EnvironmentLackError: The installed package contains no such library.
    """
    folder = Path(ort.__file__).parent / "capi"
    found = sorted(folder.glob("libonnxruntime.so*"))
    if not found:
        raise EnvironmentLackError(f"{folder} contains no libonnxruntime.so", hint=_INSTALL)
    return found[0]


def _cuda_error(reason: str) -> EnvironmentLackError:
    """Why CUDA is not available, with the packages that are installed."""
    packages = installed_packages()
    installed = ", ".join(f"{name} {version}" for name, version in packages.items()) or "no package of that name"
    if len(packages) == 2:
        hint = (
            "both packages share one folder and break each other: pip uninstall onnxruntime onnxruntime-gpu, "
            "then pip install 'tvlt-deploy[gpu]'"
        )
    elif "onnxruntime-gpu" in packages:
        hint = "check the driver with nvidia-smi and the CUDA and cuDNN libraries (onnxruntime-gpu[cuda,cudnn])"
    else:
        hint = "pip uninstall onnxruntime, then pip install 'tvlt-deploy[gpu]'"
    return EnvironmentLackError(f"CUDA is not available: {reason} ({installed} installed)", hint=hint)


def check_cuda_provider(name: str = CUDA_PROVIDER) -> None:
    """Check that the installed ONNX Runtime has an execution provider.

    Raises:
        EnvironmentLackError: It has no provider of that name.
    """
    if name not in ort.get_available_providers():
        kind = "CUDA provider" if name == CUDA_PROVIDER else name
        raise _cuda_error(f"this ONNX Runtime has no {kind}")


def _session_options(threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # A memory pattern is kept for each new input shape; without it, memory does not grow with the shapes seen.
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_graph(content: bytes, folder: str | os.PathLike[str], threads: int | None = None) -> ort.InferenceSession:
    """A CPU session on a serialized model.

    Args:
        content: The ONNX model.
        folder: The folder of its external weights.
        threads: CPU threads; by default all cores.
    """
    options = _session_options(threads)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.fspath(folder))
    return ort.InferenceSession(content, sess_options=options, providers=[CPU_PROVIDER])


def open_session(bundle: Bundle, variant: Variant, providers: list[Any], threads: int | None) -> ort.InferenceSession:
    """A session on the first of the providers, and on no other in its place.

    Args:
        bundle: The bundle; the files of the variant are hashed first.
        variant: The graph.
        providers: Names, or pairs of a name and its options, as `onnxruntime.InferenceSession` accepts them.
        threads: CPU threads; by default all cores.

    Raises:
        EnvironmentLackError: The provider cannot start, or the session runs on another one.
        BundleError: ONNX Runtime cannot load the graph.
    """
    name = providers[0] if isinstance(providers[0], str) else providers[0][0]
    bundle.check(variant.files)
    try:
        session = ort.InferenceSession(
            str(bundle.path(variant.path)),
            sess_options=_session_options(threads),
            providers=providers,
            enable_fallback=0,  # otherwise a provider that fails later is silently replaced by another
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        if name != CPU_PROVIDER and ("CUDA" in str(error) or name in str(error)):
            raise _cuda_error(f"the {name.removesuffix('ExecutionProvider')} provider failed: {error}") from error
        raise BundleError(
            f"ONNX Runtime {ort.__version__} cannot load {bundle.path(variant.path)}: {error}",
            hint="expected onnxruntime 1.22 or newer",
        ) from error
    if session.get_providers()[0] != name:
        raise _cuda_error(f"the session runs on {session.get_providers()[0]}")
    return session
