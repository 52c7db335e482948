"""The base class of the reference models: configuration, initialisation, loading and saving."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import safetensors
import safetensors.torch
import torch
from torch import Generator, nn

from tvlt_deploy._internal.atomic import staged_file
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import CheckpointError, ConfigError, UsageError
from tvlt_deploy.reference.weights import PREFIX, SAFE_FILE, checkpoint_path, match_state, read_config, read_tensors
from tvlt_deploy.tasks import TASKS


class PretrainedModule(nn.Module):
    """A model with a `config` that can be saved to and loaded from a Hugging Face directory."""

    base_prefix = PREFIX
    """What the encoder's keys begin with in this class."""

    skipped_keys: tuple[str, ...] = ()
    """Keys of other heads in the file that this model was loaded from."""

    def __init__(self, config: TvltConfig) -> None:
        super().__init__()
        if not isinstance(config, TvltConfig):
            raise ConfigError(
                f"config is a {type(config).__module__}.{type(config).__name__}; wanted a tvlt_deploy TvltConfig",
                hint="TvltConfig.from_dict(config.to_dict()) converts a transformers one",
            )
        self.config = config

    def init_weights(self, generator: Generator | None = None) -> None:
        """Draw linear and convolution weights from N(0, initializer_range), set their biases to zero, in place.

        A model on the meta device, which is about to be given its weights, is left alone.
        """
        if self.device.type == "meta":
            return
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=self.config.initializer_range, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        *,
        config: TvltConfig | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load `config.json` and the weights of a directory; the model is in evaluation mode.

        directory: a local path, or a model on the hub (`namespace/name`, `namespace/name@revision`), which is fetched.
        config: replaces the directory's `config.json`. dtype: of the parameters, whatever the file holds.
        Keys of other TVLT heads are skipped and listed in `skipped_keys`. Raises `CheckpointError` (a `ValueError`)
        for anything that is missing, unknown, misshapen, damaged or not a finite floating-point tensor, and as
        `tvlt_deploy._internal.hub.local_path` for what cannot be fetched.
        """
        folder = checkpoint_path(directory)
        config = read_config(folder) if config is None else config
        tensors = read_tensors(folder)
        layers = config.num_hidden_layers + config.decoder_num_hidden_layers
        if layers > len(tensors) + 1000:
            raise CheckpointError(
                f"{folder}: config.json asks for {layers} layers; the weights are {len(tensors)} tensors"
            )
        try:
            with torch.device("meta"):
                model = cls(config)
        except (RuntimeError, TypeError, OverflowError) as error:
            raise CheckpointError(f"{folder}: config.json describes a model too large for torch: {error}") from error
        state, skipped = match_state(tensors, model.state_dict(), cls.base_prefix, dtype, str(folder))
        model.load_state_dict(state, assign=True)
        model.skipped_keys = skipped
        return model.eval()

    def name_outputs(self, labels: Sequence[str]) -> None:
        """Name what a classifier's outputs stand for. Raises `UsageError` for a model without, or another number."""
        if type(self).__name__ not in {task.reference for task in TASKS.values() if task.labelled}:
            raise UsageError(f"labels were given; {type(self).__name__} has no outputs to name")
        self.config = self.config.with_labels(labels)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors`, each in one piece; transformers 4.40.2 loads the directory."""
        folder = Path(directory)
        extras = {**self.config.extras, "torch_dtype": str(self.dtype).removeprefix("torch.")}
        config = self.config.replace(architectures=(type(self).__name__,), extras=extras)
        config.to_dict()  # refuse what no file can hold before anything is written
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in self.state_dict().items()}
        with staged_file(folder / SAFE_FILE) as temporary:
            safetensors.torch.save_file(state, temporary, metadata={"format": "pt"})
        config.save_pretrained(folder)
