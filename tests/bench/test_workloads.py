from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tvlt_deploy.bench.workloads import WORKLOADS, check_workload, make_workload, moving_picture, speech
from tvlt_deploy.errors import UsageError

FULL = (8, 24.0, 44100)


def test_sizes_of_the_default_model() -> None:
    for name, sizes in WORKLOADS.items():
        workload = make_workload(name, *FULL)
        assert [clip.shape for clip in workload.images] == [(frames, 360, 640, 3) for frames, _ in sizes]
        assert [len(wave) for wave in workload.audio] == [round(seconds * 44100) for _, seconds in sizes]
        assert workload.clips == len(sizes)
        assert workload.note == ""


def test_ragged_covers_every_number_of_frames() -> None:
    frames, seconds = zip(*WORKLOADS["ragged"], strict=True)
    assert frames == (1, 2, 3, 4, 5, 6, 7, 8)
    assert (min(seconds), max(seconds)) == (2.0, 20.0)
    assert make_workload("ragged", *FULL).description == "8 clips: 1 to 8 frames of 640x360, 2 to 20 s of sound"


def test_workloads_shrink_to_the_model_and_say_so() -> None:
    workload = make_workload("ragged", 4, 1.0, 44100)
    assert max(len(clip) for clip in workload.images) == 4
    assert max(len(wave) for wave in workload.audio) == 44100
    assert len({len(wave) for wave in workload.audio}) == 8, "ragged stays ragged"
    assert workload.note == "reduced: the model accepts at most 4 frames and 1 s of sound"
    assert len(make_workload("image10", 4, 24.0, 44100).images[0]) == 1


def test_pictures_and_sound_are_seeded_and_plausible() -> None:
    picture, sound = moving_picture(3, seed=1), speech(0.5, 44100, seed=1)
    assert (picture.dtype, sound.dtype, sound.shape) == (np.uint8, np.float32, (22050,))
    assert np.array_equal(picture, moving_picture(3, seed=1))
    assert np.array_equal(sound, speech(0.5, 44100, seed=1))
    assert not np.array_equal(picture, moving_picture(3, seed=2))
    assert (picture[0] != picture[1]).mean() > 0.5, "the picture moves"
    assert 20 < picture.std() < 100
    assert 0.01 < sound.std() < 0.5
    assert np.abs(sound).max() <= 1


def test_a_file_is_a_workload_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").touch()
    monkeypatch.chdir(tmp_path)
    assert check_workload("clip.mp4") == str(tmp_path / "clip.mp4")
    workload = make_workload(check_workload(Path("clip.mp4")), *FULL)
    assert (workload.name, workload.path, workload.clips) == ("clip.mp4", tmp_path / "clip.mp4", 1)


def test_an_unknown_workload_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="workload is 'clip99'; expected one of image10, clip10, ragged, or an existing"
    ):
        check_workload("clip99")
    with pytest.raises(UsageError, match="existing media file"):
        check_workload(tmp_path)
