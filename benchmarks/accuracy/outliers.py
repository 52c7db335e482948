"""Inject activation outliers like those of large transformers, without changing what the model computes."""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np
import torch

from tvlt_deploy.reference import PretrainedModule

Model = TypeVar("Model", bound=PretrainedModule)


def inject(model: Model, channels: int = 3, factor: float = 50.0, seed: int = 0) -> Model:
    """A copy in which a few channels of every encoder LayerNorm are `factor` times as large.

    Gain and bias of these channels are multiplied, and the matching columns of the next weights (query, key and value;
    the first layer of the MLP) divided by `factor`, so that the function is the same up to rounding. The inputs of
    these weights have a larger range, for which one scale per tensor is too coarse.
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
