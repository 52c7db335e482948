"""Answers in files and lines for other programs, read back by other programs."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import tvlt_deploy
from tests.cli.test_commands import write_wav
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.cli import main
from tvlt_deploy.media import read_clip

pytest.importorskip("av")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *(str(argument) for argument in arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture with its sound, a bad file, and a sound that is cut short."""
    place = tmp_path / "clips"
    place.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(place / "a.png")
    write_wav(place / "a.wav")
    (place / "b.mp4").write_bytes(b"no video at all")
    cut = write_wav(place / "c.wav", seconds=1)
    cut.write_bytes(cut.read_bytes()[: -cut.stat().st_size // 2])
    return place


def test_csv_has_the_same_columns_for_every_clip(classification: Bundle, folder: Path) -> None:
    result = run(classification.directory, folder, "--format", "csv", "-q")
    assert result.exit_code == 5
    good, bad, cut = csv.DictReader(io.StringIO(result.stdout))
    assert list(good) == [
        "media", "audio", "start", "duration", "frames", "sound", "warnings", "label", "score", "error",
        "score.LABEL_0", "score.LABEL_1",
    ]  # fmt: skip
    assert float(good["score.LABEL_0"]) + float(good["score.LABEL_1"]) == pytest.approx(1)
    assert (good["error"], good["warnings"]) == ("", "")
    assert "b.mp4" in bad["error"]
    assert bad["score.LABEL_0"] == bad["label"] == ""
    assert "the header states 1.00 s" in cut["warnings"]


def test_csv_of_arrays_tells_their_shapes(features: Bundle, folder: Path) -> None:
    result = run(features.directory, folder, "--format", "csv", "-q")
    good, bad, cut = csv.DictReader(io.StringIO(result.stdout))
    assert [good[name] for name in features.task.output_names] == ["11x64", "4x64", "6x64"]
    assert [bad[name] for name in features.task.output_names] == ["", "", ""]
    assert cut["last_pixel_hidden_state"] == "0x64"


def test_lines_are_out_before_the_next_clips_are_read(
    matching: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvlt_deploy.inference import files as batch

    monkeypatch.setattr(batch, "GROUP", 1)
    read, seen = batch.read_source, []

    def stop_at_the_third(*arguments: object, **options: object) -> object:
        seen.append(arguments)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return read(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(batch, "read_source", stop_at_the_third)
    result = run(matching.directory, folder, "--format", "csv", "-q")
    assert result.exit_code == 130
    assert [row["media"] for row in csv.DictReader(io.StringIO(result.stdout))] == [
        str(folder / "a.png"),
        str(folder / "b.mp4"),
    ]


def test_parquet_holds_every_answer_and_array(
    features: Bundle, classification: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("tvlt_deploy.inference.writers.ROW_GROUP_BYTES", 1)
    clip = read_clip(folder / "a.png", audio=folder / "a.wav", frames=4)
    for bundle in (features, classification):
        path = folder.parent / "out" / "answers.parquet"
        result = run(bundle.directory, folder, "--format", "parquet", "--output", path, "-q")
        assert result.exit_code == 5, result.output
        assert result.stdout == f"{path}\n"
        good, bad, cut = parquet.read_table(path).to_pylist()
        with tvlt_deploy.load(bundle) as pipe:
            expected = pipe([clip.frames], [clip.waveform], 44100)
        for name, values in expected.items():
            actual = np.array(good[name], np.float32)
            assert actual.shape == values[0].shape
            np.testing.assert_allclose(actual, values[0], rtol=0, atol=1e-6)
            assert bad[name] is None
        assert (good["media"], good["audio"], good["frames"]) == (str(folder / "a.png"), str(folder / "a.wav"), 1)
        assert "b.mp4" in bad["error"]
        assert "the header states" in cut["warnings"][0]
    assert good["score.LABEL_0"] + good["score.LABEL_1"] == pytest.approx(1)
    assert cut["label"] in ("LABEL_0", "LABEL_1")


def test_parquet_without_its_library_says_how_to_get_it(
    features: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run(features.directory, folder, "--format", "parquet", "--output", folder / "x.parquet", "-q")
    assert result.exit_code == 4
    assert "pip install 'tvlt-deploy[parquet]'" in result.stderr
    assert not (folder / "x.parquet").exists()


def test_an_interrupted_parquet_file_is_not_there(
    features: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")

    def interrupted(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("tvlt_deploy.inference.files.read_source", interrupted)
    out = folder.parent / "out"
    assert run(features.directory, folder, "--format", "parquet", "--output", out / "x.parquet").exit_code == 130
    assert list(out.iterdir()) == []
