"""The base class of the reference models: configuration, initialization, loading and saving."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Self

import torch
from torch import Generator, nn

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError, UsageError
from tvlt_deploy.reference import loading
from tvlt_deploy.tasks import TASKS


class PretrainedModule(nn.Module):
    """A model with a `config` that can be saved to and loaded from a Hugging Face directory.

    Attributes:
        config: The configuration the model was built from.
        skipped_keys: Keys of other heads in the file that the model was loaded from.
    """

    skipped_keys: tuple[str, ...] = ()

    def __init__(self, config: TvltConfig) -> None:
        super().__init__()
        if not isinstance(config, TvltConfig):
            raise ConfigError(
                f"config is a {type(config).__module__}.{type(config).__name__}; expected a tvlt_deploy TvltConfig",
                hint="TvltConfig.from_dict(config.to_dict()) converts a transformers one",
            )
        self.config = config

    def init_weights(self, generator: Generator | None = None) -> None:
        """Draw linear and convolution weights from N(0, initializer_range) and set their biases to zero, in place.

        A model on the meta device is left alone: its weights are loaded afterwards.

        Args:
            generator: The source of random numbers; torch's global one by default.
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
        """The dtype of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        *,
        config: TvltConfig | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load `config.json` and the weights of a directory.

        Args:
            directory: A local path, or a model on the hub (`namespace/name`, `namespace/name@revision`), which is
                downloaded.
            config: Replaces the `config.json` of the directory.
            dtype: The dtype of the parameters, whatever dtype the file has.

        Returns:
            The model in evaluation mode. Keys of other TVLT heads are skipped and listed in `skipped_keys`.

        Raises:
            CheckpointError: A tensor is missing, unknown, damaged, has the wrong shape, or is not finite floating
                point. It is a `ValueError`.
            UsageError: The hub has no such model or revision.
            EnvironmentLackError: The hub cannot be reached, or `huggingface_hub` is missing.
        """
        model, skipped = loading.load_pretrained(cls, directory, config, dtype)
        model.skipped_keys = skipped
        return model

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors`, each atomically; transformers 4.40.2 loads the directory.

        Args:
            directory: Created when missing.

        Raises:
            ConfigError: The configuration has a value that JSON cannot represent; nothing is written.
        """
        loading.save_pretrained(self, self.config, directory)

    def name_outputs(self, labels: Sequence[str]) -> None:
        """Set the label names of a classifier, in place.

        Args:
            labels: One name for each output, in order.

        Raises:
            UsageError: The model is not a classifier.
            ConfigError: The number of labels differs from the number of outputs.
        """
        if type(self).__name__ not in {task.reference for task in TASKS.values() if task.labelled}:
            raise UsageError(f"labels were given; {type(self).__name__} has no outputs to name")
        self.config = self.config.with_labels(labels)
