"""Retrieval: the matrix against one pair at a time and against transformers, ranks by hand, and being killed."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import tvlt_deploy
from tests import truth
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.writer import update_manifest
from tvlt_deploy.cli import main
from tvlt_deploy.media import read_clip
from tvlt_deploy.workflows.retrieve import Ranking, Retrieval

pytest.importorskip("av")

COUNT = 12
BOUND = 1e-5
"""Max change of a logit by the other clips in the batch, in standard deviations of the logits. Measured: 2e-6 in a
batch that is half padding, 0 in those that a pipeline creates here."""


def write_picture(path: Path, seed: int) -> None:
    """An animation of one to four frames."""
    random = np.random.default_rng(seed)
    frames = [
        Image.fromarray((random.integers(0, 256, (4, 5, 3)) * random.random()).astype(np.uint8)).resize((50, 40))
        for _ in range(1 + seed % 4)
    ]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


def write_sound(path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    times = np.arange(int((0.2 + 0.09 * seed) * 16000)) / 16000
    samples = 0.3 * np.sin(2 * np.pi * 200 * (1 + seed) * times) + 0.02 * random.normal(size=len(times))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, a folder of sounds, with equal stems."""
    folder = tmp_path_factory.mktemp("clips")
    for name, write, suffix in (("videos", write_picture, "png"), ("sounds", write_sound, "wav")):
        (folder / name).mkdir()
        for seed in range(COUNT):
            write(folder / name / f"clip{seed:02d}.{suffix}", seed)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def one_by_one(matching: Bundle, clips: Path, checkpoint_of: Callable[..., Path]) -> np.ndarray:
    """(sounds, videos): each pair a call of its own; the first dozen agree with transformers as well."""
    sounds = [read_clip(path).waveform for path in sorted((clips / "sounds").iterdir())]
    videos = [read_clip(path, frames=4).frames for path in sorted((clips / "videos").iterdir())]
    with tvlt_deploy.load(matching, threads=1) as pipe:
        logits = [[pipe([v], [s], 44100)["matching_logits"][0, 0] for v in videos] for s in sounds]  # type: ignore[call-overload]
        checkpoint = checkpoint_of("TvltForPreTraining")
        theirs = [
            truth.hf_answers("audio-visual-matching", checkpoint, pipe.inputs(v, sounds[0], 44100))["matching_logits"]
            for v in videos
        ]
    matrix = np.array(logits)
    np.testing.assert_allclose(matrix[0], np.ravel(theirs), rtol=0, atol=1e-4)
    return matrix


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=BOUND * expected.std())


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["retrieve", *(str(argument) for argument in arguments)])


def score(bundle: Bundle, clips: Path, **options: Any) -> tuple[Retrieval, list[str]]:
    lines: list[str] = []
    found = tvlt_deploy.retrieve(
        bundle, clips / "sounds", clips / "videos", threads=1, progress=lines.append, **options
    )
    return found, lines


# Scores --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tile", "padding"), [(16, 0.05), (5, 0.5)])
def test_the_matrix_is_that_of_one_pair_at_a_time(
    tile: int, padding: float, matching: Bundle, clips: Path, one_by_one: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tvlt_deploy.workflows.score_store.TILE", tile)
    monkeypatch.setattr("tvlt_deploy.inference.batching.MAX_PADDING", padding)
    found, lines = score(matching, clips)
    (ranking,) = found.rankings
    assert ranking.direction == "audio-to-video"
    assert [path.name for path in ranking.queries] == [f"clip{seed:02d}.wav" for seed in range(COUNT)]
    assert [path.name for path in ranking.gallery] == [f"clip{seed:02d}.png" for seed in range(COUNT)]
    assert_same(ranking.matching_logits, one_by_one)
    assert lines[-1] == "144/144 pairs"
    assert (found.clips, found.failed) == (24, ())


def test_both_directions_come_from_the_same_pairs(
    matching: Bundle, clips: Path, one_by_one: np.ndarray, tmp_path: Path
) -> None:
    both = tmp_path / "both"
    for folder in ("videos", "sounds"):
        shutil.copytree(clips / folder, both, dirs_exist_ok=True)
    lines: list[str] = []
    found = tvlt_deploy.retrieve(matching, both, both, progress=lines.append)
    to_video, to_audio = found.rankings
    assert (to_video.direction, to_audio.direction) == tvlt_deploy.workflows.retrieve.DIRECTIONS
    assert_same(to_video.matching_logits, one_by_one)
    np.testing.assert_array_equal(to_audio.matching_logits, to_video.matching_logits.T)
    assert lines[-1] == "144/144 pairs"  # and not twice as many
    only = tvlt_deploy.retrieve(matching, both, both, directions=["video-to-audio"]).rankings
    assert [ranking.direction for ranking in only] == ["video-to-audio"]
    np.testing.assert_array_equal(only[0].matching_logits, to_audio.matching_logits)


# Ranks ---------------------------------------------------------------------------------------------------------------


def ranking(logits: list[list[float]], queries: str, gallery: str) -> Ranking:
    paths = [tuple(Path("x") / name for name in names.split()) for names in (queries, gallery)]
    return Ranking("audio-to-video", paths[0], paths[1], np.array(logits, np.float32))


def test_ranks_recalls_and_scores_are_those_of_the_definition() -> None:
    found = ranking(
        [[0, 3, 1, 2], [5, 4, 6, 6], [1, 0, 0, -1], [0, 0, 0, 0], [9, 8, 7, 6]],
        "a.wav b.wav c.wav d.wav e.wav",
        "a.mp4 b.mp4 c.mp4 d.mp4",
    )
    # c shares its score with one other; all of d's are equal; e has no partner
    assert found.ranks == (4, 4, 3, 4, None)
    assert found.recalls == {1: 0, 5: 1, 10: 1}
    assert (found.known_pairs, found.median_rank) == (4, 4)
    assert [item.name for item, _ in found.top(2)[0]] == ["b.mp4", "d.mp4"]
    assert found.top(1)[4][0][1] == pytest.approx(1 / (1 + np.exp(-9)))
    best = ranking([[0, 1], [0, 1]], "a.wav b.wav", "a.mp4 b.mp4")
    assert best.ranks == (2, 1)
    assert best.recalls[1] == 0.5


def test_the_best_of_several_partners_counts_and_none_known_is_no_recall() -> None:
    assert ranking([[1, 2, 3]], "a.wav", "a.mp4 b.mp4 a.mkv").ranks == (1,)
    assert ranking([[1, 2]], "z.wav", "a.mp4 b.mp4").recalls == {}


def test_the_command_prints_what_was_found(matching: Bundle, clips: Path, one_by_one: np.ndarray) -> None:
    result = invoke(
        matching.directory, "--queries", clips / "sounds", "--gallery", clips / "videos", "--json", "--top", 3, "-q"
    )
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["rankings"]
    assert_same(np.array(found["matching_logits"]), one_by_one)
    for row, query in zip(one_by_one, found["results"], strict=True):
        assert [Path(item["media"]).stem for item in query["top"]] == [f"clip{i:02d}" for i in np.argsort(-row)[:3]]
    places = [1 + int((row > row[index]).sum()) for index, row in enumerate(one_by_one)]
    assert [query["rank"] for query in found["results"]] == places
    assert found["recall"] == {f"R@{k}": pytest.approx(np.mean(np.array(places) <= k)) for k in (1, 5, 10)}
    table = invoke(matching.directory, "--queries", clips / "sounds", "--gallery", clips / "videos", "-q")
    assert "audio-to-video: 12 x 12 pairs" in table.stdout
    assert f"R@5 {found['recall']['R@5']:.1%}" in table.stdout


# Interruption --------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import tvlt_deploy, tvlt_deploy.inference.batching
bundle, queries, gallery, moment = sys.argv[1:]
tvlt_deploy.inference.batching.MAX_BATCH_TOKENS["cpu"] = 100

def progress(line):
    if line.startswith(moment):
        os.kill(os.getpid(), signal.SIGKILL)

tvlt_deploy.retrieve(bundle, queries, gallery, threads=1, progress=progress)
"""


def kill_at(moment: str, bundle: Bundle, clips: Path) -> None:
    command = [sys.executable, "-c", KILLED, bundle.directory, clips / "sounds", clips / "videos", moment]
    assert subprocess.run([str(word) for word in command]).returncode == -signal.SIGKILL


def test_it_goes_on_where_it_was_killed(matching: Bundle, clips: Path, one_by_one: np.ndarray) -> None:
    for moment in ("reading 7/24", "72/144 pairs"):
        kill_at(moment, matching, clips)
    result = invoke(matching.directory, "--queries", clips / "sounds", "--gallery", clips / "videos", "--json")
    assert result.exit_code == 0, result.output
    assert "\n72/144 pairs were scored before\n" in result.stderr
    assert "\n73/144 pairs\n" in result.stderr or "\n74/144 pairs\n" in result.stderr
    (found,) = json.loads(result.stdout)["rankings"]
    assert_same(np.array(found["matching_logits"]), one_by_one)


def test_finished_scores_are_given_at_once(matching: Bundle, clips: Path, cache: Path) -> None:
    first, _ = score(matching, clips)
    again, lines = score(matching, clips)
    assert lines[-1] == "144/144 pairs were scored before"
    np.testing.assert_array_equal(first.rankings[0].matching_logits, again.rankings[0].matching_logits)
    assert sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) < 16_000  # no arrays are left


def test_a_damaged_cache_is_written_again(matching: Bundle, clips: Path, cache: Path) -> None:
    first, _ = score(matching, clips)
    for path in cache.rglob("*"):
        if path.suffix in (".npy", ".json"):
            path.write_bytes(path.read_bytes()[:7])
    again, _ = score(matching, clips)
    np.testing.assert_array_equal(first.rankings[0].matching_logits, again.rankings[0].matching_logits)


def test_scores_of_other_clips_windows_or_runtimes_are_never_used(
    matching: Bundle, clips: Path, copy_of: Callable[[Bundle], Path], tmp_path: Path
) -> None:
    few = tmp_path / "few"
    for name, seed in itertools.product(("sounds", "videos"), range(2)):
        (few / name).mkdir(parents=True, exist_ok=True)
        file = sorted((clips / name).iterdir())[seed]
        shutil.copy(file, few / name)
    first, _ = score(matching, few)

    def fresh(bundle: Bundle = matching, **options: Any) -> bool:
        found, lines = score(bundle, few, **options)
        assert found.rankings[0].matching_logits.shape == (2, 2)
        return not any("scored before" in line for line in lines)

    assert not fresh()
    assert fresh(duration=0.1)
    assert fresh(backend="torch")
    other = Bundle(copy_of(matching))
    assert not fresh(other)  # the same bundle in another place
    update_manifest(other, lambda manifest: replace(manifest, created_by="somebody else"))
    assert fresh(other)
    write_sound(few / "sounds" / "clip00.wav", 9)
    assert fresh()
    changed, _ = score(matching, few)
    assert (changed.rankings[0].matching_logits[0] != first.rankings[0].matching_logits[0]).all()


# What can be wrong ---------------------------------------------------------------------------------------------------


def test_a_bad_clip_spoils_only_itself(matching: Bundle, clips: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clips / "videos", tmp_path / "videos"))
    (folder / "clip03.png").write_bytes(b"no picture at all")
    result = invoke(matching.directory, "--queries", clips / "sounds", "--gallery", folder, "--json", "-q")
    assert result.exit_code == 5, result.output
    found = json.loads(result.stdout)
    assert [Path(item["media"]).name for item in found["failed"]] == ["clip03.png"]
    assert "clip03.png" in result.stderr
    (ranking,) = found["rankings"]
    assert np.shape(ranking["matching_logits"]) == (12, 11)
    assert ranking["results"][3]["rank"] is None
    assert ranking["known_pairs"] == 11


def test_a_clip_without_the_modality_asked_for_is_named(matching: Bundle, clips: Path) -> None:
    sound, video = clips / "sounds" / "clip01.wav", clips / "videos" / "clip01.png"
    result = invoke(
        matching.directory, "--queries", sound, "--queries", video, "--gallery", clips / "videos",
        "--direction", "audio-to-video", "--json", "-q",
    )  # fmt: skip
    assert result.exit_code == 5, result.output
    assert "clip01.png: has no sound, which audio-to-video needs" in result.stderr
    assert np.shape(json.loads(result.stdout)["rankings"][0]["matching_logits"]) == (1, 12)


def test_a_clip_that_one_direction_ranks_is_no_failure(matching: Bundle, clips: Path, tmp_path: Path) -> None:
    for name in ("clip01", "clip02"):
        for kind, suffix in (("sounds", "wav"), ("videos", "png")):
            shutil.copy(clips / kind / f"{name}.{suffix}", tmp_path)
    shutil.copy(clips / "sounds" / "clip03.wav", tmp_path)
    result = invoke(matching.directory, "--queries", tmp_path, "--gallery", tmp_path, "--json", "-q")
    assert result.exit_code == 0, result.output
    sizes = {r["direction"]: np.shape(r["matching_logits"]) for r in json.loads(result.stdout)["rankings"]}
    assert sizes == {"audio-to-video": (3, 2), "video-to-audio": (2, 3)}


def test_what_cannot_be_meant_is_a_usage_error(matching: Bundle, classification: Bundle, clips: Path) -> None:
    for bundle, gallery, text in (
        (classification, clips / "videos", "is for audio-visual-classification; retrieval needs audio-visual-matching"),
        (matching, clips / "sounds", "sounds find videos, and videos find sounds"),
        (matching, clips / "nowhere", "does not exist"),
    ):
        result = invoke(bundle.directory, "--queries", clips / "sounds", "--gallery", gallery)
        assert result.exit_code == 2, result.output
        assert text in result.stderr
