"""The models with heads against transformers 4.40.2: logits, losses, tuples, training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from tests.reference import hf
from tvlt_deploy.errors import InputError, UsageError
from tvlt_deploy.reference import TvltForAudioVisualClassification, TvltForPreTraining

ALL = {"output_hidden_states": True, "output_attentions": True}


# Pre-training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize("changes", [{}, {"task_mae": False}, {"use_mean_pooling": True, "pixel_mask_ratio": 0.5}])
def test_training_step(changes: dict[str, Any], return_dict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = hf.pair("TvltForPreTraining", **changes)
    ours.train()
    theirs.train()
    inputs = hf.training_clip(batch=3)
    noise = hf.noises(inputs, ours.config)
    with hf.injected(monkeypatch, noise):
        expected = theirs(**inputs, **ALL, return_dict=return_dict)
    output = ours(**inputs, **ALL, return_dict=return_dict, **(noise if ours.config.task_mae else {}))
    hf.assert_same(output, expected)
    if return_dict:
        assert list(output.keys())[: len(expected)] == list(expected.keys())
        hf.assert_same(output[: len(expected)], expected.to_tuple())
    expected[0].backward()
    output[0].backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert sum(gradient is not None for gradient in gradients.values()) > 40
    for name, parameter in ours.named_parameters():
        hf.assert_same(parameter.grad, gradients[name], name=name)


@pytest.mark.parametrize("return_dict", [True, False])
@torch.no_grad()
def test_evaluation(return_dict: bool) -> None:
    ours, theirs = hf.pair("TvltForPreTraining")
    inputs = hf.training_clip()
    expected = theirs(**inputs, **ALL, return_dict=return_dict)
    hf.assert_same(ours(**inputs, **ALL, return_dict=return_dict), expected)
    if return_dict:
        assert ours(**inputs).pixel_logits is None
    hf.assert_same(ours(**{**inputs, "pixel_values": None}, **ALL, return_dict=return_dict), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder_hidden_size": 24, "decoder_num_attention_heads": 3, "decoder_intermediate_size": 20},
        {"decoder_num_hidden_layers": 3},
        {"audio_patch_size": [8, 16], "audio_mask_ratio": 0.5},
        {"num_audio_channels": 2, "num_image_channels": 1},
        {"image_size": [32, 48], "layer_norm_eps": 0.01, "hidden_act": "silu"},
        {"qkv_bias": False},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_reconstruction_under_configuration_fields(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = hf.pair("TvltForPreTraining", **changes)
    theirs.train()
    inputs = hf.training_clip(config=ours.config)
    noise = hf.noises(inputs, ours.config)
    with hf.injected(monkeypatch, noise), torch.no_grad():
        expected = theirs(**inputs)
        # with noise the reconstruction runs in evaluation too, where transformers gives None
        hf.assert_same(ours(**inputs, **noise), expected)


def test_reconstruction_without_any_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = hf.pair("TvltForPreTraining")
    theirs.train()
    inputs = {key: value for key, value in hf.training_clip().items() if "mask" not in key}
    noise = hf.noises(inputs, ours.config)
    with hf.injected(monkeypatch, noise):
        hf.assert_same(ours(**inputs, **noise), theirs(**inputs))


def test_dropout_draws_as_transformers_does() -> None:
    changes = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2, "audio_patch_size": [16, 32]}
    ours, theirs = hf.pair("TvltForPreTraining", **changes)  # one frequency patch: frame-level noise without ties
    ours.train()
    theirs.train()
    inputs = hf.training_clip(config=ours.config)
    torch.manual_seed(4)
    expected = theirs(**inputs)
    torch.manual_seed(4)
    hf.assert_same(ours(**inputs), expected)


@torch.no_grad()
def test_reconstruct_on_request() -> None:
    ours, _ = hf.pair("TvltForPreTraining")
    inputs = hf.clip()
    output = ours(**inputs, reconstruct=True, generator=torch.Generator().manual_seed(2))
    again = ours(**inputs, reconstruct=True, generator=torch.Generator().manual_seed(2))
    assert torch.equal(output.pixel_logits, again.pixel_logits)
    assert output.pixel_logits.shape == (2, 12, 768)
    assert output.audio_logits.shape == (2, 6, 256)
    assert output.loss.isfinite()
    assert output.pixel_label_mask.sum(1).tolist() <= [9.0, 9.0]
    # a patch is hidden only where it is valid
    assert (output.pixel_label_mask * (1 - inputs["pixel_mask"])).sum() == 0
    assert list(output.keys())[-2:] == ["pixel_label_mask", "audio_label_mask"]
    ours.train()
    assert ours(**hf.training_clip(), reconstruct=False).pixel_logits is None


@torch.no_grad()
def test_matching_disabled() -> None:
    # transformers fails with UnboundLocalError
    full, _ = hf.pair("TvltForPreTraining")
    ours = TvltForPreTraining(hf.our_config(task_matching=False)).eval()
    ours.load_state_dict({key: value for key, value in full.state_dict().items() if "matching" not in key})
    inputs = hf.clip()
    noise = hf.noises(inputs, ours.config)
    both, alone = full(**inputs, **noise), ours(**inputs, **noise)
    assert alone.matching_logits is None
    assert torch.equal(alone.pixel_logits, both.pixel_logits)
    assert ours(**inputs).pixel_logits is not None
    assert ours(**inputs, return_dict=False)[1] is None


@torch.no_grad()
def test_oblong_image_patches() -> None:
    # transformers sizes the pixel head by the square of the patch height, which fits no oblong patch
    ours = TvltForPreTraining(hf.our_config(image_patch_size=[8, 16])).eval()
    output = ours(**hf.clip(config=ours.config), reconstruct=True)
    assert output.pixel_logits.shape == (2, 24, 8 * 16 * 3)
    assert output.loss.isfinite()


@torch.no_grad()
def test_oblong_targets_hold_row_column_channel() -> None:
    ours = TvltForPreTraining(hf.our_config(image_patch_size=[8, 16], task_matching=False)).eval()
    hf.randomise(ours)
    inputs = hf.clip(batch=1, frames=2, config=ours.config, padded=False)
    output = ours(**inputs, reconstruct=True)
    errors = []
    for patch in range(16):
        frame, row, column = patch // 8, patch % 8 // 2 * 8, patch % 2 * 16
        target = inputs["pixel_values"][0, frame, :, row : row + 8, column : column + 16].permute(1, 2, 0).reshape(-1)
        errors.append((output.pixel_logits[0, patch] - target).square().mean() * output.pixel_label_mask[0, patch])
    pixel_loss = sum(errors) / output.pixel_label_mask.sum()
    audio = inputs["audio_values"][0, 0].reshape(3, 16, 2, 16).permute(0, 2, 1, 3).reshape(6, 256)
    audio_loss = ((output.audio_logits[0] - audio).square().mean(1) * output.audio_label_mask[0]).sum()
    assert output.loss.item() == pytest.approx(
        (pixel_loss + audio_loss / output.audio_label_mask.sum()).item(), rel=1e-5
    )


@torch.no_grad()
def test_nothing_hidden_gives_a_loss_of_zero() -> None:
    ours, theirs = hf.pair("TvltForPreTraining", pixel_mask_ratio=0.0, audio_mask_ratio=0.0)
    inputs = hf.training_clip()
    theirs.train()
    assert theirs(**inputs).loss.isnan()
    matching = ours(**inputs).loss
    assert torch.equal(ours(**inputs, reconstruct=True).loss, matching)


@torch.no_grad()
def test_evaluation_without_labels_gives_logits() -> None:
    ours, theirs = hf.pair("TvltForPreTraining")
    inputs = hf.training_clip()
    expected = theirs(**inputs).matching_logits
    labels = inputs.pop("labels")
    output = ours(**inputs)
    assert output.loss is None
    hf.assert_same(output.matching_logits, expected)
    assert [None if part is None else part.shape for part in ours(**inputs, return_dict=False)] == [(2, 1), None, None]
    # without mixed frames the clip's own are matched
    own = {"pixel_values_mixed": inputs["pixel_values"], "pixel_mask_mixed": inputs["pixel_mask"]}
    expected = theirs(**{**inputs, **own}, labels=labels).matching_logits
    hf.assert_same(ours(**hf.clip()).matching_logits, expected)


@pytest.mark.parametrize("labels", [[1, 0], [[1], [0]], [[1.0], [0.0]], [True, False]])
def test_labels_of_any_type(labels: list[Any]) -> None:
    ours, theirs = hf.pair("TvltForPreTraining")
    inputs = hf.training_clip()
    inputs["labels"] = torch.tensor([1.0, 0.0])
    expected = theirs(**inputs).loss
    inputs["labels"] = torch.tensor(labels)
    hf.assert_same(ours(**inputs).loss, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "labels is None; training the matching task needs labels and pixel_values_mixed"),
        ({"pixel_values_mixed": None}, "pixel_values_mixed is None; training"),
        ({"labels": torch.ones(2, 2)}, r"labels has shape \(2, 2\); expected \(2,\) or \(2, 1\)"),
        ({"labels": torch.ones(1)}, r"labels has shape \(1,\); expected \(2,\)"),
        ({"labels": [1, 0]}, "labels is a list"),
        ({"pixel_values_mixed": torch.zeros(2, 9, 3, 32, 32)}, r"pixel_values_mixed has shape \(2, 9, .*sample fewer"),
        ({"pixel_mask_mixed": torch.zeros(2, 9)}, r"pixel_mask_mixed has shape \(2, 9\); expected a tensor \(2, 12\)"),
        ({"pixel_values": None}, "pixel_values is None"),
    ],
)
def test_refused_training_inputs(changes: dict[str, Any], message: str) -> None:
    ours = TvltForPreTraining(hf.our_config()).train()
    with pytest.raises(InputError, match=message):
        ours(**{**hf.training_clip(), **changes})


def test_reconstruction_without_a_decoder_is_refused() -> None:
    ours = TvltForPreTraining(hf.our_config(task_mae=False))
    with pytest.raises(UsageError, match=r"cannot reconstruct: its config.json has task_mae false"):
        ours(**hf.training_clip(), reconstruct=True)


# Classification --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize("extras", [ALL, {}])
@torch.no_grad()
def test_classification_outputs(return_dict: bool, extras: dict[str, bool]) -> None:
    ours, theirs = hf.pair("TvltForAudioVisualClassification", num_labels=5, layer_norm_eps=0.01)
    inputs: dict[str, Any] = {**hf.clip(), **extras, "return_dict": return_dict}
    hf.assert_same(ours(**inputs), theirs(**inputs))
    inputs["labels"] = torch.tensor([4, 0])
    output, expected = ours(**inputs), theirs(**inputs)
    hf.assert_same(output, expected)
    assert len(output) == len(expected)


@pytest.mark.parametrize(
    ("loss_type", "labels"),
    [
        ("classification", torch.tensor([2, 0])),
        ("classification", torch.tensor([-100, 1])),
        ("classification", torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])),
        ("regression", torch.tensor([[0.2, -3, 0.5], [1.0, 0.0, 2.0]])),
    ],
)
def test_classification_losses(loss_type: str, labels: torch.Tensor) -> None:
    ours, theirs = hf.pair("TvltForAudioVisualClassification", num_labels=3, loss_type=loss_type)
    ours.train()
    theirs.train()
    expected = theirs(**hf.clip(), labels=labels)
    output = ours(**hf.clip(), labels=labels)
    hf.assert_same(output, expected)
    output.loss.backward()
    expected.loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        hf.assert_same(parameter.grad, gradients[name], name=name)


def test_labels_of_other_number_types() -> None:
    ours, _ = hf.pair("TvltForAudioVisualClassification", num_labels=3)
    inputs = hf.clip()
    expected = F.cross_entropy(ours(**inputs).logits, torch.tensor([2, 0]))
    assert torch.equal(ours(**inputs, labels=torch.tensor([2, 0], dtype=torch.int32)).loss, expected)
    scores, _ = hf.pair("TvltForAudioVisualClassification", num_labels=1, loss_type="regression")
    expected = F.mse_loss(scores(**inputs).logits, torch.tensor([[2.0], [-1.0]]))
    assert torch.equal(scores(**inputs, labels=torch.tensor([[2], [-1]])).loss, expected)


def test_regression_labels_are_never_broadcast() -> None:
    ours, theirs = hf.pair("TvltForAudioVisualClassification", num_labels=1, loss_type="regression")
    inputs = {**hf.clip(), "labels": torch.tensor([2.0, -1.0])}
    with pytest.warns(UserWarning, match="broadcasting"):
        wrong = theirs(**inputs).loss
    right = F.mse_loss(theirs(**hf.clip()).logits.view(-1), inputs["labels"])
    assert abs(wrong - right) > 1e-3
    with pytest.raises(InputError, match=r"labels has shape \(2,\); regression needs \(2, 1\), as the logits"):
        ours(**inputs)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([[1], [0]]), r"torch.int64 of shape \(2, 1\); classification needs class ids \(2,\)"),
        (torch.tensor([1, 0, 2]), r"shape \(3,\); classification needs class ids \(2,\)"),
        (torch.tensor([1.0, 0.0]), r"torch.float32 of shape \(2,\); classification needs probabilities \(2, 3\)"),
        (torch.tensor([3, 0]), "labels has 3; expected class ids from 0 to 2"),
        (torch.tensor([-1, 0]), "labels has -1; expected class ids from 0 to 2"),
        ([1, 0], "labels is a list; expected a torch.Tensor"),
    ],
)
def test_refused_class_labels(labels: Any, message: str) -> None:
    ours = TvltForAudioVisualClassification(hf.our_config(num_labels=3))
    with pytest.raises(InputError, match=message):
        ours(**hf.clip(), labels=labels)


def test_outputs_behave_as_those_of_transformers() -> None:
    ours, theirs = hf.pair("TvltForAudioVisualClassification")
    output, expected = ours(**hf.clip()), theirs(**hf.clip())
    assert list(output) == list(expected.keys()) == ["logits"]
    assert torch.equal(output[0], output["logits"])
    assert torch.equal(output[0], output.logits)
    assert len(output) == len(expected) == 1
    assert "loss" not in output
    assert output.get("loss") is None
    with pytest.raises(KeyError):
        output["loss"]
    with pytest.raises(IndexError):
        output[1]
    (logits,) = output.to_tuple()
    assert torch.equal(dict(output)["logits"], logits)
