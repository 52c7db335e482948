"""`TvltConfig`: the `config.json` of a TVLT checkpoint as a frozen dataclass.

Field names, defaults and JSON layout are those of Hugging Face transformers 4.40.2 (`model_type` "tvlt"), so that
each library reads the files of the other.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tvlt_deploy._internal.atomic import write_json
from tvlt_deploy._internal.fields import check_choice, check_int, check_number, check_type, label_map, pair_of
from tvlt_deploy._internal.hub import local_path
from tvlt_deploy.errors import ConfigError

CONFIG_FILE = "config.json"

# transformers accepts "patch_level" in a file but compares with "patch-level" when it masks, so that patch-level
# masking is only reached there by a configuration changed after construction. Here both spellings are equivalent.
_AUDIO_MASK_TYPES = {
    "frame-level": "frame-level",
    "frame_level": "frame-level",
    "patch-level": "patch-level",
    "patch_level": "patch-level",
}
# Problem types of transformers -> the function that turns logits into scores.
_ACTIVATIONS = {
    "regression": "none",
    "multi_label_classification": "sigmoid",
    "single_label_classification": "softmax",
}

_CHOICES = {
    "audio_mask_type": tuple(_AUDIO_MASK_TYPES),
    "loss_type": ("classification", "regression"),
    "problem_type": tuple(_ACTIVATIONS),
    "class_mask_source": ("pixel", "audio"),
}

OWN_FIELDS = (
    "class_mask_source", "mae_class_token", "classifier_pooler", "classifier_norm_eps", "sign_labels", "original_kind",
    "original_head",
)  # fmt: skip
"""Fields unknown to transformers. A file contains them only if they differ from the behaviour of transformers."""


@dataclass(frozen=True)
class TvltConfig:
    """Architecture and pre-training settings of a TVLT model.

    The fields from `class_mask_source` to `original_head` (`OWN_FIELDS`) describe how models of the TVLT authors' code
    differ from those of Hugging Face. Source: transformers 4.40.2 `TvltConfig`; Tang et al., "TVLT: Textless
    Vision-Language Transformer", 2022.

    Attributes:
        image_size: Frame size in pixels: an int (square) or (height, width).
        spectrogram_length: Maximum rows (time) of a spectrogram; a row is 512 samples.
        frequency_length: Mel bins of a spectrogram.
        image_patch_size: Patch size in pixels: an int (square) or (height, width).
        audio_patch_size: Patch size in spectrogram rows and mel bins: an int (square) or (time, frequency).
        num_image_channels: Channels of a frame.
        num_audio_channels: Channels of a spectrogram.
        num_frames: Maximum frames of a clip.
        hidden_size: Width of the encoder.
        num_hidden_layers: Layers of the encoder.
        num_attention_heads: Attention heads of the encoder.
        intermediate_size: Width of the encoder's MLP.
        hidden_act: Name of an activation, or a callable, which can be run but neither saved nor exported.
        hidden_dropout_prob: Dropout of hidden states, for training.
        attention_probs_dropout_prob: Dropout of attention probabilities, for training.
        initializer_range: Standard deviation of newly initialized weights.
        layer_norm_eps: Epsilon of LayerNorm.
        qkv_bias: Whether query, key and value have a bias.
        use_mean_pooling: As in transformers, removes the final LayerNorm of the encoder; nothing is averaged.
        decoder_num_attention_heads: Attention heads of the decoders.
        decoder_hidden_size: Width of the decoders.
        decoder_num_hidden_layers: Layers of the decoders.
        decoder_intermediate_size: Width of the decoders' MLP.
        pixel_mask_ratio: Share of pixel patches that masked reconstruction hides, in [0, 1).
        audio_mask_ratio: Share of audio patches that masked reconstruction hides, in [0, 1).
        audio_mask_type: "frame-level" or "patch-level".
        task_matching: Whether a pre-training model has the matching head.
        task_mae: Whether a pre-training model has the reconstruction decoders.
        loss_type: "classification" or "regression".
        num_labels: Outputs of the classifier. Set this or `id2label`.
        id2label: Label of each output, by index. Set this or `num_labels`.
        problem_type: None, "regression", "single_label_classification" or "multi_label_classification".
        class_mask_source: The modality, "pixel" or "audio", whose first patch provides the mask of the class token.
        mae_class_token: Whether masked reconstruction passes the class token to the encoder.
        classifier_pooler: Whether a tanh layer precedes the classifier.
        classifier_norm_eps: Epsilon of the classifier's LayerNorm; None for `layer_norm_eps`.
        sign_labels: Labels of a regression with one output: for values below 0, and for 0 and above.
        original_kind: Kind of the original file that the weights come from; None for Hugging Face checkpoints.
        original_head: Head of the original file.
        return_dict: Whether models return output objects instead of tuples.
        output_attentions: Whether models return attention probabilities.
        output_hidden_states: Whether models return the hidden states of all layers.
        architectures: Hugging Face class names in the file.
        extras: Keys of the file that are no field; written back unchanged.

    Raises:
        ConfigError: A value that no model can have. The message names the field, the actual and the expected value.
    """

    image_size: int | tuple[int, int] = 224
    spectrogram_length: int = 2048
    frequency_length: int = 128
    image_patch_size: int | tuple[int, int] = (16, 16)
    audio_patch_size: int | tuple[int, int] = (16, 16)
    num_image_channels: int = 3
    num_audio_channels: int = 1
    num_frames: int = 8
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str | Callable[..., Any] = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    use_mean_pooling: bool = False
    decoder_num_attention_heads: int = 16
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_intermediate_size: int = 2048
    pixel_mask_ratio: float = 0.75
    audio_mask_ratio: float = 0.15
    audio_mask_type: str = "frame-level"
    task_matching: bool = True
    task_mae: bool = True
    loss_type: str = "classification"
    num_labels: int | None = None
    id2label: Mapping[int, str] | None = None
    problem_type: str | None = None
    class_mask_source: str = "pixel"
    mae_class_token: bool = True
    classifier_pooler: bool = False
    classifier_norm_eps: float | None = None
    sign_labels: tuple[str, str] | None = None
    original_kind: str | None = None
    original_head: str | None = None
    return_dict: bool = True
    output_attentions: bool = False
    output_hidden_states: bool = False
    architectures: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)  # the fields of a frozen dataclass
        if not isinstance(self.image_size, int):
            put("image_size", pair_of("image_size", self.image_size))
        for name in ("image_patch_size", "audio_patch_size"):
            put(name, pair_of(name, getattr(self, name)))
        if isinstance(self.architectures, str):
            raise ConfigError(f"architectures is {self.architectures!r}; expected a list of class names")
        put("architectures", tuple(self.architectures or ()))
        put("extras", dict(self.extras))
        put("id2label", label_map(self.num_labels, self.id2label))
        put("num_labels", len(self.id2label or {}))
        if isinstance(self.sign_labels, list):
            put("sign_labels", tuple(self.sign_labels))
        self._check()
        put("audio_mask_type", _AUDIO_MASK_TYPES[self.audio_mask_type])

    def _check(self) -> None:
        for name in (
            "spectrogram_length", "frequency_length", "num_image_channels", "num_audio_channels", "num_frames",
            "hidden_size", "num_attention_heads", "intermediate_size", "decoder_num_attention_heads",
            "decoder_hidden_size", "decoder_intermediate_size",
        ):  # fmt: skip
            check_int(name, getattr(self, name), minimum=1)
        for name in ("num_hidden_layers", "decoder_num_hidden_layers"):
            check_int(name, getattr(self, name), minimum=0)
        for prefix in ("", "decoder_"):
            hidden, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            if hidden % heads:
                raise ConfigError(
                    f"{prefix}hidden_size {hidden} is not a multiple of {prefix}num_attention_heads {heads}"
                )
        for name in ("pixel_mask_ratio", "audio_mask_ratio"):
            check_number(name, getattr(self, name), lambda ratio: 0 <= ratio < 1, "in [0, 1)")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            check_number(name, getattr(self, name), lambda share: 0 <= share <= 1, "in [0, 1]")
        for name in ("layer_norm_eps", "initializer_range", "classifier_norm_eps"):
            if name != "classifier_norm_eps" or self.classifier_norm_eps is not None:
                check_number(name, getattr(self, name), lambda value: 0 <= value < float("inf"), "of at least 0")
        for name, choices in _CHOICES.items():
            if name != "problem_type" or self.problem_type is not None:
                check_choice(name, getattr(self, name), choices)
        for name in ("mae_class_token", "classifier_pooler"):
            check_type(name, getattr(self, name), bool, "true or false")
        for name in ("original_kind", "original_head"):
            check_type(name, getattr(self, name), str | None, "a name")
        if self.sign_labels is not None:
            self._check_sign_labels(self.sign_labels)
        if not (self.task_matching or self.task_mae):
            raise ConfigError("task_matching and task_mae are both false; a pre-training model needs one of them")
        (height, width), (patch_height, patch_width) = self.image_shape, self.image_patch
        if height % patch_height or width % patch_width:
            raise ConfigError(
                f"image_size {height}x{width} is not a multiple of the patch size {patch_height}x{patch_width}"
            )
        if self.frequency_length % self.audio_patch[1]:
            raise ConfigError(
                f"frequency_length {self.frequency_length} is not a multiple of a patch's {self.audio_patch[1]} bins"
            )
        if self.spectrogram_length < self.audio_patch[0]:
            raise ConfigError(
                f"spectrogram_length {self.spectrogram_length} is shorter than one patch of {self.audio_patch[0]} rows"
            )

    def _check_sign_labels(self, labels: Any) -> None:
        if not isinstance(labels, tuple) or len(labels) != 2 or not all(isinstance(label, str) for label in labels):
            raise ConfigError(f"sign_labels is {labels!r}; expected two names, for values below 0 and for 0 and above")
        if self.activation != "none" or self.num_labels != 1:
            raise ConfigError(f"sign_labels is set for {self.num_labels} outputs; expected a regression with one")

    # Derived sizes -------------------------------------------------------------------------------------------------

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of a frame in pixels."""
        return pair_of("image_size", self.image_size)

    @property
    def image_patch(self) -> tuple[int, int]:
        """(height, width) of an image patch in pixels."""
        return pair_of("image_patch_size", self.image_patch_size)

    @property
    def audio_patch(self) -> tuple[int, int]:
        """(rows, bins) of an audio patch."""
        return pair_of("audio_patch_size", self.audio_patch_size)

    @property
    def patches_per_frame(self) -> int:
        """Tokens of one frame (196 by default)."""
        (height, width), (patch_height, patch_width) = self.image_shape, self.image_patch
        return (height // patch_height) * (width // patch_width)

    @property
    def frequency_patches(self) -> int:
        """Tokens of one time step of the spectrogram (8 by default)."""
        return self.frequency_length // self.audio_patch[1]

    @property
    def time_patches(self) -> int:
        """Time steps in the audio position table: the maximum sound in patches (128 by default)."""
        return self.spectrogram_length // self.audio_patch[0]

    @property
    def pixel_patch_values(self) -> int:
        """Values in one image patch (768 by default)."""
        return self.image_patch[0] * self.image_patch[1] * self.num_image_channels

    @property
    def audio_patch_values(self) -> int:
        """Values in one audio patch (256 by default)."""
        return self.audio_patch[0] * self.audio_patch[1] * self.num_audio_channels

    def kept_pixel_patches(self, frames: int) -> int:
        """Pixel tokens that masked reconstruction keeps: `int(n * (1 - ratio))` in double precision.

        Args:
            frames: Frames of the padded clip.
        """
        return int(frames * self.patches_per_frame * (1 - self.pixel_mask_ratio))

    def kept_audio_patches(self, time_steps: int) -> int:
        """Audio tokens that masked reconstruction keeps: `int(n * (1 - ratio))` in double precision.

        Args:
            time_steps: Rows of patches of the padded spectrogram.
        """
        return int(time_steps * self.frequency_patches * (1 - self.audio_mask_ratio))

    @property
    def lineage(self) -> str:
        """`huggingface`, or `original` for weights from a file of the TVLT authors' code."""
        return "huggingface" if self.original_kind is None else "original"

    @property
    def activation(self) -> str:
        """Function that turns the classifier's logits into scores: `none`, `sigmoid` (per label) or `softmax`."""
        if self.problem_type is not None:
            return _ACTIVATIONS[self.problem_type]
        return "softmax" if self.loss_type == "classification" and (self.num_labels or 2) > 1 else "none"

    @property
    def label2id(self) -> dict[str, int]:
        """The inverse of `id2label`."""
        return {label: index for index, label in (self.id2label or {}).items()}

    # Files ---------------------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TvltConfig:
        """Create from the content of a `config.json`.

        Args:
            values: The JSON object. Keys that are no field go to `extras`.

        Raises:
            ConfigError: Another `model_type`, or an invalid value.
        """
        if values.get("model_type", "tvlt") != "tvlt":
            raise ConfigError(f"model_type is {values['model_type']!r}; expected 'tvlt'")
        names = {item.name for item in dataclasses.fields(cls)} - {"extras"}
        known = {name: value for name, value in values.items() if name in names}
        extras = {
            name: value for name, value in values.items() if name not in names | {"model_type", "label2id", "extras"}
        }
        return cls(**known, extras=extras)

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str]) -> TvltConfig:
        """Read a JSON file.

        Raises:
            ConfigError: The file cannot be read, is not a JSON object, or has an invalid value.
        """
        return cls.from_dict(read_settings(path))

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], **overrides: Any) -> TvltConfig:
        """Read the `config.json` of a checkpoint.

        Args:
            directory: A directory, the JSON file itself, or the name of a model on the Hugging Face Hub.
            **overrides: Field values that replace those of the file.

        Raises:
            ConfigError: The file cannot be read or has an invalid value.
            UsageError: There is no such model on the hub.
            CheckpointError: The model on the hub has no `config.json`.
            EnvironmentLackError: A model on the hub, without `huggingface_hub`, connection or permission.
        """
        path = local_path(directory, required=CONFIG_FILE)
        config = cls.from_json_file(path / CONFIG_FILE if path.is_dir() else path)
        return config.replace(**overrides) if overrides else config

    def replace(self, **changes: Any) -> TvltConfig:
        """A copy with other field values. Changing one of `num_labels` and `id2label` resets the other."""
        if "id2label" in changes:
            changes.setdefault("num_labels", None)
        elif "num_labels" in changes and changes["num_labels"] != self.num_labels:
            changes["id2label"] = None
        return dataclasses.replace(self, **changes)

    def with_labels(self, labels: Sequence[str]) -> TvltConfig:
        """A copy with other labels of the classifier.

        Args:
            labels: One distinct name per output, in order.

        Raises:
            ConfigError: The number of labels is not the number of outputs, or a name occurs twice.
        """
        if len(labels) != self.num_labels:
            raise ConfigError(f"{len(labels)} labels were given; the classifier has {self.num_labels} outputs")
        if twice := [label for label, count in Counter(labels).items() if count > 1]:
            raise ConfigError(f"labels name {', '.join(twice[:5])} more than once; expected distinct names")
        return self.replace(id2label=dict(enumerate(labels)))

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`, in JSON types.

        Fields unknown to transformers are omitted if they have their default value.

        Raises:
            ConfigError: `hidden_act` is a callable.
        """
        if not isinstance(self.hidden_act, str):
            raise ConfigError(
                f"hidden_act is the callable {self.hidden_act!r}, which cannot be saved",
                hint="use the name of an activation",
            )
        values: dict[str, Any] = dict(self.extras)
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            optional = item.name in (*OWN_FIELDS, "problem_type") and value == item.default
            if item.name not in ("extras", "num_labels") and not optional:
                values[item.name] = list(value) if isinstance(value, tuple) else value
        values["model_type"] = "tvlt"
        values["id2label"] = {str(index): label for index, label in (self.id2label or {}).items()}
        values["label2id"] = self.label2id
        # The one spelling of patch-level masking that transformers 4.40.2 lets through its constructor.
        values["audio_mask_type"] = {"patch-level": "patch_level"}.get(self.audio_mask_type, self.audio_mask_type)
        return values

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write `config.json` into a directory, which is created if missing."""
        write_json(Path(directory) / CONFIG_FILE, self.to_dict())


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object. Raises `ConfigError` if the file cannot be read or contains another type."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} contains a JSON {type(values).__name__}; expected an object")
    return values


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read the labels of a classifier.

    Args:
        path: A `.json` file with a list of names, or a text file with one name per line.

    Returns:
        One name per output, in order.

    Raises:
        ConfigError: The file cannot be read or contains anything else.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        labels = json.loads(text) if file.suffix == ".json" else text.splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the labels {file}: {error}") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) and label.strip() for label in labels):
        raise ConfigError(f"{file} does not contain labels; expected a JSON list of names, or a name per line")
    return tuple(label.strip() for label in labels)
