"""The tasks: inputs, outputs, axis names, reference class and tolerances of each.

Exporters, runtimes, the manifest and the benchmark take names and shapes from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import UsageError

Axis = int | str

MATCHING_LABELS = ("match", "mismatch")
"""Labels of audio-visual matching, in the order of its scores."""

BATCH, FRAMES, ROWS = "batch", "frames", "rows"
PIXEL_PATCHES, AUDIO_PATCHES, TOKENS = "pixel_patches", "audio_patches", "tokens"


@dataclass(frozen=True)
class TensorSpec:
    """One graph input or output.

    Attributes:
        dtype: Name of a numpy dtype.
        shape: Size of each axis; the name of a dynamic one.
    """

    dtype: str
    shape: tuple[Axis, ...]


RAW_INPUTS: Mapping[str, TensorSpec] = {
    "frames": TensorSpec("uint8", (FRAMES, "height", "width", 3)),
    "waveform": TensorSpec("float32", ("samples",)),
}
"""Inputs of the fused graph: RGB frames of one size, and mono sound at 44100 Hz. Empty: modality absent."""


@dataclass(frozen=True)
class Tolerance:
    """Limits on the difference from the reference, for one precision (see `tvlt_deploy.workflows.verify`).

    Attributes:
        relative: Max |difference| / standard deviation of the reference, for `logits` and `matching_logits`.
        cosine: Min cosine of rows of 64 values and more.
        agreement: Min share of equal labels among clips whose reference is not a tie.
        invariant: Max |difference| between answers that must be equal, relative to the output's standard deviation.
        absolute_logits: Max |difference| of logits; None for no limit.
        absolute_hidden: Max |difference| of hidden states; None for no limit.
    """

    relative: float
    cosine: float
    agreement: float
    invariant: float
    absolute_logits: float | None = None
    absolute_hidden: float | None = None


# int8 and fp8: an untrained TVLT-base measures 0.09 to 0.15 on its logits, and padding changes them by up to 0.05,
# because a value that rounds differently in one token changes more values in the next layers.
TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(
        relative=1e-4, cosine=0.99999, agreement=1.0, invariant=1e-5, absolute_logits=1e-4, absolute_hidden=1e-3
    ),
    "fp16": Tolerance(relative=0.01, cosine=0.9999, agreement=0.99, invariant=2e-3),
    "bf16": Tolerance(relative=0.05, cosine=0.999, agreement=0.98, invariant=2e-2),
    "int8": Tolerance(relative=0.2, cosine=0.99, agreement=0.98, invariant=0.1),
    "fp8": Tolerance(relative=0.2, cosine=0.99, agreement=0.98, invariant=0.1),
}

PRECISIONS = tuple(TOLERANCES)


@dataclass(frozen=True)
class Task:
    """Inputs and outputs of one task.

    Attributes:
        name: Name of the task.
        architecture: Hugging Face class that a checkpoint of this task names in `architectures`.
        reference: Class in `tvlt_deploy.reference` that computes it.
        output_names: Names of the graph outputs, in order.
        needs_noise: Whether two more inputs contain the noise that chooses the masked patches.
        labelled: Whether the outputs are logits of the labels in `config.json`.
    """

    name: str
    architecture: str
    reference: str
    output_names: tuple[str, ...]
    needs_noise: bool = False
    labelled: bool = False

    def inputs(self, config: TvltConfig) -> dict[str, TensorSpec]:
        """Graph inputs by name, in order. Masks are required; a value > 0.5 marks a valid patch."""
        height, width = config.image_shape
        specs = {
            "pixel_values": TensorSpec("float32", (BATCH, FRAMES, config.num_image_channels, height, width)),
            "audio_values": TensorSpec("float32", (BATCH, config.num_audio_channels, ROWS, config.frequency_length)),
            "pixel_mask": TensorSpec("float32", (BATCH, PIXEL_PATCHES)),
            "audio_mask": TensorSpec("float32", (BATCH, AUDIO_PATCHES)),
        }
        if self.needs_noise:
            specs["pixel_noise"] = TensorSpec("float32", (BATCH, PIXEL_PATCHES))
            specs["audio_noise"] = TensorSpec("float32", (BATCH, AUDIO_PATCHES))
        return specs

    def outputs(self, config: TvltConfig) -> dict[str, TensorSpec]:
        """Graph outputs by name, in order."""
        hidden = config.hidden_size
        shapes: dict[str, tuple[Axis, ...]] = {
            "logits": (BATCH, config.num_labels or 2),
            "matching_logits": (BATCH, 1),
            "last_hidden_state": (BATCH, TOKENS, hidden),
            "last_pixel_hidden_state": (BATCH, PIXEL_PATCHES, hidden),
            "last_audio_hidden_state": (BATCH, AUDIO_PATCHES, hidden),
            "pixel_logits": (BATCH, PIXEL_PATCHES, config.pixel_patch_values),
            "audio_logits": (BATCH, AUDIO_PATCHES, config.audio_patch_values),
            "pixel_label_mask": (BATCH, PIXEL_PATCHES),
            "audio_label_mask": (BATCH, AUDIO_PATCHES),
        }
        return {name: TensorSpec("float32", shapes[name]) for name in self.output_names}

    def activation(self, config: TvltConfig) -> str | None:
        """Function that turns logits into scores: `none`, `sigmoid` or `softmax`; None for a task without scores."""
        if self.labelled:
            return config.activation
        return "sigmoid" if self.output_names == ("matching_logits",) else None

    def labels(self, config: TvltConfig) -> tuple[str, ...] | None:
        """Names of the labels in the order of the scores; None for a task without labels."""
        if self.labelled:
            return tuple((config.id2label or {}).values())
        return MATCHING_LABELS if self.activation(config) else None


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="feature-extraction",
            architecture="TvltModel",
            reference="TvltModel",
            output_names=("last_hidden_state", "last_pixel_hidden_state", "last_audio_hidden_state"),
        ),
        Task(
            name="audio-visual-classification",
            architecture="TvltForAudioVisualClassification",
            reference="TvltForAudioVisualClassification",
            output_names=("logits",),
            labelled=True,
        ),
        Task(
            name="audio-visual-matching",
            architecture="TvltForPreTraining",
            reference="TvltForPreTraining",
            output_names=("matching_logits",),
        ),
        Task(
            name="masked-reconstruction",
            architecture="TvltForPreTraining",
            reference="TvltForPreTraining",
            output_names=("pixel_logits", "audio_logits", "pixel_label_mask", "audio_label_mask"),
            needs_noise=True,
        ),
    )
}


def get_task(name: str) -> Task:
    """The task called `name`. Raises `UsageError` that lists all names for an unknown one."""
    if name not in TASKS:
        raise UsageError(f"task is {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]


def default_task(config: TvltConfig) -> Task:
    """The first task whose architecture is in the `architectures` of a checkpoint.

    Args:
        config: Configuration of the checkpoint. Without `architectures` the task is `feature-extraction`.

    Raises:
        UsageError: None of the architectures is known.
    """
    if not config.architectures:
        return TASKS["feature-extraction"]
    for task in TASKS.values():
        if task.architecture in config.architectures and (task.name != "audio-visual-matching" or config.task_matching):
            return task
    raise UsageError(
        f"the checkpoint's architectures are {', '.join(config.architectures)}; expected one of "
        + ", ".join(dict.fromkeys(task.architecture for task in TASKS.values())),
        hint="select a task with --task",
    )


def token_counts(config: TvltConfig, frames: int, rows: int) -> tuple[int, int]:
    """(pixel patches, audio patches) of a clip of `frames` frames and `rows` spectrogram rows."""
    return frames * config.patches_per_frame, rows // config.audio_patch[0] * config.frequency_patches
