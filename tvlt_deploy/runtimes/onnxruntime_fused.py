"""ONNX Runtime on the fused graph: raw frames and sound in, pre-processing included."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import FUSED_FORM
from tvlt_deploy.errors import InputError
from tvlt_deploy.runtimes.base import Closing, shape_text
from tvlt_deploy.runtimes.onnxruntime_session import CPU_PROVIDER, open_session, ort
from tvlt_deploy.tasks import RAW_INPUTS


class FusedRuntime(Closing):
    """A session on a bundle's fused graph, on the CPU: one clip per call. Calls from several threads are safe.

    Attributes:
        inputs: Name -> `TensorSpec` of the raw inputs.
        outputs: Name -> `TensorSpec` of the task's outputs.
        session: The session of ONNX Runtime; None when closed.
    """

    def __init__(self, bundle: Bundle, session: ort.InferenceSession) -> None:
        self.task, self.config = bundle.task, bundle.config
        self.inputs, self.outputs = RAW_INPUTS, self.task.outputs(self.config)
        self.session: ort.InferenceSession | None = session

    def run(
        self, frames: NDArray[np.uint8] | None = None, waveform: NDArray[np.float32] | None = None
    ) -> dict[str, np.ndarray]:
        """Compute the task's outputs of one clip. Either argument may be None, but not both.

        Args:
            frames: (frames, height, width, 3) uint8, RGB, of any size.
            waveform: (samples,) float32, mono at 44100 Hz, finite. Sound shorter than one hop (512 samples by default)
                counts as no sound; the feature extractor refuses it.

        Returns:
            float32 arrays by output name, with a batch axis of 1. Per-token outputs have the valid tokens only.

        Raises:
            InputError: An array has another dtype or shape, there are more frames than the model accepts, or the clip
                is empty.
        """
        if self.session is None:
            raise InputError("this runtime is closed", hint="open it again")
        if frames is None and waveform is None:
            raise InputError("frames and waveform are both None; expected at least one of them")
        feeds: dict[str, NDArray[Any]] = {
            "frames": np.zeros((0, *self.config.image_shape, 3), np.uint8) if frames is None else frames,
            "waveform": np.zeros(0, np.float32) if waveform is None else waveform,
        }
        for name, spec in self.inputs.items():
            array = feeds[name] = np.ascontiguousarray(feeds[name])
            fits = array.ndim == len(spec.shape) and (name != "frames" or array.shape[-1] == spec.shape[-1])
            if array.dtype != spec.dtype or not fits:
                expected = f"{spec.dtype} {shape_text(spec)}"
                raise InputError(f"{name} is {array.dtype} of shape {array.shape}; expected {expected}")
        if len(feeds["frames"]) > self.config.num_frames:
            raise InputError(f"frames has {len(feeds['frames'])} frames; expected at most {self.config.num_frames}")
        if 0 in feeds["frames"].shape[1:]:
            raise InputError(f"frames has shape {feeds['frames'].shape}, which has no pixels")
        if not np.isfinite(feeds["waveform"]).all():
            raise InputError("waveform contains NaN or infinite samples; expected finite numbers")
        values = self.session.run(list(self.outputs), feeds)
        return dict(zip(self.outputs, values, strict=True))

    def close(self) -> None:
        """Release the session."""
        self.session = None


def open_fused(bundle: Bundle, threads: int | None = None) -> FusedRuntime:
    """Open a bundle's fused graph.

    Args:
        bundle: The bundle.
        threads: CPU threads; by default all cores.

    Raises:
        UsageError: The bundle has no fused graph.
        BundleError: A file does not match the manifest, or ONNX Runtime cannot load it.
    """
    return FusedRuntime(bundle, open_session(bundle, bundle.variant("fp32", FUSED_FORM), [CPU_PROVIDER], threads))
