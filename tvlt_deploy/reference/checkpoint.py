"""One checkpoint, whatever its layout: the tasks it can serve, and the model of one of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import UsageError
from tvlt_deploy.processors.recipe import RECIPES, recipe_file
from tvlt_deploy.reference.architectures import class_named
from tvlt_deploy.reference.base import PretrainedModule
from tvlt_deploy.reference.loading import checkpoint_path, read_config
from tvlt_deploy.reference.original.checkpoint import OriginalCheckpoint
from tvlt_deploy.reference.weights import held_tasks, read_tensors
from tvlt_deploy.tasks import default_task, get_task


class Checkpoint(Protocol):
    """A trained TVLT model on this machine.

    Attributes:
        path: The directory, or the file.
        tasks: The names of the tasks that it can serve, in the order of `tvlt_deploy.tasks.TASKS`.
        default_task: The name of the task that is served when none is named.
        preprocessing_file: The file that describes its pre-processing; None where there is none.
    """

    @property
    def path(self) -> Path:
        """The directory, or the file."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks that it can serve."""
        ...

    @property
    def default_task(self) -> str:
        """The name of the task that is served when none is named."""
        ...

    @property
    def preprocessing_file(self) -> Path | None:
        """The file that describes its pre-processing."""
        ...

    def config(self, task_name: str | None = None) -> TvltConfig:
        """The configuration of the model that `load` returns for a task.

        Args:
            task_name: One of `tasks`; by default the configuration of every head of the default task's class.

        Raises:
            CheckpointError: The configuration is missing or invalid.
            UsageError: There is no such task.
        """
        ...

    def load(self, task_name: str | None = None, *, dtype: torch.dtype = torch.float32) -> PretrainedModule:
        """The reference model of a task in evaluation mode; heads that the task does not use are skipped.

        Args:
            task_name: As for `config`.
            dtype: The dtype of the parameters.

        Raises:
            CheckpointError: The head of the task is missing, or a tensor is missing, unknown, damaged, has the wrong
                shape, or is not finite floating point.
            UsageError: There is no such task.
        """
        ...


@dataclass(frozen=True)
class DirectoryCheckpoint:
    """A directory in Hugging Face's layout; implements `Checkpoint`."""

    path: Path

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks whose heads are in the weights."""
        return held_tasks(read_tensors(self.path))

    @property
    def default_task(self) -> str:
        """The task that `architectures` in `config.json` names."""
        return default_task(read_config(self.path)).name

    @property
    def preprocessing_file(self) -> Path | None:
        """The file beside the weights."""
        return recipe_file(self.path)

    def config(self, task_name: str | None = None) -> TvltConfig:
        """As `Checkpoint.config`; a pre-training model keeps only the head of a named task."""
        config = read_config(self.path)
        if task_name is None or (task := get_task(task_name)).reference != "TvltForPreTraining":
            return config
        return config.replace(task_matching=not task.needs_noise, task_mae=task.needs_noise)

    def load(self, task_name: str | None = None, *, dtype: torch.dtype = torch.float32) -> PretrainedModule:
        """As `Checkpoint.load`."""
        kind = class_named(get_task(task_name or self.default_task).reference)
        return kind.from_pretrained(self.path, config=self.config(task_name), dtype=dtype)


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    head: str | None = None,
    progress: Progress = silent,
) -> Checkpoint:
    """Open a checkpoint of either layout.

    Args:
        path: A Hugging Face directory with `config.json` and weights, a file of the authors' code (`.ckpt` or
            `.safetensors`), or a model on the hub (`namespace/name`, `namespace/name@revision`), which is downloaded
            with its pre-processing file.
        settings: For a file of the authors' code, what it does not state; see `OriginalCheckpoint`.
        head: For a file of the authors' code with two heads for one task, the one to use.
        progress: Receives a line of text for each download.

    Returns:
        The checkpoint. Weights are read by `load`; a file of the authors' code is read here.

    Raises:
        UsageError: The hub has no such model, `settings` or `head` were given for a directory, or they are missing
            from or contradict a file.
        EnvironmentLackError: The hub cannot be reached, or `huggingface_hub` is missing.
        CheckpointError: A file is not a checkpoint of the authors' code.
    """
    local = checkpoint_path(path, optional=tuple(RECIPES), progress=progress)
    if not local.is_file():
        if (head, settings) != (None, None):
            raise UsageError(f"a head or settings were given; {local} is not a file of the authors' code")
        return DirectoryCheckpoint(local)
    return OriginalCheckpoint(local, settings, head)
