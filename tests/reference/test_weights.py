"""Checkpoints: both directions with transformers 4.40.2, every file form, and every refusal as a user reads it."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.reference import hf
from tvlt_deploy import reference
from tvlt_deploy.errors import CheckpointError, ConfigError, UsageError
from tvlt_deploy.reference import (
    TvltForAudioVisualClassification,
    TvltForPreTraining,
    TvltModel,
    held_tasks,
    init_checkpoint,
    open_checkpoint,
)

Model = Any
TASKS_OF_PRETRAINING = ("feature-extraction", "audio-visual-matching", "masked-reconstruction")


def saved_by_hf(path: Path, name: str = "TvltForPreTraining", changes: dict[str, Any] | None = None, **how: Any) -> Any:
    model = getattr(hf.transformers, name)(hf.hf_config(**(changes or {}))).eval()
    hf.randomise(model)
    model.save_pretrained(path, **how)
    return model


def inputs_of(name: str) -> dict[str, Any]:
    return hf.training_clip() if name == "TvltForPreTraining" else hf.clip()


# Round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hf.CLASSES)
@pytest.mark.parametrize("how", [{}, {"safe_serialization": False}, {"max_shard_size": "40KB"}])
@torch.no_grad()
def test_reads_what_transformers_wrote(name: str, how: dict[str, Any], tmp_path: Path) -> None:
    theirs = saved_by_hf(tmp_path, name, {"num_labels": 3}, **how)
    assert (tmp_path / "model.safetensors").exists() == (how == {})
    ours = getattr(reference, name).from_pretrained(tmp_path)
    assert not ours.training
    assert ours.skipped_keys == ()
    hf.assert_same(ours(**inputs_of(name)), theirs(**inputs_of(name)))
    ours.train()(**inputs_of(name))[0].sum()
    assert all(parameter.requires_grad for parameter in ours.parameters())


def test_reads_sharded_torch_files(tmp_path: Path) -> None:
    theirs = saved_by_hf(tmp_path, safe_serialization=False, max_shard_size="40KB")
    assert len(list(tmp_path.glob("pytorch_model-*.bin"))) > 2
    hf.assert_same(TvltForPreTraining.from_pretrained(tmp_path).state_dict(), theirs.state_dict(), limit=0)


def test_reads_torch_files_of_before_1_6(tmp_path: Path) -> None:
    theirs = saved_by_hf(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    hf.assert_same(TvltForPreTraining.from_pretrained(tmp_path).state_dict(), theirs.state_dict(), limit=0)


@pytest.mark.parametrize("name", hf.CLASSES)
@torch.no_grad()
def test_transformers_reads_what_we_wrote(name: str, tmp_path: Path) -> None:
    ours = getattr(reference, name)(hf.our_config(num_labels=4, audio_mask_type="patch-level", pixel_mask_ratio=0.5))
    hf.randomise(ours)
    ours.eval().save_pretrained(tmp_path)
    cls = getattr(hf.transformers, name)
    theirs, report = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.config.architectures == [name]
    assert theirs.config.num_labels == 4
    assert theirs.config.pixel_mask_ratio == 0.5
    hf.assert_same(ours(**inputs_of(name)), theirs(**inputs_of(name)))
    auto = hf.transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(auto).__name__ == "TvltConfig"


def test_saving_twice_gives_the_same_files(tmp_path: Path) -> None:
    saved_by_hf(tmp_path / "a")
    TvltForPreTraining.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    TvltForPreTraining.from_pretrained(tmp_path / "b").save_pretrained(tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["config.json", "model.safetensors"]
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


def test_loading_survives_the_file_being_overwritten(tmp_path: Path) -> None:
    saved_by_hf(tmp_path)
    ours = TvltModel.from_pretrained(tmp_path)
    before = ours.cls_embedding.clone()
    path = tmp_path / "model.safetensors"
    with open(path, "r+b") as handle:
        handle.write(b"\0" * path.stat().st_size)
    assert torch.equal(ours.cls_embedding, before)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_files_load_to_float32(stored: torch.dtype, tmp_path: Path) -> None:
    theirs = saved_by_hf(tmp_path / "full").to(stored)
    theirs.save_pretrained(tmp_path / "half")
    ours = TvltForPreTraining.from_pretrained(tmp_path / "half")
    assert ours.dtype == torch.float32
    hf.assert_same(ours(**hf.training_clip()), theirs.float()(**hf.training_clip()))
    half = TvltForPreTraining.from_pretrained(tmp_path / "half", dtype=stored)
    assert {parameter.dtype for parameter in half.parameters()} == {stored}
    half.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["torch_dtype"] == str(stored)[6:]


# Prefixes and heads ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_encoder_from_a_pretraining_file_lists_the_skipped_heads(tmp_path: Path) -> None:
    theirs = saved_by_hf(tmp_path)
    ours = TvltModel.from_pretrained(tmp_path)
    hf.assert_same(ours(**hf.clip()), theirs.tvlt(**hf.clip()))
    assert set(ours.skipped_keys) == {key for key in theirs.state_dict() if not key.startswith("tvlt.")}


@torch.no_grad()
def test_heads_with_an_unprefixed_encoder(tmp_path: Path) -> None:
    theirs = saved_by_hf(tmp_path, "TvltForAudioVisualClassification")
    state = {key.removeprefix("tvlt."): value for key, value in theirs.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    ours = TvltForAudioVisualClassification.from_pretrained(tmp_path)
    hf.assert_same(ours(**hf.clip()), theirs(**hf.clip()))


@torch.no_grad()
def test_pretraining_file_without_a_decoder(tmp_path: Path) -> None:
    theirs = saved_by_hf(tmp_path, changes={"task_mae": False})
    hf.assert_same(TvltForPreTraining.from_pretrained(tmp_path)(**hf.training_clip()), theirs(**hf.training_clip()))
    with pytest.raises(
        CheckpointError,
        match=r"has no head for masked-reconstruction; the tasks it can serve: "
        r"feature-extraction, audio-visual-matching \(choose",
    ):
        open_checkpoint(tmp_path).load("masked-reconstruction")


def test_missing_head_names_the_tasks_that_the_file_holds(tmp_path: Path) -> None:
    saved_by_hf(tmp_path)
    with pytest.raises(
        CheckpointError,
        match="no head for audio-visual-classification; the tasks it can serve: "
        "feature-extraction, audio-visual-matching, masked-reconstruction",
    ):
        TvltForAudioVisualClassification.from_pretrained(tmp_path)


def test_held_tasks() -> None:
    full = TvltForPreTraining(hf.our_config()).state_dict()
    assert set(held_tasks(full)) == set(TASKS_OF_PRETRAINING)
    classifier = TvltForAudioVisualClassification(hf.our_config()).state_dict()
    assert held_tasks(classifier) == ("feature-extraction", "audio-visual-classification")
    assert held_tasks(TvltModel(hf.our_config()).state_dict()) == ("feature-extraction",)
    assert held_tasks(key for key in classifier if "tvlt." not in key) == ()


@pytest.mark.parametrize("task", TASKS_OF_PRETRAINING)
@torch.no_grad()
def test_a_loaded_model_has_the_head_of_its_task_alone(task: str, tmp_path: Path) -> None:
    theirs = saved_by_hf(tmp_path)
    ours = open_checkpoint(tmp_path).load(task)
    assert not ours.training
    assert held_tasks(ours.state_dict()) == tuple(dict.fromkeys(["feature-extraction", task]))
    if task == "audio-visual-matching":
        inputs = hf.training_clip()
        hf.assert_same(ours(**inputs).matching_logits, theirs(**inputs).matching_logits)


def test_loading_for_an_unknown_task(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="task is 'captioning'; expected one of feature-extraction"):
        open_checkpoint(tmp_path).load("captioning")


# Seeded checkpoints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hf.CLASSES)
def test_seeded_checkpoint(name: str, tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        init_checkpoint(tmp_path / folder, hf.our_config(), seed=seed, architecture=name)
    a, b, c = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in "abc")
    assert a == b != c
    theirs, report = getattr(hf.transformers, name).from_pretrained(tmp_path / "a", output_loading_info=True)
    assert not any(report.values()), report
    for key, value in theirs.state_dict().items():
        assert value.unique().numel() > 1 or value.numel() == 1, f"{key} is constant"
    ours = getattr(reference, name).from_pretrained(tmp_path / "a")
    logits = ours(**hf.clip(batch=8))[0]
    assert logits.std(0).mean() > 1e-2


def test_seeded_checkpoint_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"architecture is 'Bert'; expected one of TvltForAudioVisualClassification"):
        init_checkpoint(tmp_path, hf.our_config(), architecture="Bert")
    with pytest.raises(UsageError, match="seed is -1"):
        init_checkpoint(tmp_path, hf.our_config(), seed=-1)
    assert not list(tmp_path.iterdir())


def test_a_callable_activation_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hidden_act is the callable"):
        TvltModel(hf.our_config(hidden_act=torch.tanh)).save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


# Refusals --------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    init_checkpoint(tmp_path / "checkpoint", hf.our_config())
    return tmp_path / "checkpoint"


def tensors_of(checkpoint: Path) -> dict[str, Any]:
    loaded = safetensors.torch.load((checkpoint / "model.safetensors").read_bytes())
    return {key: value.clone() for key, value in loaded.items()}


def refused(checkpoint: Path, message: str, load: Callable[[Path], Any] = TvltForPreTraining.from_pretrained) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(checkpoint)
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 5


def test_missing_directory_and_files(tmp_path: Path, checkpoint: Path) -> None:
    refused(tmp_path / "nowhere", "the checkpoint directory .*nowhere does not exist")
    refused(checkpoint / "config.json", "config.json does not exist or is not a directory")
    (checkpoint / "model.safetensors").unlink()
    refused(
        checkpoint,
        r"has no weights; looked for model.safetensors, model.safetensors.index.json, "
        r"pytorch_model.bin, pytorch_model.bin.index.json",
    )
    (checkpoint / "config.json").unlink()
    refused(checkpoint, r"checkpoint has no config.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json: cannot read the configuration"),
        ("[]", "config.json: .* contains a JSON list"),
        ('{"model_type": "bert"}', "model_type is 'bert'; expected 'tvlt'"),
        ('{"hidden_size": 33}', "hidden_size 33 is not a multiple of num_attention_heads"),
    ],
)
def test_bad_configuration(content: str, message: str, checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(content)
    refused(checkpoint, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**9}, "config.json asks for 1000000002 layers; the weights are"),
        ({"hidden_size": 2**40, "num_attention_heads": 2}, "describes a model too large for torch"),
    ],
)
def test_configuration_of_an_absurd_size(changes: dict[str, int], message: str, checkpoint: Path) -> None:
    values = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**values, **changes}))
    refused(checkpoint, message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "num_frames",
            8,
            r"temporal_embed has shape \(1, 4, 32\), expected \(1, 8, 32\).*config.json disagrees on num_frames",
        ),
        ("spectrogram_length", 128, r"pos_embed_a has shape \(1, 4, 32\), expected \(1, 8, 32\).*spectrogram_length"),
        ("image_size", 64, r"pos_embed_v has shape \(1, 4, 32\), expected \(1, 16, 32\).*image_size"),
        ("intermediate_size", 96, r"has shape \(64,\), expected \(96,\)"),
        ("num_hidden_layers", 3, r"16 of \d+ keys are missing: tvlt.encoder.layer.2.attention.*and 11 more"),
        ("num_hidden_layers", 1, r"16 keys are unknown: tvlt.encoder.layer.1.attention.*and 11 more"),
        ("decoder_num_hidden_layers", 1, r"16 keys are unknown: decoder.decoder_layers.1"),
        ("qkv_bias", False, r"12 keys are unknown: .*key.bias"),
        ("use_mean_pooling", True, r"2 keys are unknown: tvlt.layernorm.bias, tvlt.layernorm.weight"),
    ],
)
def test_configuration_that_does_not_fit(field: str, value: Any, message: str, checkpoint: Path) -> None:
    values = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**values, field: value}))
    refused(checkpoint, message)


def test_label_count_that_does_not_fit(tmp_path: Path) -> None:
    init_checkpoint(tmp_path, hf.our_config(num_labels=3), architecture="TvltForAudioVisualClassification")
    refused(
        tmp_path,
        r"classifier.3.\w+ has shape \(3.*expected \(2.*config.json disagrees on id2label",
        lambda path: TvltForAudioVisualClassification.from_pretrained(path, config=hf.our_config()),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update({"surprise": torch.zeros(1)}), "1 keys are unknown: surprise"),
        (
            lambda state: state.update({"tvlt.classifier.0.weight": torch.zeros(1)}),
            "keys are unknown: tvlt.classifier.0",
        ),
        (lambda state: state.update({"classifier.9.weight": torch.zeros(1)}), "keys are unknown: classifier.9.weight"),
        (lambda state: state.pop("pixel_mask_token"), r"1 of \d+ keys are missing: pixel_mask_token"),
        (lambda state: state.pop("tvlt.cls_embedding"), r"1 of \d+ keys are missing: tvlt.cls_embedding"),
        (lambda state: state.update({"cls_embedding": torch.zeros(1, 1, 32)}), "cls_embedding twice, with and without"),
        (
            lambda state: state["decoder.layernorm.bias"].fill_(float("nan")),
            "has NaN or infinity in decoder.layernorm.bias",
        ),
        (lambda state: state["tvlt.cls_embedding"].fill_(float("inf")), "NaN or infinity in tvlt.cls_embedding"),
        (
            lambda state: state.update({"matching_head.fc.bias": torch.zeros(1, dtype=torch.int64)}),
            "has matching_head.fc.bias as torch.int64; expected floating point",
        ),
    ],
)
def test_keys_and_tensors_that_do_not_fit(change: Callable[[Any], Any], message: str, checkpoint: Path) -> None:
    state = tensors_of(checkpoint)
    change(state)
    safetensors.torch.save_file(state, checkpoint / "model.safetensors")
    refused(checkpoint, message)


def test_keys_of_another_model(checkpoint: Path) -> None:
    safetensors.torch.save_file({"bert.pooler.weight": torch.zeros(2, 2)}, checkpoint / "model.safetensors")
    refused(
        checkpoint, "no head for audio-visual-matching, masked-reconstruction; the tasks it can serve: none of TVLT"
    )
    refused(checkpoint, r"\d+ of .* keys are missing: .*; 1 keys are unknown: bert.pooler", TvltModel.from_pretrained)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:7],
        lambda raw: b"",
        lambda raw: struct.pack("<Q", 2**62) + raw[8:],
        lambda raw: struct.pack("<Q", 10**8 - 1) + raw[8:],
        lambda raw: raw[:8] + b"\xff" + raw[9:],
        lambda raw: raw + b"tail",
    ],
)
def test_damaged_safetensors(damage: Callable[[bytes], bytes], checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    refused(checkpoint, r"model.safetensors is not a readable safetensors file: \w+")


def test_safetensors_header_bomb(checkpoint: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}).encode()
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
    refused(checkpoint, "not a readable safetensors file")


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_with_code_is_refused_and_not_run(plain: bool, checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "was-run"
    content = {**tensors_of(checkpoint), "bomb": Bomb(target)}
    (checkpoint / "model.safetensors").unlink()
    if plain:
        (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, checkpoint / "pytorch_model.bin")
    refused(checkpoint, "pytorch_model.bin contains something other than tensors.*no code was run")
    assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))  # it would have worked
    assert target.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"epoch": 3}, "contains a int under 'epoch'; expected tensors only"),
        ({"state_dict": {}}, "contains a dict under 'state_dict'"),
        ({3: torch.zeros(1)}, "contains a Tensor under 3"),
        ({"x": torch.eye(3).to_sparse()}, "contains 'x' as a torch.sparse_coo tensor"),
    ],
)
def test_torch_file_with_other_values(value: dict[Any, Any], message: str, checkpoint: Path) -> None:
    torch.save({**tensors_of(checkpoint), **value}, checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    refused(checkpoint, message)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut", b"\x80\x02}q\x00"])
def test_damaged_torch_file(content: bytes, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(content)
    refused(checkpoint, r"pytorch_model.bin (contains something other than tensors|is not a readable torch file)")


def test_torch_file_that_holds_one_tensor_or_is_cut(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    path = checkpoint / "pytorch_model.bin"
    torch.save(torch.zeros(3), path)
    refused(checkpoint, "contains a Tensor; expected a dict from key to tensor")
    path.write_bytes(path.read_bytes()[:-100])
    refused(checkpoint, "pytorch_model.bin")


def shard(checkpoint: Path, places: Callable[[dict[str, Any]], Any]) -> None:
    state = tensors_of(checkpoint)
    (checkpoint / "model.safetensors").rename(checkpoint / "one.safetensors")
    index = {"metadata": {}, "weight_map": places(state)}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_by_index(checkpoint: Path) -> None:
    shard(checkpoint, lambda state: dict.fromkeys(state, "one.safetensors"))
    TvltForPreTraining.from_pretrained(checkpoint)


@pytest.mark.parametrize("name", ["../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", "", "a\\b"])
def test_shards_outside_the_directory(name: str, checkpoint: Path) -> None:
    shard(checkpoint, lambda state: dict.fromkeys(state, name))
    refused(checkpoint, "expected the name of a file beside it")


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (lambda state: dict.fromkeys(state, "two.safetensors"), "two.safetensors does not exist"),
        (lambda state: {**dict.fromkeys(state, "one.safetensors"), "more": "one.safetensors"}, "in no shard: more"),
        (lambda state: ["one.safetensors"], "no weight_map"),
        (lambda state: {"x": 3}, "no weight_map"),
    ],
)
def test_bad_shard_index(places: Callable[[Any], Any], message: str, checkpoint: Path) -> None:
    shard(checkpoint, places)
    refused(checkpoint, message)


@pytest.mark.parametrize("content", ["{", "{}", "[]", "3", "\x00"])
def test_unreadable_shard_index(content: str, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(content)
    refused(checkpoint, "is not a readable shard index")


def test_the_same_key_in_two_shards(checkpoint: Path) -> None:
    shard(
        checkpoint, lambda state: {**dict.fromkeys(state, "one.safetensors"), "tvlt.cls_embedding": "two.safetensors"}
    )
    safetensors.torch.save_file({"tvlt.cls_embedding": torch.zeros(1, 1, 32)}, checkpoint / "two.safetensors")
    refused(checkpoint, "two.safetensors repeats keys of another shard: tvlt.cls_embedding")


def test_saving_keeps_the_old_file_when_it_fails(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (checkpoint / "model.safetensors").read_bytes()

    def full_disk(state: Any, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        TvltForPreTraining(hf.our_config()).save_pretrained(checkpoint)
    assert (checkpoint / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in checkpoint.iterdir()) == ["config.json", "model.safetensors"]
