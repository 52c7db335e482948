"""The files that snippets name, created once per session: a tiny checkpoint and bundle, and short media files."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.docs.markdown import ROOT
from tvlt_deploy.bundle import Bundle

FRAMES = 8
"""As many as the default model takes, so that snippets need not know that theirs is tiny."""


@pytest.fixture(scope="session")
def prepared(
    checkpoint_of: Callable[..., Path], bundle_of: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A directory with everything that snippets start from. Read only: `workplace` copies it."""
    from tests.media import files

    place = tmp_path_factory.mktemp("snippets")
    shutil.copytree(checkpoint_of("TvltForAudioVisualClassification", num_frames=FRAMES), place / "checkpoint")
    shutil.copytree(checkpoint_of("TvltForPreTraining", num_frames=FRAMES), place / "pretrained")
    shutil.copytree(bundle_of("audio-visual-classification", num_frames=FRAMES).directory, place / "bundle")
    original = ROOT / "tests" / "data" / "original"
    shutil.copyfile(original / "tiny_mosei_sentiment.ckpt", place / "small.ckpt")
    shutil.copyfile(original / "settings_mosei_sentiment.json", place / "settings.json")

    def video(path: Path, hertz: float | None, seed: int = 0) -> None:
        noise = np.random.default_rng(seed).integers(0, 255, (files.HEIGHT, files.WIDTH, 3), np.uint8)
        sound = None if hertz is None else files.tone(2.5, hertz=hertz)
        files.write(path, files.steady(50), sound, picture=lambda index: np.roll(noise, 3 * index, axis=1))

    def wave(path: Path, hertz: float) -> None:
        files.write(path, sound=(files.tone(2.0, hertz=hertz) * 32767).astype(np.int16), sound_codec="pcm_s16le")

    for folder in ("clips", "sounds", "videos"):
        (place / folder).mkdir()
    for index, hertz in enumerate((220, 440, 880, 1760)):
        video(place / "clips" / f"{index}.mp4", hertz, seed=index)
        wave(place / "sounds" / f"{index}.wav", hertz)
        video(place / "videos" / f"{index}.mp4", None, seed=index)
    for name in ("clip.mp4", "talk.mp4"):
        video(place / name, 330)
    video(place / "silent.mp4", None)
    for name in ("talk.wav", "sound.wav", "question.wav"):
        wave(place / name, 330)
    Image.fromarray(files.frame(5)).save(place / "photo.jpg")
    return place


@pytest.fixture
def workplace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in, as the current directory, with caches of its own and `tvlt-deploy` of this interpreter."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, call in (("tvlt-deploy", f'"{sys.executable}" -m tvlt_deploy'), ("python", f'"{sys.executable}"')):
        (commands / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the models are tiny: threads only wait for each other
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = Path(shutil.copytree(prepared, tmp_path / "place"))
    monkeypatch.chdir(place)
    return place
