"""Checkpoints of the TVLT authors' own code: recognized by their keys, converted by the table in `keys`.

They are the same network under other names. What differs is in the configuration (`tvlt_deploy.config.OWN_FIELDS`),
so that one reference model computes both. Files, heads and settings are described in
docs/reference/original-checkpoints.md.
Source: zinengtang/TVLT, MIT licence: `model/modules/tvlt.py`, `model/config.py` and `demos.py`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tvlt_deploy._internal.atomic import staged_directory
from tvlt_deploy._internal.fields import check_int
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import CheckpointError, ConfigError, UsageError
from tvlt_deploy.reference.architectures import class_named
from tvlt_deploy.reference.base import PretrainedModule
from tvlt_deploy.reference.original.keys import CHOOSABLE_HEADS, HEADS, TABLES, head_of, original_key
from tvlt_deploy.reference.weights import PREFIX, check_tensors, check_tensors_only, read_file, some
from tvlt_deploy.tasks import TASKS, get_task

EMOTIONS = ("happy", "sad", "angry", "fear", "disgust", "surprise")
"""The outputs of the emotion classifier, in order."""

# Settings --------------------------------------------------------------------------------------------------------

PUBLISHED_WIDTH = 768
# The number of frames in the authors' configuration for each kind of file.
_PUBLISHED_FRAMES = {"pretrain": 4, "mosei_sentiment": 8, "mosei_emotion": 8, "vqa": 1, "retrieval": 8}
# The authors' demonstration of the published pre-training file masks all patches of a time step together.
_PUBLISHED = {"num_heads": 12, "decoder_num_heads": 16, "frame_masking": True}
_MAX_ROWS = 1024
"""The authors cut spectrograms at this many rows (`audio_size`)."""
_AUDIO_MASKING = {True: ("frame-level", 0.15), False: ("patch-level", 0.75)}


def _count(settings: Mapping[str, Any], name: str) -> int:
    check_int(name, settings[name], 1)
    return int(settings[name])


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file under the authors' names; a checkpoint of PyTorch Lightning is unwrapped."""
    content = read_file(path)
    for wrapper in ("model", "state_dict"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    tensors: dict[str, Tensor] = {}
    for key, tensor in check_tensors_only(content, str(path)).items():
        bare = key.removeprefix("transformer.")
        if bare in tensors:
            raise CheckpointError(f"{path} has {bare} twice, with and without the prefix transformer.")
        tensors[bare] = tensor
    return tensors


class OriginalCheckpoint:
    """One file of the authors' code; implements `tvlt_deploy.reference.Checkpoint`.

    Args:
        path: A `.ckpt` or `.safetensors` file. No code in it is run.
        settings: What the file does not state, under the names of the authors' configuration (`num_heads`,
            `num_frames`, `frame_masking`, `decoder_num_heads`). Other names that describe the file must agree with
            it. An encoder of width 768 has the published settings of its kind by default.
        head: Which of two heads for one task to use, by the authors' name.

    Attributes:
        path: The file.
        kind: `pretrain`, `mosei_sentiment`, `mosei_emotion`, `vqa` or `retrieval`.
        tasks: The names of the tasks that the file can serve.
        preprocessing_file: None: the file contains weights only.

    Raises:
        CheckpointError: The file is not one of these kinds.
        UsageError: Settings are missing or contradict the file, or the file does not have the head.
    """

    preprocessing_file: Path | None = None

    def __init__(
        self, path: str | os.PathLike[str], settings: Mapping[str, Any] | None = None, head: str | None = None
    ) -> None:
        self.path = Path(path)
        self._tensors = _read(self.path)
        self._check_origin()
        found = {head_of(key) for key in self._tensors}
        self._heads = {task: [name for name in heads if name in found] for task, heads in HEADS.items()}
        self.tasks = tuple(task for task in TASKS if task == "feature-extraction" or self._heads.get(task))
        self._chosen_head = head
        names = [name for name in CHOOSABLE_HEADS if name in found]
        if head is not None and head not in names:
            raise UsageError(f"{self.path} has no head {head!r}; it has {', '.join(names) or 'none to choose from'}")
        self._has_decoder = bool(self._heads["masked-reconstruction"])
        self.kind = self._recognize()
        self._sizes = self._read_sizes(settings or {})

    @property
    def default_task(self) -> str:
        """The task of the chosen head, or else of the file's main head."""
        order = [*HEADS, "feature-extraction"]
        chosen = [task for task in HEADS if self._chosen_head in HEADS[task]]
        return next(task for task in (*chosen, *order) if task in self.tasks)

    def _check_origin(self) -> None:
        if any(key.startswith("text_embeddings.") for key in self._tensors):
            raise CheckpointError(f"{self.path} is a model of video and text; expected one of video and sound")
        if "cls_token" not in self._tensors:
            bare = {key.removeprefix(PREFIX) for key in self._tensors}
            raise CheckpointError(
                f"{self.path} is not a TVLT checkpoint of the authors' code: cls_token is missing",
                hint="pass the directory with its config.json" if "cls_embedding" in bare else "",
            )

    def _recognize(self) -> str:
        if self._heads["audio-visual-classification"]:
            head = self._heads["audio-visual-classification"][0]
            return "vqa" if head == "vqa_classifier" else self._mosei_kind()
        if "rank_output" in self._heads["audio-visual-matching"]:
            return "retrieval"
        return "pretrain"

    def _mosei_kind(self) -> str:
        outputs = self._shape("classifier.4.weight", 2)[0]
        kinds = {1: "mosei_sentiment", len(EMOTIONS): "mosei_emotion"}
        if outputs not in kinds:
            raise CheckpointError(
                f"{self.path} has a classifier of {outputs} outputs; expected 1 (sentiment) or {len(EMOTIONS)}"
                " (emotions)"
            )
        return kinds[outputs]

    # Sizes -------------------------------------------------------------------------------------------------------

    def _shape(self, key: str, axes: int) -> tuple[int, ...]:
        if key not in self._tensors:
            raise CheckpointError(f"{self.path}: {key} is missing")
        shape = tuple(self._tensors[key].shape)
        if len(shape) != axes or 0 in shape:
            raise CheckpointError(f"{self.path} has {key} of shape {shape}; expected {axes} axes, none of them empty")
        return shape

    def _layers(self, blocks: str) -> int:
        found = (re.match(rf"{blocks}\.(\d+)\.", key) for key in self._tensors)
        return len({match[1] for match in found if match})

    def _described(self) -> dict[str, Any]:
        """What the file states of its own configuration, under the authors' names."""
        hidden, patches = self._shape("cls_token", 3)[2], self._shape("pos_embed_v", 3)[1]
        if (side := math.isqrt(patches)) ** 2 != patches:
            raise CheckpointError(f"{self.path} has {patches} positions in pos_embed_v; expected a square number")
        pixel_patch, audio_patch = (self._shape(f"patch_embed_{x}.proj.weight", 4)[2:] for x in "va")
        stated: dict[str, Any] = {
            "hidden_size": hidden,
            "num_layers": self._layers("blocks"),
            "mlp_ratio": self._shape("blocks.0.mlp.fc1.weight", 2)[0] / hidden,
            "video_size": side * pixel_patch[0],
            "patch_size": pixel_patch[0],
            "audio_patch_size": list(audio_patch),
            "frequency_size": self._shape("freq_embed", 3)[1] * audio_patch[1],
            "max_frames": self._shape("temporal_embed", 3)[1],
            "max_audio_patches": self._shape("pos_embed_a", 3)[1],
        }
        if self._has_decoder:
            stated["decoder_hidden_size"] = self._shape("decoder_embed.weight", 2)[0]
        if self.kind == "vqa":
            stated["vqav2_label_size"] = self._shape("vqa_classifier.4.weight", 2)[0]
        return stated

    def _complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The complete configuration: what the file states, the settings, and the published values."""
        stated = self._described()
        for name, value in stated.items():
            if name in settings and settings[name] != value:
                raise UsageError(f"{name} is {settings[name]!r} in the settings; {self.path} has {value!r}")
        complete = {"audio_size": _MAX_ROWS, **settings, **stated}
        if stated["hidden_size"] == PUBLISHED_WIDTH:
            complete = {**_PUBLISHED, "num_frames": _PUBLISHED_FRAMES[self.kind], **complete}
        required = ["num_heads", "num_frames", *(["frame_masking"] if self._has_decoder else [])]
        if missing := ", ".join(name for name in required if name not in complete):
            raise UsageError(
                f"{self.path} is a {self.kind} file of width {stated['hidden_size']}; it does not state its {missing}",
                hint=f"--config FILE.json with {missing}, named as in the authors' configuration",
            )
        if self._has_decoder:
            # The authors' configuration has no name for this: by default the heads are as wide as the encoder's.
            width = complete["hidden_size"] // _count(complete, "num_heads")
            complete.setdefault("decoder_num_heads", max(1, complete["decoder_hidden_size"] // max(1, width)))
        if _count(complete, "num_frames") > stated["max_frames"]:
            raise UsageError(
                f"num_frames is {complete['num_frames']}; {self.path} has {stated['max_frames']} frame positions"
            )
        return complete

    def _read_sizes(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of `TvltConfig` that every task shares."""
        known = self._complete(settings)
        (_, channels, *pixel_patch), (_, audio_channels, *audio_patch) = (
            self._shape(f"patch_embed_{x}.proj.weight", 4) for x in "va"
        )
        steps = min(known["max_audio_patches"], _count(known, "audio_size") // audio_patch[0])
        sizes: dict[str, Any] = {
            "image_size": known["video_size"],
            "spectrogram_length": steps * audio_patch[0],
            "frequency_length": known["frequency_size"],
            "image_patch_size": pixel_patch,
            "audio_patch_size": audio_patch,
            "num_image_channels": channels,
            "num_audio_channels": audio_channels,
            "num_frames": known["num_frames"],
            "hidden_size": known["hidden_size"],
            "num_hidden_layers": known["num_layers"],
            "num_attention_heads": _count(known, "num_heads"),
            "intermediate_size": self._shape("blocks.0.mlp.fc1.weight", 2)[0],
            "class_mask_source": "audio",
            "mae_class_token": False,
            "original_kind": self.kind,
        }
        if self._has_decoder:
            if not isinstance(known["frame_masking"], bool):
                raise ConfigError(f"frame_masking is {known['frame_masking']!r}; expected true or false")
            mask_type, mask_ratio = _AUDIO_MASKING[known["frame_masking"]]
            sizes |= {
                "decoder_hidden_size": known["decoder_hidden_size"],
                "decoder_num_hidden_layers": self._layers("decoder_blocks"),
                "decoder_num_attention_heads": _count(known, "decoder_num_heads"),
                "decoder_intermediate_size": self._shape("decoder_blocks.0.mlp.fc1.weight", 2)[0],
                "audio_mask_type": mask_type,
                "audio_mask_ratio": mask_ratio,
            }
        return sizes

    # Models ------------------------------------------------------------------------------------------------------

    def _head_for(self, task: str) -> str | None:
        heads = self._heads.get(task, [])
        if self._chosen_head is not None and self._chosen_head not in heads:
            raise UsageError(f"{self._chosen_head} is not a head for {task}", hint="leave the head or the task out")
        return self._chosen_head or next(iter(heads), None)

    def config(self, task_name: str | None = None) -> TvltConfig:
        """As `Checkpoint.config`.

        Raises:
            CheckpointError: The file cannot serve the task; the message names the tasks it can.
            UsageError: There is no such task, or the chosen head is for another one.
        """
        task = get_task(task_name or self.default_task)
        if task.name not in self.tasks:
            raise CheckpointError(
                f"{self.path} has no head for {task.name}; the tasks it can serve: {', '.join(self.tasks)}",
                hint="choose one of these tasks",
            )
        head = self._head_for(task.name)
        changes: dict[str, Any] = {"architectures": (task.architecture,)}
        if head in CHOOSABLE_HEADS:
            changes["original_head"] = head
        if task.labelled:
            changes |= self._meaning(str(head))
        elif task.architecture == "TvltForPreTraining":
            served = self.tasks if task_name is None else (task.name,)
            changes["task_matching"] = "audio-visual-matching" in served
            changes["task_mae"] = "masked-reconstruction" in served
        return TvltConfig(**self._sizes, **changes)

    def _meaning(self, head: str) -> dict[str, Any]:
        """What the outputs of a classifier mean, as in the authors' training and evaluation."""
        outputs = self._shape(f"{head}.4.weight", 2)[0]
        shared = {"classifier_pooler": True, "classifier_norm_eps": 1e-5}
        if head == "vqa_classifier":
            labels: Sequence[str] = [f"answer_{index}" for index in range(outputs)]
        elif self._mosei_kind() == "mosei_sentiment":
            signs = ("negative", "positive")
            return {**shared, "loss_type": "regression", "id2label": {0: "sentiment"}, "sign_labels": signs}
        else:
            labels = EMOTIONS
        return {**shared, "problem_type": "multi_label_classification", "id2label": dict(enumerate(labels))}

    def load(self, task_name: str | None = None, *, dtype: torch.dtype = torch.float32) -> PretrainedModule:
        """As `Checkpoint.load`; keys of other heads are skipped and listed in `skipped_keys`."""
        config = self.config(task_name)
        with torch.device("meta"):
            model = class_named(config.architectures[0])(config)
        state, skipped = self._convert(model.state_dict(), config.original_head, dtype)
        model.load_state_dict(state, assign=True)
        model.skipped_keys = skipped
        return model.eval()

    def _convert(
        self, expected: Mapping[str, Tensor], head: str | None, dtype: torch.dtype
    ) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """The tensors that a reference model expects, and the keys of heads that the model does not have."""
        places = {key: original_key(key, head) for key in expected}
        required: dict[str, Tensor] = {}
        for key, (name, third) in places.items():
            rows, *rest = expected[key].shape
            required[name] = expected[key] if third is None else torch.empty(3 * rows, *rest, device="meta")
        skipped = self._check_keys(required)
        given = {name: self._tensors[name] for name in required}
        for name in required.keys() & set(TABLES):
            if given[name].ndim == 3:
                given[name] = given[name][:, : required[name].shape[1]]
        check_tensors(given, required, str(self.path), hint="its tensors do not fit each other")
        state = {}
        for key, (name, third) in places.items():
            tensor = given[name] if third is None else given[name].chunk(3)[third]
            state[key] = tensor.to(dtype, copy=True).contiguous()
        return state, skipped

    def _check_keys(self, required: Mapping[str, Tensor]) -> tuple[str, ...]:
        """The keys of heads that are not required; raises `CheckpointError` for missing and unknown keys."""
        used = {head_of(name) for name in required}
        spare = self._tensors.keys() - required.keys()
        skipped = {key for key in spare if head_of(key) not in (None, *used)}
        problems = []
        if missing := required.keys() - self._tensors.keys():
            problems.append(f"{len(missing)} of {len(required)} keys are missing: {some(missing)}")
        if unknown := spare - skipped:
            problems.append(f"{len(unknown)} keys are unknown: {some(unknown)}")
        if problems:
            raise CheckpointError(f"{self.path}: {'; '.join(problems)}")
        return tuple(sorted(skipped))


def convert(
    checkpoint: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    head: str | None = None,
    labels: Sequence[str] | None = None,
) -> TvltConfig:
    """Write a file of the authors' code as a directory in Hugging Face's layout, atomically.

    transformers 4.40.2 loads the directory as `TvltForPreTraining` from the kinds `pretrain` and `retrieval`. It
    refuses the classifiers of the other kinds, which have one layer more than its class; `from_pretrained` of
    `tvlt_deploy.reference` and `export` load all kinds.

    Args:
        checkpoint: The file; see `OriginalCheckpoint`.
        directory: The directory to create. It must be empty or absent.
        settings: As for `OriginalCheckpoint`.
        head: As for `OriginalCheckpoint`.
        labels: Names of the classifier's outputs, in order.

    Returns:
        The configuration that was written.

    Raises:
        UsageError: The directory is not empty, or as `OriginalCheckpoint`.
        CheckpointError: The file is not a checkpoint of the authors' code, or a tensor is missing, unknown, of the
            wrong shape, or not finite floating point.
    """
    target = Path(directory)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise UsageError(f"{target} is not empty", hint="choose another path for the checkpoint")
    model = OriginalCheckpoint(checkpoint, settings, head).load()
    if labels is not None:
        model.name_outputs(labels)
    with staged_directory(target) as stage:
        model.save_pretrained(stage)
    return model.config
