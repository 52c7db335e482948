"""SmoothQuant: move outliers from activations into weights, where each channel has a step of its own.

Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2023.
Factors are powers of two, so in floating point every product and sum stays the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tvlt_deploy.errors import UsageError
from tvlt_deploy.exporters.inference_model import Layer, Linear
from tvlt_deploy.exporters.quantization.observers import Observer, transformer_layers


def check_alpha(alpha: float) -> None:
    """Raise `UsageError` for a share outside 0 to 1."""
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}; wanted 0 (leave activations alone) to 1 (move all into the weights)")


def _factors(activations: Tensor, readers: list[Linear], alpha: float) -> Tensor:
    """What each channel is divided by: activations^alpha / weights^(1 - alpha), to the nearest power of two."""
    weights = torch.stack([reader.weight.abs().amax(dim=1) for reader in readers]).amax(dim=0)
    exponent = alpha * activations.log2() - (1 - alpha) * weights.log2()
    return torch.where((activations > 0) & (weights > 0), exponent, 0.0).round().exp2()


def smooth_layers(form: nn.Module, observers: Mapping[str, Observer], alpha: float) -> dict[str, Tensor]:
    """Rebalance the transformer layers of an inference form, in place, without a change of what it computes.

    observers: of the inputs of `key`, `project` and `expand`, by layer name. The factors go into the LayerNorm in
    front of the first and the last, and into `value` in front of `project`, which attention only averages. The
    LayerNorms belong to the model that the form was made from as well.
    Returns the parameters of the layers, by every name they have.
    """
    with torch.no_grad():
        for name, layer in transformer_layers(form):
            for watched, source, readers in (
                ("key", layer.norm_before, [layer.query, layer.key, layer.value]),
                ("project", layer.value, [layer.project]),
                ("expand", layer.norm_after, [layer.expand]),
            ):
                channels = observers[f"{name}.{watched}"].channels
                assert channels is not None
                factors = _factors(channels, readers, alpha)
                source.weight.div_(factors)
                if source.bias is not None:
                    source.bias.div_(factors)
                for reader in readers:
                    reader.weight.mul_(factors[:, None])
    changed = [f"{name}." for name, layer in form.named_modules(remove_duplicate=False) if isinstance(layer, Layer)]
    parameters = form.named_parameters(remove_duplicate=False)
    return {name: values.detach() for name, values in parameters if name.startswith(tuple(changed))}
