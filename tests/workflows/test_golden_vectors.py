"""Golden vectors against closed forms and transformers; the checker against arrays that are wrong in known places."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.reference import hf
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.cli import main
from tvlt_deploy.errors import BundleError, FileRefusedError, UsageError, VerdictError
from tvlt_deploy.runtimes.onnxruntime import open_fused
from tvlt_deploy.workflows.golden_vectors import GIVEN, STAGES, check_dump, raise_on_difference, write_vectors

RATE = 44100


@pytest.fixture(scope="module")
def vectors(classification: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("conformance") / "vectors"
    done = CliRunner().invoke(main, ["conformance", str(classification.directory), str(place), "-q"])
    assert (done.exit_code, done.stdout) == (0, f"wrote {place / 'index.json'}\n")
    return place


@pytest.fixture
def dump(vectors: Path, tmp_path: Path) -> Path:
    """The output of a program that is right."""
    return shutil.copytree(vectors, tmp_path / "dump", ignore=shutil.ignore_patterns("index.json"))


def index_of(vectors: Path) -> dict[str, Any]:
    return dict(json.loads((vectors / "index.json").read_text()))


def clips_of(vectors: Path) -> dict[str, dict[str, np.ndarray]]:
    return {
        clip["name"]: {name: np.load(vectors / array["file"]) for name, array in clip["arrays"].items()}
        for clip in index_of(vectors)["clips"]
    }


def test_the_index_tells_every_array(vectors: Path) -> None:
    index = index_of(vectors)
    assert index["given"] == list(GIVEN)
    assert [stage["name"] for stage in index["stages"]] == [*(stage.name for stage in STAGES), "logits"]
    listed = {array["file"]: array for clip in index["clips"] for array in clip["arrays"].values()}
    assert {str(path.relative_to(vectors)) for path in vectors.rglob("*.npy")} == set(listed)
    for file, array in listed.items():
        values = np.load(vectors / file)
        assert (values.dtype.name, list(values.shape)) == (array["dtype"], array["shape"])
    arrays = {clip["name"]: set(clip["arrays"]) for clip in index["clips"]}
    picture, sound = {"frames", "resized", "pixel_values"}, {"waveform", "spectrum", "mel", "decibel", "audio_values"}
    always = {"pixel_mask", "audio_mask", "logits"}
    assert arrays["landscape"] == picture | sound | always
    assert (arrays["no sound"], arrays["no frames"]) == (picture | always, sound | always)


def test_sound_stages_are_what_they_say(vectors: Path) -> None:
    for name, arrays in clips_of(vectors).items():
        if "waveform" not in arrays:
            continue
        wave = arrays["waveform"].astype(np.float64)
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave, 1024, mode="reflect"), 2048)[::512]
        power = np.abs(np.fft.rfft(frames * np.hanning(2049)[:-1])) ** 2
        np.testing.assert_allclose(arrays["spectrum"], power, rtol=0, atol=1e-6 * max(power.max(), 1e-30), err_msg=name)
        bank = hf.transformers.TvltFeatureExtractor(feature_size=32).mel_filters
        mel = power @ (bank if bank.shape[0] == power.shape[1] else bank.T)
        np.testing.assert_allclose(arrays["mel"], mel, rtol=0, atol=1e-6 * max(mel.max(), 1e-30), err_msg=name)
        decibel = 10 * np.log10(np.maximum(mel, 1e-10))
        decibel = np.maximum(decibel, decibel.max() - 80)[: len(arrays["decibel"])]
        np.testing.assert_allclose(arrays["decibel"], decibel, rtol=0, atol=2e-3, err_msg=name)
        features = arrays["audio_values"][0, 0, : len(decibel)]
        np.testing.assert_allclose(features, np.clip((decibel - 20) / 40, -2, 0) + 1, rtol=0, atol=5e-5, err_msg=name)


def test_picture_stages_are_those_of_transformers(vectors: Path, classification: Bundle) -> None:
    settings = json.loads(classification.path("preprocessor_config.json").read_text())["image_processor"]
    arrays = clips_of(vectors)["landscape"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = hf.transformers.TvltImageProcessor(**settings)
        levels = theirs(list(arrays["frames"]), do_rescale=False, do_normalize=False, return_tensors="np")
        pixels = theirs(list(arrays["frames"]), return_tensors="np")
    np.testing.assert_array_equal(arrays["resized"], levels["pixel_values"][0])
    np.testing.assert_array_equal(arrays["pixel_values"], pixels["pixel_values"])
    np.testing.assert_array_equal(arrays["pixel_mask"], pixels["pixel_mask"])


def test_the_right_answers_pass(classification: Bundle, vectors: Path, dump: Path) -> None:
    done = CliRunner().invoke(
        main, ["conformance", str(classification.directory), str(vectors), "--check", str(dump), "--json"]
    )
    assert done.exit_code == 0
    assert {(row["difference"], row["passed"]) for row in json.loads(done.stdout)} == {(0.0, True)}


@pytest.mark.parametrize(
    ("stage", "size"), [("resized", 1), ("pixel_values", 1e-4), ("mel", 0.5), ("decibel", 0.01), ("audio_mask", 1)]
)
def test_the_first_wrong_stage_is_named(
    classification: Bundle, vectors: Path, dump: Path, stage: str, size: float
) -> None:
    """One value of one clip is wrong there, and everything after it."""
    for later in ("logits", stage):
        path = dump / "02" / f"{later}.npy"
        values = np.load(path)
        values.reshape(-1)[-1] += np.asarray(size, values.dtype) * (abs(values).max() if stage == "mel" else 1)
        np.save(path, values)
    done = CliRunner().invoke(main, ["conformance", str(classification.directory), str(vectors), "--check", str(dump)])
    assert done.exit_code == 3
    said = re.search(r"the first stage that differs is (\w+): (\S+) in the clip 'landscape'", done.stderr)
    assert said is not None
    assert said[1] == stage
    assert float(said[2]) == pytest.approx(size, rel=0.01)


def test_shapes_and_nan_differ(classification: Bundle, vectors: Path, dump: Path) -> None:
    np.save(dump / "00" / "decibel.npy", np.full_like(np.load(dump / "00" / "decibel.npy"), np.nan))
    with pytest.raises(VerdictError, match="first stage that differs is decibel: nan"):
        raise_on_difference(check_dump(classification, vectors, dump))
    np.save(dump / "01" / "mel.npy", np.zeros((3, 2)))
    with pytest.raises(VerdictError, match=r"is mel: inf .* its shape is \(3, 2\), expected \("):
        raise_on_difference(check_dump(classification, vectors, dump))


def test_a_program_gives_what_it_has(classification: Bundle, vectors: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    for place in sorted(vectors.glob("*/logits.npy")):
        (part / place.parent.name).mkdir(parents=True)
        shutil.copy(place, part / place.parent.name)
    (row,) = check_dump(classification, vectors, part)
    assert (row.stage, row.clips, row.passed) == ("logits", len(list(part.iterdir())), True)
    (part / "03" / "logits.npy").unlink()  # as by a program that stopped half-way
    with pytest.raises(VerdictError, match=r"is logits: inf .* the dump contains .* but no 03/logits"):
        raise_on_difference(check_dump(classification, vectors, part))
    with pytest.raises(UsageError, match="no array of any stage"):
        check_dump(classification, vectors, tmp_path)


def test_the_fused_graph_conforms(classification: Bundle, vectors: Path, tmp_path: Path) -> None:
    from tvlt_deploy import fuse

    bundle = fuse(shutil.copytree(classification.directory, tmp_path / "bundle"), verify=False)
    with open_fused(bundle, threads=1) as runtime:
        for number, arrays in enumerate(clips_of(vectors).values()):
            place = tmp_path / "dump" / f"{number:02d}"
            place.mkdir(parents=True)
            np.save(place / "logits.npy", runtime.run(arrays.get("frames"), arrays.get("waveform"))["logits"])
    (row,) = check_dump(bundle, vectors, tmp_path / "dump")
    assert (row.clips, row.passed) == (8, True)


def test_masking_noise_is_given(bundle_of: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = bundle_of("masked-reconstruction")
    write_vectors(bundle, tmp_path / "vectors", threads=1)
    arrays = clips_of(tmp_path / "vectors")["landscape"]
    assert arrays["pixel_noise"].shape == arrays["pixel_mask"].shape
    assert arrays["pixel_logits"].shape[:2] == arrays["pixel_label_mask"].shape == arrays["pixel_mask"].shape
    found = check_dump(bundle, tmp_path / "vectors", tmp_path / "vectors")
    outputs = ["pixel_logits", "audio_logits", "pixel_label_mask", "audio_label_mask"]
    assert [row.stage for row in found] == [*(stage.name for stage in STAGES), *outputs]


def test_refusals(classification: Bundle, matching: Bundle, vectors: Path, dump: Path) -> None:
    with pytest.raises(UsageError, match="not empty"):
        write_vectors(classification, vectors)
    with pytest.raises(BundleError, match="another bundle"):
        check_dump(matching, vectors, dump)
    with pytest.raises(FileRefusedError, match="not an index"):
        check_dump(classification, dump, dump)
    (dump / "00" / "mel.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(FileRefusedError, match=r"mel.npy is not an .npy file"):
        check_dump(classification, vectors, dump)
