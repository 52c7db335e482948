"""Golden values of the C++ tests: what transformers 4.40.2 computes for the checkpoints of the test bundles.

Usage: python -m tests.cpp.golden. It writes cpp/tests/golden.json, which is committed.

Inputs are not stored: value k of an array is made from the byte `(k + first) * 2654435761 % 2**32 >> 24`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.conftest import SMALL
from tests.reference import hf
from tvlt_deploy.tasks import TASKS

FILE = Path(__file__).parents[2] / "cpp" / "tests" / "golden.json"

Case = dict[str, Any]

BATCH, FRAMES, ROWS = 2, 3, 48
CLIP_FRAMES = (2, 37, 53, 3)
CLIP_SAMPLES = 9000


def pattern(first: int, *shape: int) -> np.ndarray:
    """Bytes of no visible order, (*shape) uint8."""
    index = np.arange(first, first + int(np.prod(shape)), dtype=np.uint64)
    return ((index * 2654435761 % 2**32) >> 24).astype(np.uint8).reshape(shape)


def uniform(values: np.ndarray, scale: int) -> np.ndarray:
    """Bytes as float32 in [-255 / scale, 255 / scale]."""
    return (2 * values.astype(np.float32) - 255) / np.float32(scale)


def model_of(task: str) -> Any:
    """The model of transformers whose weights the bundle of this task has."""
    model = getattr(hf.transformers, TASKS[task].architecture)(hf.hf_config(**SMALL)).eval()
    hf.randomise(model)
    return model


def answer(task: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The task's first output."""
    with torch.no_grad():
        if task == "audio-visual-matching":  # a forward pass for training: as the mixed frames, the same ones
            mixed = {"pixel_values_mixed": inputs["pixel_values"], "pixel_mask_mixed": inputs["pixel_mask"]}
            labels = torch.ones(len(inputs["pixel_values"]))
            return model_of(task)(**inputs, **mixed, labels=labels).matching_logits
        outputs = model_of(task)(**inputs)
    return outputs.logits if task == "audio-visual-classification" else outputs.last_hidden_state


def expected(output: torch.Tensor) -> Case:
    """The first and the last values of an output, with their positions in it."""
    values = output.double().flatten()
    positions = sorted({*range(min(8, len(values))), *range(max(0, len(values) - 8), len(values))})
    return {"positions": positions, "values": [round(float(values[position]), 9) for position in positions]}


def tensor_case(task: str) -> Case:
    """A batch of two clips; the second has one frame less, the first one step of sound less."""
    masks = hf.clip(BATCH, FRAMES, ROWS)
    shapes = {"pixel_values": (BATCH, FRAMES, 3, 32, 32), "audio_values": (BATCH, 1, ROWS, 32)}
    arrays = {name: {"shape": list(shape), "first": 100 * len(name)} for name, shape in shapes.items()}
    values = {name: uniform(pattern(100 * len(name), *shape), 255) for name, shape in shapes.items()}
    inputs = {name: torch.from_numpy(array) for name, array in values.items()}
    for name in ("pixel_mask", "audio_mask"):
        inputs[name] = masks[name]
        arrays[name] = {"shape": list(masks[name].shape), "values": masks[name].int().flatten().tolist()}
    return {"bundle": task, "tensors": arrays, **expected(answer(task, inputs))}


def clip_case(task: str) -> Case:
    """A raw clip through the processors of transformers."""
    frames, sound = pattern(7, *CLIP_FRAMES), uniform(pattern(11, CLIP_SAMPLES), 1020)
    sides = {"height": hf.TINY["image_size"], "width": hf.TINY["image_size"]}
    image = hf.transformers.TvltImageProcessor(
        size={"shortest_edge": hf.TINY["image_size"]},
        crop_size=sides,
        patch_size=hf.TINY["image_patch_size"],
        num_frames=hf.TINY["num_frames"],
    )
    audio = hf.transformers.TvltFeatureExtractor(
        spectrogram_length=SMALL["spectrogram_length"],
        feature_size=hf.TINY["frequency_length"],
        patch_size=hf.TINY["audio_patch_size"],
    )
    inputs = {
        **image(list(frames), return_tensors="pt"),
        **audio(sound, sampling_rate=44100, return_tensors="pt"),
    }
    inputs = {name: values.float() for name, values in inputs.items()}
    arrays = {"frames": {"shape": list(CLIP_FRAMES), "first": 7}, "samples": {"shape": [CLIP_SAMPLES], "first": 11}}
    return {"bundle": task, **arrays, **expected(answer(task, inputs))}


def cases() -> list[Case]:
    """Every case, in the form of cpp/tests/golden.json."""
    tasks = ("audio-visual-classification", "audio-visual-matching", "feature-extraction")
    return [*map(tensor_case, tasks), *map(clip_case, tasks)]


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(case) for case in cases())
    FILE.write_text(f'{{"source": "transformers {hf.transformers.__version__}", "cases": [\n{lines}\n]}}\n')
