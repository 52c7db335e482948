"""What the models return: attributes, string keys, and integer indices that skip what is None."""

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

    last_hidden_state: (batch, tokens, hidden), after the final LayerNorm; the tokens are [class, pixels, audio],
        without the class token in random masking where the configuration has no `mae_class_token`.
    last_pixel_hidden_state, last_audio_hidden_state: its two parts without the class token; after random masking
        they hold the kept patches only.
    pixel_label_masks, audio_label_masks: (batch, patches) float32, 1 where a valid patch was hidden.
    pixel_ids_restore, audio_ids_restore: (batch, patches) int64, the place of each patch in the shuffled order.
    hidden_states: the embeddings and each layer's output, before the final LayerNorm.
    attentions: per layer (batch, heads, tokens, tokens), after softmax and dropout.
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
        """The hidden states and attentions that were asked for: what ends every `return_dict=False` tuple."""
        return tuple(value for value in (self.hidden_states, self.attentions) if value is not None)


@dataclass(eq=False)
class TvltForPreTrainingOutput(ModelOutput):
    """Output of `TvltForPreTraining`: Hugging Face's fields in their order, then the two label masks.

    loss: scalar, the sum of the losses that the arguments allow.
    matching_logits: (batch, 1), before the sigmoid; high means that sound and picture belong together.
    pixel_logits: (batch, pixel_patches, patch height * patch width * channels), channel last.
    audio_logits: (batch, audio_patches, patch rows * patch bins * channels), channel last.
    hidden_states, attentions: of the last encoder pass that ran.
    pixel_label_mask, audio_label_mask: (batch, patches) float32, 1 where a valid patch had to be reconstructed.
    """

    loss: Tensor | None = None
    matching_logits: Tensor | None = None
    pixel_logits: Tensor | None = None
    audio_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    pixel_label_mask: Tensor | None = None
    audio_label_mask: Tensor | None = None


@dataclass(eq=False)
class SequenceClassifierOutput(ModelOutput):
    """Output of `TvltForAudioVisualClassification`: `loss` (scalar) and `logits` (batch, labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
