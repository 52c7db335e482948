"""The modules that are exported: the weights of the reference, arranged for inference.

They compute the same outputs as `tvlt_deploy.reference` with less work:

- position, temporal, type and frequency embeddings and the patch bias add up to one constant table per modality;
- patch embedding is a reshape and one MatMul;
- the query scale is folded into the query weights;
- classification and matching use token 0 only, so their last encoder layer computes the query, output projection and
  MLP of that token only;
- masks replace scores by a constant that half precision can represent, so that a row without any valid key attends
  uniformly in every precision, as in the reference.

The module of a task accepts the tensors that `tvlt_deploy.tasks` lists, in that order, and returns a tuple of its
outputs in order.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import ConfigError
from tvlt_deploy.tasks import Task

MASKED_SCORE = -1e4
"""Replaces the score of a masked key. fp16 and bf16 represent it, and its exponential next to any real score is 0."""

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, int], Tensor]
"""(query (B, Nq, D), key (B, N, D), value (B, N, D), valid (B, N) bool or None, heads) -> context (B, Nq, D)."""


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _merge_heads(x: Tensor) -> Tensor:
    x = x.transpose(1, 2)
    return x.reshape(x.shape[0], x.shape[1], -1)


def _mask_keys(key: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Keys with the masked ones set to zero, and a bias (B, N) for the scores: `MASKED_SCORE` for masked keys, else 0.

    A zero key has a score of exactly 0 with every query, so adding the bias replaces its score, and a row without any
    valid key stays uniform. Engines fuse the addition; few fuse a Where on the scores.
    """
    return torch.where(valid[:, :, None], key, 0.0), torch.where(valid, 0.0, MASKED_SCORE)


def standard_attention(query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None, heads: int) -> Tensor:
    """MatMul, Add, Softmax, MatMul: standard operators, in the pattern that engines recognize and fuse."""
    bias = None
    if valid is not None:
        key, bias = _mask_keys(key, valid)
    query, key, value = (_split_heads(x, heads) for x in (query, key, value))
    scores = query @ key.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias[:, None, None, :]
    return _merge_heads(torch.softmax(scores, dim=-1) @ value)


def multi_head_attention(query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None, heads: int) -> Tensor:
    """ONNX Runtime's operator `MultiHeadAttention`.

    Its CPU kernel does not allocate the (Nq, N) scores when it has no mask input. The bias of the mask therefore goes
    into eight more channels per head: one channel of the key is the bias, that of the query is 1, the rest are 0.
    Eight channels keep the inner size of the product a multiple of the vector width.
    """
    if valid is not None:
        key, bias = _mask_keys(key, valid)
        channels = [torch.ones_like(query[:, :, :1]), bias[:, :, None]]
        query, key = (
            torch.cat(
                [
                    x.unflatten(2, (heads, -1)),
                    nn.functional.pad(channel, (0, 7))[:, :, None].expand(-1, -1, heads, -1),
                ],
                dim=-1,
            ).flatten(2)
            for x, channel in zip((query, key), channels, strict=True)
        )
    context: Tensor = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (query, key, value),
        attrs={"num_heads": heads, "scale": 1.0},
        dtype=value.dtype,
        shape=(query.shape[0], query.shape[1], value.shape[2]),
        version=1,
    )
    return context


class Linear(nn.Module):
    """`x @ weight + bias` with the weight stored (in, out), as MatMul needs it."""

    def __init__(self, linear: nn.Linear, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().mT.contiguous() * scale, requires_grad=False)
        self.bias = None
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach() * scale, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        product = x @ self.weight
        return product if self.bias is None else product + self.bias


class Layer(nn.Module):
    """One pre-norm transformer layer over all tokens, or over the first token only."""

    def __init__(self, layer: Any, heads: int, attention: Attention) -> None:
        super().__init__()
        inner = layer.attention.attention
        self.heads, self.attention = heads, attention
        self.norm_before, self.norm_after = layer.layernorm_before, layer.layernorm_after
        self.query = Linear(inner.query, scale=(inner.query.out_features // heads) ** -0.5)
        self.key, self.value = Linear(inner.key), Linear(inner.value)
        self.project = Linear(layer.attention.output.dense)
        self.expand, self.contract = Linear(layer.intermediate.dense), Linear(layer.output.dense)
        self.activation = layer.intermediate.intermediate_act_fn

    def forward(self, x: Tensor, valid: Tensor | None, first_token_only: bool = False) -> Tensor:
        normed = self.norm_before(x)
        key, value = self.key(normed), self.value(normed)
        if first_token_only:
            x, normed = x[:, :1], normed[:, :1]
        attention = standard_attention if first_token_only else self.attention
        context = attention(self.query(normed), key, value, valid, self.heads)
        x = x + self.project(context)
        out: Tensor = x + self.contract(self.activation(self.expand(self.norm_after(x))))
        return out


class Embedding(nn.Module):
    """Frames and spectrogram to token embeddings: one MatMul and one table per modality."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config: TvltConfig = model.config
        pixel, audio = model.pixel_embeddings, model.audio_embeddings
        pixel_projection = pixel.patch_embeddings.projection
        audio_projection = audio.patch_embeddings.projection
        freeze = lambda x: nn.Parameter(x.detach().contiguous(), requires_grad=False)  # noqa: E731
        self.pixel_weight = freeze(pixel_projection.weight.flatten(1).mT)
        self.audio_weight = freeze(audio_projection.weight.flatten(1).mT)
        self.pixel_table = freeze(  # (1, frames, patches, hidden)
            pixel.pos_embed_v[:, None] + pixel.temporal_embed[:, :, None] + pixel.type_embed_v + pixel_projection.bias
        )
        self.audio_table = freeze(  # (1, time, frequency, hidden)
            audio.pos_embed_a[:, :, None] + audio.freq_embed[:, None] + audio.type_embed_a + audio_projection.bias
        )

    def forward(self, pixel_values: Tensor, audio_values: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        batch, frames = pixel_values.shape[:2]
        (height, width), (patch_height, patch_width) = config.image_shape, config.image_patch
        grid = (height // patch_height, width // patch_width)
        pixel = pixel_values.reshape(
            batch, frames, config.num_image_channels, grid[0], patch_height, grid[1], patch_width
        )
        pixel = pixel.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, frames * grid[0] * grid[1], -1)
        pixel = pixel @ self.pixel_weight + self.pixel_table[:, :frames].reshape(1, frames * grid[0] * grid[1], -1)

        patch_rows, patch_bins = config.audio_patch
        time, bands = audio_values.shape[2] // patch_rows, config.frequency_patches
        audio = audio_values.reshape(batch, config.num_audio_channels, time, patch_rows, bands, patch_bins)
        audio = audio.permute(0, 2, 4, 1, 3, 5).reshape(batch, time * bands, -1)
        audio = audio @ self.audio_weight + self.audio_table[:, :time].reshape(1, time * bands, -1)
        return pixel, audio


class Encoder(nn.Module):
    """Token embeddings to hidden states."""

    def __init__(self, model: Any, attention: Attention) -> None:
        super().__init__()
        heads = model.config.num_attention_heads
        self.class_mask_source = model.config.class_mask_source
        self.cls = nn.Parameter(model.cls_embedding.detach(), requires_grad=False)
        self.layers = nn.ModuleList(Layer(layer, heads, attention) for layer in model.encoder.layer)
        self.norm = nn.Identity() if model.layernorm is None else model.layernorm

    def forward(
        self,
        pixel: Tensor,
        audio: Tensor,
        pixel_mask: Tensor,
        audio_mask: Tensor,
        first_token_only: bool = False,
        class_token: bool = True,
    ) -> Tensor:
        parts, masks = [pixel, audio], [pixel_mask, audio_mask]
        if class_token:
            parts.insert(0, self.cls.expand(pixel.shape[0], -1, -1))
            # The class token's key is valid when the first pixel token is (transformers 4.40.2), or the first audio
            # token (the authors' code).
            masks.insert(0, (pixel_mask if self.class_mask_source == "pixel" else audio_mask)[:, :1])
        x = torch.cat(parts, dim=1)
        valid = torch.cat(masks, dim=1) > 0.5
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x = layer(x, valid, first_token_only and index == last)
        normed: Tensor = self.norm(x[:, :1] if first_token_only else x)
        return normed


class FeatureExtraction(nn.Module):
    """All hidden states, and their pixel and audio parts."""

    def __init__(self, model: Any, attention: Attention) -> None:
        super().__init__()
        self.embedding, self.encoder = Embedding(model), Encoder(model, attention)

    def forward(
        self, pixel_values: Tensor, audio_values: Tensor, pixel_mask: Tensor, audio_mask: Tensor
    ) -> tuple[Tensor, ...]:
        pixel, audio = self.embedding(pixel_values, audio_values)
        hidden = self.encoder(pixel, audio, pixel_mask, audio_mask)
        count = 1 + pixel.shape[1]
        return hidden, hidden[:, 1:count], hidden[:, count:]


class Classification(nn.Module):
    """The logits of the audio-visual classifier."""

    def __init__(self, model: Any, attention: Attention) -> None:
        super().__init__()
        self.embedding, self.encoder = Embedding(model.tvlt), Encoder(model.tvlt, attention)
        *pooler, expand, norm, activation, score = model.classifier
        self.pool = Linear(pooler[0].dense) if pooler else None
        self.expand, self.norm, self.activation, self.score = Linear(expand), norm, activation, Linear(score)

    def forward(
        self, pixel_values: Tensor, audio_values: Tensor, pixel_mask: Tensor, audio_mask: Tensor
    ) -> tuple[Tensor]:
        pixel, audio = self.embedding(pixel_values, audio_values)
        token = self.encoder(pixel, audio, pixel_mask, audio_mask, first_token_only=True)[:, 0]
        if self.pool is not None:
            token = torch.tanh(self.pool(token))
        return (self.score(self.activation(self.norm(self.expand(token)))),)


class Matching(nn.Module):
    """The logit that the sound belongs to the video."""

    def __init__(self, model: Any, attention: Attention) -> None:
        super().__init__()
        self.embedding, self.encoder = Embedding(model.tvlt), Encoder(model.tvlt, attention)
        self.pool, self.score = Linear(model.matching_head.pooler.dense), Linear(model.matching_head.fc)

    def forward(
        self, pixel_values: Tensor, audio_values: Tensor, pixel_mask: Tensor, audio_mask: Tensor
    ) -> tuple[Tensor]:
        pixel, audio = self.embedding(pixel_values, audio_values)
        token = self.encoder(pixel, audio, pixel_mask, audio_mask, first_token_only=True)[:, 0]
        return (self.score(torch.tanh(self.pool(token))),)


def kept_fraction(counts: dict[int, int], ratio: float) -> Fraction:
    """The simplest fraction f with floor(n * f) == counts[n] for every n, so that a graph needs integers only.

    The condition is true for every f in [max counts[n] / n, min (counts[n] + 1) / n). This range is empty where
    rounding went up for one n and down for another.

    Args:
        counts: Number of patches -> number of kept patches: the table of the reference, computed in double precision.
        ratio: The mask ratio, for messages.

    Raises:
        ConfigError: There is no such fraction.
    """
    lowest = max(Fraction(kept, n) for n, kept in counts.items())
    bound = min(Fraction(kept + 1, n) for n, kept in counts.items())
    if lowest >= bound:
        raise ConfigError(
            f"the mask ratio {ratio!r} keeps a number of patches that no integer rule reproduces",
            hint="choose a ratio a little larger or smaller",
        )
    # Between neighbors of the Farey sequence, the fraction with the smallest denominator is their mediant.
    low, high = (0, 1), (1, 0)
    while True:
        fraction = Fraction(low[0] + high[0], low[1] + high[1])
        if fraction < lowest:
            low = fraction.numerator, fraction.denominator
        elif fraction >= bound:
            high = fraction.numerator, fraction.denominator
        else:
            return fraction


class Masking(nn.Module):
    """Keeps the patches with the lowest noise."""

    def __init__(self, counts: dict[int, int], ratio: float) -> None:
        super().__init__()
        if min(counts.values()) < 1:
            raise ConfigError(
                f"the mask ratio {ratio} keeps none of {min(counts)} patches; expected at least one for every clip",
                hint="lower pixel_mask_ratio or audio_mask_ratio in config.json",
            )
        self.fraction = kept_fraction(counts, ratio)

    def forward(self, tokens: Tensor, mask: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Kept tokens, their mask, the order that restores all tokens, and 1 for each valid patch that is dropped."""
        kept = tokens.shape[1] * self.fraction.numerator // self.fraction.denominator
        shuffle = torch.argsort(noise, dim=1)
        restore = torch.argsort(shuffle, dim=1)
        keep = shuffle[:, :kept]
        visible = tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))
        valid = (mask > 0.5).to(tokens.dtype)
        return visible, mask.gather(1, keep), restore, (restore >= kept).to(tokens.dtype) * valid


class Decoder(nn.Module):
    """Hidden states of the kept patches to predicted values of all patches of one modality."""

    def __init__(self, model: Any, attention: Attention, mask_token: Tensor, table: Tensor, head: nn.Linear) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(layer, model.config.decoder_num_attention_heads, attention) for layer in model.decoder.decoder_layers
        )
        self.norm, self.head = model.decoder.layernorm, Linear(head)
        self.mask_token = nn.Parameter(mask_token.detach(), requires_grad=False)
        self.table = nn.Parameter(table.detach().contiguous(), requires_grad=False)

    def forward(self, visible: Tensor, restore: Tensor, steps: int) -> Tensor:
        batch, total = restore.shape
        masked = self.mask_token.expand(batch, total - visible.shape[1], -1)
        x = torch.cat([visible, masked], dim=1).gather(1, restore[:, :, None].expand(-1, -1, visible.shape[2]))
        x = x + self.table[:, :steps].reshape(1, steps * self.table.shape[2], -1)
        for layer in self.layers:
            x = layer(x, None)
        values: Tensor = self.head(self.norm(x))
        return values


class Reconstruction(nn.Module):
    """The masked autoencoder: predicted patch values of both modalities, and which patches were dropped."""

    def __init__(self, model: Any, attention: Attention) -> None:
        super().__init__()
        config: TvltConfig = model.config
        self.config = config
        self.embedding, self.encoder = Embedding(model.tvlt), Encoder(model.tvlt, attention)
        self.pixel_masking = Masking(
            {
                frames * config.patches_per_frame: config.kept_pixel_patches(frames)
                for frames in range(1, config.num_frames + 1)
            },
            config.pixel_mask_ratio,
        )
        self.audio_masking = Masking(
            {
                steps * config.frequency_patches: config.kept_audio_patches(steps)
                for steps in range(1, config.time_patches + 1)
            },
            config.audio_mask_ratio,
        )
        self.narrow = Linear(model.encoder_to_decoder)
        self.pixel_decoder = Decoder(
            model,
            attention,
            model.pixel_mask_token,
            model.decoder_pixel_pos_embed[:, None]
            + model.decoder_temporal_embed[:, :, None]
            + model.decoder_pixel_type_embed,
            model.pixel_mae_head.decoder,
        )
        self.audio_decoder = Decoder(
            model,
            attention,
            model.audio_mask_token,
            model.decoder_audio_pos_embed[:, :, None]
            + model.decoder_freq_embed[:, None]
            + model.decoder_audio_type_embed,
            model.audio_mae_head.decoder,
        )
        # Both modalities use the same decoder weights.
        self.audio_decoder.layers, self.audio_decoder.norm = self.pixel_decoder.layers, self.pixel_decoder.norm

    def forward(
        self,
        pixel_values: Tensor,
        audio_values: Tensor,
        pixel_mask: Tensor,
        audio_mask: Tensor,
        pixel_noise: Tensor,
        audio_noise: Tensor,
    ) -> tuple[Tensor, ...]:
        pixel, audio = self.embedding(pixel_values, audio_values)
        pixel, pixel_mask, pixel_restore, pixel_label_mask = self.pixel_masking(pixel, pixel_mask, pixel_noise)
        audio, audio_mask, audio_restore, audio_label_mask = self.audio_masking(audio, audio_mask, audio_noise)
        class_token = self.config.mae_class_token
        hidden = self.narrow(self.encoder(pixel, audio, pixel_mask, audio_mask, class_token=class_token))
        first = int(class_token)
        count = first + pixel.shape[1]
        pixel_logits = self.pixel_decoder(hidden[:, first:count], pixel_restore, pixel_values.shape[1])
        audio_logits = self.audio_decoder(
            hidden[:, count:], audio_restore, audio_values.shape[2] // self.config.audio_patch[0]
        )
        return pixel_logits, audio_logits, pixel_label_mask, audio_label_mask


_FORMS: dict[str, Callable[[Any, Attention], nn.Module]] = {
    "feature-extraction": FeatureExtraction,
    "audio-visual-classification": Classification,
    "audio-visual-matching": Matching,
    "masked-reconstruction": Reconstruction,
}


def inference_form(model: nn.Module, task: Task, attention: Attention) -> nn.Module:
    """The module that is exported for a task.

    Args:
        model: A reference model that computes the task.
        task: The task.
        attention: How attention is computed.

    Returns:
        The module in evaluation mode, with frozen parameters. LayerNorms are shared with `model`, other weights copied.
    """
    return _FORMS[task.name](model, attention).eval()
