"""SmoothQuant: move outliers from activations into weights, where each channel has a scale of its own.

Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2023.
Factors are powers of two, so that in floating point every product and sum is bit-identical.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tvlt_deploy.errors import UsageError
from tvlt_deploy.exporters.inference_model import Layer, Linear
from tvlt_deploy.exporters.quantization.observers import Observer, transformer_layers


def check_alpha(alpha: float) -> None:
    """Check the smoothing strength.

    Raises:
        UsageError: It is outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}; expected 0 (keep the activations) to 1 (move everything into the weights)")


def _factors(activations: Tensor, readers: list[Linear], alpha: float) -> Tensor:
    """The divisor of each channel: activations^alpha / weights^(1 - alpha), rounded to a power of two."""
    weights = torch.stack([reader.weight.abs().amax(dim=1) for reader in readers]).amax(dim=0)
    exponent = alpha * activations.log2() - (1 - alpha) * weights.log2()
    return torch.where((activations > 0) & (weights > 0), exponent, 0.0).round().exp2()


def smooth_layers(form: nn.Module, observers: Mapping[str, Observer], alpha: float) -> dict[str, Tensor]:
    """Smooth the transformer layers of an inference form, in place; its outputs stay the same.

    The divisors go into the LayerNorm before `key` and `expand`, and into `value` before `project`, because attention
    only averages values. The LayerNorms are shared with the model that the form was built from.

    Args:
        form: An inference form.
        observers: Observers of the inputs of `key`, `project` and `expand`, by layer name.
        alpha: The smoothing strength, 0 to 1.

    Returns:
        The parameters of the layers, by every name they have.
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
