"""The authors' code on tiny models: its files, inputs and outputs, and files of the kinds that are not among them."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tvlt_deploy.processors import original_masks

DATA = Path(__file__).parent / "data" / "original"
KINDS = ("pretrain", "mosei_sentiment", "vqa")
CASES = ("plain", "padded", "all_minus_one")
TOKENS = HEADS = 5e-5
RECONSTRUCTIONS = 2e-5
# kind -> its task with logits, the output there, and the name of the head
ANSWERS = {
    "pretrain": ("audio-visual-matching", "matching_logits", "matching_score"),
    "mosei_sentiment": ("audio-visual-classification", "logits", "classifier"),
    "vqa": ("audio-visual-classification", "logits", "vqa_classifier"),
}


def path_of(kind: str, form: str = "ckpt") -> Path:
    return DATA / f"tiny_{kind}.{form}"


def settings_of(kind: str) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((DATA / f"settings_{kind}.json").read_text())
    return settings


@lru_cache
def golden(kind: str) -> dict[str, Tensor]:
    return load_file(DATA / f"golden_{kind}.safetensors")


@lru_cache
def weights(kind: str) -> dict[str, Tensor]:
    return load_file(path_of(kind, "safetensors"))


def feeds(case: str, kind: str = "pretrain") -> dict[str, np.ndarray]:
    """The inputs of a case, with the masks that their values imply."""
    frames = settings_of(kind)["num_frames"]
    if case == "all_minus_one":
        video, audio = -np.ones((1, frames, 3, 32, 32), np.float32), -np.ones((1, 1, 48, 128), np.float32)
    else:
        inputs = load_file(DATA / "model_inputs.safetensors")
        video, audio = inputs[f"{case}.video"].numpy()[:, :frames], inputs[f"{case}.audio"].numpy()
    pixel_mask, audio_mask = original_masks(video, audio)
    return {"pixel_values": video, "audio_values": audio, "pixel_mask": pixel_mask, "audio_mask": audio_mask}


def tensors(values: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in values.items()}


def end_to_end_feeds() -> dict[str, np.ndarray]:
    """What the authors' loaders made of three clips: a video with sound, sound alone, a still image with sound."""
    sounds, pictures = (load_file(DATA / f"preprocess_{kind}.safetensors") for kind in ("audio", "video"))
    video, audio = -np.ones((3, 3, 3, 32, 32), np.float32), -np.ones((3, 1, 144, 128), np.float32)
    video[0], video[2, 0] = pictures["pixels_32_sampled3"].numpy(), pictures["image_lanczos_32"].numpy()[0]
    audio[0] = sounds["main44k.features"].numpy()[0]
    audio[1:, :, :48] = sounds["stereo16k.features"].numpy()
    pixel_mask, audio_mask = original_masks(video, audio)
    return {"pixel_values": video, "audio_values": audio, "pixel_mask": pixel_mask, "audio_mask": audio_mask}


def masked_feeds(case: str) -> dict[str, np.ndarray]:
    """The inputs of a masked auto-encoding case, with noise that ranks the patches as the authors' draw did."""
    clips = {"plain.mae_frame": [0], "padded.mae_frame": [0, 2], "plain.mae_random": [1]}[case]
    values = {name: value[clips] for name, value in feeds(case.split(".")[0]).items()}
    for ours, theirs in (("pixel_noise", "video"), ("audio_noise", "audio")):
        ids = golden("pretrain")[f"{case}.ids_restore_{theirs}"].numpy()
        values[ours] = ((ids + 0.5) / ids.shape[1]).astype(np.float32)
    return values


def in_their_order(tokens: Tensor, pixel_patches: int) -> Tensor:
    """[class, video, audio] to [class, audio, video]."""
    return torch.cat([tokens[:, :1], tokens[:, 1 + pixel_patches :], tokens[:, 1 : 1 + pixel_patches]], dim=1)


# Kinds that are not in the data: the sentiment model's encoder, of which the tokens are known, and other heads ------


def drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def classifier(name: str, outputs: int, width: int = 16) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.0.dense.weight": (width, width), f"{name}.0.dense.bias": (width,),
        f"{name}.1.weight": (2 * width, width), f"{name}.1.bias": (2 * width,),
        f"{name}.2.weight": (2 * width,), f"{name}.2.bias": (2 * width,),
        f"{name}.4.weight": (outputs, 2 * width), f"{name}.4.bias": (outputs,),
    }  # fmt: skip


def matcher(name: str, width: int = 16) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.pooler.dense.weight": (width, width), f"{name}.pooler.dense.bias": (width,),
        f"{name}.fc.weight": (1, width), f"{name}.fc.bias": (1,),
    }  # fmt: skip


def made(path: Path, *heads: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Write the sentiment model's encoder with other heads; returns the tensors."""
    encoder = {key: value for key, value in weights("mosei_sentiment").items() if not key.startswith("classifier.")}
    content = encoder | {key: value for seed, head in enumerate(heads) for key, value in drawn(head, seed).items()}
    save_file(content, path)
    return content


def classified(content: dict[str, Tensor], name: str, case: str) -> np.ndarray:
    """A classifier over the golden class token, written out in double precision."""
    head = {key.removeprefix(f"{name}."): value.double().numpy() for key, value in content.items()}
    token = golden("mosei_sentiment")[f"{case}.tokens"][:, 0].double().numpy()
    hidden = np.tanh(token @ head["0.dense.weight"].T + head["0.dense.bias"])
    hidden = hidden @ head["1.weight"].T + head["1.bias"]
    centred = hidden - hidden.mean(axis=1, keepdims=True)
    hidden = centred / np.sqrt(centred.var(axis=1, keepdims=True) + 1e-5) * head["2.weight"] + head["2.bias"]
    hidden = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    logits: np.ndarray = hidden @ head["4.weight"].T + head["4.bias"]
    return logits


def matched(content: dict[str, Tensor], name: str, case: str) -> np.ndarray:
    """A matching head over the golden class token, written out in double precision."""
    head = {key.removeprefix(f"{name}."): value.double().numpy() for key, value in content.items()}
    token = golden("mosei_sentiment")[f"{case}.tokens"][:, 0].double().numpy()
    pooled = np.tanh(token @ head["pooler.dense.weight"].T + head["pooler.dense.bias"])
    logits: np.ndarray = pooled @ head["fc.weight"].T + head["fc.bias"]
    return logits
