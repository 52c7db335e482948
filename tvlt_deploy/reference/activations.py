"""The activations that `hidden_act` in `config.json` may name, under the names of transformers 4.40.2."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor

from tvlt_deploy.errors import ConfigError

_tanh_gelu = partial(F.gelu, approximate="tanh")


def _laplace(x: Tensor, mean: float = 0.707107, deviation: float = 0.282095) -> Tensor:
    return 0.5 * (1 + torch.erf((x - mean) / (deviation * math.sqrt(2))))


ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "gelu": F.gelu,
    "gelu_10": lambda x: F.gelu(x).clamp(-10, 10),
    "gelu_accurate": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_python": F.gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "laplace": _laplace,
    "leaky_relu": F.leaky_relu,
    "linear": lambda x: x,
    "mish": F.mish,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def get_activation(activation: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function of that name, or the callable itself.

    Raises:
        ConfigError: The name is unknown; the message lists the known ones.
    """
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ConfigError(f"hidden_act is {activation!r}; expected one of {', '.join(ACTIVATIONS)}, or a callable")
    return ACTIVATIONS[activation]
