"""Weight files, and how their tensors are matched with a model's.

The tables below list every known key; any other key, and any tensor of another shape, is an error that names it.
Pickle files are read by torch's weights-only loader, which runs no code.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tvlt_deploy.errors import CheckpointError
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
# Keys that a task needs: enough to say which tasks a file can serve.
_NEEDED_KEYS = {
    "feature-extraction": ("cls_embedding", "pixel_embeddings.pos_embed_v", "audio_embeddings.pos_embed_a"),
    "audio-visual-classification": ("classifier.1.weight", "classifier.1.bias"),
    "audio-visual-matching": ("matching_head.pooler.dense.weight", "matching_head.fc.weight"),
    "masked-reconstruction": ("encoder_to_decoder.weight", "decoder.layernorm.weight", "pixel_mae_head.decoder.weight"),
}
# The fields of config.json that set the shape of a tensor, by the end of its key.
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
    """The names of the tasks that a file with these keys can serve, in the order of `tvlt_deploy.tasks.TASKS`."""
    bare = {key.removeprefix(PREFIX) for key in keys}
    held = [task for task, needed in _NEEDED_KEYS.items() if bare.issuperset(needed)]
    return tuple(task for task in TASKS if task in held and "feature-extraction" in held)


def some(names: Iterable[str], limit: int = 5) -> str:
    """The first few names in order, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


# Reading files ---------------------------------------------------------------------------------------------------


def read_file(path: Path) -> Mapping[str, Any]:
    """Read one weights file; tensors are memory-mapped where the format allows it.

    Raises:
        CheckpointError: The file is missing or damaged, or loading something in it would run code.
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
            f"{path} contains something other than tensors{_foreign_types(path)}, or is not a pickle; no code was run",
            hint="save the state dict alone, as safetensors",
        ) from error
    except Exception as error:  # a damaged file can fail anywhere inside the loader
        raise CheckpointError(f"{path} is not a readable torch file: {type(error).__name__}: {error}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} contains a {type(content).__name__}; expected a dict from key to tensor")
    return cast(Mapping[str, Any], content)


def _foreign_types(path: Path) -> str:
    """The types and functions that a torch file refers to and tensors do not need, read without loading any."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not torch's zip format, or damaged in any way
        names = []
    return f" ({some(names)})" if names else ""


def check_tensors_only(content: Mapping[Any, Any], source: str) -> dict[str, Tensor]:
    """Check that a file contains dense tensors by key and nothing else, and return them.

    Raises:
        CheckpointError: Something else is in it; the message names the key.
    """
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{source} contains a {type(value).__name__} under {key!r}; expected tensors only",
                hint="save the state dict alone",
            )
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise CheckpointError(f"{source} contains {key!r} as a {value.layout} tensor; expected dense tensors")
    return dict(content)


def _shards(index: Path) -> tuple[dict[str, str], list[Path]]:
    """The map from key to file of a shard index, and the files, which must be in the same directory."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not a readable shard index: {type(error).__name__}: {error}") from error
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{index} has no weight_map from key to file name")
    names = sorted(set(places.values()))
    for name in names:
        if name != Path(name).name or name in ("", ".", "..") or "\\" in name:
            raise CheckpointError(f"{index} names the shard {name!r}; expected the name of a file beside it")
    return places, [index.parent / name for name in names]


def _read_shards(index: Path) -> dict[str, Any]:
    places, paths = _shards(index)
    content: dict[str, Any] = {}
    for path in paths:
        shard = read_file(path)
        if repeated := content.keys() & shard.keys():
            raise CheckpointError(f"{path} repeats keys of another shard: {some(map(str, repeated))}")
        content.update(shard)
    if missing := places.keys() - content.keys():
        raise CheckpointError(f"{index} names keys that are in no shard: {some(missing)}")
    return content


def read_tensors(directory: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint directory by key, as stored.

    Reads `model.safetensors`, its shards, `pytorch_model.bin` or its shards: the first that exists.

    Raises:
        CheckpointError: There is no such file, a file is damaged, or it contains something other than tensors.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise CheckpointError(f"the checkpoint directory {folder} does not exist or is not a directory")
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"{folder} has no weights; looked for {', '.join(WEIGHT_FILES)}")
    content = _read_shards(found) if found.suffix == ".json" else read_file(found)
    return check_tensors_only(content, str(found))


# Matching keys ---------------------------------------------------------------------------------------------------


def _head_of(key: str) -> str | None:
    return next((task for task, pattern in _HEAD_KEYS.items() if pattern.fullmatch(key)), None)


def match_state(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], dtype: torch.dtype, source: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Match a file's tensors with the state dict of a model.

    Args:
        tensors: The file's tensors by key. Encoder keys may have the prefix `tvlt.` or not.
        expected: The model's state dict; only shapes are used.
        dtype: The dtype of the result.
        source: What error messages call the file.

    Returns:
        The state dict in `dtype`, and the keys of other heads that were skipped.

    Raises:
        CheckpointError: A head is missing (the message names the tasks that the file can serve), or a tensor is
            unknown, missing, of the wrong shape, or not finite floating point; the message names the keys.
    """
    prefix = PREFIX if any(key.startswith(PREFIX) for key in expected) else ""
    heads = {task for key in expected if (task := _head_of(key))}
    state: dict[str, Tensor] = {}
    skipped: list[str] = []
    unknown: list[str] = []
    for key, tensor in tensors.items():
        bare = key.removeprefix(PREFIX)
        name = prefix + bare if _ENCODER_KEYS.fullmatch(bare) else key
        head = _head_of(key)
        if name in state:
            raise CheckpointError(f"{source} has {bare} twice, with and without the prefix {PREFIX}")
        if name in expected:
            state[name] = tensor
        elif head and head not in heads:
            skipped.append(key)
        else:
            unknown.append(key)
    _check_keys(tensors, state, expected, unknown, source)
    check_tensors(state, expected, source)
    # Copies: a model must not change or crash when its file does.
    return {key: tensor.to(dtype, copy=True).contiguous() for key, tensor in state.items()}, tuple(sorted(skipped))


def _check_keys(
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    unknown: list[str],
    source: str,
) -> None:
    """Raise `CheckpointError` for heads and keys that are missing from the state, and for unknown keys."""
    if absent := {_head_of(key) for key in expected} - {_head_of(key) for key in state} - {None}:
        served = ", ".join(held_tasks(tensors)) or "none of TVLT"
        raise CheckpointError(
            f"{source} has no head for {some(map(str, absent))}; the tasks it can serve: {served}",
            hint="choose one of these tasks",
        )
    problems = []
    if missing := expected.keys() - state.keys():
        problems.append(f"{len(missing)} of {len(expected)} keys are missing: {some(missing)}")
    if unknown:
        problems.append(f"{len(unknown)} keys are unknown: {some(unknown)}")
    if problems:
        raise CheckpointError(f"{source}: {'; '.join(problems)}", hint="config.json must describe this file")


def check_tensors(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, hint: str | None = None
) -> None:
    """Check the shape of each tensor, and that it is finite floating point.

    Args:
        state: The tensors by key.
        expected: Tensors of the expected shapes.
        source: What error messages call the file.
        hint: The hint for a wrong shape; by default the field of config.json that sets it.

    Raises:
        CheckpointError: A tensor fails a check; the message names its key.
    """
    wrong = [key for key in state if state[key].shape != expected[key].shape]
    if wrong:
        listed = "; ".join(
            f"{key} has shape {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}" for key in wrong[:5]
        )
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        fields = dict.fromkeys(
            field for key in wrong for end, field in _SHAPED_BY.items() if key.endswith(("." + end, "_" + end))
            or key == end
        )  # fmt: skip
        default = f"config.json disagrees on {'; '.join(fields)}" if fields else "config.json must describe this file"
        raise CheckpointError(f"{source}: {listed}{more}", hint=default if hint is None else hint)
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{source} has {key} as {tensor.dtype}; expected floating point")
        if not torch.isfinite(tensor.float()).all():
            raise CheckpointError(f"{source} has NaN or infinity in {key}; expected finite weights")
