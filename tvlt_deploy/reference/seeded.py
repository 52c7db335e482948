"""Checkpoints of random weights that are the same on every machine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import UsageError
from tvlt_deploy.reference.architectures import class_named


def _draws(shapes: Mapping[str, torch.Size], seed: int) -> Iterator[tuple[str, Tensor]]:
    # numpy's generator returns the same bytes on every machine; torch's depends on the vector width of the CPU.
    source = np.random.default_rng(seed)
    for key, shape in shapes.items():
        values = torch.from_numpy(source.standard_normal(tuple(shape), dtype=np.float32))
        if key.endswith("weight") and len(shape) == 1:
            values = 0.1 * values + 1.0  # the gain of a LayerNorm
        elif key.endswith("weight"):
            values = values / math.sqrt(math.prod(shape[1:]))
        else:
            values = 0.1 * values
        yield key, values


def init_checkpoint(
    directory: str | os.PathLike[str],
    config: TvltConfig | None = None,
    seed: int = 0,
    architecture: str = "TvltForPreTraining",
) -> None:
    """Write a random checkpoint: `config.json` and float32 `model.safetensors`.

    Every parameter is drawn from a normal distribution, so that no parameter is zero: weights with standard deviation
    1 / sqrt(inputs), LayerNorm gains with mean 1 and deviation 0.1, everything else (biases, embeddings, tokens) with
    deviation 0.1. This is not the initialization for training, which is that of the classes themselves.

    Args:
        directory: Created when missing.
        config: The configuration; the default TVLT-base when None.
        seed: An int of at least 0. The same seed writes the same bytes.
        architecture: The name of a reference class.

    Raises:
        UsageError: The architecture is unknown, or the seed is not an int of at least 0.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UsageError(f"seed is {seed!r}; expected an int of at least 0")
    with torch.device("meta"):
        model = class_named(architecture)(config or TvltConfig())
    shapes = {key: tensor.shape for key, tensor in sorted(model.state_dict().items())}
    model.load_state_dict(dict(_draws(shapes, seed)), assign=True)
    model.save_pretrained(directory)
