"""Checkpoints of the reference models: reading Hugging Face directories strictly, writing them, making seeded ones.

A file's keys are known by the table below and by nothing else, and its tensors by their shape: whatever does not fit
is refused by name. Files are data: pickles are read by torch's weights-only loader, which runs no code.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tvlt_deploy._internal.hub import local_path
from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.config import CONFIG_FILE, TvltConfig
from tvlt_deploy.errors import CheckpointError, ConfigError
from tvlt_deploy.tasks import TASKS

SAFE_FILE = "model.safetensors"
TORCH_FILE = "pytorch_model.bin"
# In transformers 4.40.2's order of preference.
WEIGHT_FILES = (SAFE_FILE, f"{SAFE_FILE}.index.json", TORCH_FILE, f"{TORCH_FILE}.index.json")
PREFIX = "tvlt."

_LAYER = (
    r"\d+\.(attention\.attention\.(query|key|value)|attention\.output\.dense|intermediate\.dense|output\.dense"
    r"|layernorm_before|layernorm_after)\.(weight|bias)"
)
_ENCODER_KEYS = re.compile(
    r"cls_embedding|pixel_embeddings\.(type_embed_v|temporal_embed|pos_embed_v)"
    r"|audio_embeddings\.(type_embed_a|pos_embed_a|freq_embed)"
    r"|(pixel|audio)_embeddings\.patch_embeddings\.projection\.(weight|bias)"
    rf"|layernorm\.(weight|bias)|encoder\.layer\.{_LAYER}"
)
_HEAD_KEYS = {
    "audio-visual-classification": re.compile(r"classifier\.([0-4]|0\.dense)\.(weight|bias)"),
    "audio-visual-matching": re.compile(r"matching_head\.(pooler\.dense|fc)\.(weight|bias)"),
    "masked-reconstruction": re.compile(
        r"encoder_to_decoder\.(weight|bias)|(pixel|audio)_mask_token"
        r"|decoder_(pixel_pos|temporal|pixel_type|audio_pos|freq|audio_type)_embed"
        rf"|decoder\.layernorm\.(weight|bias)|decoder\.decoder_layers\.{_LAYER}"
        r"|(pixel|audio)_mae_head\.decoder\.(weight|bias)"
    ),
}
# Keys that a task cannot do without: enough to say what a file is good for.
_NEEDED_KEYS = {
    "feature-extraction": ("cls_embedding", "pixel_embeddings.pos_embed_v", "audio_embeddings.pos_embed_a"),
    "audio-visual-classification": ("classifier.1.weight", "classifier.1.bias"),
    "audio-visual-matching": ("matching_head.pooler.dense.weight", "matching_head.fc.weight"),
    "masked-reconstruction": ("encoder_to_decoder.weight", "decoder.layernorm.weight", "pixel_mae_head.decoder.weight"),
}
# The fields of config.json that set the shape of a table, by the end of its key.
_SHAPED_BY = {
    "temporal_embed": "num_frames",
    "pos_embed_v": "image_size or image_patch_size",
    "decoder_pixel_pos_embed": "image_size or image_patch_size",
    "pos_embed_a": "spectrogram_length or audio_patch_size",
    "decoder_audio_pos_embed": "spectrogram_length or audio_patch_size",
    "freq_embed": "frequency_length or audio_patch_size",
    "projection.weight": "the patch sizes, the channels or hidden_size",
    "classifier.3.weight": "id2label",
    "classifier.3.bias": "id2label",
    "classifier.4.weight": "id2label",
    "classifier.4.bias": "id2label",
    "pixel_mae_head.decoder.weight": "image_patch_size or num_image_channels",
    "audio_mae_head.decoder.weight": "audio_patch_size or num_audio_channels",
}


def held_tasks(keys: Iterable[str]) -> tuple[str, ...]:
    """The tasks that a file with these keys can serve, in the order of the task table."""
    bare = {key.removeprefix(PREFIX) for key in keys}
    held = [task for task, needed in _NEEDED_KEYS.items() if bare.issuperset(needed)]
    return tuple(task for task in TASKS if task in held and "feature-extraction" in held)


def some(names: Iterable[str], most: int = 5) -> str:
    """The first few names, and how many more."""
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


# Reading files ---------------------------------------------------------------------------------------------------


def read_file(path: Path) -> Mapping[str, Any]:
    """The content of one weights file; tensors are mapped from the disk where the format allows it.

    Raises `CheckpointError` for a file that is missing, damaged, or holds anything that takes code to load.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file")
    if path.suffix == ".safetensors":
        try:
            return cast(Mapping[str, Any], safetensors.torch.load_file(path))
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        # Only the zip format, torch's since 1.6, can be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds something other than tensors{_foreign_types(path)}, or is no pickle; nothing in it was run",
            hint="save the state dict alone, as safetensors",
        ) from error
    except Exception as error:  # a damaged file can fail anywhere inside the loader
        raise CheckpointError(f"{path} is not a readable torch file: {type(error).__name__}: {error}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; wanted a dict from key to tensor")
    return cast(Mapping[str, Any], content)


def _foreign_types(path: Path) -> str:
    """The types and functions that a torch file refers to and no tensor needs, read without loading any."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not torch's zip format, or damaged in any way
        names = []
    return f" ({some(names)})" if names else ""


def check_tensors_only(content: Mapping[Any, Any], source: str) -> dict[str, Tensor]:
    """A file's content, if it is plain dense tensors by key. Raises `CheckpointError` naming what is not."""
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{source} holds a {type(value).__name__} under {key!r}; wanted tensors only",
                hint="save the state dict alone",
            )
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise CheckpointError(f"{source} holds {key!r} as a {value.layout} tensor; wanted plain dense tensors")
    return dict(content)


def _shards(index: Path) -> tuple[dict[str, str], list[Path]]:
    """The map from key to file of a shard index, and the files, which must lie beside it."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not a readable shard index: {type(error).__name__}: {error}") from error
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} holds no weight_map from key to file name")
    names = sorted(set(places.values()))
    for name in names:
        if name != Path(name).name or name in ("", ".", "..") or "\\" in name:
            raise CheckpointError(f"{index} names the shard {name!r}; wanted the name of a file in the same directory")
    return places, [index.parent / name for name in names]


def _read_shards(index: Path) -> dict[str, Any]:
    places, paths = _shards(index)
    content: dict[str, Any] = {}
    for path in paths:
        shard = read_file(path)
        if twice := content.keys() & shard.keys():
            raise CheckpointError(f"{path} repeats keys of another shard: {some(map(str, twice))}")
        content.update(shard)
    if lacking := places.keys() - content.keys():
        raise CheckpointError(f"{index} names keys that no shard holds: {some(lacking)}")
    return content


def read_tensors(directory: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a checkpoint directory by key, as stored.

    Reads `model.safetensors`, its shards, `pytorch_model.bin` or its shards, whichever is there first. Raises
    `CheckpointError` naming what was looked for, what a file holds that is no tensor, or what is damaged.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise CheckpointError(f"the checkpoint directory {folder} does not exist or is not a directory")
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"{folder} holds no weights; looked for {', '.join(WEIGHT_FILES)}")
    content = _read_shards(found) if found.suffix == ".json" else read_file(found)
    return check_tensors_only(content, str(found))


# Matching keys ---------------------------------------------------------------------------------------------------


def _head_of(key: str) -> str | None:
    return next((task for task, pattern in _HEAD_KEYS.items() if pattern.fullmatch(key)), None)


def match_state(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], base_prefix: str, dtype: torch.dtype, source: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Fit a file's tensors to a model's state dict: (the state in `dtype`, the keys of other heads that were skipped).

    Encoder keys may carry the prefix `tvlt.` or not. Raises `CheckpointError` for a missing head (naming the tasks
    that the file holds), and for unknown, missing, misshapen, non-floating or non-finite tensors, naming their keys.
    """
    heads = {task for key in expected if (task := _head_of(key))}
    state: dict[str, Tensor] = {}
    skipped: list[str] = []
    unknown: list[str] = []
    for key, tensor in tensors.items():
        bare = key.removeprefix(PREFIX)
        name = base_prefix + bare if _ENCODER_KEYS.fullmatch(bare) else key
        head = _head_of(key)
        if name in state:
            raise CheckpointError(f"{source} holds {bare} twice, with and without the prefix {PREFIX}")
        if name in expected:
            state[name] = tensor
        elif head and head not in heads:
            skipped.append(key)
        else:
            unknown.append(key)

    missing = expected.keys() - state.keys()
    if lacking := heads - {_head_of(key) for key in state}:
        held = ", ".join(held_tasks(tensors)) or "none of TVLT"
        raise CheckpointError(
            f"{source} has no head for {some(lacking)}; the tasks it holds: {held}",
            hint="ask for a task that it holds",
        )
    problems = []
    if missing:
        problems.append(f"lacks {len(missing)} of {len(expected)} keys: {some(missing)}")
    if unknown:
        problems.append(f"holds {len(unknown)} unknown keys: {some(unknown)}")
    if problems:
        raise CheckpointError(f"{source} {'; it '.join(problems)}", hint="config.json must describe this very file")
    check_tensors(state, expected, source)
    # Copies: a model must not change or crash when its file does.
    return {key: tensor.to(dtype, copy=True).contiguous() for key, tensor in state.items()}, tuple(sorted(skipped))


def check_tensors(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, hint: str | None = None
) -> None:
    """Raise `CheckpointError` for tensors of other shapes than expected, of integers, or with NaN or infinity.

    hint: what to say of a wrong shape; by default which field of config.json sets it.
    """
    misshapen = [key for key in state if state[key].shape != expected[key].shape]
    if misshapen:
        listed = "; ".join(
            f"{key} has shape {tuple(state[key].shape)}, wanted {tuple(expected[key].shape)}" for key in misshapen[:5]
        )
        more = f"; and {len(misshapen) - 5} more" if len(misshapen) > 5 else ""
        fields = dict.fromkeys(
            field for key in misshapen for end, field in _SHAPED_BY.items() if key.endswith(("." + end, "_" + end))
            or key == end
        )  # fmt: skip
        told = f"config.json disagrees on {'; '.join(fields)}" if fields else "config.json must describe this very file"
        raise CheckpointError(f"{source}: {listed}{more}", hint=told if hint is None else hint)
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{source} holds {key} as {tensor.dtype}; wanted floating point")
        if not torch.isfinite(tensor.float()).all():
            raise CheckpointError(f"{source} holds NaN or infinity in {key}; wanted finite weights")


# Models ----------------------------------------------------------------------------------------------------------


# Seeded checkpoints ----------------------------------------------------------------------------------------------


def checkpoint_path(
    checkpoint: str | os.PathLike[str],
    optional: Sequence[str] = (),
    progress: Progress = silent,
) -> Path:
    """The local directory of a checkpoint, which is fetched when `checkpoint` names a model on the hub.

    optional: files to fetch beside `config.json` and the weights where there are any. Raises as
    `tvlt_deploy._internal.hub.local_path`; what is in the directory is looked at by whoever reads it.
    """
    return local_path(checkpoint, required=CONFIG_FILE, optional=optional, one_of=WEIGHT_FILES, progress=progress)


def read_config(directory: str | os.PathLike[str]) -> TvltConfig:
    """`config.json` of a checkpoint directory. Raises `CheckpointError` naming the file and what is wrong with it."""
    folder = Path(directory)
    if not folder.is_dir():
        raise CheckpointError(f"the checkpoint directory {folder} does not exist or is not a directory")
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG_FILE}")
    try:
        return TvltConfig.from_pretrained(folder)
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error.message}", hint=error.hint) from error
