"""Files of the TVLT authors' code against that code's own outputs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import original
from tests.original import CASES, HEADS, KINDS, RECONSTRUCTIONS, TOKENS
from tests.reference import hf
from tvlt_deploy.errors import CheckpointError, ConfigError, TvltError, UsageError
from tvlt_deploy.reference import OriginalCheckpoint, PretrainedModule, TvltForAudioVisualClassification, convert
from tvlt_deploy.reference.original.checkpoint import EMOTIONS

PRETRAIN, SENTIMENT = original.path_of("pretrain"), original.path_of("mosei_sentiment")
RETRIEVAL_HEADS = original.matcher("matching_score"), original.matcher("rank_output")


def opened(kind: str, form: str = "ckpt", **options: Any) -> OriginalCheckpoint:
    return OriginalCheckpoint(original.path_of(kind, form), original.settings_of(kind), **options)


def small(path: Path, head: str | None = None) -> OriginalCheckpoint:
    return OriginalCheckpoint(path, original.settings_of("mosei_sentiment"), head)


@torch.no_grad()
def run(model: PretrainedModule, values: dict[str, np.ndarray]) -> Any:
    return model(**original.tensors(values))


def assert_near(actual: Tensor, expected: Tensor | np.ndarray, limit: float) -> None:
    expected = torch.as_tensor(expected)
    assert actual.shape == expected.shape
    assert (actual.double() - expected.double()).abs().max() <= limit


# What the authors' code computes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens(kind: str, form: str) -> None:
    model = opened(kind, form).load("feature-extraction")
    for case in CASES:
        values = original.feeds(case, kind)
        tokens = original.in_their_order(run(model, values).last_hidden_state, values["pixel_mask"].shape[1])
        assert_near(tokens, original.golden(kind)[f"{case}.tokens"], TOKENS)


@pytest.mark.parametrize("kind", KINDS)
def test_heads(kind: str) -> None:
    task, output, head = original.ANSWERS[kind]
    checkpoint = opened(kind)
    model = checkpoint.load()
    assert checkpoint.default_task == task
    assert model.config.original_kind == kind
    assert model.config.original_head == head
    for case in ("plain", "padded"):
        assert_near(run(model, original.feeds(case, kind))[output], original.golden(kind)[f"{case}.{head}"], HEADS)


def test_what_the_authors_loaders_made_of_clips() -> None:
    model, expected = opened("mosei_sentiment").load(), original.golden("mosei_sentiment")
    values = original.end_to_end_feeds()
    assert_near(run(model, values).logits, expected["e2e.classifier"], HEADS)
    assert_near(run(model.tvlt, values).last_hidden_state[:, 0], expected["e2e.tokens_cls"], TOKENS)


def test_masks_are_read_off_the_values() -> None:
    for case in ("plain", "padded"):
        values = original.feeds(case)
        assert (values["pixel_mask"] == original.golden("pretrain")[f"{case}.valid_video"].numpy()).all()
        assert (values["audio_mask"] == original.golden("pretrain")[f"{case}.valid_audio"].numpy()).all()
    everything = original.feeds("all_minus_one")
    assert not everything["pixel_mask"].any()
    assert not everything["audio_mask"].any()


def test_sound_alone_has_no_class_token() -> None:
    checkpoint = opened("pretrain")
    model = checkpoint.load("feature-extraction")
    # hide every picture and no sound: what is left is the sound, in the order of its noise
    model.config = model.config.replace(pixel_mask_ratio=0.999, audio_mask_ratio=0.0)
    for case in ("plain", "padded"):
        values = {name: torch.from_numpy(value[:2]) for name, value in original.feeds(case).items()}
        order = torch.arange(24.0).expand(2, -1)
        with torch.no_grad():
            output = model(**values, mask_pixel=True, mask_audio=True, audio_noise=order)
        assert_near(output.last_hidden_state, original.golden("pretrain")[f"{case}.audio_only_tokens"], TOKENS)


@pytest.mark.parametrize("case", ["plain.mae_frame", "padded.mae_frame", "plain.mae_random"])
def test_masked_reconstruction(case: str) -> None:
    settings = {**original.settings_of("pretrain"), "frame_masking": case.endswith("frame")}
    model = OriginalCheckpoint(PRETRAIN, settings).load("masked-reconstruction")
    values, expected = original.masked_feeds(case), original.golden("pretrain")
    output = run(model, values)
    encoded = model.tvlt(**original.tensors(values), mask_pixel=True, mask_audio=True)
    for ours, theirs in (("pixel", "video"), ("audio", "audio")):
        assert_near(output[f"{ours}_logits"], expected[f"{case}.pred_{theirs}"], RECONSTRUCTIONS)
        assert_near(output[f"{ours}_label_mask"], expected[f"{case}.loss_mask_{theirs}"], 0)
        kept = encoded[f"{ours}_ids_restore"].argsort(dim=1)[:, : encoded[f"last_{ours}_hidden_state"].shape[1]]
        assert kept.tolist() == expected[f"{case}.ids_keep_{theirs}"].tolist()
    losses = {"plain.mae_frame": 0.9857594768, "padded.mae_frame": 0.9391530752, "plain.mae_random": 1.0158794224}
    assert output.loss.item() == pytest.approx(losses[case], abs=1e-5)


def test_losses() -> None:
    sentiment = opened("mosei_sentiment").load()
    values = original.tensors(original.feeds("plain"))
    assert sentiment(**values, labels=torch.tensor([[1.25], [-0.5]])).loss.item() == pytest.approx(3.4707818, abs=1e-5)
    vqa = opened("vqa").load()
    values = original.tensors(original.feeds("plain", "vqa"))
    answers = torch.tensor([[1.0, 0, 0, 0.3, 0], [0, 0, 0.6, 0, 0]])
    # the authors scale the mean by the number of answers
    assert 5 * vqa(**values, labels=answers).loss.item() == pytest.approx(3.8513036, abs=1e-5)
    with pytest.raises(TvltError, match=r"labels has shape \(2,\)"):
        vqa(**values, labels=torch.tensor([0, 1]))


def test_emotions(tmp_path: Path) -> None:
    content = original.made(tmp_path / "emotion.safetensors", original.classifier("classifier", 6))
    checkpoint = small(tmp_path / "emotion.safetensors")
    model = checkpoint.load()
    assert checkpoint.kind == "mosei_emotion"
    assert tuple(model.config.id2label.values()) == EMOTIONS
    assert EMOTIONS == ("happy", "sad", "angry", "fear", "disgust", "surprise")
    assert model.config.activation == "sigmoid"
    for case in CASES:
        assert_near(run(model, original.feeds(case)).logits, original.classified(content, "classifier", case), HEADS)


@pytest.mark.parametrize("head", ["rank_output", "matching_score"])
def test_retrieval_takes_the_ranking_head_unless_told(head: str, tmp_path: Path) -> None:
    content = original.made(tmp_path / "retrieval.safetensors", *RETRIEVAL_HEADS)
    checkpoint = small(tmp_path / "retrieval.safetensors", None if head == "rank_output" else head)
    model = checkpoint.load()
    assert checkpoint.kind == "retrieval"
    assert checkpoint.tasks == ("feature-extraction", "audio-visual-matching")
    assert model.config.original_head == head
    other = {"rank_output": "matching_score", "matching_score": "rank_output"}[head]
    assert model.skipped_keys == tuple(sorted(original.matcher(other)))
    for case in CASES:
        assert_near(run(model, original.feeds(case)).matching_logits, original.matched(content, head, case), HEADS)


def test_what_the_outputs_mean() -> None:
    sentiment, vqa = opened("mosei_sentiment").config(), opened("vqa").config()
    assert (sentiment.activation, sentiment.id2label) == ("none", {0: "sentiment"})
    assert sentiment.sign_labels == ("negative", "positive")
    assert vqa.activation == "sigmoid"
    assert list(vqa.id2label.values()) == ["answer_0", "answer_1", "answer_2", "answer_3", "answer_4"]


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_checkpoints_of_lightning(wrapper: str, tmp_path: Path) -> None:
    state = {f"transformer.{key}": value for key, value in original.weights("mosei_sentiment").items()}
    torch.save({"epoch": 3, "hyper_parameters": {"config": {"seed": 0}}, wrapper: state}, tmp_path / "last.ckpt")
    output = run(small(tmp_path / "last.ckpt").load(), original.feeds("plain"))
    assert_near(output.logits, original.golden("mosei_sentiment")["plain.classifier"], HEADS)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("inside", [True, False])
def test_a_pickle_with_code_is_refused_by_name_and_not_run(inside: bool, tmp_path: Path) -> None:
    state, bomb = dict(original.weights("mosei_sentiment")), Bomb(tmp_path / "was-run")
    content = {"state_dict": {**state, "x": bomb}} if inside else {"state_dict": state, "callbacks": bomb}
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"other than tensors \(\w+\.mkdir\).*no code was run"):
        small(tmp_path / "last.ckpt")
    assert not (tmp_path / "was-run").exists()


def without(key: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.pop(key)  # type: ignore[return-value]


def given(key: str, value: Any) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.update({key: value})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("blocks.1.attn.qkv.bias"), "1 of 45 keys are missing: blocks.1.attn.qkv.bias"),
        (without("classifier.0.dense.weight"), "1 of 45 keys are missing: classifier.0.dense.weight"),
        (without("cls_token"), "is not a TVLT checkpoint of the authors' code: cls_token is missing"),
        (without("temporal_embed"), "temporal_embed is missing"),
        (given("blocks.0.gamma", torch.ones(16)), "1 keys are unknown: blocks.0.gamma"),
        (given("classifier.3.weight", torch.ones(16)), "1 keys are unknown: classifier.3.weight"),
        (given("transformer.norm.bias", torch.ones(16)), "has norm.bias twice"),
        (given("epoch", 3), "contains a int under 'epoch'"),
        (given("norm.bias", torch.ones(17)), r"norm.bias has shape \(17,\), expected \(16,\) .*each other"),
        (
            given("blocks.0.attn.qkv.weight", torch.ones(16, 16)),
            r"qkv.weight has shape \(16, 16\), expected \(48, 16\)",
        ),
        (given("pos_embed_v", torch.ones(1, 5, 16)), "5 positions in pos_embed_v; expected a square number"),
        (given("pos_embed_a", torch.ones(16)), r"pos_embed_a of shape \(16,\); expected 3 axes"),
        (given("norm.bias", torch.full((16,), torch.nan)), "NaN or infinity in norm.bias"),
        (given("norm.bias", torch.ones(16, dtype=torch.int64)), "norm.bias as torch.int64"),
        (given("classifier.4.weight", torch.ones(7, 32)), "classifier of 7 outputs; expected 1 .* or 6"),
        (given("text_embeddings.word_embeddings.weight", torch.ones(1)), "is a model of video and text"),
        (given("norm.bias", torch.eye(16).to_sparse()), "expected dense tensors"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_their_own_names(
    change: Callable[[dict[str, Tensor]], None], says: str, tmp_path: Path
) -> None:
    state = dict(original.weights("mosei_sentiment"))
    change(state)
    torch.save(state, tmp_path / "changed.ckpt")
    with pytest.raises(CheckpointError, match=says) as caught:
        small(tmp_path / "changed.ckpt").load()
    assert str(tmp_path / "changed.ckpt") in str(caught.value)


def test_files_of_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        OriginalCheckpoint(tmp_path / "nothing.ckpt")
    for name in ("text.ckpt", "text.safetensors"):
        (tmp_path / name).write_text("not a checkpoint")
        with pytest.raises(CheckpointError, match=name):
            OriginalCheckpoint(tmp_path / name)
    convert(PRETRAIN, tmp_path / "hf", settings=original.settings_of("pretrain"))
    with pytest.raises(CheckpointError, match=r"cls_token is missing \(pass the directory"):
        OriginalCheckpoint(tmp_path / "hf" / "model.safetensors")


def test_a_task_that_the_file_does_not_hold() -> None:
    with pytest.raises(CheckpointError, match="tasks it can serve: feature-extraction, audio-visual-classification"):
        opened("vqa").load("masked-reconstruction")
    with pytest.raises(UsageError, match="task is 'captioning'"):
        opened("vqa").load("captioning")


def test_a_head_chooses_among_the_tasks_of_a_file_with_several(tmp_path: Path) -> None:
    heads = original.classifier("classifier", 1), original.matcher("matching_score")
    content = original.made(tmp_path / "both.safetensors", *heads)
    checkpoint = small(tmp_path / "both.safetensors")
    assert checkpoint.tasks == ("feature-extraction", "audio-visual-classification", "audio-visual-matching")
    assert checkpoint.default_task == "audio-visual-classification"
    other = small(tmp_path / "both.safetensors", head="matching_score")
    assert other.default_task == "audio-visual-matching"
    logits = run(other.load(), original.feeds("padded")).matching_logits
    assert_near(logits, original.matched(content, "matching_score", "padded"), HEADS)


def test_a_head_that_the_file_or_the_task_does_not_have() -> None:
    with pytest.raises(UsageError, match="has no head 'rank_output'; it has matching_score"):
        opened("pretrain", head="rank_output")
    with pytest.raises(UsageError, match="matching_score is not a head for masked-reconstruction"):
        opened("pretrain", head="matching_score").load("masked-reconstruction")


# Settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "lacking"),
    [
        ("pretrain", {}, "num_heads, num_frames, frame_masking"),
        ("pretrain", {"num_heads": 3, "num_frames": 3}, "frame_masking"),
        ("vqa", {"frame_masking": False}, "num_heads, num_frames"),
        ("mosei_sentiment", {"num_heads": 2}, "num_frames"),
    ],
)
def test_what_a_file_does_not_tell_has_to_be_given(kind: str, settings: dict[str, Any], lacking: str) -> None:
    with pytest.raises(UsageError, match=f"does not state its {lacking} ") as caught:
        OriginalCheckpoint(original.path_of(kind), settings)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": 32}, "hidden_size is 32 in the settings; .* has 24"),
        ({"num_layers": 12}, "num_layers is 12 in the settings; .* has 2"),
        ({"decoder_hidden_size": 512}, "decoder_hidden_size is 512 in the settings; .* has 16"),
        ({"audio_patch_size": [2, 128]}, r"audio_patch_size is \[2, 128\] in the settings; .* has \[16, 16\]"),
        ({"num_frames": 9}, "num_frames is 9; .* has 8 frame positions"),
        ({"num_heads": "3"}, "num_heads is '3'; expected an int"),
        ({"num_heads": 5}, "hidden_size 24 is not a multiple of num_attention_heads 5"),
        ({"frame_masking": 1}, "frame_masking is 1; expected true or false"),
        ({"decoder_num_heads": 0}, "decoder_num_heads is 0; expected an int of at least 1"),
    ],
)
def test_settings_that_contradict_the_file(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        OriginalCheckpoint(PRETRAIN, {**original.settings_of("pretrain"), **changes}).load("masked-reconstruction")


def test_settings_reach_the_configuration() -> None:
    config = opened("pretrain").config()
    assert (config.num_attention_heads, config.decoder_num_attention_heads) == (3, 2)
    assert (config.num_frames, config.spectrogram_length, config.image_size) == (3, 192, 32)
    assert (config.audio_mask_type, config.audio_mask_ratio) == ("frame-level", 0.15)
    changed = {**original.settings_of("pretrain"), "frame_masking": False, "num_frames": 8, "decoder_num_heads": 4}
    config = OriginalCheckpoint(PRETRAIN, changed).config()
    assert (config.audio_mask_type, config.audio_mask_ratio) == ("patch-level", 0.75)
    assert (config.num_frames, config.decoder_num_attention_heads) == (8, 4)


# Directories ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_transformers_loads_a_converted_pretraining_file(tmp_path: Path) -> None:
    config = convert(PRETRAIN, tmp_path / "hf", settings=original.settings_of("pretrain"))
    assert config.architectures == ("TvltForPreTraining",)
    theirs, report = hf.transformers.TvltForPreTraining.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values()), report
    # nothing masked: there transformers and the authors agree
    values = original.tensors(original.feeds("plain"))
    output = theirs.eval()(
        **values, pixel_values_mixed=values["pixel_values"], pixel_mask_mixed=values["pixel_mask"], labels=torch.ones(2)
    )
    assert_near(output.matching_logits, original.golden("pretrain")["plain.matching_score"], HEADS)
    tokens = original.in_their_order(theirs.tvlt(**values).last_hidden_state, 12)
    assert_near(tokens, original.golden("pretrain")["plain.tokens"], TOKENS)


@torch.no_grad()
def test_transformers_loads_a_converted_retrieval_file(tmp_path: Path) -> None:
    content = original.made(tmp_path / "retrieval.safetensors", *RETRIEVAL_HEADS)
    convert(tmp_path / "retrieval.safetensors", tmp_path / "hf", settings=original.settings_of("mosei_sentiment"))
    theirs, report = hf.transformers.TvltForPreTraining.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values()), report
    values = original.tensors(original.feeds("plain"))
    output = theirs.eval()(
        **values, pixel_values_mixed=values["pixel_values"], pixel_mask_mixed=values["pixel_mask"], labels=torch.ones(2)
    )
    assert_near(output.matching_logits, original.matched(content, "rank_output", "plain"), HEADS)


def test_a_converted_classifier_loads_here_and_is_refused_by_transformers(tmp_path: Path) -> None:
    convert(SENTIMENT, tmp_path / "hf", settings=original.settings_of("mosei_sentiment"), labels=["mood"])
    ours = TvltForAudioVisualClassification.from_pretrained(tmp_path / "hf")
    assert_near(
        run(ours, original.feeds("padded")).logits, original.golden("mosei_sentiment")["padded.classifier"], HEADS
    )
    assert ours.config.id2label == {0: "mood"}
    assert ours.config.sign_labels == ("negative", "positive")
    with pytest.raises(RuntimeError, match=r"size mismatch for classifier\.1\.weight"):
        hf.transformers.TvltForAudioVisualClassification.from_pretrained(tmp_path / "hf")


def test_nothing_is_written_where_something_stands_or_goes_wrong(tmp_path: Path) -> None:
    settings = original.settings_of("mosei_sentiment")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "note").write_text("mine")
    with pytest.raises(UsageError, match="taken is not empty"):
        convert(SENTIMENT, tmp_path / "taken", settings=settings)
    with pytest.raises(ConfigError, match="2 labels were given; the classifier has 1 outputs"):
        convert(SENTIMENT, tmp_path / "new", settings=settings, labels=["a", "b"])
    with pytest.raises(UsageError, match="labels were given; TvltForPreTraining has no outputs to name"):
        convert(PRETRAIN, tmp_path / "new", settings=original.settings_of("pretrain"), labels=["a"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["note", "taken"]


# Full size -----------------------------------------------------------------------------------------------------------

RELEASED = json.loads((original.DATA / "released_keys.json").read_text())["kinds"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(RELEASED))
def test_released_keys_convert_with_nothing_missing_and_nothing_left_over(kind: str, tmp_path: Path) -> None:
    layers = {"blocks.": 12, "decoder_blocks.": 8}
    shapes = {
        key.format(i=index): shape
        for key, shape in RELEASED[kind]["shapes"].items()
        for index in range(next((count for start, count in layers.items() if key.startswith(start)), 1))
    }
    assert len(shapes) == RELEASED[kind]["keys"]
    # a view of one number: the file stays small, the shapes are those of the release
    values = np.random.default_rng(0).normal(size=len(shapes)).astype(np.float32)
    torch.save(
        {key: torch.tensor(value).expand(shape) for (key, shape), value in zip(shapes.items(), values, strict=True)},
        tmp_path / "released.ckpt",
    )
    checkpoint = OriginalCheckpoint(tmp_path / "released.ckpt")
    model = checkpoint.load()
    assert checkpoint.kind == kind
    spare = tuple(original.matcher("matching_score")) if kind == "retrieval" else ()
    assert sorted(model.skipped_keys) == sorted(spare)
    used = {"temporal_embed": model.config.num_frames, "pos_embed_a": 64}
    expected = sum(
        math.prod(shape) // shape[1] * used[key.removeprefix("decoder_")]
        if key.removeprefix("decoder_") in used
        else math.prod(shape)
        for key, shape in shapes.items()
        if key not in spare
    )
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    frames = {"pretrain": 4, "vqa": 1}.get(kind, 8)
    assert (model.config.num_frames, model.config.num_attention_heads) == (frames, 12)
    assert model.config.decoder_num_attention_heads == 16
    assert model.config.spectrogram_length == 1024
