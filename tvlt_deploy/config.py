"""`TvltConfig`: the `config.json` of a TVLT checkpoint as a frozen dataclass.

Field names, defaults and JSON layout are those of Hugging Face transformers 4.40.2 (`model_type` "tvlt"), so that
either library reads what the other wrote.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvlt_deploy._internal.atomic import write_json
from tvlt_deploy._internal.hub import local_path
from tvlt_deploy.errors import ConfigError

CONFIG_FILE = "config.json"

# transformers accepts "patch_level" in a file but compares with "patch-level" when it masks, so that only a
# configuration changed after construction ever reached patch-level masking there. Both spellings mean the same here.
_AUDIO_MASK_TYPES = {
    "frame-level": "frame-level",
    "frame_level": "frame-level",
    "patch-level": "patch-level",
    "patch_level": "patch-level",
}
_LOSS_TYPES = ("classification", "regression")
# transformers' names, and what turns the logits of each into scores.
_ACTIVATIONS = {
    "regression": "none",
    "multi_label_classification": "sigmoid",
    "single_label_classification": "softmax",
}

OWN_FIELDS = (
    "class_mask_source", "mae_class_token", "classifier_pooler", "classifier_norm_eps", "sign_labels", "original_kind",
    "original_head",
)  # fmt: skip
"""The fields that transformers does not know; a file holds them only where they differ from its behaviour."""


def _pair(name: str, value: Any) -> tuple[int, int]:
    """An int stands for a square; a sequence of two ints is kept."""
    sides = (value, value) if isinstance(value, int) else value
    if not isinstance(sides, (list, tuple)) or len(sides) != 2 or not all(type(side) is int for side in sides):
        raise ConfigError(f"{name} is {value!r}; wanted an int or a pair of ints")
    first, second = sides
    if first < 1 or second < 1:
        raise ConfigError(f"{name} is {value!r}; wanted positive sizes")
    return first, second


@dataclass(frozen=True)
class TvltConfig:
    """Architecture and pre-training settings of a TVLT model.

    Sizes are pixels, spectrogram rows (time), mel bins (frequency) and tokens. `image_size` and the patch sizes take
    an int (square) or a pair: (height, width) for images, (time, frequency) for sound. `hidden_act` is the name of an
    activation or a callable (which can be run but neither saved nor exported). Either `num_labels` or `id2label`
    sets the labels. Raises `ConfigError` (a `ValueError`) naming the field, the value found and the value wanted.

    The authors' own models differ from Hugging Face's in what the fields of `OWN_FIELDS` say:
    class_mask_source: the modality, "pixel" or "audio", whose first patch lends the class token its mask.
    mae_class_token: whether masked reconstruction shows the encoder the class token.
    classifier_pooler: a tanh layer before the classifier. classifier_norm_eps: of its LayerNorm, by default
        `layer_norm_eps`.
    sign_labels: what a regression with one output calls a value below 0, and one from 0 on.
    original_kind, original_head: what file of the authors' the weights are from, and which of its heads.

    Source: transformers 4.40.2 `TvltConfig`; Tang et al., "TVLT: Textless Vision-Language Transformer", 2022.
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
    """Keys of the file that no field holds; written back unchanged."""

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 - the frozen class's one door
        if not isinstance(self.image_size, int):
            put("image_size", _pair("image_size", self.image_size))
        for name in ("image_patch_size", "audio_patch_size"):
            put(name, _pair(name, getattr(self, name)))
        if isinstance(self.architectures, str):
            raise ConfigError(f"architectures is {self.architectures!r}; wanted a list of class names")
        put("architectures", tuple(self.architectures or ()))
        put("extras", dict(self.extras))
        self._put_labels(put)
        if isinstance(self.sign_labels, list):
            put("sign_labels", tuple(self.sign_labels))
        self._check()
        put("audio_mask_type", _AUDIO_MASK_TYPES[self.audio_mask_type])

    def _put_labels(self, put: Callable[[str, Any], None]) -> None:
        if self.id2label is None:
            count = 2 if self.num_labels is None else self.num_labels
            if not isinstance(count, int) or count < 1:
                raise ConfigError(f"num_labels is {count!r}; wanted an int of at least 1")
            put("id2label", {index: f"LABEL_{index}" for index in range(count)})
        else:
            try:
                labels = {int(index): str(label) for index, label in self.id2label.items()}
            except (AttributeError, TypeError, ValueError):
                raise ConfigError(f"id2label is {self.id2label!r}; wanted a map from index to label") from None
            if sorted(labels) != list(range(len(labels))) or not labels:
                raise ConfigError(f"id2label has the indices {sorted(labels)}; wanted 0..n-1, each once")
            put("id2label", dict(sorted(labels.items())))
        if self.num_labels is not None and self.num_labels != len(self.id2label or {}):
            raise ConfigError(
                f"num_labels is {self.num_labels} but id2label names {len(self.id2label or {})} labels",
                hint="give one of the two, or make them agree",
            )
        put("num_labels", len(self.id2label or {}))

    def _check(self) -> None:
        for name in (
            "spectrogram_length", "frequency_length", "num_image_channels", "num_audio_channels", "num_frames",
            "hidden_size", "num_attention_heads", "intermediate_size", "decoder_num_attention_heads",
            "decoder_hidden_size", "decoder_intermediate_size",
        ):  # fmt: skip
            self._check_int(name, minimum=1)
        for name in ("num_hidden_layers", "decoder_num_hidden_layers"):
            self._check_int(name, minimum=0)
        for prefix in ("", "decoder_"):
            hidden, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            if hidden % heads:
                raise ConfigError(
                    f"{prefix}hidden_size {hidden} is not a multiple of {prefix}num_attention_heads {heads}"
                )
        for name in ("pixel_mask_ratio", "audio_mask_ratio"):
            self._check_number(name, lambda ratio: 0 <= ratio < 1, "in [0, 1)")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            self._check_number(name, lambda share: 0 <= share <= 1, "in [0, 1]")
        for name in ("layer_norm_eps", "initializer_range"):
            self._check_number(name, lambda value: 0 <= value < float("inf"), "of at least 0")
        if self.audio_mask_type not in _AUDIO_MASK_TYPES:
            raise ConfigError(f"audio_mask_type is {self.audio_mask_type!r}; wanted 'frame-level' or 'patch-level'")
        if self.loss_type not in _LOSS_TYPES:
            raise ConfigError(f"loss_type is {self.loss_type!r}; wanted one of {', '.join(_LOSS_TYPES)}")
        if self.problem_type is not None and self.problem_type not in tuple(_ACTIVATIONS):
            raise ConfigError(f"problem_type is {self.problem_type!r}; wanted one of {', '.join(_ACTIVATIONS)}")
        if self.class_mask_source not in ("pixel", "audio"):
            raise ConfigError(f"class_mask_source is {self.class_mask_source!r}; wanted 'pixel' or 'audio'")
        for name in ("mae_class_token", "classifier_pooler"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; wanted true or false")
        if self.classifier_norm_eps is not None:
            self._check_number("classifier_norm_eps", lambda value: 0 <= value < float("inf"), "of at least 0")
        if self.sign_labels is not None:
            self._check_sign_labels(self.sign_labels)
        for name in ("original_kind", "original_head"):
            if not isinstance(getattr(self, name), str | None):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; wanted a name")
        if not (self.task_matching or self.task_mae):
            raise ConfigError("task_matching and task_mae are both false; a pre-training model needs one of them")
        (height, width), (patch_height, patch_width) = self.image_shape, self.image_patch
        if height % patch_height or width % patch_width:
            raise ConfigError(f"image_size {height}x{width} is not whole patches of {patch_height}x{patch_width}")
        if self.frequency_length % self.audio_patch[1]:
            raise ConfigError(
                f"frequency_length {self.frequency_length} is not whole patches of {self.audio_patch[1]} bins"
            )
        if self.spectrogram_length < self.audio_patch[0]:
            raise ConfigError(
                f"spectrogram_length {self.spectrogram_length} is shorter than one patch of {self.audio_patch[0]} rows"
            )

    def _check_sign_labels(self, labels: Any) -> None:
        if not isinstance(labels, tuple) or len(labels) != 2 or not all(isinstance(label, str) for label in labels):
            raise ConfigError(f"sign_labels is {labels!r}; wanted two names, of values below 0 and from 0 on")
        if self.activation != "none" or self.num_labels != 1:
            raise ConfigError(f"sign_labels names the signs of {self.num_labels} outputs; wanted a regression of one")

    def _check_int(self, name: str, minimum: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ConfigError(f"{name} is {value!r}; wanted an int of at least {minimum}")

    def _check_number(self, name: str, allowed: Callable[[float], bool], wanted: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not allowed(value):
            raise ConfigError(f"{name} is {value!r}; wanted a number {wanted}")

    # Derived sizes -------------------------------------------------------------------------------------------------

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of a frame in pixels."""
        return _pair("image_size", self.image_size)

    @property
    def image_patch(self) -> tuple[int, int]:
        """(height, width) of an image patch in pixels."""
        return _pair("image_patch_size", self.image_patch_size)

    @property
    def audio_patch(self) -> tuple[int, int]:
        """(rows, bins) of an audio patch."""
        return _pair("audio_patch_size", self.audio_patch_size)

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
        """Time steps in the audio position table: the longest sound, in patches (128 by default)."""
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
        """Pixel tokens that masked reconstruction shows the encoder: `int(n * (1 - ratio))` in double precision."""
        return int(frames * self.patches_per_frame * (1 - self.pixel_mask_ratio))

    def kept_audio_patches(self, time_steps: int) -> int:
        """Audio tokens that masked reconstruction shows the encoder, for `time_steps` rows of patches."""
        return int(time_steps * self.frequency_patches * (1 - self.audio_mask_ratio))

    @property
    def lineage(self) -> str:
        """Whose model it is: `huggingface`, or `original` for one from a file of the authors' code."""
        return "huggingface" if self.original_kind is None else "original"

    @property
    def activation(self) -> str:
        """What turns the classifier's logits into scores: `none`, `sigmoid` (each for itself) or `softmax`."""
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
        """Build from the content of a `config.json`; keys that no field holds go to `extras`."""
        if values.get("model_type", "tvlt") != "tvlt":
            raise ConfigError(f"model_type is {values['model_type']!r}; wanted 'tvlt'")
        names = {item.name for item in dataclasses.fields(cls)} - {"extras"}
        known = {name: value for name, value in values.items() if name in names}
        extras = {
            name: value for name, value in values.items() if name not in names | {"model_type", "label2id", "extras"}
        }
        return cls(**known, extras=extras)

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str]) -> TvltConfig:
        """Read one JSON file. Raises `ConfigError` naming the file when it is missing or not a JSON object."""
        return cls.from_dict(read_settings(path))

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], **overrides: Any) -> TvltConfig:
        """Read `config.json` from a directory or a model on the hub (or the JSON file itself).

        Keyword arguments replace fields. Raises `ConfigError`, and as `tvlt_deploy._internal.hub.local_path`.
        """
        path = local_path(directory, required=CONFIG_FILE)
        config = cls.from_json_file(path / CONFIG_FILE if path.is_dir() else path)
        return config.replace(**overrides) if overrides else config

    def replace(self, **changes: Any) -> TvltConfig:
        """A copy with other field values; changing one of `num_labels` and `id2label` resets the other."""
        if "id2label" in changes:
            changes.setdefault("num_labels", None)
        elif "num_labels" in changes and changes["num_labels"] != self.num_labels:
            changes["id2label"] = None
        return dataclasses.replace(self, **changes)

    def with_labels(self, labels: Sequence[str]) -> TvltConfig:
        """A copy that names the classifier's outputs so. Raises `ConfigError` for another number, or one name twice."""
        if len(labels) != self.num_labels:
            raise ConfigError(f"{len(labels)} labels were given; the classifier has {self.num_labels} outputs")
        if twice := [label for label, count in Counter(labels).items() if count > 1]:
            raise ConfigError(f"labels name {', '.join(twice[:5])} more than once; wanted a name for each output")
        return self.replace(id2label=dict(enumerate(labels)))

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`, in types that JSON holds.

        What transformers does not know is left out while it says the same as transformers.
        """
        if not isinstance(self.hidden_act, str):
            raise ConfigError(
                f"hidden_act is the callable {self.hidden_act!r}, which a file cannot hold",
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
        """Write `config.json` into a directory, which is made when missing."""
        write_json(Path(directory) / CONFIG_FILE, self.to_dict())


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON object. Raises `ConfigError` naming the file when it cannot be read or holds something else."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a JSON {type(values).__name__}; wanted an object")
    return values


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of a classifier's outputs, in order: a JSON list in a `.json` file, else one name per line.

    Raises `ConfigError` naming the file when it cannot be read or holds something else.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        labels = json.loads(text) if file.suffix == ".json" else text.splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the labels {file}: {error}") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) and label.strip() for label in labels):
        raise ConfigError(f"{file} holds something else than labels; wanted a JSON list of names, or a name per line")
    return tuple(label.strip() for label in labels)
