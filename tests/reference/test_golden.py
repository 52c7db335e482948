"""Numbers of transformers 4.40.2 in float64 for weights and inputs in closed form: no installation of it needed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tvlt_deploy.reference import TvltConfig, TvltForAudioVisualClassification, TvltForPreTraining

SIZES = {
    "image_size": 32, "spectrogram_length": 64, "frequency_length": 32, "num_frames": 4, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32,
}  # fmt: skip


def wave(shape: tuple[int, ...], step: float, shift: float = 0.0) -> Tensor:
    return torch.sin(step * torch.arange(math.prod(shape), dtype=torch.float64) + shift).reshape(shape)


def fill(model: nn.Module) -> None:
    for index, (name, tensor) in enumerate(sorted(model.state_dict().items())):
        gain = 1.0 if name.endswith(".weight") and "layernorm" in name else 0.0
        tensor.copy_(0.15 * wave(tuple(tensor.shape), 1.3, 0.7 * index) + gain)


def inputs() -> dict[str, Tensor]:
    pixel_mask, audio_mask = torch.ones(2, 12), torch.ones(2, 6)
    pixel_mask[1, 8:], audio_mask[0, 4:] = 0, 0
    return {
        "pixel_values": wave((2, 3, 3, 32, 32), 0.11),
        "audio_values": 0.5 * wave((2, 1, 48, 32), 0.07, 0.5),
        "pixel_mask": pixel_mask,
        "audio_mask": audio_mask,
    }


@pytest.fixture(scope="module")
def pretraining() -> TvltForPreTraining:
    model = TvltForPreTraining(TvltConfig(**SIZES)).double().eval()
    fill(model)
    return model


def close(actual: Tensor, expected: list[float], limit: float = 1e-7) -> None:
    assert (actual.detach().double() - torch.tensor(expected, dtype=torch.float64)).abs().max() < limit


def test_hidden_states(pretraining: TvltForPreTraining) -> None:
    last = pretraining.tvlt(**inputs()).last_hidden_state
    close(last[0, 0, :4], [-0.89076242, 2.57901172, -0.35773994, -0.97350040])
    close(last[1, 5, :3], [-0.60857256, 2.66289016, -0.29783444])
    close(last.sum(), [39.20710053])
    close(last.abs().sum(), [1045.37919833])


def test_training_losses_and_reconstructions(pretraining: TvltForPreTraining) -> None:
    pixel_noise = (wave((2, 12), 2.399) + 1) / 2
    audio_noise = ((wave((2, 3), 3.1, 0.2) + 1) / 2).repeat_interleave(2, dim=1) + 1e-9 * torch.tensor([0, 1] * 3)
    pretraining.train()
    output = pretraining(
        **inputs(),
        labels=torch.tensor([1, 0]),
        pixel_values_mixed=wave((2, 3, 3, 32, 32), 0.13, 1),
        pixel_mask_mixed=inputs()["pixel_mask"],
        pixel_noise=pixel_noise,
        audio_noise=audio_noise,
    )
    encoded = pretraining.tvlt(
        **inputs(), mask_pixel=True, mask_audio=True, pixel_noise=pixel_noise, audio_noise=audio_noise
    )
    pretraining.eval()
    close(output.matching_logits[:, 0], [0.2194738776, 0.2164763125], 1e-9)
    close(output.loss, [2.4784568516], 1e-9)
    close(output.pixel_logits.sum(), [11.41052973])
    close(output.pixel_logits[[0, 1], [0, 11], [0, 767]], [0.57402173, 0.46571513])
    close(output.audio_logits.sum(), [-3.65072124])
    close(output.audio_logits[[0, 1], [0, 5], [0, 255]], [0.06244401, -0.79648398])
    assert encoded.pixel_ids_restore[0].tolist() == [5, 8, 0, 9, 4, 3, 11, 2, 6, 7, 1, 10]
    assert encoded.audio_ids_restore.tolist() == [[4, 5, 0, 1, 2, 3], [0, 1, 4, 5, 2, 3]]


def test_matching_loss_in_evaluation(pretraining: TvltForPreTraining) -> None:
    output = pretraining(
        **inputs(),
        labels=torch.tensor([1.0, 0.0]),
        pixel_values_mixed=wave((2, 3, 3, 32, 32), 0.13, 1),
        pixel_mask_mixed=inputs()["pixel_mask"],
    )
    close(output.loss, [0.6983254888], 1e-9)


def test_classification_logits() -> None:
    model = TvltForAudioVisualClassification(TvltConfig(**SIZES, num_labels=3)).double().eval()
    fill(model)
    close(
        model(**inputs()).logits,
        [[-0.1282497937, -0.4542281359, 0.0279883373], [-0.1281330394, -0.4542002911, 0.0278744890]],
        1e-9,
    )
