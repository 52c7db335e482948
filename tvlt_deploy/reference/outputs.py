"""The outputs of the models: attributes, string keys, and integer indices that skip None."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, KeysView, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(eq=False)
class ModelOutput(Mapping[str, Any]):
    """An ordered record: `out.logits`, `out["logits"]`, `out[0]`, `out[:2]`; a None has no key and no index."""

    def _present(self) -> dict[str, Any]:
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def __getitem__(self, key: str | int | slice) -> Any:
        return self._present()[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._present())

    def __len__(self) -> int:
        return len(self._present())

    def keys(self) -> KeysView[str]:
        """The names of the fields that are not None, in order."""
        return self._present().keys()

    def to_tuple(self) -> tuple[Any, ...]:
        """The values that are not None, in order."""
        return tuple(self._present().values())


@dataclass(eq=False)
class TvltModelOutput(ModelOutput):
    """Output of `TvltModel`, in Hugging Face's order.

    Attributes:
        last_hidden_state: (batch, tokens, hidden), after the final LayerNorm. The tokens are [class, pixels, audio];
            with random masking there is no class token unless the configuration has `mae_class_token`.
        last_pixel_hidden_state: (batch, pixel patches, hidden), the pixel part of it; with random masking only the
            kept patches.
        last_audio_hidden_state: (batch, audio patches, hidden), the audio part.
        pixel_label_masks: (batch, patches) float32, 1 for a valid patch that was dropped.
        audio_label_masks: As `pixel_label_masks`.
        pixel_ids_restore: (batch, patches) int64, the position of each patch in the shuffled order.
        audio_ids_restore: As `pixel_ids_restore`.
        hidden_states: The embeddings and each layer's output, before the final LayerNorm.
        attentions: Of each layer (batch, heads, tokens, tokens), after softmax and dropout.
    """

    last_hidden_state: Tensor
    last_pixel_hidden_state: Tensor
    last_audio_hidden_state: Tensor
    pixel_label_masks: Tensor | None = None
    audio_label_masks: Tensor | None = None
    pixel_ids_restore: Tensor | None = None
    audio_ids_restore: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    @property
    def extras(self) -> tuple[Any, ...]:
        """The hidden states and attentions that were requested: the end of every `return_dict=False` tuple."""
        return tuple(value for value in (self.hidden_states, self.attentions) if value is not None)

    @property
    def hf_tuple(self) -> tuple[Any, ...]:
        """What transformers returns with `return_dict=False`: the first seven fields, and the extras."""
        return (*(getattr(self, item.name) for item in dataclasses.fields(self)[:7]), *self.extras)


@dataclass(eq=False)
class TvltForPreTrainingOutput(ModelOutput):
    """Output of `TvltForPreTraining`: Hugging Face's fields in their order, then the two label masks.

    Attributes:
        loss: A scalar, the sum of the losses of the tasks that ran with targets.
        matching_logits: (batch, 1), before the sigmoid; high means that sound and frames belong together.
        pixel_logits: (batch, pixel patches, patch height * patch width * channels), channel last.
        audio_logits: (batch, audio patches, patch rows * patch bins * channels), channel last.
        hidden_states: Of the last encoder pass that ran.
        attentions: Of the last encoder pass that ran.
        pixel_label_mask: (batch, patches) float32, 1 for a valid patch to reconstruct.
        audio_label_mask: As `pixel_label_mask`.
    """

    loss: Tensor | None = None
    matching_logits: Tensor | None = None
    pixel_logits: Tensor | None = None
    audio_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    pixel_label_mask: Tensor | None = None
    audio_label_mask: Tensor | None = None

    def add_loss(self, loss: Tensor) -> None:
        """Add the loss of one task."""
        self.loss = loss if self.loss is None else self.loss + loss

    @property
    def hf_tuple(self) -> tuple[Any, ...]:
        """What transformers returns with `return_dict=False`: the loss where there is one, the logits, the extras."""
        loss = () if self.loss is None else (self.loss,)
        extras = (value for value in (self.hidden_states, self.attentions) if value is not None)
        return (*loss, self.matching_logits, self.pixel_logits, self.audio_logits, *extras)


@dataclass(eq=False)
class SequenceClassifierOutput(ModelOutput):
    """Output of `TvltForAudioVisualClassification`.

    Attributes:
        loss: A scalar; None without labels.
        logits: (batch, labels).
        hidden_states: The embeddings and each layer's output.
        attentions: Of each layer (batch, heads, tokens, tokens).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
