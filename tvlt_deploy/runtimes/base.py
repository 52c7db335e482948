"""The protocol of every runtime, and the check of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import InputError
from tvlt_deploy.tasks import AUDIO_PATCHES, BATCH, FRAMES, PIXEL_PATCHES, ROWS, TensorSpec, token_counts


class Runtime(Protocol):
    """Anything that computes a task's outputs from its inputs. Use with `with`, or call `close`.

    Attributes:
        backend: One of `tvlt_deploy.runtimes.BACKENDS`.
        device: The device it runs on: `cpu`, `cuda` or `cuda:N`.
        precision: One of `tvlt_deploy.tasks.PRECISIONS`.
        inputs: Name -> dtype and shape of each input; axes of variable size are named.
        outputs: Name -> dtype and shape of each output.
    """

    backend: str
    device: str
    precision: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Compute one batch.

        Args:
            feeds: One array per input, by name. Masks may be bool or int.

        Returns:
            float32 arrays by output name. They belong to the caller and are never overwritten.

        Raises:
            InputError: An array is missing or has the wrong dtype or shape, or the runtime is closed.
        """
        ...

    def close(self) -> None:
        """Release the resources of the runtime. A closed runtime cannot run."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing:
    """Mixin: `with` closes the object."""

    def close(self) -> None:
        """Release resources; overridden where there are any."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def shape_text(spec: TensorSpec) -> str:
    """The shape as text: `(batch, frames, 3, 224, 224)`."""
    return f"({', '.join(str(axis) for axis in spec.shape)})"


def check_feeds(
    feeds: Mapping[str, Any], inputs: Mapping[str, TensorSpec], config: TvltConfig
) -> dict[str, np.ndarray]:
    """Check the inputs of a runtime. Engines report a wrong length of a mask deep inside the graph, or not at all.

    Args:
        feeds: One array per input, by name. Masks may be bool or int.
        inputs: The expected inputs.
        config: The model's configuration.

    Returns:
        Contiguous arrays of the expected dtype, in the order of `inputs`.

    Raises:
        InputError: An array is missing or unknown, or has the wrong dtype or shape; the message names the actual and
            the expected one.
    """
    unknown, missing = sorted(set(feeds) - set(inputs)), sorted(set(inputs) - set(feeds))
    if unknown or missing:
        problem = f"unknown inputs {unknown}" if unknown else f"missing inputs {missing}"
        raise InputError(f"{problem}; expected {', '.join(inputs)}")
    arrays = {}
    for name, spec in inputs.items():
        array = np.asarray(feeds[name])
        if array.dtype != spec.dtype:
            if not name.endswith("_mask") or array.dtype.kind not in "biuf":
                raise InputError(f"{name} is {array.dtype}; expected {spec.dtype}")
            array = array.astype(spec.dtype)
        arrays[name] = np.ascontiguousarray(array)
    for name, spec in inputs.items():
        shape = arrays[name].shape
        fixed = [size for size, axis in zip(shape, spec.shape, strict=False) if not isinstance(axis, str)]
        if len(shape) != len(spec.shape) or fixed != [axis for axis in spec.shape if not isinstance(axis, str)]:
            raise InputError(f"{name} has shape {shape}; expected {shape_text(spec)}")
    batch, frames = arrays["pixel_values"].shape[:2]
    rows = arrays["audio_values"].shape[2]
    if batch < 1:
        raise InputError("the batch is empty; expected at least one clip")
    if not 1 <= frames <= config.num_frames:
        raise InputError(f"pixel_values has {frames} frames; expected 1 to {config.num_frames}")
    patch_rows = config.audio_patch[0]
    longest = config.time_patches * patch_rows
    if not patch_rows <= rows <= longest or rows % patch_rows:
        raise InputError(
            f"audio_values has {rows} rows; expected a multiple of {patch_rows} from {patch_rows} to {longest}"
        )
    pixel_patches, audio_patches = token_counts(config, frames, rows)
    sizes = {BATCH: batch, FRAMES: frames, ROWS: rows, PIXEL_PATCHES: pixel_patches, AUDIO_PATCHES: audio_patches}
    for name, spec in inputs.items():
        expected = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape)
        if arrays[name].shape != expected:
            raise InputError(f"{name} has shape {arrays[name].shape}; expected {shape_text(spec)} = {expected}")
    return arrays
