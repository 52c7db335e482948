"""ONNX Runtime on the CPU and on CUDA. The provider asked for is the provider that runs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np

from tvlt_deploy.bundle import FP16_TWIN_FORM, ONNXRUNTIME_CPU_FORM, STANDARD_FORM, Bundle
from tvlt_deploy.errors import BundleError, EnvironmentLackError, InputError
from tvlt_deploy.runtimes.base import Closing, check_feeds

_INSTALL = "pip install 'tvlt-deploy[cpu]', or 'tvlt-deploy[gpu]' for CUDA; never both in one environment"

try:
    import onnxruntime as ort
except ImportError as error:
    raise EnvironmentLackError("onnxruntime is not installed", hint=_INSTALL) from error

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"


def installed_packages() -> dict[str, str]:
    """Which of the two ONNX Runtime packages are installed, with their versions. Both share one folder."""
    found = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cuda_lacking(found: str) -> EnvironmentLackError:
    """Why CUDA cannot be had, with the packages at fault."""
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
    return EnvironmentLackError(f"CUDA cannot be had: {found} ({installed} installed)", hint=hint)


def check_cuda_provider() -> None:
    """Raise `EnvironmentLackError` when the installed ONNX Runtime has no CUDA provider."""
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise _cuda_lacking("this ONNX Runtime has no CUDA provider")


def _session_options(threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # A memory pattern is planned and kept for each new input shape; without it, memory stays flat over mixed shapes.
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


class OnnxRuntime(Closing):
    """One session; see `tvlt_deploy.runtimes.base.Runtime`. Calls from several threads are safe."""

    backend = "onnxruntime"

    def __init__(self, bundle: Bundle, session: ort.InferenceSession, device: str, precision: str) -> None:
        self.task, self.config = bundle.task, bundle.config
        self.device, self.precision = device, precision
        self.inputs, self.outputs = self.task.inputs(self.config), self.task.outputs(self.config)
        self.session: ort.InferenceSession | None = session

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """As `Runtime.run`; on CUDA the inputs are copied once to the device and the outputs once back."""
        if self.session is None:
            raise InputError("this runtime is closed", hint="open it again")
        arrays = check_feeds(feeds, self.inputs, self.config)
        if self.device == "cpu":
            values = self.session.run(list(self.outputs), arrays)
        else:
            values = self._run_bound(self.session, arrays)
        return dict(zip(self.outputs, values, strict=True))

    def _run_bound(self, session: ort.InferenceSession, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        kind, _, index = self.device.partition(":")
        binding = session.io_binding()
        for name, array in arrays.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, kind, int(index or 0)))
        for name in self.outputs:
            binding.bind_output(name, kind, int(index or 0))
        session.run_with_iobinding(binding)
        values: list[np.ndarray] = binding.copy_outputs_to_cpu()
        return values

    def close(self) -> None:
        """Release the session."""
        self.session = None


def open(
    bundle: Bundle,
    device: str,
    precision: str,
    threads: int | None = None,
    allow_fallback: bool = False,
    form: str | None = None,
) -> OnnxRuntime:
    """A session on `form`, by default the one that suits the device.

    Raises `EnvironmentLackError` when the provider that runs is not the one asked for, unless `allow_fallback`.
    """
    if device != "cpu":
        try:
            return _open(bundle, device, precision, threads, form)
        except EnvironmentLackError:
            if not allow_fallback:
                raise
    return _open(bundle, "cpu", precision, threads, form)


def _open(bundle: Bundle, device: str, precision: str, threads: int | None, form: str | None) -> OnnxRuntime:
    kind, _, index = device.partition(":")
    if kind == "cuda":
        check_cuda_provider()
    if form is None:
        forms = {variant.form for variant in bundle.variants if variant.precision == precision}
        suited = ONNXRUNTIME_CPU_FORM if kind == "cpu" else FP16_TWIN_FORM
        form = suited if suited in forms else STANDARD_FORM
    variant = bundle.variant(precision, form)
    bundle.check(variant.files)
    providers: list[Any] = [CPU_PROVIDER]
    if kind == "cuda":
        # TF32 would answer fp32 with ten bits of mantissa.
        providers.insert(0, (CUDA_PROVIDER, {"device_id": int(index or 0), "use_tf32": 0}))
    try:
        session = ort.InferenceSession(
            str(bundle.path(variant.path)),
            sess_options=_session_options(threads),
            providers=providers,
            enable_fallback=0,  # or a provider that fails later is exchanged for another without a word
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        if kind == "cuda" and "CUDA" in str(error):
            raise _cuda_lacking(f"the CUDA provider failed: {error}") from error
        raise BundleError(
            f"ONNX Runtime {ort.__version__} cannot load {bundle.path(variant.path)}: {error}",
            hint="wanted: onnxruntime 1.22 or newer",
        ) from error
    if kind == "cuda" and session.get_providers()[0] != CUDA_PROVIDER:
        raise _cuda_lacking(f"the session runs on {session.get_providers()[0]}")
    return OnnxRuntime(bundle, session, device, precision)
