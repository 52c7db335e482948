"""The two models with heads: pre-training (matching and masked reconstruction) and audio-visual classification."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Generator, Tensor, nn

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import InputError, UsageError
from tvlt_deploy.reference.base import PretrainedModule
from tvlt_deploy.reference.inputs import check_audio, check_mask, check_pixels
from tvlt_deploy.reference.model import TvltLayer, TvltModel, add_positions
from tvlt_deploy.reference.outputs import SequenceClassifierOutput, TvltForPreTrainingOutput, TvltModelOutput


class TvltPooler(nn.Module):
    """The class token through a tanh layer."""

    def __init__(self, config: TvltConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, token: Tensor) -> Tensor:
        """The state of the class token (batch, hidden) to the same shape."""
        return torch.tanh(self.dense(token))


class TvltMatchingHead(nn.Module):
    """One logit (batch, 1): do sound and frames belong together?"""

    def __init__(self, config: TvltConfig) -> None:
        super().__init__()
        self.pooler = TvltPooler(config)
        self.fc = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (batch, tokens, hidden) to (batch, 1)."""
        logits: Tensor = self.fc(self.pooler(hidden[:, 0]))
        return logits


class TvltDecoder(nn.Module):
    """The reconstruction decoder: layers without a mask over all patches of one modality, and a LayerNorm."""

    def __init__(self, config: TvltConfig) -> None:
        super().__init__()
        widths = config.decoder_hidden_size, config.decoder_num_attention_heads, config.decoder_intermediate_size
        self.decoder_layers = nn.ModuleList(TvltLayer(config, *widths) for _ in range(config.decoder_num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.decoder_hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """Tokens (batch, patches, decoder hidden) to the same shape."""
        for layer in self.decoder_layers:
            hidden, _ = layer(hidden)
        normed: Tensor = self.layernorm(hidden)
        return normed


class TvltMAEHead(nn.Module):
    """Decoder tokens to the values of their patches."""

    def __init__(self, config: TvltConfig, patch_values: int) -> None:
        super().__init__()
        self.decoder = nn.Linear(config.decoder_hidden_size, patch_values)

    def forward(self, hidden: Tensor) -> Tensor:
        """Tokens (batch, patches, decoder hidden) to (batch, patches, patch values)."""
        values: Tensor = self.decoder(hidden)
        return values


def _shape_of(labels: Any) -> tuple[int, ...]:
    if not isinstance(labels, Tensor):
        raise InputError(f"labels is a {type(labels).__name__}; expected a torch.Tensor")
    return tuple(labels.shape)


def patchify(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """Cut images into patches.

    Args:
        images: (batch, steps, channels, height, width).
        patch: Height and width of a patch.

    Returns:
        (batch, patches, patch height * patch width * channels). Patches are in the order of steps, then rows; the
        values of a patch in the order of rows, with the channel last.
    """
    batch, steps, channels, height, width = images.shape
    rows, columns = height // patch[0], width // patch[1]
    grid = images.reshape(batch, steps, channels, rows, patch[0], columns, patch[1])
    return grid.permute(0, 1, 3, 5, 4, 6, 2).reshape(batch, steps * rows * columns, -1)


def reconstruction_loss(predicted: Tensor, target: Tensor, label_mask: Tensor) -> Tensor:
    """Mean squared error over the dropped valid patches; 0 when there are none (transformers 4.40.2: NaN)."""
    error = (predicted - target).square().mean(dim=-1)
    return (error * label_mask).sum() / label_mask.sum().clamp(min=1)


class TvltForPreTraining(PretrainedModule):
    """Audio-visual matching and masked auto-encoding over one encoder.

    Args:
        config: The configuration; `task_matching` and `task_mae` select the heads.
        generator: The source of the initial weights, as in `TvltModel`.
    """

    def __init__(self, config: TvltConfig, generator: Generator | None = None) -> None:
        super().__init__(config)
        self.tvlt = TvltModel(config)
        if config.task_matching:
            self.matching_head = TvltMatchingHead(config)
        if config.task_mae:
            width = config.decoder_hidden_size
            self.encoder_to_decoder = nn.Linear(config.hidden_size, width)
            self.pixel_mask_token = nn.Parameter(torch.zeros(1, 1, width))
            self.audio_mask_token = nn.Parameter(torch.zeros(1, 1, width))
            self.decoder = TvltDecoder(config)
            self.decoder_pixel_pos_embed = nn.Parameter(torch.zeros(1, config.patches_per_frame, width))
            self.decoder_temporal_embed = nn.Parameter(torch.zeros(1, config.num_frames, width))
            self.decoder_pixel_type_embed = nn.Parameter(torch.zeros(1, 1, width))
            self.decoder_audio_pos_embed = nn.Parameter(torch.zeros(1, config.time_patches, width))
            self.decoder_freq_embed = nn.Parameter(torch.zeros(1, config.frequency_patches, width))
            self.decoder_audio_type_embed = nn.Parameter(torch.zeros(1, 1, width))
            self.pixel_mae_head = TvltMAEHead(config, config.pixel_patch_values)
            self.audio_mae_head = TvltMAEHead(config, config.audio_patch_values)
        self.init_weights(generator)

    def _decoder_input(self, kept: Tensor, mask_token: Tensor, restore: Tensor) -> Tensor:
        """Kept tokens and mask tokens in the order of the patches: (batch, patches, decoder hidden)."""
        kept = self.encoder_to_decoder(kept)
        batch, count, width = kept.shape
        shuffled = torch.cat([kept, mask_token.expand(batch, restore.shape[1] - count, -1)], dim=1)
        return shuffled.gather(1, restore[..., None].expand(-1, -1, width))

    def _decode(self, encoded: TvltModelOutput) -> tuple[Tensor, Tensor]:
        """Pixel and audio logits from an encoder pass with both modalities masked."""
        assert encoded.pixel_ids_restore is not None
        assert encoded.audio_ids_restore is not None
        pixels = add_positions(
            self._decoder_input(encoded.last_pixel_hidden_state, self.pixel_mask_token, encoded.pixel_ids_restore),
            self.decoder_pixel_pos_embed,
            self.decoder_temporal_embed,
            self.decoder_pixel_type_embed,
        )
        audio = add_positions(
            self._decoder_input(encoded.last_audio_hidden_state, self.audio_mask_token, encoded.audio_ids_restore),
            self.decoder_freq_embed,
            self.decoder_audio_pos_embed,
            self.decoder_audio_type_embed,
        )
        return self.pixel_mae_head(self.decoder(pixels)), self.audio_mae_head(self.decoder(audio))

    def forward(
        self,
        pixel_values: Tensor | None,
        audio_values: Tensor | None,
        pixel_mask: Tensor | None = None,
        audio_mask: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values_mixed: Tensor | None = None,
        pixel_mask_mixed: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        pixel_noise: Tensor | None = None,
        audio_noise: Tensor | None = None,
        generator: Generator | None = None,
        reconstruct: bool | None = None,
    ) -> TvltForPreTrainingOutput | tuple[Any, ...]:
        """Matching logits, reconstructions and their losses; inputs not listed are those of `TvltModel.forward`.

        Args:
            labels: (batch,) or (batch, 1), any number type: 1 when `pixel_values_mixed` belongs to the sound, else 0.
                Training needs `labels` and `pixel_values_mixed`; evaluation without labels has no matching loss.
            pixel_values_mixed: Frames to match with the sound, as `pixel_values`, which is its default in evaluation.
            pixel_mask_mixed: Their mask.
            return_dict: Return `TvltForPreTrainingOutput`, not a tuple (loss where there is one, matching_logits,
                pixel_logits, audio_logits, requested extras) with None for a task that did not run.
            reconstruct: Run the masked auto-encoder. By default in training, with noise, and in a model without the
                matching task.

        Raises:
            InputError: An input has the wrong type or shape. It is a `ValueError`.
            UsageError: `reconstruct` is true and the model has no decoder.
        """
        config, output = self.config, TvltForPreTrainingOutput()
        if reconstruct is None:
            has_noise = pixel_noise is not None or audio_noise is not None
            reconstruct = has_noise or (config.task_mae and (self.training or not config.task_matching))
        if reconstruct and not config.task_mae:
            raise UsageError("this model cannot reconstruct: its config.json has task_mae false")
        shared = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if config.task_matching:
            mixed = self._mixed(pixel_values, pixel_mask, pixel_values_mixed, pixel_mask_mixed, labels)
            self._match(output, audio_values, audio_mask, *mixed, labels, shared)
        if reconstruct:
            noises = {"pixel_noise": pixel_noise, "audio_noise": audio_noise, "generator": generator}
            self._reconstruct(output, pixel_values, audio_values, pixel_mask, audio_mask, {**noises, **shared})
        return output if (config.return_dict if return_dict is None else return_dict) else output.hf_tuple

    def _mixed(
        self,
        pixel_values: Tensor | None,
        pixel_mask: Tensor | None,
        pixel_values_mixed: Tensor | None,
        pixel_mask_mixed: Tensor | None,
        labels: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The frames to match with the sound and their mask, checked."""
        config = self.config
        if self.training and (labels is None or pixel_values_mixed is None):
            missing = "labels" if labels is None else "pixel_values_mixed"
            raise InputError(f"{missing} is None; training the matching task needs labels and pixel_values_mixed")
        if pixel_values_mixed is None:
            pixel_values_mixed = check_pixels(config, pixel_values)
            pixel_mask_mixed = pixel_mask if pixel_mask_mixed is None else pixel_mask_mixed
        pixels = check_pixels(config, pixel_values_mixed, "pixel_values_mixed")
        check_mask("pixel_mask_mixed", pixel_mask_mixed, pixels.shape[0], pixels.shape[1] * config.patches_per_frame)
        return pixels, pixel_mask_mixed

    def _match(
        self,
        output: TvltForPreTrainingOutput,
        audio_values: Tensor | None,
        audio_mask: Tensor | None,
        pixel_values: Tensor,
        pixel_mask: Tensor | None,
        labels: Tensor | None,
        options: dict[str, Any],
    ) -> None:
        """Run the matching task and add its results to the output."""
        encoded = self.tvlt(pixel_values, audio_values, pixel_mask, audio_mask, **options, return_dict=True)
        logits: Tensor = self.matching_head(encoded.last_hidden_state)
        output.matching_logits = logits
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        if labels is not None:
            batch = len(logits)
            if _shape_of(labels) not in ((batch,), (batch, 1)):
                raise InputError(f"labels has shape {_shape_of(labels)}; expected ({batch},) or ({batch}, 1)")
            output.add_loss(F.binary_cross_entropy_with_logits(logits.view(-1), labels.reshape(-1).to(logits.dtype)))

    def _reconstruct(
        self,
        output: TvltForPreTrainingOutput,
        pixel_values: Tensor | None,
        audio_values: Tensor | None,
        pixel_mask: Tensor | None,
        audio_mask: Tensor | None,
        options: dict[str, Any],
    ) -> None:
        """Run the masked auto-encoder and add its results to the output."""
        options = {**options, "mask_pixel": True, "mask_audio": True, "return_dict": True}
        encoded = self.tvlt(pixel_values, audio_values, pixel_mask, audio_mask, **options)
        pixels, audio = check_pixels(self.config, pixel_values), check_audio(self.config, audio_values)
        pixel_logits, audio_logits = self._decode(encoded)
        pixel_mask, audio_mask = encoded.pixel_label_masks, encoded.audio_label_masks
        assert pixel_mask is not None
        assert audio_mask is not None
        output.pixel_logits, output.audio_logits = pixel_logits, audio_logits
        output.pixel_label_mask, output.audio_label_mask = pixel_mask, audio_mask
        output.hidden_states, output.attentions = encoded.hidden_states, encoded.attentions
        # A spectrogram is one step; its channels are axis 1, where a clip has its frames.
        pixel_targets = patchify(pixels, self.config.image_patch)
        audio_targets = patchify(audio[:, None], self.config.audio_patch)
        output.add_loss(
            reconstruction_loss(pixel_logits, pixel_targets, pixel_mask)
            + reconstruction_loss(audio_logits, audio_targets, audio_mask)
        )


class TvltForAudioVisualClassification(PretrainedModule):
    """A classifier over the class token: sentiment, emotion, spoken questions.

    Args:
        config: The configuration. With `classifier_pooler` it is the classifier of the authors' code, which no
            transformers class has.
        generator: The source of the initial weights, as in `TvltModel`.
    """

    def __init__(self, config: TvltConfig, generator: Generator | None = None) -> None:
        super().__init__(config)
        self.tvlt = TvltModel(config)
        width, labels = config.hidden_size, config.num_labels or 2
        eps = config.layer_norm_eps if config.classifier_norm_eps is None else config.classifier_norm_eps
        self.classifier = nn.Sequential(
            *([TvltPooler(config)] if config.classifier_pooler else []),
            nn.Linear(width, 2 * width),
            nn.LayerNorm(2 * width, eps=eps),
            nn.GELU(),
            nn.Linear(2 * width, labels),
        )
        self.init_weights(generator)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        batch, count = logits.shape
        shape = _shape_of(labels)
        if self.config.loss_type == "regression":
            if shape != (batch, count):
                raise InputError(f"labels has shape {shape}; regression needs ({batch}, {count}), as the logits")
            return F.mse_loss(logits, labels.to(logits.dtype))
        if self.config.activation == "sigmoid":
            if shape != (batch, count):
                raise InputError(f"labels has shape {shape}; multi-label classification needs ({batch}, {count})")
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        if labels.is_floating_point():
            if shape != (batch, count):
                raise InputError(
                    f"labels is {labels.dtype} of shape {shape}; classification needs probabilities ({batch}, {count})",
                    hint=f"or class ids, int64 ({batch},)",
                )
            return F.cross_entropy(logits, labels.to(logits.dtype))
        if shape != (batch,):
            raise InputError(
                f"labels is {labels.dtype} of shape {shape}; classification needs class ids ({batch},)",
                hint=f"or probabilities, float ({batch}, {count})",
            )
        wrong = labels[(labels != -100) & ((labels < 0) | (labels >= count))]
        if wrong.numel():
            raise InputError(f"labels has {wrong[0].item()}; expected class ids from 0 to {count - 1}, or -100 to skip")
        return F.cross_entropy(logits, labels.long())

    def forward(
        self,
        pixel_values: Tensor | None,
        audio_values: Tensor | None,
        pixel_mask: Tensor | None = None,
        audio_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Logits (batch, labels) and, with labels, the loss; inputs not listed are those of `TvltModel.forward`.

        Args:
            labels: With `loss_type` "classification", class ids (batch,) int or probabilities (batch, labels) float,
                by cross entropy; with "regression", scores (batch, labels), by mean squared error; with `problem_type`
                "multi_label_classification", 0 to 1 each (batch, labels), by binary cross entropy.
            return_dict: Return `SequenceClassifierOutput`, not a tuple (loss where there is one, logits, None, None,
                None, requested extras); the three Nones keep the positions of transformers 4.40.2.

        Raises:
            InputError: An input has the wrong type or shape. It is a `ValueError`.
        """
        encoded: TvltModelOutput = self.tvlt(
            pixel_values,
            audio_values,
            pixel_mask,
            audio_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits: Tensor = self.classifier(encoded.last_hidden_state[:, 0])
        loss = None if labels is None else self._loss(logits, labels)
        if self.config.return_dict if return_dict is None else return_dict:
            return SequenceClassifierOutput(loss, logits, encoded.hidden_states, encoded.attentions)
        return (*(() if loss is None else (loss,)), logits, None, None, None, *encoded.extras)
