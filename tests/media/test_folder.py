from __future__ import annotations

import os

import pytest

from tvlt_deploy.errors import InputError
from tvlt_deploy.media import MEDIA_SUFFIXES, is_media, pair_folder


def fill(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def named(pairs):
    return [(media.name, None if sound is None else sound.name) for media, sound in pairs]


def test_equal_stems_pair_up(tmp_path):
    fill(
        tmp_path, "b.mp4", "b.wav", "a.mkv", "c.flac", "d.jpg", "d.MP3", "notes.txt", ".hidden.mp4", "e.v1.mp4", "e.wav"
    )
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    assert named(pair_folder(tmp_path)) == [
        ("a.mkv", None), ("b.mp4", "b.wav"), ("c.flac", None), ("d.jpg", "d.MP3"), ("e.v1.mp4", None), ("e.wav", None),
    ]  # fmt: skip


def test_doubles_without_a_partner_stand_alone(tmp_path):
    assert named(pair_folder(fill(tmp_path, "a.mp4", "a.mkv"))) == [("a.mkv", None), ("a.mp4", None)]


@pytest.mark.parametrize("names", [("a.mp4", "a.mkv", "a.wav"), ("a.mp4", "a.wav", "a.mp3")])
def test_which_belong_together_is_never_guessed(tmp_path, names):
    with pytest.raises(InputError, match="which belong together"):
        pair_folder(fill(tmp_path, *names))


def test_not_a_folder(tmp_path):
    with pytest.raises(InputError, match="cannot be listed: No such file"):
        pair_folder(tmp_path / "nothing")
    with pytest.raises(InputError, match="cannot be listed: Not a directory"):
        pair_folder(fill(tmp_path, "a.mp4") / "a.mp4")
    assert pair_folder(tmp_path / "..") is not None


def test_is_media():
    assert is_media("x/Clip.MP4")
    assert not is_media("notes.txt")
    assert not is_media("playlist.m3u8")
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in MEDIA_SUFFIXES)
