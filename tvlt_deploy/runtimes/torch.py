"""The torch reference model as a runtime. The other backends are measured against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import WEIGHTS_FILE
from tvlt_deploy.config import CONFIG_FILE
from tvlt_deploy.errors import EnvironmentLackError, InputError, UsageError
from tvlt_deploy.runtimes.base import Closing, check_feeds
from tvlt_deploy.runtimes.pairs import check_pair

try:
    import torch
except ImportError as error:
    raise EnvironmentLackError(
        "the torch backend needs torch, which is not installed", hint="pip install 'tvlt-deploy[export]'"
    ) from error

from tvlt_deploy.reference.base import PretrainedModule
from tvlt_deploy.reference.checkpoint import open_checkpoint

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchRuntime(Closing):
    """Runs a reference model in evaluation mode; see `tvlt_deploy.runtimes.base.Runtime`.

    Attributes:
        model: The reference model; None when closed.
    """

    backend = "torch"

    def __init__(self, bundle: Bundle, model: PretrainedModule, device: str, precision: str) -> None:
        self.task, self.config = bundle.task, bundle.config
        self.device, self.precision = device, precision
        self.inputs, self.outputs = self.task.inputs(self.config), self.task.outputs(self.config)
        self.model: PretrainedModule | None = model

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """See `Runtime.run`."""
        if self.model is None:
            raise InputError("this runtime is closed", hint="open it again")
        arrays = check_feeds(feeds, self.inputs, self.config)
        tensors = {name: torch.tensor(array, device=self.device) for name, array in arrays.items()}
        with torch.inference_mode():
            output = self.model(**tensors, return_dict=True)
        # Copies: some outputs are views of others.
        return {name: output[name].float().cpu().numpy().copy() for name in self.outputs}

    def close(self) -> None:
        """Release the model."""
        self.model = None


def open(
    bundle: Bundle, device: str, precision: str, threads: int | None = None, allow_fallback: bool = False
) -> TorchRuntime:
    """Load the bundle's weights into the reference model.

    Args:
        bundle: A bundle with weights.
        device: `cpu`, `cuda` or `cuda:N`.
        precision: Precision of weights and computation.
        threads: CPU threads of torch, for the whole process; by default unchanged.
        allow_fallback: Use the CPU if torch sees no CUDA device.

    Raises:
        UsageError: The bundle has no weights.
        EnvironmentLackError: torch sees no such device, or the CPU as a fallback does not run this precision.
        BundleError: A file does not match the manifest.
    """
    if not bundle.has_weights:
        raise UsageError(
            f"{bundle.directory} was exported without weights, which the torch backend needs",
            hint="export again without --no-weights",
        )
    if device != "cpu" and not torch.cuda.is_available():
        if not allow_fallback:
            raise EnvironmentLackError(
                f"device is {device}, but torch {torch.__version__} sees no CUDA device",
                hint="check the driver with nvidia-smi and that torch is a CUDA build, or use --device cpu",
            )
        device = "cpu"
        check_pair("torch", device, precision)
    if device != "cpu" and int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise EnvironmentLackError(
            f"device is {device}, but torch sees {torch.cuda.device_count()} CUDA device(s), from cuda:0 on",
            hint="nvidia-smi lists them",
        )
    if threads is not None:
        torch.set_num_threads(threads)
    bundle.check([CONFIG_FILE, WEIGHTS_FILE])
    model = open_checkpoint(bundle.directory).load(bundle.task.name, dtype=_DTYPES[precision]).to(device)
    return TorchRuntime(bundle, model, device, precision)
