"""Activation outliers like those of large transformers, put into a model without changing what it computes."""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np
import torch

from tvlt_deploy.reference import PretrainedModule

Model = TypeVar("Model", bound=PretrainedModule)


def inject(model: Model, channels: int = 3, factor: float = 50.0, seed: int = 0) -> Model:
    """A copy in which a few channels of every encoder LayerNorm are `factor` times as large.

    Gain and bias of the drawn channels grow, and the columns that read them in the next weights (query, key and value;
    the MLP's first layer) shrink by as much, so the function stays the same up to rounding. What changes is the range
    that the inputs of these weights span, which is what breaks one scale for a whole tensor.
    """
    model = copy.deepcopy(model)
    random = np.random.default_rng(seed)
    encoder = getattr(model, "tvlt", model).encoder
    with torch.no_grad():
        for layer in encoder.layer:
            attention = layer.attention.attention
            for norm, readers in (
                (layer.layernorm_before, (attention.query, attention.key, attention.value)),
                (layer.layernorm_after, (layer.intermediate.dense,)),
            ):
                chosen = torch.from_numpy(random.choice(len(norm.weight), channels, replace=False))
                norm.weight[chosen] *= factor
                norm.bias[chosen] *= factor
                for reader in readers:
                    reader.weight[:, chosen] /= factor
    return model
