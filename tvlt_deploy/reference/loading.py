"""A checkpoint by its path, and the model of one task from it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import UsageError
from tvlt_deploy.reference.base import PretrainedModule
from tvlt_deploy.reference.heads import TvltForAudioVisualClassification, TvltForPreTraining
from tvlt_deploy.reference.model import TvltModel
from tvlt_deploy.reference.weights import checkpoint_path, read_config, some
from tvlt_deploy.tasks import TASKS, get_task

_CLASSES: dict[str, type[PretrainedModule]] = {
    kind.__name__: kind for kind in (TvltModel, TvltForPreTraining, TvltForAudioVisualClassification)
}


def class_named(name: str) -> type[PretrainedModule]:
    """The reference class of that name. Raises `UsageError` listing the names there are."""
    if name not in {task.reference for task in TASKS.values()}:
        raise UsageError(f"architecture is {name!r}; wanted one of {some({t.reference for t in TASKS.values()})}")
    return _CLASSES[name]


def load_model(
    directory: str | os.PathLike[str], task_name: str, *, dtype: torch.dtype = torch.float32
) -> PretrainedModule:
    """The model that computes one task, in evaluation mode.

    A pre-training file gives up the one head that is asked for: the other is skipped, and `config.task_matching` and
    `config.task_mae` say so. Raises `UsageError` for an unknown task and `CheckpointError` as `from_pretrained`.
    """
    task = get_task(task_name)
    directory = checkpoint_path(directory)
    config = read_config(directory)
    if task.reference == "TvltForPreTraining":
        config = config.replace(task_matching=not task.needs_noise, task_mae=task.needs_noise)
    return class_named(task.reference).from_pretrained(directory, config=config, dtype=dtype)


def _draws(shapes: Mapping[str, torch.Size], seed: int) -> Iterator[tuple[str, Tensor]]:
    # numpy's generator gives the same bytes on every machine; torch's depends on the vector width of the CPU.
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
    """Write a random checkpoint: `config.json` and float32 `model.safetensors`; the same seed gives the same bytes.

    Every parameter is drawn from a normal distribution, so that none hides behind a zero: weights with deviation
    1 / sqrt(inputs), LayerNorm gains 1 with deviation 0.1, everything else (biases, embeddings, tokens) 0.1. This is
    not the initialisation for training, which is that of the classes themselves. Raises `UsageError` for an unknown
    architecture or a seed that is no int of at least 0.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UsageError(f"seed is {seed!r}; wanted an int of at least 0")
    with torch.device("meta"):
        model = class_named(architecture)(config or TvltConfig())
    shapes = {key: tensor.shape for key, tensor in sorted(model.state_dict().items())}
    model.load_state_dict(dict(_draws(shapes, seed)), assign=True)
    model.save_pretrained(directory)
