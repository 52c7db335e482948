"""Checkpoints of the reference models: reading Hugging Face directories strictly, writing them, making seeded ones.

A file's keys are known by the table below and by nothing else, and its tensors by their shape: whatever does not fit
is refused by name. Files are data: pickles are read by torch's weights-only loader, which runs no code.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Generator, Tensor, nn

from tvlt_deploy._internal.atomic import staged_file
from tvlt_deploy._internal.hub import local_path
from tvlt_deploy.config import CONFIG_FILE, TvltConfig
from tvlt_deploy.errors import CheckpointError, ConfigError, UsageError
from tvlt_deploy.tasks import TASKS, get_task

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


def checkpoint_path(
    checkpoint: str | os.PathLike[str],
    optional: Sequence[str] = (),
    progress: Callable[[str], None] = lambda message: None,
) -> Path:
    """The local directory of a checkpoint, which is fetched when `checkpoint` names a model on the hub.

    optional: files to fetch beside `config.json` and the weights where there are any. Raises as
    `tvlt_deploy._internal.hub.local_path`; what is in the directory is looked at by whoever reads it.
    """
    return local_path(checkpoint, required=CONFIG_FILE, optional=optional, one_of=WEIGHT_FILES, progress=progress)


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


class PretrainedModule(nn.Module):
    """A model with a `config` that can be saved to and loaded from a Hugging Face directory."""

    base_prefix = PREFIX
    """What the encoder's keys begin with in this class."""

    skipped_keys: tuple[str, ...] = ()
    """Keys of other heads in the file that this model was loaded from."""

    def __init__(self, config: TvltConfig) -> None:
        super().__init__()
        if not isinstance(config, TvltConfig):
            raise ConfigError(
                f"config is a {type(config).__module__}.{type(config).__name__}; wanted a tvlt_deploy TvltConfig",
                hint="TvltConfig.from_dict(config.to_dict()) converts a transformers one",
            )
        self.config = config

    def init_weights(self, generator: Generator | None = None) -> None:
        """Draw linear and convolution weights from N(0, initializer_range), set their biases to zero, in place.

        A model on the meta device, which is about to be given its weights, is left alone.
        """
        if self.device.type == "meta":
            return
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=self.config.initializer_range, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        *,
        config: TvltConfig | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load `config.json` and the weights of a directory; the model is in evaluation mode.

        directory: a local path, or a model on the hub (`namespace/name`, `namespace/name@revision`), which is fetched.
        config: replaces the directory's `config.json`. dtype: of the parameters, whatever the file holds.
        Keys of other TVLT heads are skipped and listed in `skipped_keys`. Raises `CheckpointError` (a `ValueError`)
        for anything that is missing, unknown, misshapen, damaged or not a finite floating-point tensor, and as
        `tvlt_deploy._internal.hub.local_path` for what cannot be fetched.
        """
        folder = checkpoint_path(directory)
        config = read_config(folder) if config is None else config
        tensors = read_tensors(folder)
        layers = config.num_hidden_layers + config.decoder_num_hidden_layers
        if layers > len(tensors) + 1000:
            raise CheckpointError(
                f"{folder}: config.json asks for {layers} layers; the weights are {len(tensors)} tensors"
            )
        try:
            with torch.device("meta"):
                model = cls(config)
        except (RuntimeError, TypeError, OverflowError) as error:
            raise CheckpointError(f"{folder}: config.json describes a model too large for torch: {error}") from error
        state, skipped = match_state(tensors, model.state_dict(), cls.base_prefix, dtype, str(folder))
        model.load_state_dict(state, assign=True)
        model.skipped_keys = skipped
        return model.eval()

    def name_outputs(self, labels: Sequence[str]) -> None:
        """Name what a classifier's outputs stand for. Raises `UsageError` for a model without, or another number."""
        if type(self).__name__ not in {task.reference for task in TASKS.values() if task.labelled}:
            raise UsageError(f"labels were given; {type(self).__name__} has no outputs to name")
        self.config = self.config.with_labels(labels)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors`, each in one piece; transformers 4.40.2 loads the directory."""
        folder = Path(directory)
        extras = {**self.config.extras, "torch_dtype": str(self.dtype).removeprefix("torch.")}
        config = self.config.replace(architectures=(type(self).__name__,), extras=extras)
        config.to_dict()  # refuse what no file can hold before anything is written
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in self.state_dict().items()}
        with staged_file(folder / SAFE_FILE) as temporary:
            safetensors.torch.save_file(state, temporary, metadata={"format": "pt"})
        config.save_pretrained(folder)


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


def class_named(name: str) -> type[PretrainedModule]:
    """The reference class of that name. Raises `UsageError` listing the names there are."""
    from tvlt_deploy import reference

    if name not in {task.reference for task in TASKS.values()}:
        raise UsageError(f"architecture is {name!r}; wanted one of {some({t.reference for t in TASKS.values()})}")
    return cast(type[PretrainedModule], getattr(reference, name))


def load_model(
    directory: str | os.PathLike[str], task_name: str, *, dtype: torch.dtype = torch.float32
) -> PretrainedModule:
    """The model that computes one task, in evaluation mode.

    A pre-training file gives up the one head that is asked for: the other is skipped, and `config.task_matching` and
    `config.task_mae` say so. Raises `UsageError` for an unknown task and `CheckpointError` as `from_pretrained`.
    """
    task = get_task(task_name)
    directory = checkpoint_path(directory)
    config = read_config(directory)
    if task.reference == "TvltForPreTraining":
        config = config.replace(task_matching=not task.needs_noise, task_mae=task.needs_noise)
    return class_named(task.reference).from_pretrained(directory, config=config, dtype=dtype)


# Seeded checkpoints ----------------------------------------------------------------------------------------------


def _draws(shapes: Mapping[str, torch.Size], seed: int) -> Iterator[tuple[str, Tensor]]:
    # numpy's generator gives the same bytes on every machine; torch's depends on the vector width of the CPU.
    source = np.random.default_rng(seed)
    for key, shape in shapes.items():
        values = torch.from_numpy(source.standard_normal(tuple(shape), dtype=np.float32))
        if key.endswith("weight") and len(shape) == 1:
            values = 0.1 * values + 1.0  # the gain of a LayerNorm
        elif key.endswith("weight"):
            values = values / math.sqrt(math.prod(shape[1:]))
        else:
            values = 0.1 * values
        yield key, values


def init_checkpoint(
    directory: str | os.PathLike[str],
    config: TvltConfig | None = None,
    seed: int = 0,
    architecture: str = "TvltForPreTraining",
) -> None:
    """Write a random checkpoint: `config.json` and float32 `model.safetensors`; the same seed gives the same bytes.

    Every parameter is drawn from a normal distribution, so that none hides behind a zero: weights with deviation
    1 / sqrt(inputs), LayerNorm gains 1 with deviation 0.1, everything else (biases, embeddings, tokens) 0.1. This is
    not the initialisation for training, which is that of the classes themselves. Raises `UsageError` for an unknown
    architecture or a seed that is no int of at least 0.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UsageError(f"seed is {seed!r}; wanted an int of at least 0")
    with torch.device("meta"):
        model = class_named(architecture)(config or TvltConfig())
    shapes = {key: tensor.shape for key, tensor in sorted(model.state_dict().items())}
    model.load_state_dict(dict(_draws(shapes, seed)), assign=True)
    model.save_pretrained(directory)
