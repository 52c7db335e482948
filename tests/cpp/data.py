"""What the C++ tests read: bundles, inputs, and the answers of the Python runtime and pipeline to them.

Usage: python -m tests.cpp.data DIR
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tvlt_deploy
from tests import truth
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.files import sha256_of
from tvlt_deploy.pipeline import Answer, Pipeline
from tvlt_deploy.runtimes.onnxruntime import shared_library
from tvlt_deploy.tasks import TASKS

THREADS = 2
"""Of both engines: only then must they agree bit for bit."""

CLOSE = 1e-5
"""Limit on differences where pre-processing is part of it: its matrix products depend on the number of threads."""

SHAPES = [(1, 1, 1, "all"), (1, 4, 7, "all"), (2, 3, 5, "padded both"), (3, 2, 4, "no audio"), (5, 1, 6, "scattered")]
"""Clips, frames, steps of sound and which patches are valid; see `tests.truth.feeds`."""

Case = dict[str, Any]


class Writer:
    """Arrays and cases on their way into a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.count = 0

    def array(self, values: np.ndarray) -> Case:
        """Write the bytes of an array; what cases.json says of it."""
        self.count += 1
        name = f"{self.count:03d}.bin"
        (self.directory / name).write_bytes(np.ascontiguousarray(values).tobytes())
        return {"shape": list(values.shape), "file": name}

    def bundle(self, bundle: Bundle, name: str) -> str:
        """Copy a bundle."""
        if not (self.directory / name).exists():
            shutil.copytree(bundle.directory, self.directory / name)
        return name

    def case(
        self,
        name: str,
        bundle: str,
        rows: Sequence[Mapping[str, np.ndarray]],
        answers: Sequence[Answer],
        tolerance: float = 0.0,
        **inputs: Any,
    ) -> Case:
        """One call, and for each of its clips the outputs and scores that it must give."""
        return {
            "name": name,
            "bundle": bundle,
            "tolerance": tolerance,
            "outputs": [{output: self.array(values) for output, values in row.items()} for row in rows],
            "scores": [answer.scores for answer in answers],
            **inputs,
        }


def _rows(outputs: Mapping[str, Any], count: int) -> list[dict[str, np.ndarray]]:
    return [{name: np.asarray(values[index]) for name, values in outputs.items()} for index in range(count)]


def _answers(pipeline: Pipeline, outputs: Mapping[str, Any]) -> list[Answer]:
    return pipeline.answers(np.asarray(next(iter(outputs.values())))) if pipeline.has_labels else []


def _tensor_cases(writer: Writer, bundle: Bundle) -> list[Case]:
    """Prepared tensors of several shapes, answered by the Python runtime on the same graph."""
    name = writer.bundle(bundle, bundle.task.name)
    cases = []
    with tvlt_deploy.load(bundle, threads=THREADS) as pipeline:
        for batch, frames, steps, valid in SHAPES:
            feeds = truth.feeds(bundle.config, batch, frames, steps, valid)
            if bundle.task.needs_noise:
                feeds = truth.with_noise(bundle.config, feeds)
            outputs = pipeline.runtime.run(feeds)
            inputs = {key: writer.array(np.asarray(values, np.float32)) for key, values in feeds.items()}
            cases.append(
                writer.case(
                    f"{name}: {batch} clips, {frames} frames, {steps} steps, {valid}",
                    name,
                    _rows(outputs, batch),
                    _answers(pipeline, outputs),
                    inputs=inputs,
                )
            )
    return cases


def clips(config: TvltConfig) -> dict[str, tuple[np.ndarray | None, np.ndarray | None]]:
    """Raw clips by name: (frames, height, width, 3) uint8 and (samples,) float32, either None."""
    random = np.random.default_rng(3)
    picture = lambda *shape: random.integers(0, 256, (*shape, 3), np.uint8)  # noqa: E731
    sound = lambda count: random.normal(0, 0.1, count).astype(np.float32)  # noqa: E731
    return {
        "frames and sound": (picture(2, 48, 64), sound(20000)),
        "portrait, most frames": (picture(config.num_frames, 61, 33), sound(7001)),
        "one pixel": (picture(1, 1, 1), sound(512)),
        "no sound": (picture(3, 20, 30), None),
        "no picture": (None, sound(30000)),
    }


def _stand_in(bundle: Bundle, directory: Path) -> Bundle:
    """A copy with a graph of the fused form's inputs that weighs every pixel and sample by its place."""
    from onnx import checker, parser, save

    graph = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        fused (uint8[frames, height, width, 3] frames, float[samples] waveform) => (float[1, 2] logits)
        <int64 zero = {0}, int64 one = {1}, int64 seven = {7}, int64 five = {5}, int64[1] all = {-1},
         int64[2] row = {1, 1}, float scale = {0.000030517578125}>
        {
            flat = Reshape(frames, all)
            pixels = Cast<to = 1>(flat)
            pixel_count = Size(flat)
            pixel_places = Range(zero, pixel_count, one)
            pixel_weights = Mod(pixel_places, seven)
            pixel_factors = Cast<to = 1>(pixel_weights)
            weighed_pixels = Mul(pixels, pixel_factors)
            seen = ReduceSum<keepdims = 0>(weighed_pixels)
            sample_count = Size(waveform)
            sample_places = Range(zero, sample_count, one)
            sample_weights = Mod(sample_places, five)
            sample_factors = Cast<to = 1>(sample_weights)
            weighed_samples = Mul(waveform, sample_factors)
            heard = ReduceSum<keepdims = 0>(weighed_samples)
            small = Mul(seen, scale)
            seen_row = Reshape(small, row)
            heard_row = Reshape(heard, row)
            logits = Concat<axis = 1>(seen_row, heard_row)
        }"""
    )
    checker.check_model(graph)
    shutil.copytree(bundle.directory, directory)
    path = directory / "fused" / "model.onnx"
    path.parent.mkdir()
    save(graph, path)

    def add(manifest: dict[str, Any]) -> None:
        name = "fused/model.onnx"
        file = {"sha256": sha256_of(path), "size": path.stat().st_size}
        manifest["files"][name] = file
        variant = {"precision": "fp32", "form": "fused", "path": name, "files": [name], **file, "opset": 20}
        manifest["variants"].append({**variant, "parity": {"verdict": "not run"}})

    made = Bundle(directory)
    made.update(add)
    return made


def _weighed(frames: np.ndarray | None, sound: np.ndarray | None) -> np.ndarray:
    """What the graph of `_stand_in` says of a clip."""
    pixels = np.zeros(0) if frames is None else frames.reshape(-1).astype(np.float64)
    samples = np.zeros(0) if sound is None else sound.astype(np.float64)
    weigh = lambda values, period: values @ (np.arange(len(values)) % period)  # noqa: E731
    return np.array([[weigh(pixels, 7) / 2**15, weigh(samples, 5)]], np.float32)


def _clip_inputs(writer: Writer, frames: np.ndarray | None, sound: np.ndarray | None) -> Case:
    return {
        name: writer.array(values) for name, values in (("frames", frames), ("samples", sound)) if values is not None
    }


def _stand_in_cases(writer: Writer, bundle: Bundle) -> list[Case]:
    """Raw clips on a graph whose answer is known in closed form."""
    with tempfile.TemporaryDirectory() as directory:
        name = writer.bundle(_stand_in(bundle, Path(directory) / "bundle"), "fused")
    with tvlt_deploy.load(bundle, threads=THREADS) as pipeline:
        return [
            writer.case(
                key,
                name,
                [{"logits": _weighed(frames, sound)[0]}],
                pipeline.answers(_weighed(frames, sound)),
                tolerance=1e-3,
                **_clip_inputs(writer, frames, sound),
            )
            for key, (frames, sound) in clips(bundle.config).items()
        ]


def _pipeline_cases(writer: Writer, bundle: Bundle) -> list[Case]:
    """Raw clips, and a media file, answered by the Python pipeline."""
    name = writer.bundle(bundle, bundle.task.name)
    cases = []
    with tvlt_deploy.load(bundle, threads=THREADS) as pipeline:
        for key, (frames, sound) in clips(bundle.config).items():
            outputs = pipeline([frames], [sound], 44100)
            inputs = _clip_inputs(writer, frames, sound)
            cases.append(writer.case(key, name, _rows(outputs, 1), _answers(pipeline, outputs), CLOSE, **inputs))
        cases.append(_media_case(writer, pipeline, name))
    return cases


def _media_case(writer: Writer, pipeline: Pipeline, name: str) -> Case:
    from tests.media import files
    from tvlt_deploy.batch import answer_files

    files.write(writer.directory / "clip.mp4", np.arange(25) / 25, files.tone(1.0))
    (answer,) = answer_files(pipeline, [(writer.directory / "clip.mp4", None)])
    assert answer.answer is not None
    return writer.case("a media file", name, [answer.outputs], [answer.answer], CLOSE, media="clip.mp4")


def write_data(directory: Path, bundle_of: Callable[[str], Bundle], python: Path) -> None:
    """Fill a directory that exists. bundle_of: task -> a small bundle. python: of an environment with tvlt-deploy."""
    writer = Writer(directory)
    classification = bundle_of("audio-visual-classification")
    tensors = [case for task in sorted(TASKS) for case in _tensor_cases(writer, bundle_of(task))]
    cases = {
        "tvlt_deploy": {"tensors": tensors, "clips": _stand_in_cases(writer, classification)},
        "tvlt_deploy_python": {"tensors": tensors, "clips": _pipeline_cases(writer, classification)},
    }
    content = {"onnxruntime": str(shared_library()), "python": str(python), "cases": cases}
    (directory / "cases.json").write_text(json.dumps(content, indent=1))


def main(directory: Path) -> None:
    """Write the data with bundles of seeded random weights."""
    from tests.conftest import SMALL
    from tests.reference import hf
    from tvlt_deploy.reference import init_checkpoint

    with tempfile.TemporaryDirectory() as scratch:

        def bundle_of(task: str) -> Bundle:
            bundle = Path(scratch) / task
            if not bundle.exists():
                init_checkpoint(bundle.with_suffix(".pt"), hf.our_config(**SMALL), 0, TASKS[task].reference)
                tvlt_deploy.export(bundle.with_suffix(".pt"), bundle, task=task)
            return Bundle(bundle)

        directory.mkdir(parents=True, exist_ok=True)
        write_data(directory, bundle_of, Path(sys.executable))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
