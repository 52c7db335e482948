"""TvltModel against transformers 4.40.2: every argument, mask and configuration field."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.reference import hf
from tvlt_deploy.errors import ConfigError, InputError
from tvlt_deploy.reference import TvltModel, model

ALL = {"output_hidden_states": True, "output_attentions": True}


@pytest.mark.parametrize("name", hf.CLASSES)
@pytest.mark.parametrize("mean_pooling", [False, True])
def test_state_dicts_move_both_ways(name: str, mean_pooling: bool) -> None:
    ours, theirs = hf.pair(name, use_mean_pooling=mean_pooling)
    mine = {key: tuple(value.shape) for key, value in ours.state_dict().items()}
    assert mine == {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    hf.randomise(ours, seed=5)
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("frames", [1, 3, 4])
@pytest.mark.parametrize("rows", [16, 48, 64])
@torch.no_grad()
def test_padded_clips_of_every_size(frames: int, rows: int) -> None:
    ours, theirs = hf.pair("TvltModel")
    inputs = hf.clip(frames=frames, rows=rows)
    expected = theirs(**inputs, **ALL)
    output = ours(**inputs, **ALL)
    assert list(output.keys()) == list(expected.keys())
    assert len(output.hidden_states) == 3
    assert output.attentions[0].shape[1] == 4
    hf.assert_same(output, expected)
    hf.assert_same(ours(**inputs), theirs(**inputs))


@torch.no_grad()
def test_fused_attention_of_long_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = hf.pair("TvltModel")
    inputs = hf.clip(batch=3)
    inputs["pixel_mask"][1], inputs["audio_mask"][1] = 0, 0
    monkeypatch.setattr(model, "SHORT_SEQUENCE", 0)
    hf.assert_same(ours(**inputs), theirs(**inputs), limit=3e-6)
    assert ours(**inputs).attentions is None


@torch.no_grad()
def test_without_masks() -> None:
    ours, theirs = hf.pair("TvltModel")
    inputs = {key: value for key, value in hf.clip().items() if "mask" not in key}
    hf.assert_same(ours(**inputs), theirs(**inputs))


@pytest.mark.parametrize("given", ["pixel_mask", "audio_mask"])
@torch.no_grad()
def test_one_mask_counts_the_other_as_ones(given: str) -> None:
    ours, theirs = hf.pair("TvltModel")
    inputs = hf.clip()
    other = "audio_mask" if given == "pixel_mask" else "pixel_mask"
    ones = {**inputs, other: torch.ones_like(inputs[other])}
    del inputs[other]
    output = ours(**inputs)
    hf.assert_same(output, theirs(**ones))
    ignored = theirs(**inputs).last_hidden_state
    assert (output.last_hidden_state - ignored).abs().max() > 1e-3


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 3e-6), ("float16", 0.02), ("bfloat16", 0.15)])
@torch.no_grad()
def test_fully_masked_clip_attends_uniformly(
    dtype: str, limit: float, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = hf.pair("TvltModel")
    ours, theirs = ours.to(getattr(torch, dtype)), theirs.to(getattr(torch, dtype))
    inputs = {key: value.to(getattr(torch, dtype)) for key, value in hf.clip().items()}
    inputs["pixel_mask"][0], inputs["audio_mask"][0] = 0, 0
    monkeypatch.setattr(model, "SHORT_SEQUENCE", 0 if fused else 256)
    hf.assert_same(ours(**inputs), theirs(**inputs), limit=limit)
    attention = ours(**inputs, output_attentions=True).attentions[0][0]
    assert torch.allclose(attention.float(), torch.full_like(attention.float(), 1 / attention.shape[-1]), rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int32, torch.uint8, torch.float16, torch.float64])
@torch.no_grad()
def test_masks_of_every_type(dtype: torch.dtype) -> None:
    ours, theirs = hf.pair("TvltModel")
    inputs = hf.clip()
    expected = theirs(**inputs)
    for name in ("pixel_mask", "audio_mask"):
        inputs[name] = inputs[name].to(dtype)
    hf.assert_same(ours(**inputs), expected)


@torch.no_grad()
def test_masks_are_valid_above_one_half() -> None:
    ours, theirs = hf.pair("TvltModel")
    inputs = hf.clip()
    expected = theirs(**inputs)
    soft = {**inputs, "pixel_mask": 0.51 + 0.1 * inputs["pixel_mask"], "audio_mask": 0.1 + 0.8 * inputs["audio_mask"]}
    soft["pixel_mask"][inputs["pixel_mask"] == 0] = 0.5
    hf.assert_same(ours(**soft), expected)
    # transformers is linear in the mask, so that nothing but exactly 1 is seen there.
    assert (theirs(**soft).last_hidden_state - expected.last_hidden_state).abs().max() > 1e-3


@torch.no_grad()
def test_masked_content_changes_nothing_that_is_valid() -> None:
    ours, _ = hf.pair("TvltModel")
    inputs = hf.clip()
    before = ours(**inputs).last_pixel_hidden_state[1, :8]
    inputs["pixel_values"][1, -1] += 3
    assert (ours(**inputs).last_pixel_hidden_state[1, :8] - before).abs().max() < 1e-6


@pytest.mark.parametrize("kinds", [("pixel",), ("audio",), ("pixel", "audio")])
@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_random_masking_with_given_noise(kinds: tuple[str, ...], masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = hf.pair("TvltModel")
    inputs = hf.clip()
    if not masked:
        del inputs["pixel_mask"], inputs["audio_mask"]
    noise = hf.noises(inputs, ours.config)
    flags = {f"mask_{kind}": True for kind in kinds}
    with hf.injected(monkeypatch, noise):
        expected = theirs(**inputs, **flags, **ALL)
        expected_tuple = theirs(**inputs, **flags, **ALL, return_dict=False)
    given = {f"{kind}_noise": noise[f"{kind}_noise"] for kind in kinds}
    output = ours(**inputs, **flags, **given, **ALL)
    assert list(output.keys()) == list(expected.keys())
    hf.assert_same(output, expected)
    hf.assert_same(output.to_tuple(), expected.to_tuple())
    hf.assert_same(ours(**inputs, **flags, **given, **ALL, return_dict=False), expected_tuple)
    for kind in kinds:
        assert output[f"{kind}_label_masks"].dtype == torch.float32
        assert output[f"{kind}_ids_restore"].dtype == torch.int64


@torch.no_grad()
def test_the_same_seed_gives_the_same_ids() -> None:
    ours, theirs = hf.pair("TvltModel")
    # patch-level masking: without ties transformers' sort is stable too
    theirs.config.audio_mask_type = "patch-level"
    patch_level = TvltModel(ours.config.replace(audio_mask_type="patch-level")).eval()
    patch_level.load_state_dict(ours.state_dict())
    inputs, flags = hf.clip(), {"mask_pixel": True, "mask_audio": True}
    torch.manual_seed(7)
    expected = theirs(**inputs, **flags)
    torch.manual_seed(7)
    hf.assert_same(patch_level(**inputs, **flags), expected)
    generator = torch.Generator().manual_seed(7)
    hf.assert_same(patch_level(**inputs, **flags, generator=generator), expected)


@torch.no_grad()
def test_frame_level_ties_break_by_index() -> None:
    ours, theirs = hf.pair("TvltModel")
    inputs = hf.clip(rows=64)
    torch.manual_seed(7)
    expected = theirs(**inputs, mask_pixel=True, mask_audio=True)
    torch.manual_seed(7)
    output = ours(**inputs, mask_pixel=True, mask_audio=True)
    assert torch.equal(output.pixel_ids_restore, expected.pixel_ids_restore)
    steps = torch.tensor([[0.9, 0.1, 0.5, 0.3], [0.2, 0.1, 0.4, 0.3]])
    output = ours(**inputs, mask_audio=True, audio_noise=steps)
    assert output.audio_ids_restore.tolist() == [[6, 7, 0, 1, 4, 5, 2, 3], [2, 3, 0, 1, 6, 7, 4, 5]]
    assert output.audio_label_masks.tolist() == [[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0]]
    expanded = ours(**inputs, mask_audio=True, audio_noise=steps.repeat_interleave(2, dim=1))
    hf.assert_same(expanded, output)


@torch.no_grad()
def test_nothing_kept_of_the_pixels_leaves_the_class_token_to_the_audio() -> None:
    ours, _ = hf.pair("TvltModel", pixel_mask_ratio=0.99)
    output = ours(**hf.clip(), mask_pixel=True)
    assert output.last_pixel_hidden_state.shape == (2, 0, 32)
    assert output.last_hidden_state.shape == (2, 7, 32)
    assert output.last_hidden_state.isfinite().all()


FIELDS: list[dict[str, Any]] = [
    {"qkv_bias": False},
    {"use_mean_pooling": True},
    {"layer_norm_eps": 0.1},
    {"image_size": [32, 48]},
    {"image_patch_size": [8, 16]},
    {"audio_patch_size": [8, 16], "spectrogram_length": 50},
    {"audio_patch_size": [16, 8]},
    {"frequency_length": 64},
    {"num_image_channels": 1, "num_audio_channels": 2},
    {"num_frames": 3, "hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 40},
    {"hidden_act": "relu"},
    {"hidden_act": torch.tanh},
    {"num_hidden_layers": 0},
]


@pytest.mark.parametrize("changes", FIELDS, ids=lambda changes: next(iter(changes)))
@torch.no_grad()
def test_configuration_fields(changes: dict[str, Any]) -> None:
    ours, theirs = hf.pair("TvltModel", **changes)
    inputs = hf.clip(config=ours.config)
    hf.assert_same(ours(**inputs, **ALL), theirs(**inputs, **ALL))


@torch.no_grad()
def test_whole_number_sizes_mean_squares() -> None:
    ours, theirs = hf.pair("TvltModel")
    square = TvltModel(ours.config.replace(image_size=32, image_patch_size=16, audio_patch_size=16)).eval()
    square.load_state_dict(ours.state_dict())
    hf.assert_same(square(**hf.clip()), theirs(**hf.clip()))


@torch.no_grad()
def test_output_defaults_come_from_the_configuration() -> None:
    settings = {"output_hidden_states": True, "output_attentions": True, "return_dict": False}
    ours, theirs = hf.pair("TvltModel", **settings)
    output = ours(**hf.clip())
    assert len(output) == 9
    hf.assert_same(output, theirs(**hf.clip()))
    assert ours(**hf.clip(), return_dict=True, output_attentions=False).attentions is None


def test_dropout_in_training_only() -> None:
    dropouts = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    ours, theirs = hf.pair("TvltModel", **dropouts)
    inputs = hf.clip()
    hf.assert_same(ours(**inputs), theirs(**inputs))
    ours.train()
    theirs.train()
    torch.manual_seed(1)
    expected = theirs(**inputs, output_attentions=True)
    torch.manual_seed(1)
    hf.assert_same(ours(**inputs, output_attentions=True), expected)


@pytest.mark.parametrize("field", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
@pytest.mark.parametrize("fused", [False, True])
def test_each_dropout_acts(field: str, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "SHORT_SEQUENCE", 0 if fused else 256)
    ours, _ = hf.pair("TvltModel", **{field: 0.3})
    inputs = hf.clip()
    still = ours(**inputs).last_hidden_state
    assert torch.equal(ours(**inputs).last_hidden_state, still)
    ours.train()
    assert (ours(**inputs).last_hidden_state - still).abs().max() > 1e-2


def test_gradients_are_those_of_transformers() -> None:
    ours, theirs = hf.pair("TvltModel")
    for each in (ours, theirs):
        each(**hf.clip()).last_hidden_state.square().mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        hf.assert_same(parameter.grad, expected[name].grad, name=name)


def test_initialisation() -> None:
    ours = TvltModel(hf.our_config(initializer_range=0.5, hidden_size=64), torch.Generator().manual_seed(3))
    again = TvltModel(hf.our_config(initializer_range=0.5, hidden_size=64), torch.Generator().manual_seed(3))
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
        if parameter.ndim > 1 and name.endswith("weight"):
            assert parameter.std().item() == pytest.approx(0.5, rel=0.1), name
        else:
            expected = 1.0 if "layernorm" in name and name.endswith("weight") else 0.0
            assert (parameter == expected).all(), name


def test_input_embeddings_are_a_pair() -> None:
    ours, theirs = hf.pair("TvltModel")
    mine, other = ours.get_input_embeddings(), theirs.get_input_embeddings()
    assert isinstance(mine, tuple)
    for ours_part, theirs_part in zip(mine, other, strict=True):
        assert torch.equal(ours_part.projection.weight, theirs_part.projection.weight)


@torch.no_grad()
def test_values_are_cast_to_the_model() -> None:
    ours, theirs = hf.pair("TvltModel")
    inputs = hf.clip()
    expected = theirs(**inputs)
    hf.assert_same(ours(**{key: value.double() for key, value in inputs.items()}), expected)
    assert ours.half()(**inputs).last_hidden_state.dtype == torch.float16


# Refusals --------------------------------------------------------------------------------------------------------

REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"pixel_values": None}, r"pixel_values is None; expected .*4 frames, 3, 32, 32.*pixel_mask of zeros"),
    ({"audio_values": None}, r"audio_values is None; expected .*16 to 64 rows in steps of 16, 32.*audio_mask of zeros"),
    ({"pixel_values": torch.zeros(2, 3, 32, 32)}, r"\(2, 3, 32, 32\); expected .*frames axis is missing"),
    ({"pixel_values": torch.zeros(2, 5, 3, 32, 32)}, r"\(2, 5, 3, 32, 32\).*4 temporal positions: sample fewer"),
    ({"pixel_values": torch.zeros(2, 0, 3, 32, 32)}, r"\(2, 0, 3, 32, 32\).*one frame of zeros"),
    (
        {"pixel_values": torch.zeros(2, 3, 1, 32, 32)},
        r"\(2, 3, 1, 32, 32\); expected \(batch, 1 to 4 frames, 3, 32, 32\)",
    ),
    ({"pixel_values": torch.zeros(2, 3, 3, 32, 48)}, r"\(2, 3, 3, 32, 48\); expected"),
    ({"pixel_values": torch.zeros(2, 3, 3, 32, 32, dtype=torch.uint8)}, r"pixel_values is torch.uint8.*normalize"),
    ({"pixel_values": [[1.0]]}, r"pixel_values is a list; expected a torch.Tensor"),
    ({"pixel_values": torch.zeros(3, 3, 3, 32, 32)}, r"audio_values has 2 clips; expected 3"),
    ({"audio_values": torch.zeros(2, 1, 8, 32)}, r"\(2, 1, 8, 32\); expected .*pad with zero rows to 16"),
    ({"audio_values": torch.zeros(2, 1, 0, 32)}, r"\(2, 1, 0, 32\); expected"),
    ({"audio_values": torch.zeros(2, 1, 40, 32)}, r"\(2, 1, 40, 32\).*pad with zero rows to 48"),
    ({"audio_values": torch.zeros(2, 1, 80, 32)}, r"\(2, 1, 80, 32\).*4 time positions: cut the sound"),
    ({"audio_values": torch.zeros(2, 2, 48, 32)}, r"\(2, 2, 48, 32\); expected \(batch, 1,"),
    ({"audio_values": torch.zeros(2, 1, 48, 16)}, r"\(2, 1, 48, 16\); expected"),
    ({"audio_values": torch.zeros(2, 48, 32)}, r"\(2, 48, 32\); expected"),
    ({"pixel_mask": torch.ones(2, 3)}, r"pixel_mask has shape \(2, 3\); expected a tensor \(2, 12\)"),
    ({"pixel_mask": torch.ones(1, 12)}, r"pixel_mask has shape \(1, 12\); expected a tensor \(2, 12\)"),
    ({"audio_mask": torch.ones(2, 8)}, r"audio_mask has shape \(2, 8\); expected a tensor \(2, 6\)"),
    ({"audio_mask": [1.0]}, r"audio_mask is a list; expected a tensor \(2, 6\)"),
    ({"pixel_noise": torch.rand(2, 12)}, r"not masked.*set mask_pixel"),
    ({"mask_pixel": True, "pixel_noise": torch.rand(2, 3)}, r"pixel_noise has shape \(2, 3\); expected .*\(2, 12\)"),
    ({"mask_audio": True, "audio_noise": torch.rand(2, 4)}, r"audio_noise has shape .*\(2, 6\) or \(2, 3\)"),
    ({"mask_pixel": True, "pixel_noise": torch.full((2, 12), float("nan"))}, r"pixel_noise has NaN"),
    ({"mask_pixel": True, "pixel_noise": 0.5}, r"pixel_noise is a float"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSALS)
def test_refused_inputs(changes: dict[str, Any], message: str) -> None:
    ours = TvltModel(hf.our_config())
    with pytest.raises(InputError, match=message) as caught:
        ours(**{**hf.clip(), **changes})
    assert isinstance(caught.value, ValueError)


def test_a_transformers_configuration_is_refused_with_the_way_to_convert_it() -> None:
    theirs = hf.hf_config()
    with pytest.raises(ConfigError, match=r"TvltConfig.from_dict\(config.to_dict\(\)\)"):
        TvltModel(theirs)
    assert TvltModel(hf.TvltConfig.from_dict(theirs.to_dict())).config.hidden_size == 32
