"""Profiles: sizes that agree with each other and with the model, from text and from the manifest."""

from __future__ import annotations

import pytest

from tvlt_deploy._internal.typed_json import FieldError, decode, encode
from tvlt_deploy.bundle.manifest import EngineProfile
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import UsageError
from tvlt_deploy.tasks import TASKS
from tvlt_deploy.tensorrt.profiles import Profile, default_profile, parse_profile, profile_hash

BASE = TvltConfig()
RATE = 44100 / 512


def test_the_example_of_the_command() -> None:
    profile = parse_profile("batch=1:1:4,frames=1:4:8,seconds=1:10:23.7", BASE, RATE)
    assert profile == Profile((1, 1, 4), (1, 4, 8), (96, 864, 2048))
    assert str(profile) == "batch=1:1:4,frames=1:4:8,rows=96:864:2048"


def test_sizes_left_out_take_everything_and_one_number_is_all_three() -> None:
    assert default_profile(BASE, RATE) == Profile((1, 1, 4), (1, 4, 8), (16, 864, 2048))
    assert parse_profile("batch=2", BASE, RATE) == Profile((2, 2, 2), (1, 4, 8), (16, 864, 2048))
    assert parse_profile("rows=864, frames=8", BASE, RATE) == Profile((1, 1, 4), (8, 8, 8), (864, 864, 864))
    assert parse_profile("seconds=0:0:10", BASE, RATE).rows == (16, 16, 864)


def test_default_profiles_fit_any_model() -> None:
    tiny = TvltConfig(num_frames=1, spectrogram_length=24)
    assert default_profile(tiny, RATE) == Profile((1, 1, 4), (1, 1, 1), (16, 16, 16))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frames=1:4:9", r"frames 1:4:9; expected 1 to 8 \(for example --profile batch="),
        ("frames=0:4:8", "frames 0:4:8; expected 1 to 8"),
        ("batch=0:1:2", "batch 0:1:2; expected at least 1"),
        ("batch=2:1:4", "batch 2:1:4; expected min:optimal:max in order"),
        ("rows=16:864:2064", r"rows 16:864:2064; expected 16 to 2048 \(23\.78 seconds\)"),
        ("rows=16:100:2048", "100 rows; expected whole patches of 16"),
        ("seconds=1:10:25", "rows 96:864:2160; expected 16 to 2048"),
        ("frames=1.5", "frames 1.5; expected whole numbers"),
        ("frames=1:2", "frames='1:2'; expected min:optimal:max or one number"),
        ("batch=one", "batch='one'; expected"),
        ("batch=nan", "batch='nan'; expected"),
        ("seconds=inf", "seconds='inf'; expected"),
        ("batch=-1", "batch='-1'; expected"),
        ("batch", "has 'batch'; expected batch=, frames=, rows= or seconds="),
        ("height=224", "has 'height=224'; expected batch="),
        ("batch=1,batch=2", "has batch twice"),
        ("rows=16,seconds=1", "has both rows and seconds"),
        ("", "has ''; expected batch="),
    ],
)
def test_profiles_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_profile(text, BASE, RATE)


@pytest.mark.parametrize("task", TASKS)
def test_all_inputs_agree(task: str) -> None:
    shapes = Profile((1, 2, 4), (1, 4, 8), (16, 864, 2048)).input_shapes(TASKS[task], BASE)
    assert list(shapes) == list(TASKS[task].inputs(BASE))
    assert shapes["pixel_values"] == ((1, 1, 3, 224, 224), (2, 4, 3, 224, 224), (4, 8, 3, 224, 224))
    assert shapes["audio_values"] == ((1, 1, 16, 128), (2, 1, 864, 128), (4, 1, 2048, 128))
    assert shapes["pixel_mask"] == ((1, 196), (2, 784), (4, 1568))
    assert shapes["audio_mask"] == ((1, 8), (2, 432), (4, 1024))
    if TASKS[task].needs_noise:
        assert (shapes["pixel_noise"], shapes["audio_noise"]) == (shapes["pixel_mask"], shapes["audio_mask"])


def test_what_a_profile_holds_and_is_nearest_to() -> None:
    small, large = Profile((1, 1, 4), (1, 1, 8), (16, 16, 2048)), Profile((1, 4, 4), (1, 8, 8), (16, 2048, 2048))
    assert small.contains(4, 8, 2048)
    assert not small.contains(5, 8, 2048)
    assert not large.contains(1, 9, 16)
    assert small.distance(1, 1, 16) == 0 < large.distance(1, 1, 16)
    assert large.distance(4, 8, 2048) == 0 < small.distance(4, 8, 2048)


def test_the_manifest_keeps_profiles() -> None:
    profile = Profile((1, 1, 4), (1, 4, 8), (16, 864, 2048))
    assert Profile.from_entry(profile.to_entry()) == profile
    assert decode(EngineProfile, encode(profile.to_entry())) == profile.to_entry()
    entry = encode(profile.to_entry())
    for bad in ({}, {"batch": [1, 1, 4], "frames": [1, 4], "rows": [16, 16, 16]}, {**entry, "rows": "1"}):
        with pytest.raises(FieldError, match="expected a list of 3 values"):
            decode(EngineProfile, bad)


def test_the_hash_names_a_list_of_profiles() -> None:
    one, two = Profile((1, 1, 4), (1, 4, 8), (16, 864, 2048)), Profile((1, 1, 1), (1, 4, 8), (16, 864, 2048))
    assert profile_hash([one]) == profile_hash([one])
    assert len({profile_hash(x) for x in ([one], [two], [one, two], [two, one])}) == 4
    assert len(profile_hash([one])) == 8
