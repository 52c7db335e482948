"""Pictures of what the model saw: colours that mean something are counted and located in the PNG."""

from __future__ import annotations

import dataclasses
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import tvlt_deploy
from tests.reference import hf
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.cli import main
from tvlt_deploy.inference.contact_sheet import draw, unpatchify
from tvlt_deploy.inference.files import answer_files

pytest.importorskip("av")

GREEN, RED = (10, 200, 30), (200, 10, 30)
YELLOW, DARK = (253, 231, 37), (68, 1, 84)
"""Ends of the colours of a spectrogram: 1 and -1."""


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=-1).sum())


def panel(picture: np.ndarray) -> np.ndarray:
    """The spectrogram: the rows that are nearly all of a colour that is no grey, without its axes."""
    coloured = (picture.max(axis=-1) - picture.min(axis=-1).astype(int)) > 8
    rows, columns = np.flatnonzero(coloured.mean(axis=1) > 0.8), np.flatnonzero(coloured.mean(axis=0) > 0.3)
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.fixture
def still(tmp_path: Path) -> Path:
    path = tmp_path / "still.png"
    Image.new("RGB", (48, 40), GREEN).save(path)
    return path


def write_sound(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def sheet(bundle: Bundle, *arguments: object) -> np.ndarray:
    media, *options = arguments
    folder = Path(str(media)).parent / "pictures"
    command = ["run", bundle.directory, media, "--picture", folder, "-q", *options]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    with Image.open(folder / f"{Path(str(media)).name}.png") as picture:
        return np.asarray(picture.convert("RGB"))


def test_frames_are_shown_as_they_were(classification: Bundle, still: Path) -> None:
    found = sheet(classification, still)
    assert count(found, GREEN) == 224 * 224  # one frame of 32x32, seven times as large
    top = np.flatnonzero((found == GREEN).all(axis=-1).any(axis=1))
    assert len(top) == 224


@pytest.mark.parametrize("hertz", [500, 2000, 8000])
def test_low_frequencies_are_at_the_bottom_on_a_mel_axis(hertz: int, matching: Bundle, tmp_path: Path) -> None:
    from transformers.audio_utils import hertz_to_mel

    times = np.arange(44100) / 44100
    actual = panel(sheet(matching, write_sound(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * hertz * times))))
    assert actual.shape[0] == 256
    brightness = actual.astype(float).sum(axis=-1).mean(axis=1)
    expected = 1 - hertz_to_mel(hertz, "slaney") / hertz_to_mel(22050, "slaney")
    assert brightness.argmax() / 256 == pytest.approx(expected, abs=0.04)  # one filter of 32


def test_time_goes_to_the_right(matching: Bundle, tmp_path: Path) -> None:
    samples = np.zeros(44100)
    samples[11025:11525] = np.random.default_rng(0).uniform(-1, 1, 500)
    found = panel(sheet(matching, write_sound(tmp_path / "click.wav", samples)))
    rows = 96  # 86 rows of 512 samples in whole patches
    loudest = found.astype(float).sum(axis=-1).mean(axis=0).argmax() / found.shape[1]
    assert loudest == pytest.approx(11275 / 512 / rows, abs=2 / rows)


def test_patches_go_back_where_transformers_took_them_from() -> None:
    model = hf.transformers.TvltForPreTraining(hf.hf_config())
    random = np.random.default_rng(0)
    pixels = random.normal(size=(1, 3, 3, 32, 32)).astype(np.float32)
    audio = random.normal(size=(1, 1, 48, 32)).astype(np.float32)
    patches = model.patchify_pixel(torch.from_numpy(pixels))[0].numpy()
    np.testing.assert_array_equal(unpatchify(patches, (3, 2, 2), (16, 16)), pixels[0])
    patches = model.patchify_audio(torch.from_numpy(audio))[0].numpy()
    np.testing.assert_array_equal(unpatchify(patches, (1, 3, 2), (16, 16))[0], audio[0])


def test_a_reconstruction_shows_what_was_hidden_and_what_was_rebuilt(
    reconstruction: Bundle, still: Path, tmp_path: Path
) -> None:
    sound = write_sound(tmp_path / "still.wav", np.zeros(7 * 16 * 512))  # silence: all values are -1
    with tvlt_deploy.load(reconstruction) as pipeline:
        (answer,) = answer_files(pipeline, [(still, sound)])
        outputs = dict(answer.outputs)
        # rebuilt: frames all red, sound all loud
        red = np.tile((np.array(RED, np.float32) / 255 - 0.5) / 0.5, 256)
        outputs["pixel_logits"] = np.broadcast_to(red, outputs["pixel_logits"].shape).astype(np.float32)
        outputs["audio_logits"] = np.full_like(outputs["audio_logits"], 1)
        found = np.asarray(draw(pipeline, dataclasses.replace(answer, outputs=outputs)))
    frame = 224 * 224
    hidden = outputs["pixel_label_mask"].sum() / 4
    assert hidden == 0.75
    assert count(found, GREEN) == frame * (1 + (1 - hidden))  # the original, and what the encoder saw
    assert count(found, RED) == frame * (hidden + 1)  # the hidden patches rebuilt, and all patches
    share = outputs["audio_label_mask"].mean()
    assert 0.1 < share < 0.3
    loud, silent = count(found, YELLOW), count(found, DARK)
    assert silent / loud == pytest.approx((1 + (1 - share)) / (share + 1), rel=0.01)


def test_an_absent_half_is_said_and_a_bad_clip_has_no_picture(
    matching: Bundle, reconstruction: Bundle, still: Path
) -> None:
    (still.parent / "bad.png").write_bytes(b"no picture")
    folder = still.parent / "pictures"
    for bundle in (matching, reconstruction):
        command = ["run", bundle.directory, still.parent, "--picture", folder, "-q"]
        result = CliRunner().invoke(main, [str(word) for word in command])
        assert result.exit_code == 5, result.output
        assert [path.name for path in folder.iterdir()] == ["still.png.png"]
