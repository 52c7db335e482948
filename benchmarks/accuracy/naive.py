"""Naive int8, simulated in torch: the baseline for calibrated graphs.

One symmetric scale per activation tensor, from its max value, and one per output channel of a weight.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tvlt_deploy.reference import PretrainedModule

Model = TypeVar("Model", bound=PretrainedModule)

LEVELS = 127


def _rounded(values: Tensor, largest: Tensor) -> Tensor:
    scale = largest.clamp(min=torch.finfo(torch.float32).tiny) / LEVELS
    return (values / scale).round().clamp(-LEVELS - 1, LEVELS) * scale


def naive_int8(model: Model, batches: Iterable[dict[str, np.ndarray]]) -> Model:
    """A copy with int8 inputs and weights in its linear layers. Ranges come from the batches, including padding."""
    model = copy.deepcopy(model).eval()
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    largest = {layer: torch.zeros(()) for layer in layers}

    def observe(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest[layer] = torch.maximum(largest[layer], inputs[0].abs().max())

    def quantise(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_rounded(inputs[0], largest[layer]),)

    observers = [layer.register_forward_pre_hook(observe) for layer in layers]
    with torch.inference_mode():
        for feeds in batches:
            model(**{name: torch.from_numpy(values) for name, values in feeds.items()})
    for observer, layer in zip(observers, layers, strict=True):
        observer.remove()
        layer.register_forward_pre_hook(quantise)
        with torch.no_grad():
            layer.weight.copy_(_rounded(layer.weight, layer.weight.abs().amax(dim=1, keepdim=True)))
    return model
