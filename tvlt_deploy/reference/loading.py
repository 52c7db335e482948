"""Models from and to Hugging Face directories: `config.json` and weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from torch import nn

from tvlt_deploy._internal.atomic import staged_file
from tvlt_deploy._internal.hub import local_path
from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.config import CONFIG_FILE, TvltConfig
from tvlt_deploy.errors import CheckpointError, ConfigError
from tvlt_deploy.reference.weights import SAFE_FILE, WEIGHT_FILES, match_state, read_tensors

_Model = TypeVar("_Model", bound=nn.Module)

_MAX_EXTRA_LAYERS = 1000
"""A `config.json` that asks for this many layers more than there are tensors is not built."""


def checkpoint_path(
    checkpoint: str | os.PathLike[str], optional: Sequence[str] = (), progress: Progress = silent
) -> Path:
    """The local path of a checkpoint, which is downloaded when `checkpoint` names a model on the hub.

    Args:
        checkpoint: A local path or the name of a model. What is at a local path is not checked here.
        optional: Files to download besides `config.json` and the weights, where the model has them.
        progress: Receives a line of text for each download.

    Returns:
        `checkpoint` itself, or the directory of the hub's cache.

    Raises:
        UsageError: The hub has no such model or revision.
        EnvironmentLackError: The hub cannot be reached, or `huggingface_hub` is missing.
        CheckpointError: The model on the hub has no `config.json`.
    """
    return local_path(checkpoint, required=CONFIG_FILE, optional=optional, one_of=WEIGHT_FILES, progress=progress)


def read_config(directory: str | os.PathLike[str]) -> TvltConfig:
    """Read `config.json` of a checkpoint directory.

    Raises:
        CheckpointError: The directory or the file is missing, or a value is invalid; the message names the file.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise CheckpointError(f"the checkpoint directory {folder} does not exist or is not a directory")
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG_FILE}")
    try:
        return TvltConfig.from_pretrained(folder)
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error.message}", hint=error.hint) from error


def load_pretrained(
    kind: Callable[[TvltConfig], _Model],
    directory: str | os.PathLike[str],
    config: TvltConfig | None,
    dtype: torch.dtype,
) -> tuple[_Model, tuple[str, ...]]:
    """Build a model and load the weights of a directory into it; see `PretrainedModule.from_pretrained`.

    Returns:
        The model in evaluation mode, and the keys of other heads that were skipped.
    """
    folder = checkpoint_path(directory)
    config = read_config(folder) if config is None else config
    tensors = read_tensors(folder)
    layers = config.num_hidden_layers + config.decoder_num_hidden_layers
    if layers > len(tensors) + _MAX_EXTRA_LAYERS:
        raise CheckpointError(f"{folder}: config.json asks for {layers} layers; the weights are {len(tensors)} tensors")
    try:
        with torch.device("meta"):
            model = kind(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{folder}: config.json describes a model too large for torch: {error}") from error
    state, skipped = match_state(tensors, model.state_dict(), dtype, str(folder))
    model.load_state_dict(state, assign=True)
    return model.eval(), skipped


def save_pretrained(model: nn.Module, config: TvltConfig, directory: str | os.PathLike[str]) -> None:
    """Write a model as a Hugging Face directory; see `PretrainedModule.save_pretrained`."""
    folder = Path(directory)
    dtype = next(model.parameters()).dtype
    extras = {**config.extras, "torch_dtype": str(dtype).removeprefix("torch.")}
    config = config.replace(architectures=(type(model).__name__,), extras=extras)
    config.to_dict()  # raises before anything is written
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with staged_file(folder / SAFE_FILE) as temporary:
        safetensors.torch.save_file(state, temporary, metadata={"format": "pt"})
    config.save_pretrained(folder)
