"""What every runtime promises, and the check of what is fed to it."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import InputError
from tvlt_deploy.tasks import AUDIO_PATCHES, BATCH, FRAMES, PIXEL_PATCHES, ROWS, TensorSpec, token_counts


class Runtime(Protocol):
    """Anything that computes a task's outputs from its inputs. Use with `with`, or call `close`."""

    backend: str
    device: str
    precision: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Arrays by input name in, float32 arrays by output name out; the caller owns both."""
        ...

    def close(self) -> None:
        """Release what the runtime holds; a closed runtime cannot run."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing:
    """The `with` half of a runtime."""

    def close(self) -> None:
        """Overridden by runtimes that hold something."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def shape_text(spec: TensorSpec) -> str:
    """`(batch, frames, 3, 224, 224)`."""
    return f"({', '.join(str(axis) for axis in spec.shape)})"


def check_feeds(
    feeds: Mapping[str, Any], inputs: Mapping[str, TensorSpec], config: TvltConfig
) -> dict[str, np.ndarray]:
    """Contiguous float32 arrays in graph order, all of shapes that agree.

    Masks may be bool or int. Raises `InputError` naming the input, its shape and the one wanted: runtimes report a
    wrong mask length or a row count that is not whole patches only deep inside the graph, or not at all.
    """
    unknown, missing = sorted(set(feeds) - set(inputs)), sorted(set(inputs) - set(feeds))
    if unknown or missing:
        found = f"unknown inputs {unknown}" if unknown else f"missing inputs {missing}"
        raise InputError(f"{found}; wanted {', '.join(inputs)}")
    arrays = {}
    for name, spec in inputs.items():
        array = np.asarray(feeds[name])
        if array.dtype != spec.dtype:
            if not name.endswith("_mask") or array.dtype.kind not in "biuf":
                raise InputError(f"{name} is {array.dtype}; wanted {spec.dtype}")
            array = array.astype(spec.dtype)
        arrays[name] = np.ascontiguousarray(array)
    for name, spec in inputs.items():
        shape = arrays[name].shape
        fixed = [size for size, axis in zip(shape, spec.shape, strict=False) if not isinstance(axis, str)]
        if len(shape) != len(spec.shape) or fixed != [axis for axis in spec.shape if not isinstance(axis, str)]:
            raise InputError(f"{name} has shape {shape}; wanted {shape_text(spec)}")
    batch, frames = arrays["pixel_values"].shape[:2]
    rows = arrays["audio_values"].shape[2]
    if batch < 1:
        raise InputError("the batch is empty; wanted at least one clip")
    if not 1 <= frames <= config.num_frames:
        raise InputError(f"pixel_values has {frames} frames; wanted 1 to {config.num_frames}")
    patch_rows = config.audio_patch[0]
    longest = config.time_patches * patch_rows
    if not patch_rows <= rows <= longest or rows % patch_rows:
        raise InputError(
            f"audio_values has {rows} rows; wanted a multiple of {patch_rows} from {patch_rows} to {longest}"
        )
    pixel_patches, audio_patches = token_counts(config, frames, rows)
    sizes = {BATCH: batch, FRAMES: frames, ROWS: rows, PIXEL_PATCHES: pixel_patches, AUDIO_PATCHES: audio_patches}
    for name, spec in inputs.items():
        wanted = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape)
        if arrays[name].shape != wanted:
            raise InputError(f"{name} has shape {arrays[name].shape}; wanted {shape_text(spec)} = {wanted}")
    return arrays
