"""The command line as a user meets it: what is printed, what is written, and the exit code."""

import csv
import ctypes
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import tvlt_deploy
from tests import original
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.cli import main

pytest.importorskip("av")

TINY_CONFIG = {
    "model_type": "tvlt", "image_size": 32, "spectrogram_length": 48, "frequency_length": 128, "num_frames": 2,
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write_wav(path: Path, seconds: float = 0.5, rate: int = 16000) -> Path:
    samples = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "tone.wav")


@pytest.fixture
def png(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "tone.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_helps_with_an_example(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"Example: tvlt-deploy {command}" in result.output


def test_the_main_job_from_nothing_to_an_answer(tmp_path: Path, wav: Path, png: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY_CONFIG))
    made = invoke("init-checkpoint", tmp_path / "checkpoint", "--config", config, "--seed", 3, "-q")
    assert made.exit_code == 0, made.output
    assert made.stderr == ""

    exported = invoke("export", tmp_path / "checkpoint", tmp_path / "bundle")
    assert exported.exit_code == 0, exported.output
    assert "audio-visual-matching" in exported.stdout
    assert "fp32/model.onnx" in exported.stdout
    assert "tracing the fp32 graph" in exported.stderr

    verified = invoke("verify", tmp_path / "bundle", "--json", "-q")
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["verdict"] == "pass"

    answered = invoke("run", tmp_path / "bundle", png, "--audio", wav, "--json", "-q")
    assert answered.exit_code == 0, answered.output
    answer = json.loads(answered.stdout)
    assert (answer["frames"], answer["sound"], answer["error"]) == (1, True, None)
    assert answer["label"] in ("match", "mismatch")
    assert sum(answer["scores"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_an_original_file_from_disk_to_a_bundle(tmp_path: Path) -> None:
    settings = original.DATA / "settings_mosei_sentiment.json"
    arguments = original.path_of("mosei_sentiment"), tmp_path / "bundle", "--config", settings, "--no-verify"
    exported = invoke("export", *arguments, "-q")
    assert exported.exit_code == 0, exported.output
    assert "weights  of the authors' code: mosei_sentiment, classifier" in exported.stdout
    assert "labels   sentiment" in exported.stdout
    assert "scores   none" in exported.stdout


def test_an_original_file_to_a_directory(tmp_path: Path) -> None:
    (tmp_path / "answers.txt").write_text("yes\nno\ntwo\nred\nleft\n")
    settings = original.DATA / "settings_vqa.json"
    arguments = original.path_of("vqa", "safetensors"), tmp_path / "made", "--config", settings
    converted = invoke("convert", *arguments, "--labels", tmp_path / "answers.txt", "-q")
    assert converted.exit_code == 0, converted.output
    assert "wrote TvltForAudioVisualClassification (vqa)" in converted.stdout
    assert "transformers has no class for this classifier" in converted.stdout
    labels = json.loads((tmp_path / "made" / "config.json").read_text())["id2label"]
    assert labels == {"0": "yes", "1": "no", "2": "two", "3": "red", "4": "left"}
    again = invoke("convert", *arguments)
    assert again.exit_code == 2
    assert "is not empty" in again.stderr


def test_the_same_seed_gives_the_same_checkpoint(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY_CONFIG))
    for name in ("one", "two"):
        assert invoke("init-checkpoint", tmp_path / name, "--config", config, "--seed", 3).exit_code == 0
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_checkpoint_in_the_way_is_kept(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    result = invoke("init-checkpoint", tmp_path)
    assert result.exit_code == 2
    assert "contains a checkpoint already" in result.stderr
    assert "hint: --force overwrites it" in result.stderr
    assert (tmp_path / "config.json").read_text() == "{}"


def test_inspect_tells_task_shapes_and_verdicts(classification: Bundle) -> None:
    table = invoke("inspect", classification.directory)
    assert table.exit_code == 0
    for text in ("audio-visual-classification", "pixel_values float32 (batch, frames, 3, ", "LABEL_0", "pass"):
        assert text in table.stdout
    whole = json.loads(invoke("inspect", classification.directory, "--json").stdout)
    assert [v["precision"] for v in whole["variants"]] == ["fp32", "fp32"]
    assert list(whole["inputs"]) == ["pixel_values", "audio_values", "pixel_mask", "audio_mask"]


def test_run_agrees_with_the_pipeline(classification: Bundle, wav: Path, png: Path) -> None:
    from tvlt_deploy.media import read_clip

    result = invoke("run", classification.directory, png, "--audio", wav, "--format", "csv", "-q")
    assert result.exit_code == 0, result.output
    row = next(csv.DictReader(io.StringIO(result.stdout)))
    clip = read_clip(png, audio=wav, frames=4)
    with tvlt_deploy.load(classification) as pipeline:
        answer = pipeline.predict([clip.frames], [clip.waveform], 44100)[0]
    assert row["label"] == answer.label
    assert {name: float(row[f"score.{name}"]) for name in answer.scores} == pytest.approx(answer.scores, rel=1e-9)


def test_run_states_the_window_it_read(matching: Bundle, tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "long.wav", seconds=3)
    result = invoke("run", matching.directory, sound, "--start", 1, "--duration", 0.25, "--json", "-q")
    answer = json.loads(result.stdout)
    assert (answer["start"], answer["duration"]) == (1, 0.25)
    longest = json.loads(invoke("run", matching.directory, sound, "--json", "-q").stdout)
    assert longest["duration"] == pytest.approx(112 * 512 / 44100, abs=2e-3)


def test_a_folder_pairs_equal_names_and_a_bad_file_spoils_only_itself(
    matching: Bundle, tmp_path: Path, wav: Path, png: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    result = invoke("run", matching.directory, tmp_path, "--json", "-q")
    assert result.exit_code == 5
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(Path(row["media"]).name, row["error"] is None) for row in rows] == [
        ("broken.mp4", False),
        ("tone.png", True),
    ]
    assert rows[1]["audio"] == str(wav)
    assert "broken.mp4" in result.stderr


def test_arrays_go_to_npy_files(features: Bundle, tmp_path: Path, wav: Path) -> None:
    result = invoke("run", features.directory, wav, "--format", "npy", "--output", tmp_path / "out", "-q")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"tone.wav.{name}.npy" for name in sorted(features.task.output_names)]
    hidden = np.load(tmp_path / "out" / "tone.wav.last_audio_hidden_state.npy")
    assert hidden.shape == (3 * 2, 64)  # 43 rows of sound fill three patches of 16, times two bands


def test_json_lines_of_arrays_tell_their_shapes(features: Bundle, wav: Path) -> None:
    row = json.loads(invoke("run", features.directory, wav, "--json", "-q").stdout)
    assert row["outputs"]["last_pixel_hidden_state"] == [0, 64]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("run", "{bundle}", "{wav}", "missing.mp4"), 2, "missing.mp4 does not exist"),
        (("run", "{bundle}", "{wav}", "--audio", "missing.wav"), 2, "missing.wav does not exist"),
        (("run", "{bundle}", "{wav}", "--format", "parquet"), 2, "--output FILE"),
        (("run", "{bundle}", "{wav}", "--backend", "tensorflow"), 2, "tensorflow"),
        (("run", "{bundle}", "{wav}", "--backend", "torch", "--precision", "int8"), 4, "does not run int8"),
        (("run", "{bundle}", "{wav}", "--device", "tpu"), 2, "expected cpu, cuda or cuda:N"),
        (("run", "{bundle}", "{wav}", "--start", "-1"), 2, "-1"),
        (("run", "{bundle}", "{wav}", "--start", "100"), 2, "100"),
        (("run", "{bundle}", "{wav}", "--format", "npy"), 2, "--output DIR"),
        (("run", "{bundle}", "{wav}", "{wav}", "--audio", "{wav}"), 2, "--audio is the sound of one media file"),
        (("run", "{bundle}", "{wav}", "{wav}", "--start", "-1"), 2, "-1"),
        (
            ("run", "{bundle}", "{wav}", "{wav}", "--format", "npy", "--output", "{tmp}/out"),
            2,
            "several clips are named",
        ),
        (("run", "{tmp}", "{wav}"), 5, "has no readable manifest.json"),
        (("inspect", "{tmp}/nowhere"), 5, "is not a directory"),
        (("export", "{tmp}/nowhere", "{tmp}/bundle"), 5, "does not exist"),
        (("export", "{tmp}", "{tmp}/bundle", "--precision", "int8"), 2, "tvlt-deploy quantize"),
        (("export", "{ckpt}", "{tmp}/bundle"), 2, "does not state its num_heads, num_frames"),
        (("convert", "{ckpt}", "{tmp}/made"), 2, "does not state its num_heads, num_frames"),
        (("convert", "{tmp}/nothing.ckpt", "{tmp}/made"), 5, "does not exist"),
        (("convert", "{wav}", "{tmp}/made"), 5, "tone.wav"),
        (
            ("export", "{ckpt}", "{tmp}/bundle", "--config", "{settings}", "--task", "masked-reconstruction"),
            5,
            "the tasks it can serve: feature-extraction, audio-visual-classification",
        ),
        (("verify", "{bundle}", "--precision", "fp16"), 2, "has no fp16"),
        (("bench", "{bundle}", "--workload", "nothing10"), 2, "nothing10"),
        (("bench", "{bundle}", "--report", "bench.pdf"), 2, ".pdf"),
        (("bench", "{bundle}", "--precision", "int8", "--workload", "image10", "-q"), 4, "nothing could be measured"),
        (("init-checkpoint", "{tmp}/new", "--seed", "-1"), 2, "-1"),
    ],
)
def test_errors_name_the_fault_and_set_the_exit_code(
    arguments: tuple[str, ...], code: int, text: str, matching: Bundle, tmp_path: Path, wav: Path
) -> None:
    places = {
        "bundle": matching.directory, "tmp": tmp_path, "wav": wav, "ckpt": original.path_of("mosei_sentiment"),
        "settings": original.DATA / "settings_mosei_sentiment.json",
    }  # fmt: skip
    result = invoke(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == code, result.output
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_cuda_without_a_device_is_an_error_with_a_hint(matching: Bundle, wav: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has a CUDA provider")
    result = invoke("run", matching.directory, wav, "--device", "cuda")
    assert result.exit_code == 4
    assert "CUDA is not available" in result.stderr
    assert "tvlt-deploy[gpu]" in result.stderr


def test_a_flipped_byte_exits_with_five(matching: Bundle, copy_of: Callable[[Bundle], Path], wav: Path) -> None:
    directory = copy_of(matching)
    data = directory / "fp32" / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    for command in (("run", directory, wav), ("verify", directory)):
        result = invoke(*command)
        assert result.exit_code == 5, result.output
        assert "model.onnx.data has SHA-256" in result.stderr


def test_a_missed_tolerance_exits_with_three_and_says_by_how_much(
    matching: Bundle, misfit_of: Callable[..., Path]
) -> None:
    directory = misfit_of(matching, "matching_head.fc.bias")
    result = invoke("verify", directory, "-q")
    assert result.exit_code == 3, result.output
    assert "missed by" in result.stdout
    assert "difference of matching_logits: 0.5, expected <= 0.0001 (missed by 0.5)" in result.stderr
    assert "fail" in invoke("inspect", directory).stdout


def test_strict_refuses_a_partly_read_clip(matching: Bundle, tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "cut.wav", seconds=1)
    sound.write_bytes(sound.read_bytes()[: -sound.stat().st_size // 2])
    warned = invoke("run", matching.directory, sound, "--json")
    assert warned.exit_code == 0, warned.output
    assert "warning: " in warned.stderr
    assert json.loads(warned.stdout)["warnings"]
    refused = invoke("run", matching.directory, sound, "--strict")
    assert refused.exit_code == 5
    assert "without --strict this is a warning" in refused.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_export_leaves_nothing(
    number: signal.Signals, code: int, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "from tvlt_deploy.cli import main; main()", "export"]
    process = subprocess.Popen(
        [*command, str(checkpoint_of("TvltModel")), str(tmp_path / "bundle")], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "tracing" in line:
            break
    time.sleep(0.3)
    os.kill(process.pid, number)
    process.stderr.read()
    assert process.wait(timeout=60) == code
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_works_and_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    found = json.loads(invoke("doctor", "--json").stdout)
    works = {finding["name"]: finding["works"] for finding in found["findings"]}
    assert works["onnxruntime on cpu"]
    assert works["media files"]
    assert found["packages"]["numpy"] == np.__version__
    assert found["machine"]["cores"] >= 1

    installed = importlib.metadata.version

    def without_av(name: str) -> str:
        if name == "av":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", without_av)
    lacking = {finding["name"]: finding for finding in json.loads(invoke("doctor", "--json").stdout)["findings"]}
    assert not lacking["media files"]["works"]
    assert lacking["media files"]["hint"] == "pip install 'tvlt-deploy[media]'"


def test_cpp_prints_a_library_that_a_program_can_load() -> None:
    path = invoke("cpp", "--print-ort").stdout.removesuffix("\n")
    entry = ctypes.CDLL(path).OrtGetApiBase
    assert entry is not None
    assert json.loads(invoke("cpp", "--json").stdout) == {"onnxruntime": path, "python": sys.executable}


def test_an_internal_error_asks_for_a_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("tvlt_deploy.bundle.Bundle.__init__", broken)
    result = invoke("inspect", tmp_path)
    assert result.exit_code == 1
    assert "error: of all things" in result.stderr
    assert "please report it" in result.stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("inputs"),
        lambda manifest: manifest["variants"][0].update(parity="pass"),
        lambda manifest: manifest["variants"][0].update(parity={}),
        lambda manifest: manifest["variants"][0].update(precision=[1]),
        lambda manifest: manifest["variants"][0].update(opset=None),
    ],
)
def test_a_manifest_with_a_wrong_field_is_a_refused_file(
    change: Callable[[dict], object], matching: Bundle, copy_of: Callable[[Bundle], Path]
) -> None:
    directory = copy_of(matching)
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    result = invoke("inspect", directory)
    assert result.exit_code == 5, result.output
    assert re.search("manifest.json: .*; expected ", result.stderr)
