"""The TVLT encoder: patches of frames and of a spectrogram in, one sequence of hidden states out.

Module names spell the state dict of transformers 4.40.2 (`TvltModel`), so weights move either way unchanged.
Source: Tang et al., "TVLT: Textless Vision-Language Transformer", 2022, and transformers 4.40.2, whose numbers these
are; every difference is listed in docs/reference/differences-model.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Generator, Tensor, nn

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import InputError
from tvlt_deploy.reference.activations import get_activation
from tvlt_deploy.reference.base import PretrainedModule
from tvlt_deploy.reference.outputs import TvltModelOutput

# Inputs ----------------------------------------------------------------------------------------------------------


NO_PIXELS = "for sound alone pass one frame of zeros and a pixel_mask of zeros"


def _check_tensor(name: str, values: Any, wanted: str, hint: str) -> None:
    if values is None:
        raise InputError(f"{name} is None; wanted a tensor {wanted}", hint=hint)
    if not isinstance(values, Tensor):
        raise InputError(f"{name} is a {type(values).__name__}; wanted a torch.Tensor {wanted}")
    if not values.is_floating_point():
        raise InputError(f"{name} is {values.dtype}; wanted floating point", hint="normalise with the processor first")


def check_pixels(config: TvltConfig, values: Tensor | None, name: str = "pixel_values") -> Tensor:
    """Frames (batch, frames, channels, height, width), float; raises `InputError` for anything else."""
    channels, (height, width), most = config.num_image_channels, config.image_shape, config.num_frames
    wanted = f"(batch, 1 to {most} frames, {channels}, {height}, {width})"
    _check_tensor(name, values, wanted, NO_PIXELS)
    assert values is not None
    shape = tuple(values.shape)
    hint = ""
    if len(shape) == 4:
        hint = f"the frames axis is missing: {name}[:, None] for images, {name}[None] for one clip"
    elif len(shape) == 5 and shape[1] > most:
        hint = f"the model has {most} temporal positions: sample fewer frames"
    elif len(shape) == 5 and shape[1] == 0:
        hint = NO_PIXELS
    if len(shape) != 5 or not 1 <= shape[1] <= most or shape[2:] != (channels, height, width):
        raise InputError(f"{name} has shape {shape}; wanted {wanted}", hint=hint)
    return values


def check_audio(config: TvltConfig, values: Tensor | None) -> Tensor:
    """Spectrogram (batch, channels, rows, bins), float; raises `InputError` for anything else."""
    channels, bins, patch = config.num_audio_channels, config.frequency_length, config.audio_patch[0]
    most = config.time_patches * patch
    wanted = f"(batch, {channels}, {patch} to {most} rows in steps of {patch}, {bins})"
    _check_tensor(
        "audio_values", values, wanted, "for pictures alone pass one patch of zeros and an audio_mask of zeros"
    )
    assert values is not None
    shape = tuple(values.shape)
    hint = ""
    if len(shape) == 4 and shape[2] > most:
        hint = f"the model has {most // patch} time positions: cut the sound"
    elif len(shape) == 4 and shape[2] % patch:
        hint = f"pad with zero rows to {-(-shape[2] // patch) * patch}"
    if len(shape) != 4 or (shape[1], shape[3]) != (channels, bins) or not patch <= shape[2] <= most or shape[2] % patch:
        raise InputError(f"audio_values has shape {shape}; wanted {wanted}", hint=hint)
    return values


def check_mask(name: str, mask: Tensor | None, batch: int, patches: int) -> Tensor | None:
    """Mask (batch, patches), bool, int or float, as bool: a patch is valid above 0.5. Raises `InputError`."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or tuple(mask.shape) != (batch, patches):
        found = f"has shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"is a {type(mask).__name__}"
        raise InputError(f"{name} {found}; wanted a tensor ({batch}, {patches}), one value for each patch")
    return mask > 0.5


def _check_noise(name: str, noise: Tensor, batch: int, patches: int, repeats: int) -> Tensor:
    """Noise (batch, patches), or (batch, patches / repeats) to be repeated; NaN has no rank and is refused."""
    shapes = [(batch, patches)] + ([(batch, patches // repeats)] if repeats > 1 else [])
    if not isinstance(noise, Tensor) or tuple(noise.shape) not in shapes:
        found = f"has shape {tuple(noise.shape)}" if isinstance(noise, Tensor) else f"is a {type(noise).__name__}"
        raise InputError(f"{name} {found}; wanted a tensor {' or '.join(map(str, shapes))}")
    if noise.isnan().any():
        raise InputError(f"{name} holds NaN; wanted numbers that can be ranked")
    return noise if noise.shape[1] == patches else noise.repeat_interleave(repeats, dim=1)


# Random masking --------------------------------------------------------------------------------------------------


def _draw(shape: tuple[int, int], device: torch.device, generator: Generator | None) -> Tensor:
    source = device if generator is None else generator.device
    return torch.rand(shape, dtype=torch.float32, device=source, generator=generator).to(device)


def random_masking(
    tokens: Tensor, noise: Tensor, keep: int, valid: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Keep the `keep` tokens of least noise, in the order of their noise.

    tokens (batch, patches, width), noise (batch, patches), valid (batch, patches) bool or None.
    Returns the kept tokens (batch, keep, width), their validity, the label mask (batch, patches) float32, 1 for a
    hidden valid patch, and the ids (batch, patches) that undo the shuffle. Ties are broken by index; transformers
    4.40.2 leaves them to an unstable sort. The noise does not know about padding: padded patches may be kept.
    """
    shuffle = noise.argsort(dim=1, stable=True)
    restore = shuffle.argsort(dim=1)
    kept = shuffle[:, :keep]
    label_mask = (restore >= keep).float()
    if valid is not None:
        label_mask = label_mask * valid
        valid = valid.gather(1, kept)
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2])), valid, label_mask, restore


# Embeddings ------------------------------------------------------------------------------------------------------


def add_positions(tokens: Tensor, inner: Tensor, outer: Tensor, kind: Tensor) -> Tensor:
    """Add the embeddings of a grid to its tokens (batch, steps * n, width).

    inner (1, n, width) is the same in each step, outer (1, at least steps, width) in each token of a step, and
    kind (1, 1, width) everywhere.
    """
    grid = tokens.reshape(tokens.shape[0], -1, *inner.shape[1:])
    return (grid + inner[:, None] + outer[:, : grid.shape[1], None] + kind).flatten(1, 2)


class TvltPatchEmbeddings(nn.Module):
    """Cut (n, channels, height, width) into patches and project each: (n, patches, hidden), row by row."""

    def __init__(self, channels: int, patch: tuple[int, int], hidden_size: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, hidden_size, kernel_size=patch, stride=patch)

    def forward(self, values: Tensor) -> Tensor:
        """Patch vectors of each picture."""
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
        """Tokens of the whole spectrogram."""
        tokens: Tensor = self.patch_embeddings(audio_values)
        return add_positions(tokens, self.freq_embed, self.pos_embed_a, self.type_embed_a)


# Transformer -----------------------------------------------------------------------------------------------------


# Up to this many tokens attention is written out, which costs little there and gives
# transformers' numbers to the last bit; beyond, the kernel saves the heads * tokens * tokens weights of each clip.
SHORT_SEQUENCE = 256


class TvltSelfAttention(nn.Module):
    """Multi-head attention over the valid keys; a sample without any valid key attends uniformly to all of them.

    That is what transformers' finite mask comes to in float32. Here it is said outright (such a sample gets queries of
    zero and no mask), because fused kernels turn the finite mask into NaN or, in float16, into something else.
    """

    def __init__(self, hidden_size: int, heads: int, config: TvltConfig) -> None:
        super().__init__()
        self.num_attention_heads = heads
        self.query = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.key = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.value = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden: Tensor, valid: Tensor | None, output_attentions: bool) -> tuple[Tensor, Tensor | None]:
        """Hidden (batch, tokens, width), valid (batch, tokens) bool; the context and, when asked, the weights."""
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
        """Hidden (batch, tokens, width), valid (batch, tokens) bool; the new states and the weights asked for."""
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
        """The input and each layer's output; each layer's attention weights (empty when not asked for)."""
        states, weights = [hidden], []
        for layer in self.layer:
            hidden, attention = layer(hidden, valid, output_attentions)
            states.append(hidden)
            weights.append(attention)
        return tuple(states), tuple(weights) if output_attentions else ()


class TvltModel(PretrainedModule):
    """The bare encoder.

    generator: source of the initial weights: normal with `initializer_range` for linear and convolution weights, zero
    for biases, embeddings and the class token, one for LayerNorm gains (transformers 4.40.2).
    """

    base_prefix = ""

    def __init__(self, config: TvltConfig, generator: Generator | None = None) -> None:
        super().__init__(config)
        self.pixel_embeddings = TvltPixelEmbeddings(config)
        self.audio_embeddings = TvltAudioEmbeddings(config)
        self.encoder = TvltEncoder(config)
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        # transformers' use_mean_pooling averages nothing: it only removes the final LayerNorm.
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

        pixel_values: (batch, frames, channels, height, width) float, frames at most `num_frames`.
        audio_values: (batch, channels, rows, bins) float, whole patches of rows, at most `spectrogram_length`.
        pixel_mask, audio_mask: (batch, patches) bool, int or float, valid above 0.5. One without the other counts
            the other as all valid. The class token is valid when the first pixel token of the sequence is, or the
            first audio token where `config.class_mask_source` says so.
        mask_pixel, mask_audio: hide random patches from the encoder (masked auto-encoding), and the class token with
            them where `config.mae_class_token` is false.
        pixel_noise, audio_noise: (batch, patches) float: the patches of least noise are kept. Frame-level audio noise
            may be (batch, time patches). When absent it is drawn uniformly, pixels first, from `generator` or torch's
            global one.
        return_dict: `TvltModelOutput`, or a tuple of its first seven fields and the extras asked for.
        The last three `None`s default to the configuration. Raises `InputError` (a `ValueError`).
        """
        config = self.config
        dtype = self.cls_embedding.dtype
        pixel_values = check_pixels(config, pixel_values).to(dtype)
        audio_values = check_audio(config, audio_values).to(dtype)
        batch = pixel_values.shape[0]
        if audio_values.shape[0] != batch:
            raise InputError(f"pixel_values holds {batch} clips and audio_values {audio_values.shape[0]}")
        pixels, audio = self.pixel_embeddings(pixel_values), self.audio_embeddings(audio_values)
        pixel_valid = check_mask("pixel_mask", pixel_mask, batch, pixels.shape[1])
        audio_valid = check_mask("audio_mask", audio_mask, batch, audio.shape[1])

        if (pixel_noise is not None and not mask_pixel) or (audio_noise is not None and not mask_audio):
            raise InputError("noise was given for patches that are not masked", hint="set mask_pixel and mask_audio")
        pixel_labels = audio_labels = pixel_restore = audio_restore = None
        if mask_pixel:
            keep = config.kept_pixel_patches(pixel_values.shape[1])
            if pixel_noise is None:
                pixel_noise = _draw((batch, pixels.shape[1]), pixels.device, generator)
            pixel_noise = _check_noise("pixel_noise", pixel_noise, batch, pixels.shape[1], 1)
            pixels, pixel_valid, pixel_labels, pixel_restore = random_masking(pixels, pixel_noise, keep, pixel_valid)
        if mask_audio:
            time_patches = audio_values.shape[2] // config.audio_patch[0]
            keep = config.kept_audio_patches(time_patches)
            repeats = config.frequency_patches if config.audio_mask_type == "frame-level" else 1
            if audio_noise is None:
                audio_noise = _draw((batch, audio.shape[1] // repeats), audio.device, generator)
            audio_noise = _check_noise("audio_noise", audio_noise, batch, audio.shape[1], repeats)
            audio, audio_valid, audio_labels, audio_restore = random_masking(audio, audio_noise, keep, audio_valid)

        # 1, or 0 where the authors' code leaves the class token out.
        classes = int(config.mae_class_token or not (mask_pixel or mask_audio))
        valid = None
        if pixel_valid is not None or audio_valid is not None:
            parts = [
                given if given is not None else torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
                for given, tokens in ((pixel_valid, pixels), (audio_valid, audio))
            ]
            sources = parts if config.class_mask_source == "pixel" else reversed(parts)
            first = next(part for part in sources if part.shape[1])[:, :classes]
            valid = torch.cat([first, *parts], dim=1)
        hidden = torch.cat([self.cls_embedding[:, :classes].expand(batch, -1, -1), pixels, audio], dim=1)

        want_attentions = config.output_attentions if output_attentions is None else output_attentions
        want_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states, attentions = self.encoder(hidden, valid, want_attentions)
        last = states[-1] if self.layernorm is None else self.layernorm(states[-1])
        output = TvltModelOutput(
            last_hidden_state=last,
            last_pixel_hidden_state=last[:, classes : classes + pixels.shape[1]],
            last_audio_hidden_state=last[:, classes + pixels.shape[1] :],
            pixel_label_masks=pixel_labels,
            audio_label_masks=audio_labels,
            pixel_ids_restore=pixel_restore,
            audio_ids_restore=audio_restore,
            hidden_states=states if want_states else None,
            attentions=attentions if want_attentions else None,
        )
        if config.return_dict if return_dict is None else return_dict:
            return output
        return (
            last, output.last_pixel_hidden_state, output.last_audio_hidden_state,
            pixel_labels, audio_labels, pixel_restore, audio_restore, *output.extras,
        )  # fmt: skip
