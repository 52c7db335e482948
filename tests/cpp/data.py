"""Data of the C++ tests: bundles, inputs, and the outputs of the Python runtime and pipeline.

Usage: python -m tests.cpp.data DIR
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvlt_deploy
from tests import truth
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import InputError
from tvlt_deploy.inference.answers import Answer
from tvlt_deploy.inference.pipeline import Pipeline
from tvlt_deploy.runtimes.onnxruntime import open_fused, shared_library
from tvlt_deploy.tasks import TASKS

THREADS = 2
"""CPU threads of both engines: results are equal bit for bit only with the same number."""

CLOSE = 1e-5
"""Limit on differences of raw clips: the matrix products of pre-processing depend on the number of threads."""

FUSED = 1e-4
"""Limit on differences between the fused graph and the pipeline."""

RATE = 44100

SHAPES = [(1, 1, 1, "all"), (1, 4, 7, "all"), (2, 3, 5, "padded both"), (3, 2, 4, "no audio"), (5, 1, 6, "scattered")]
"""Clips, frames, steps of sound and which patches are valid; see `tests.truth.feeds`."""

Case = dict[str, Any]


class Writer:
    """Writes arrays and cases into a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.count = 0

    def array(self, values: np.ndarray) -> Case:
        """Write the bytes of an array. Returns its entry for cases.json."""
        self.count += 1
        name = f"{self.count:03d}.bin"
        (self.directory / name).write_bytes(np.ascontiguousarray(values).tobytes())
        return {"shape": list(values.shape), "file": name}

    def bundle(self, bundle: Bundle, name: str) -> str:
        """Copy a bundle, with the fused graph where its task has one."""
        if not (self.directory / name).exists():
            shutil.copytree(bundle.directory, self.directory / name)
            if not bundle.task.needs_noise:
                tvlt_deploy.fuse(self.directory / name, verify=False)
        return name

    def case(
        self,
        name: str,
        bundle: str,
        rows: Sequence[Mapping[str, np.ndarray]],
        answers: Sequence[Answer],
        tolerance: float = 0.0,
        status: int = 0,
        text: str = "",
        **inputs: Any,
    ) -> Case:
        """One call: the expected outputs and answer of each of its clips, or how it is refused."""
        return {
            "name": name,
            "bundle": bundle,
            "tolerance": tolerance,
            "outputs": [{output: self.array(values) for output, values in row.items()} for row in rows],
            "answers": [dataclasses.asdict(answer) for answer in answers],
            "status": status,
            "text": text,
            **inputs,
        }


def _rows(outputs: Mapping[str, Any], count: int) -> list[dict[str, np.ndarray]]:
    return [{name: np.asarray(values[index]) for name, values in outputs.items()} for index in range(count)]


def _answers(pipeline: Pipeline, outputs: Mapping[str, Any]) -> list[Answer]:
    return pipeline.answers(np.asarray(next(iter(outputs.values())))) if pipeline.has_labels else []


def _tensor_cases(writer: Writer, bundle: Bundle, name: str) -> list[Case]:
    """Prepared tensors of several shapes, and the outputs of the Python runtime on the same graph."""
    writer.bundle(bundle, name)
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
    frames = lambda *shape: random.integers(0, 256, (*shape, 3), np.uint8)  # noqa: E731
    sound = lambda count: random.normal(0, 0.1, count).astype(np.float32)  # noqa: E731
    return {
        "frames of odd size and sound": (frames(3, 47, 61), sound(20000)),
        "portrait, max frames": (frames(config.num_frames, 61, 33), sound(7001)),
        "more sound than the model accepts": (frames(1, 90, 40), sound(80001)),
        "one pixel": (frames(1, 1, 1), sound(512)),
        "no sound": (frames(3, 20, 30), None),
        "no frames": (None, sound(30000)),
    }


def refused_clips(config: TvltConfig) -> dict[str, tuple[np.ndarray | None, np.ndarray | None]]:
    """Clips that are refused, by a part of the message."""
    pixel, sound = np.zeros((1, 1, 1, 3), np.uint8), np.zeros(512, np.float32)
    frames = config.num_frames + 1
    return {
        "has 511 samples; expected at least 512": (pixel, sound[1:]),
        f"has {frames} frames; expected at most": (np.repeat(pixel, frames, 0), sound),
        "more than 134217728 pixels": (np.zeros((1, 1, 1 << 20, 3), np.uint8), None),
        "has NaN or infinite samples; expected finite numbers": (pixel, np.full(512, np.nan, np.float32)),
        "divide 16-bit samples by 32768": (pixel, sound + 3000),
    }


def _clip_inputs(writer: Writer, frames: np.ndarray | None, sound: np.ndarray | None) -> Case:
    return {
        name: writer.array(values) for name, values in (("frames", frames), ("samples", sound)) if values is not None
    }


def _clip_cases(writer: Writer, bundle: Bundle, tolerance: float) -> list[Case]:
    """Raw clips, and the outputs of the Python pipeline."""
    name = writer.bundle(bundle, bundle.task.name)
    cases = []
    with tvlt_deploy.load(bundle, threads=THREADS) as pipeline:
        for key, (frames, sound) in clips(bundle.config).items():
            outputs = pipeline([frames], [sound], RATE)
            inputs = _clip_inputs(writer, frames, sound)
            rows, answers = _rows(outputs, 1), _answers(pipeline, outputs)
            cases.append(writer.case(f"{name}: {key}", name, rows, answers, tolerance, **inputs))
    return cases


def _fused_cases(writer: Writer, bundle: Bundle) -> list[Case]:
    """Raw clips, and the outputs of the same fused graph in Python."""
    name = writer.bundle(bundle, bundle.task.name)
    cases = []
    with (
        tvlt_deploy.load(bundle, threads=THREADS) as pipeline,
        open_fused(Bundle(writer.directory / name), threads=THREADS) as runtime,
    ):
        for key, (frames, sound) in clips(bundle.config).items():
            outputs = runtime.run(frames, sound)
            inputs = _clip_inputs(writer, frames, sound)
            rows, answers = _rows(outputs, 1), _answers(pipeline, outputs)
            cases.append(writer.case(f"{name}, the same graph: {key}", name, rows, answers, CLOSE, **inputs))
    return cases


def _refused_cases(writer: Writer, bundle: Bundle) -> list[Case]:
    """Raw clips that the Python pipeline refuses: its exit code, and a part of its message."""
    name = writer.bundle(bundle, bundle.task.name)
    cases = []
    with tvlt_deploy.load(bundle, threads=THREADS) as pipeline:
        for text, (frames, sound) in refused_clips(bundle.config).items():
            with pytest.raises(InputError, match=text) as refusal:
                pipeline([frames], [sound], RATE)
            inputs = _clip_inputs(writer, frames, sound)
            cases.append(writer.case(text, name, [], [], status=refusal.value.exit_code, text=text, **inputs))
    return cases


def _media_case(writer: Writer, bundle: Bundle) -> Case:
    """A media file, and the outputs of the Python pipeline."""
    from tests.media import files
    from tvlt_deploy.inference.files import answer_files

    name = writer.bundle(bundle, bundle.task.name)
    files.write(writer.directory / "clip.mp4", np.arange(25) / 25, files.tone(1.0))
    with tvlt_deploy.load(bundle, threads=THREADS) as pipeline:
        (answer,) = answer_files(pipeline, [(writer.directory / "clip.mp4", None)])
    assert answer.answer is not None
    return writer.case("a media file", name, [answer.outputs], [answer.answer], CLOSE, media="clip.mp4")


def write_data(directory: Path, bundle_of: Callable[..., Bundle], python: Path) -> None:
    """Fill an existing directory.

    bundle_of: (task, configuration changes) -> a small bundle. python: of an environment with tvlt-deploy.
    """
    writer = Writer(directory)
    classification = "audio-visual-classification"
    bundles = {
        **{task: bundle_of(task) for task in sorted(TASKS)},
        "several labels at once": bundle_of(classification, problem_type="multi_label_classification"),
        "signs": bundle_of(classification, loss_type="regression", num_labels=1, sign_labels=["below", "above"]),
    }
    tensors = [case for name, bundle in bundles.items() for case in _tensor_cases(writer, bundle, name)]
    seen_and_heard = [bundles[task] for task in (classification, "audio-visual-matching", "feature-extraction")]
    refused = _refused_cases(writer, bundles[classification])
    fused = [
        case
        for bundle in seen_and_heard
        for case in (*_clip_cases(writer, bundle, FUSED), *_fused_cases(writer, bundle))
    ]
    embedded = [case for bundle in seen_and_heard for case in _clip_cases(writer, bundle, CLOSE)]
    media = _media_case(writer, bundles[classification])
    cases = {
        "tvlt_deploy": {"tensors": tensors, "clips": fused, "refused": refused},
        "tvlt_deploy_python": {"tensors": tensors, "clips": [*embedded, media], "refused": refused},
    }
    content = {"onnxruntime": str(shared_library()), "python": str(python), "cases": cases}
    (directory / "cases.json").write_text(json.dumps(content, indent=1))


def main(directory: Path) -> None:
    """Write the data, with the same checkpoints as the test fixtures."""
    from tests.conftest import SMALL
    from tests.reference import hf

    with tempfile.TemporaryDirectory() as scratch:

        def bundle_of(task: str, **changes: Any) -> Bundle:
            model = getattr(hf.transformers, TASKS[task].architecture)(hf.hf_config(**{**SMALL, **changes}))
            hf.randomise(model)
            bundle = Path(tempfile.mkdtemp(dir=scratch)) / "bundle"
            model.save_pretrained(bundle.with_name("checkpoint"))
            return tvlt_deploy.export(bundle.with_name("checkpoint"), bundle, task=task)

        directory.mkdir(parents=True, exist_ok=True)
        write_data(directory, bundle_of, Path(sys.executable))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
