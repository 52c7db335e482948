"""`config.json` in both directions with transformers 4.40.2, and every value that no model can have."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tvlt_deploy.config import OWN_FIELDS, TvltConfig, read_labels
from tvlt_deploy.errors import ConfigError

CHANGES: list[dict[str, Any]] = [
    {},
    {"num_frames": 3, "hidden_act": "relu", "layer_norm_eps": 1e-5, "use_mean_pooling": True, "qkv_bias": False},
    {"image_patch_size": [8, 16], "audio_patch_size": [4, 32], "image_size": [32, 64]},
    {"id2label": {0: "sad", 1: "glad", 2: "neither"}},
    {"audio_mask_type": "patch_level", "pixel_mask_ratio": 0.5, "loss_type": "regression", "task_matching": False},
    {"decoder_hidden_size": 64, "decoder_num_attention_heads": 2, "architectures": ["TvltForPreTraining"]},
]


@pytest.fixture(scope="module")
def theirs() -> Any:
    return pytest.importorskip("transformers").TvltConfig


def known(values: dict[str, Any]) -> dict[str, Any]:
    ours = TvltConfig().to_dict()
    # transformers names no class in a bare configuration, and inverts labels only when a file was read
    return {name: values[name] for name in ours if name in values and name not in ("architectures", "label2id")}


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", CHANGES)
def test_we_read_what_transformers_wrote(theirs: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    config = theirs(**changes)
    config.save_pretrained(tmp_path)
    ours = TvltConfig.from_pretrained(tmp_path)
    assert ours == TvltConfig.from_pretrained(tmp_path / "config.json")
    expected = json.loads(json.dumps(config.to_dict()))
    assert known(ours.to_dict()) == known(expected)
    assert ours.num_labels == config.num_labels


@pytest.mark.parametrize("changes", CHANGES)
def test_transformers_reads_what_we_wrote(theirs: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    ours = TvltConfig(**changes, extras={"torch_dtype": "float32", "my_note": [1, {"a": None}]})
    ours.save_pretrained(tmp_path / "new")
    config = theirs.from_pretrained(tmp_path / "new")
    assert known(json.loads(json.dumps(config.to_dict()))) == known(json.loads(json.dumps(ours.to_dict())))
    assert (config.num_labels, config.label2id) == (ours.num_labels, ours.label2id)
    assert config.my_note == [1, {"a": None}]
    assert TvltConfig.from_pretrained(tmp_path / "new") == ours


def test_defaults_are_those_of_transformers(theirs: Any) -> None:
    defaults = theirs().to_dict()
    for field in dataclasses.fields(TvltConfig):
        if field.name not in ("extras", "architectures", "num_labels", *OWN_FIELDS):
            value = getattr(TvltConfig(), field.name)
            assert (list(value) if isinstance(value, tuple) else value) == defaults[field.name], field.name


def test_what_transformers_does_not_know_is_written_where_it_differs(theirs: Any, tmp_path: Path) -> None:
    own = {
        "class_mask_source": "audio", "mae_class_token": False, "classifier_pooler": True, "classifier_norm_eps": 1e-5,
        "sign_labels": ("down", "up"), "original_kind": "vqa", "original_head": "x",
    }  # fmt: skip
    assert set(own) == set(OWN_FIELDS)
    assert not set(OWN_FIELDS) & set(TvltConfig().to_dict())
    config = TvltConfig(**own, num_labels=1, loss_type="regression")
    config.save_pretrained(tmp_path)
    assert TvltConfig.from_pretrained(tmp_path) == config
    assert theirs.from_pretrained(tmp_path).class_mask_source == "audio"  # carried along, and without effect


@pytest.mark.parametrize(
    ("changes", "activation"),
    [
        ({}, "softmax"),
        ({"num_labels": 1}, "none"),
        ({"loss_type": "regression"}, "none"),
        ({"problem_type": "regression"}, "none"),
        ({"problem_type": "single_label_classification"}, "softmax"),
        ({"problem_type": "multi_label_classification", "num_labels": 6}, "sigmoid"),
    ],
)
def test_scores_follow_the_problem(theirs: Any, changes: dict[str, Any], activation: str, tmp_path: Path) -> None:
    theirs(**changes).save_pretrained(tmp_path)
    assert TvltConfig.from_pretrained(tmp_path).activation == activation


def test_labels_are_read_from_lines_or_json(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("gl\u00fccklich\n sad \n", encoding="utf-8")
    (tmp_path / "labels.json").write_text('["a", "b"]')
    assert read_labels(tmp_path / "labels.txt") == ("gl\u00fccklich", "sad")
    assert read_labels(tmp_path / "labels.json") == ("a", "b")
    assert TvltConfig().with_labels(("a", "b")).id2label == {0: "a", 1: "b"}


@pytest.mark.parametrize("content", ['{"0": "a"}', '["a", 1]', '["a", ""]', "[", "3"])
def test_other_labels_are_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(ConfigError, match=r"labels\.json"):
        read_labels(tmp_path / "labels.json")


def test_labels_name_each_output_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the labels .*missing"):
        read_labels(tmp_path / "missing")
    with pytest.raises(ConfigError, match="3 labels were given; the classifier has 2 outputs"):
        TvltConfig().with_labels(("a", "b", "c"))
    with pytest.raises(ConfigError, match="labels name a more than once"):
        TvltConfig().with_labels(("a", "a"))


def test_unknown_keys_survive_and_the_model_type_must_be_ours(tmp_path: Path) -> None:
    config = TvltConfig.from_dict({"num_frames": 2, "_name_or_path": "x", "model_type": "tvlt", "label2id": {"a": 0}})
    assert config.extras == {"_name_or_path": "x"}
    assert config.to_dict()["_name_or_path"] == "x"
    with pytest.raises(ConfigError, match="model_type is 'vit'; expected 'tvlt'"):
        TvltConfig.from_dict({"model_type": "vit"})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "Expecting property name"),
        (b"\xff\xfe", "codec can't decode"),
        (b"[]", "contains a JSON list; expected an object"),
        (b"[" * 100_000, "recursion"),
        (b'{"num_frames": ' + b"9" * 5000 + b"}", "integer string conversion"),
    ],
    ids=["cut", "no text", "list", "deep", "long"],
)
def test_broken_files_are_refused_by_name(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"config.json.*{says}"):
        TvltConfig.from_pretrained(tmp_path)


def test_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*absent: .*No such file"):
        TvltConfig.from_pretrained(tmp_path / "absent")


def test_a_callable_activation_runs_but_cannot_be_written(tmp_path: Path) -> None:
    config = TvltConfig(hidden_act=abs)
    with pytest.raises(ConfigError, match=r"hidden_act is the callable .*\(use the name of an activation\)"):
        config.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_frames": 0}, "num_frames is 0; expected an int of at least 1"),
        ({"num_frames": 2.0}, "num_frames is 2.0; expected an int"),
        ({"num_frames": True}, "num_frames is True; expected an int"),
        ({"num_frames": None}, "num_frames is None; expected an int"),
        ({"spectrogram_length": "2048"}, "spectrogram_length is '2048'; expected an int"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1; expected an int of at least 0"),
        ({"hidden_size": 770}, "hidden_size 770 is not a multiple of num_attention_heads 12"),
        ({"decoder_hidden_size": 500}, "decoder_hidden_size 500 is not a multiple of decoder_num_attention_heads 16"),
        ({"pixel_mask_ratio": 1.0}, r"pixel_mask_ratio is 1.0; expected a number in \[0, 1\)"),
        ({"audio_mask_ratio": -0.1}, r"audio_mask_ratio is -0.1; expected a number in \[0, 1\)"),
        ({"audio_mask_ratio": float("nan")}, r"audio_mask_ratio is nan; expected a number in \[0, 1\)"),
        ({"audio_mask_ratio": "0.1"}, "audio_mask_ratio is '0.1'; expected a number"),
        ({"hidden_dropout_prob": 1.5}, r"hidden_dropout_prob is 1.5; expected a number in \[0, 1\]"),
        ({"attention_probs_dropout_prob": None}, "attention_probs_dropout_prob is None; expected a number"),
        ({"layer_norm_eps": "1e-6"}, "layer_norm_eps is '1e-6'; expected a number of at least 0"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps is inf; expected a number"),
        ({"initializer_range": -1}, "initializer_range is -1; expected a number of at least 0"),
        ({"audio_mask_type": "frame"}, "audio_mask_type is 'frame'; expected one of frame-level"),
        ({"loss_type": "mse"}, "loss_type is 'mse'; expected one of classification, regression"),
        ({"task_matching": False, "task_mae": False}, "task_matching and task_mae are both false"),
        ({"image_size": 225}, "image_size 225x225 is not a multiple of the patch size 16x16"),
        ({"image_size": (224, 230)}, "image_size 224x230 is not a multiple of the patch size 16x16"),
        ({"image_size": (224, 224, 3)}, r"image_size is \(224, 224, 3\); expected an int or a pair of ints"),
        ({"image_size": 224.0}, "image_size is 224.0; expected an int or a pair of ints"),
        ({"image_size": True}, "image_size is True; expected an int or a pair of ints"),
        ({"image_patch_size": [16.5, 16]}, r"image_patch_size is \[16.5, 16\]; expected an int or a pair of ints"),
        ({"audio_patch_size": "16"}, "audio_patch_size is '16'; expected an int or a pair of ints"),
        ({"audio_patch_size": [0, 16]}, r"audio_patch_size is \[0, 16\]; expected positive sizes"),
        ({"frequency_length": 100}, "frequency_length 100 is not a multiple of a patch's 16 bins"),
        ({"spectrogram_length": 15}, "spectrogram_length 15 is shorter than one patch of 16 rows"),
        ({"num_labels": 0}, "num_labels is 0; expected an int of at least 1"),
        ({"num_labels": 3, "id2label": {0: "a"}}, "num_labels is 3 but id2label names 1 labels .*make them agree"),
        ({"id2label": {1: "a", 2: "b"}}, r"id2label has the indices \[1, 2\]; expected 0..n-1, each once"),
        ({"id2label": {}}, r"id2label has the indices \[\]; expected 0..n-1"),
        ({"id2label": ["a", "b"]}, r"id2label is \['a', 'b'\]; expected a map from index to label"),
        ({"id2label": {"x": "b"}}, "expected a map from index to label"),
        ({"architectures": "TvltModel"}, "architectures is 'TvltModel'; expected a list of class names"),
        ({"problem_type": "ranking"}, "problem_type is 'ranking'; expected one of regression, multi_label_class"),
        ({"problem_type": []}, r"problem_type is \[\]; expected one of regression"),
        ({"class_mask_source": "video"}, "class_mask_source is 'video'; expected one of pixel, audio"),
        ({"mae_class_token": 0}, "mae_class_token is 0; expected true or false"),
        ({"classifier_pooler": "yes"}, "classifier_pooler is 'yes'; expected true or false"),
        ({"classifier_norm_eps": -1e-5}, "classifier_norm_eps is -1e-05; expected a number of at least 0"),
        ({"sign_labels": ["down", "up"]}, "sign_labels is set for 2 outputs; expected a regression with one"),
        ({"sign_labels": ["up"], "num_labels": 1}, r"sign_labels is \('up',\); expected two names"),
        ({"sign_labels": "up", "num_labels": 1}, "sign_labels is 'up'; expected two names"),
        ({"original_kind": 3}, "original_kind is 3; expected a name"),
    ],
)  # fmt: skip
def test_values_that_no_model_can_have_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        TvltConfig(**changes)
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 2


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TvltConfig().num_frames = 3  # type: ignore[misc]


def test_an_int_stands_for_a_square() -> None:
    config = TvltConfig(image_size=32, image_patch_size=8, audio_patch_size=16)
    assert config.image_patch_size == (8, 8)
    assert (config.image_shape, config.image_patch, config.audio_patch) == ((32, 32), (8, 8), (16, 16))


def test_labels_come_from_either_field() -> None:
    assert TvltConfig().id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert TvltConfig(num_labels=3).label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    named = TvltConfig(id2label={"1": "b", "0": "a"})  # type: ignore[dict-item]
    assert named.num_labels == 2
    assert list(named.id2label.items()) == [(0, "a"), (1, "b")]  # type: ignore[union-attr]


def test_both_spellings_of_masking_mean_the_same() -> None:
    for kind in ("frame", "patch"):
        spelled = {TvltConfig(audio_mask_type=f"{kind}{mark}level").audio_mask_type for mark in "-_"}
        assert spelled == {f"{kind}-level"}
    # the one that transformers' constructor takes
    assert TvltConfig(audio_mask_type="patch-level").to_dict()["audio_mask_type"] == "patch_level"
    assert TvltConfig().to_dict()["audio_mask_type"] == "frame-level"


def test_a_copy_changes_what_it_is_told() -> None:
    config = TvltConfig(id2label={0: "a", 1: "b"}, extras={"x": 1})
    assert config.replace(num_frames=2).id2label == {0: "a", 1: "b"}
    assert config.replace(num_labels=2).id2label == {0: "a", 1: "b"}
    assert config.replace(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.replace(id2label={0: "c"}).num_labels == 1
    assert config.replace(num_frames=2).extras == {"x": 1}
    with pytest.raises(ConfigError, match="num_frames is 0"):
        config.replace(num_frames=0)


def test_overrides_reach_the_file_s_values(tmp_path: Path) -> None:
    TvltConfig(num_frames=3, num_labels=5).save_pretrained(tmp_path)
    config = TvltConfig.from_pretrained(tmp_path, num_labels=2, hidden_act="relu")
    assert (config.num_frames, config.num_labels, config.hidden_act) == (3, 2, "relu")


# Sizes ---------------------------------------------------------------------------------------------------------------


def test_sizes_of_the_default_model() -> None:
    config = TvltConfig()
    assert (config.patches_per_frame, config.frequency_patches, config.time_patches) == (196, 8, 128)
    assert (config.pixel_patch_values, config.audio_patch_values) == (768, 256)
    oblong = TvltConfig(image_size=(64, 96), image_patch_size=(16, 32), audio_patch_size=(8, 64), num_image_channels=1)
    assert (oblong.patches_per_frame, oblong.frequency_patches, oblong.time_patches) == (12, 2, 256)
    assert (oblong.pixel_patch_values, oblong.audio_patch_values) == (512, 512)


@pytest.mark.parametrize("ratio", [0, 0.15, 0.3, 0.5, 0.75, 0.9, 1 / 3])
def test_kept_patches_are_counted_in_double_precision(ratio: float) -> None:
    config = TvltConfig(pixel_mask_ratio=ratio, audio_mask_ratio=ratio)
    for frames in range(1, 9):
        assert config.kept_pixel_patches(frames) == int(196 * frames * (1 - ratio))
    for steps in range(1, 129):
        assert config.kept_audio_patches(steps) == int(8 * steps * (1 - ratio))


def test_kept_patches_of_the_default_model() -> None:
    config = TvltConfig()
    assert (config.kept_pixel_patches(1), config.kept_pixel_patches(8)) == (49, 392)
    assert [config.kept_audio_patches(steps) for steps in (54, 64, 108, 128)] == [367, 435, 734, 870]
