"""The TVLT encoder: patches of frames and of a spectrogram in, one sequence of hidden states out.

Module names match the state dict of transformers 4.40.2 (`TvltModel`), so weights can be loaded either way unchanged.
Source: Tang et al., "TVLT: Textless Vision-Language Transformer", 2022, and transformers 4.40.2, whose outputs are
reproduced; every difference is listed in docs/reference/differences-model.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Generator, Tensor, nn

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import InputError
from tvlt_deploy.reference.activations import get_activation
from tvlt_deploy.reference.base import PretrainedModule
from tvlt_deploy.reference.inputs import check_audio, check_mask, check_noise, check_pixels
from tvlt_deploy.reference.outputs import TvltModelOutput

# Random masking --------------------------------------------------------------------------------------------------


def _draw(shape: tuple[int, int], device: torch.device, generator: Generator | None) -> Tensor:
    source = device if generator is None else generator.device
    return torch.rand(shape, dtype=torch.float32, device=source, generator=generator).to(device)


class Part(NamedTuple):
    """The tokens of one modality, before or after random masking.

    Attributes:
        tokens: (batch, kept patches, width).
        valid: (batch, kept patches) bool; None when all are valid.
        labels: (batch, patches) float32, 1 for a valid patch that was dropped; None without masking.
        restore: (batch, patches) int64, the ids that undo the shuffle; None without masking.
    """

    tokens: Tensor
    valid: Tensor | None
    labels: Tensor | None = None
    restore: Tensor | None = None


def random_masking(tokens: Tensor, noise: Tensor, keep: int, valid: Tensor | None) -> Part:
    """Keep the tokens with the lowest noise, in the order of their noise.

    Ties are broken by index; transformers 4.40.2 leaves them to an unstable sort. The noise ignores padding: padded
    patches may be kept.

    Args:
        tokens: (batch, patches, width).
        noise: (batch, patches).
        keep: The number of tokens to keep.
        valid: (batch, patches) bool, or None when all are valid.

    Returns:
        The kept tokens, and what was dropped.
    """
    shuffle = noise.argsort(dim=1, stable=True)
    restore = shuffle.argsort(dim=1)
    kept = shuffle[:, :keep]
    label_mask = (restore >= keep).float()
    if valid is not None:
        label_mask = label_mask * valid
        valid = valid.gather(1, kept)
    return Part(tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2])), valid, label_mask, restore)


# Embeddings ------------------------------------------------------------------------------------------------------


def add_positions(tokens: Tensor, inner: Tensor, outer: Tensor, kind: Tensor) -> Tensor:
    """Add the embeddings of a grid to its tokens.

    Args:
        tokens: (batch, steps * n, width).
        inner: (1, n, width), the same in each step.
        outer: (1, at least steps, width), the same in each token of a step.
        kind: (1, 1, width), the same everywhere.
    """
    grid = tokens.reshape(tokens.shape[0], -1, *inner.shape[1:])
    return (grid + inner[:, None] + outer[:, : grid.shape[1], None] + kind).flatten(1, 2)


class TvltPatchEmbeddings(nn.Module):
    """Cut (n, channels, height, width) into patches and project each: (n, patches, hidden), row by row."""

    def __init__(self, channels: int, patch: tuple[int, int], hidden_size: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, hidden_size, kernel_size=patch, stride=patch)

    def forward(self, values: Tensor) -> Tensor:
        """Patch vectors of each image."""
        projected: Tensor = self.projection(values)
        return projected.flatten(2).transpose(1, 2)


class TvltPixelEmbeddings(nn.Module):
    """Frames (batch, frames, channels, height, width) to tokens (batch, frames * patches, hidden), frame by frame."""

    def __init__(self, config: TvltConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.patch_embeddings = TvltPatchEmbeddings(config.num_image_channels, config.image_patch, hidden)
        self.type_embed_v = nn.Parameter(torch.zeros(1, 1, hidden))
        self.temporal_embed = nn.Parameter(torch.zeros(1, config.num_frames, hidden))
        self.pos_embed_v = nn.Parameter(torch.zeros(1, config.patches_per_frame, hidden))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Tokens of all frames."""
        patches: Tensor = self.patch_embeddings(pixel_values.flatten(0, 1))
        tokens = patches.reshape(pixel_values.shape[0], -1, patches.shape[2])
        return add_positions(tokens, self.pos_embed_v, self.temporal_embed, self.type_embed_v)


class TvltAudioEmbeddings(nn.Module):
    """Spectrogram (batch, channels, rows, bins) to tokens (batch, time * frequency patches, hidden), time first."""

    def __init__(self, config: TvltConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.patch_embeddings = TvltPatchEmbeddings(config.num_audio_channels, config.audio_patch, hidden)
        self.type_embed_a = nn.Parameter(torch.zeros(1, 1, hidden))
        self.pos_embed_a = nn.Parameter(torch.zeros(1, config.time_patches, hidden))
        self.freq_embed = nn.Parameter(torch.zeros(1, config.frequency_patches, hidden))

    def forward(self, audio_values: Tensor) -> Tensor:
        """Tokens of the spectrogram."""
        tokens: Tensor = self.patch_embeddings(audio_values)
        return add_positions(tokens, self.freq_embed, self.pos_embed_a, self.type_embed_a)


# Transformer -----------------------------------------------------------------------------------------------------


SHORT_SEQUENCE = 256
"""Up to this many tokens attention is computed step by step, bit-identical to transformers; for longer sequences
torch's kernel avoids the heads * tokens * tokens weights of each clip."""


class TvltSelfAttention(nn.Module):
    """Multi-head attention over the valid keys; a sample without any valid key attends uniformly to all of them.

    This is the effect of transformers' finite mask in float32. Here such a sample gets zero queries and no mask,
    because torch's kernels turn the finite mask into NaN or, in float16, into other weights.
    """

    def __init__(self, hidden_size: int, heads: int, config: TvltConfig) -> None:
        super().__init__()
        self.num_attention_heads = heads
        self.query = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.key = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.value = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden: Tensor, valid: Tensor | None, output_attentions: bool) -> tuple[Tensor, Tensor | None]:
        """Hidden (batch, tokens, width), valid (batch, tokens) bool; the context and, on request, the weights."""
        query, key, value = (
            projection(hidden).unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        attend = None
        if valid is not None:
            some = valid.any(dim=1, keepdim=True)
            query = query * some[:, :, None, None]
            attend = (valid | ~some)[:, None, None, :]
        weights = None
        if output_attentions or hidden.shape[1] <= SHORT_SEQUENCE:
            scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
            if attend is not None:
                scores = scores.masked_fill(~attend, float("-inf"))
            weights = self.dropout(scores.softmax(dim=-1))
            context = weights @ value
        else:
            dropout = self.dropout.p if self.training else 0.0
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=attend, dropout_p=dropout)
        return context.transpose(1, 2).flatten(2), weights if output_attentions else None


class TvltDense(nn.Module):
    """A linear layer and its dropout, before the residual sum."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Project the last axis."""
        projected: Tensor = self.dropout(self.dense(hidden))
        return projected


class TvltAttention(nn.Module):
    """Self-attention and its output projection."""

    def __init__(self, hidden_size: int, heads: int, config: TvltConfig) -> None:
        super().__init__()
        self.attention = TvltSelfAttention(hidden_size, heads, config)
        self.output = TvltDense(hidden_size, hidden_size, config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, valid: Tensor | None, output_attentions: bool) -> tuple[Tensor, Tensor | None]:
        """As `TvltSelfAttention`."""
        context, weights = self.attention(hidden, valid, output_attentions)
        return self.output(context), weights


class TvltIntermediate(nn.Module):
    """The widening half of the MLP with its activation."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str | Callable[..., Any]) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, intermediate_size)
        self.intermediate_act_fn = get_activation(activation)

    def forward(self, hidden: Tensor) -> Tensor:
        """Project the last axis and activate."""
        activated: Tensor = self.intermediate_act_fn(self.dense(hidden))
        return activated


class TvltLayer(nn.Module):
    """One pre-LayerNorm transformer block; encoder and decoder differ in their widths only."""

    def __init__(self, config: TvltConfig, hidden_size: int, heads: int, intermediate_size: int) -> None:
        super().__init__()
        self.attention = TvltAttention(hidden_size, heads, config)
        self.intermediate = TvltIntermediate(hidden_size, intermediate_size, config.hidden_act)
        self.output = TvltDense(intermediate_size, hidden_size, config.hidden_dropout_prob)
        self.layernorm_before = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, hidden: Tensor, valid: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden (batch, tokens, width), valid (batch, tokens) bool; the new states and, on request, the weights."""
        context, weights = self.attention(self.layernorm_before(hidden), valid, output_attentions)
        hidden = context + hidden
        return self.output(self.intermediate(self.layernorm_after(hidden))) + hidden, weights


class TvltEncoder(nn.Module):
    """The stack of layers, without the final LayerNorm."""

    def __init__(self, config: TvltConfig) -> None:
        super().__init__()
        widths = config.hidden_size, config.num_attention_heads, config.intermediate_size
        self.layer = nn.ModuleList(TvltLayer(config, *widths) for _ in range(config.num_hidden_layers))

    def forward(
        self, hidden: Tensor, valid: Tensor | None, output_attentions: bool
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The input and each layer's output; each layer's attention weights (empty unless requested)."""
        states, weights = [hidden], []
        for layer in self.layer:
            hidden, attention = layer(hidden, valid, output_attentions)
            states.append(hidden)
            weights.append(attention)
        return tuple(states), tuple(weights) if output_attentions else ()


class TvltModel(PretrainedModule):
    """The encoder without a head.

    Initial weights are normal with `initializer_range` for linear and convolution weights, zero for biases, embeddings
    and the class token, one for LayerNorm gains (transformers 4.40.2).

    Args:
        config: The configuration.
        generator: The source of the initial weights; torch's global one by default.
    """

    def __init__(self, config: TvltConfig, generator: Generator | None = None) -> None:
        super().__init__(config)
        self.pixel_embeddings = TvltPixelEmbeddings(config)
        self.audio_embeddings = TvltAudioEmbeddings(config)
        self.encoder = TvltEncoder(config)
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        # In transformers, use_mean_pooling removes the final LayerNorm and does not average.
        self.layernorm = (
            None if config.use_mean_pooling else nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        )
        self.init_weights(generator)

    def get_input_embeddings(self) -> tuple[nn.Module, nn.Module]:
        """The patch projections of pixels and audio."""
        return self.pixel_embeddings.patch_embeddings, self.audio_embeddings.patch_embeddings

    def forward(
        self,
        pixel_values: Tensor | None,
        audio_values: Tensor | None,
        pixel_mask: Tensor | None = None,
        audio_mask: Tensor | None = None,
        mask_pixel: bool = False,
        mask_audio: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        pixel_noise: Tensor | None = None,
        audio_noise: Tensor | None = None,
        generator: Generator | None = None,
    ) -> TvltModelOutput | tuple[Any, ...]:
        """Encode a batch of clips.

        Args:
            pixel_values: (batch, frames, channels, height, width) float, at most `num_frames` frames.
            audio_values: (batch, channels, rows, bins) float, complete patches of rows, at most `spectrogram_length`.
            pixel_mask: (batch, patches) bool, int or float, valid above 0.5. None with an `audio_mask`: all valid. The
                class token is valid when the first pixel token is, or the first audio token (`class_mask_source`).
            audio_mask: As `pixel_mask`.
            mask_pixel: Drop random patches (masked auto-encoding), and the class token unless `mae_class_token`.
            mask_audio: As `mask_pixel`.
            output_attentions: Return attention weights; default from the configuration, as for the next two.
            output_hidden_states: Return the states of all layers.
            return_dict: Return `TvltModelOutput`, not a tuple of its first seven fields and the requested extras.
            pixel_noise: (batch, patches) float: the patches with the lowest noise are kept. By default drawn uniformly.
            audio_noise: As `pixel_noise`; (batch, time patches) with frame-level masking.
            generator: The source of noise, pixels first; torch's global one by default.

        Raises:
            InputError: An input has the wrong type or shape. It is a `ValueError`.
        """
        config = self.config
        pixels, audio = self._embed(pixel_values, audio_values, pixel_mask, audio_mask)
        if (pixel_noise is not None and not mask_pixel) or (audio_noise is not None and not mask_audio):
            raise InputError("noise was given for patches that are not masked", hint="set mask_pixel and mask_audio")
        if mask_pixel:
            pixels = self._mask_pixels(pixels, pixel_noise, generator)
        if mask_audio:
            audio = self._mask_audio(audio, audio_noise, generator)
        class_token = config.mae_class_token or not (mask_pixel or mask_audio)
        attentions = config.output_attentions if output_attentions is None else output_attentions
        hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = self._encode(pixels, audio, class_token, attentions, hidden_states)
        return output if (config.return_dict if return_dict is None else return_dict) else output.hf_tuple

    def _embed(
        self,
        pixel_values: Tensor | None,
        audio_values: Tensor | None,
        pixel_mask: Tensor | None,
        audio_mask: Tensor | None,
    ) -> tuple[Part, Part]:
        """The tokens of pixels and audio with their masks, all checked."""
        dtype = self.cls_embedding.dtype
        pixel_values = check_pixels(self.config, pixel_values).to(dtype)
        audio_values = check_audio(self.config, audio_values).to(dtype)
        batch = pixel_values.shape[0]
        if audio_values.shape[0] != batch:
            raise InputError(f"audio_values has {audio_values.shape[0]} clips; expected {batch}, as pixel_values")
        pixels, audio = self.pixel_embeddings(pixel_values), self.audio_embeddings(audio_values)
        return (
            Part(pixels, check_mask("pixel_mask", pixel_mask, batch, pixels.shape[1])),
            Part(audio, check_mask("audio_mask", audio_mask, batch, audio.shape[1])),
        )

    def _mask_pixels(self, pixels: Part, noise: Tensor | None, generator: Generator | None) -> Part:
        batch, patches, _ = pixels.tokens.shape
        if noise is None:
            noise = _draw((batch, patches), pixels.tokens.device, generator)
        noise = check_noise("pixel_noise", noise, batch, patches, 1)
        keep = self.config.kept_pixel_patches(patches // self.config.patches_per_frame)
        return random_masking(pixels.tokens, noise, keep, pixels.valid)

    def _mask_audio(self, audio: Part, noise: Tensor | None, generator: Generator | None) -> Part:
        batch, patches, _ = audio.tokens.shape
        bands = self.config.frequency_patches
        repeats = bands if self.config.audio_mask_type == "frame-level" else 1
        if noise is None:
            noise = _draw((batch, patches // repeats), audio.tokens.device, generator)
        noise = check_noise("audio_noise", noise, batch, patches, repeats)
        return random_masking(audio.tokens, noise, self.config.kept_audio_patches(patches // bands), audio.valid)

    def _valid(self, pixels: Part, audio: Part, class_tokens: int) -> Tensor | None:
        """The validity of the sequence (batch, tokens) bool; None when there is no mask."""
        if pixels.valid is None and audio.valid is None:
            return None
        parts = [
            torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if valid is None else valid
            for tokens, valid, *_ in (pixels, audio)
        ]
        sources = parts if self.config.class_mask_source == "pixel" else reversed(parts)
        first = next(part for part in sources if part.shape[1])[:, :class_tokens]
        return torch.cat([first, *parts], dim=1)

    def _encode(
        self, pixels: Part, audio: Part, class_token: bool, attentions: bool, hidden_states: bool
    ) -> TvltModelOutput:
        """Run the layers over [class, pixels, audio]; the authors' code masks without a class token."""
        start = int(class_token)
        end = start + pixels.tokens.shape[1]
        classes = self.cls_embedding[:, :start].expand(len(pixels.tokens), -1, -1)
        hidden = torch.cat([classes, pixels.tokens, audio.tokens], dim=1)
        states, weights = self.encoder(hidden, self._valid(pixels, audio, start), attentions)
        last = states[-1] if self.layernorm is None else self.layernorm(states[-1])
        return TvltModelOutput(
            last_hidden_state=last,
            last_pixel_hidden_state=last[:, start:end],
            last_audio_hidden_state=last[:, end:],
            pixel_label_masks=pixels.labels,
            audio_label_masks=audio.labels,
            pixel_ids_restore=pixels.restore,
            audio_ids_restore=audio.restore,
            hidden_states=states if hidden_states else None,
            attentions=weights if attentions else None,
        )
