"""The Python side of `libtvlt_deploy_python`: a pipeline that reads the memory of a C caller and returns plain values.

`cpp/src/python_model.cpp` calls it. Python programs use `tvlt_deploy.load`.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tvlt_deploy.errors import EnvironmentLackError, TvltError
from tvlt_deploy.inference.answers import Answer
from tvlt_deploy.inference.pipeline import load
from tvlt_deploy.tasks import RAW_INPUTS, TensorSpec

ClipView = tuple[memoryview | None, tuple[int, int, int], tuple[int, int], memoryview | None, int]
"""Bytes of the frames, (frames, height, width), (bytes between frames, between rows), bytes of the samples, rate in Hz.

Absent frames or samples are None."""
TensorView = tuple[str, tuple[int, ...], memoryview]
"""Name of the input, shape, bytes of float32."""
MediaFile = tuple[str, str | None, float, float | None, bool]
"""Media file, file of its sound, start and duration in seconds, whether a file read only in part is an error."""
Scores = tuple[list[str], list[float], str, float]
"""Labels, a score for each; label and score of the answer."""
Row = tuple[list[tuple[str, np.ndarray]], Scores | None]
"""Result of one clip: its outputs, contiguous float32, and its scores if the task has labels."""

TensorInfo = tuple[str, tuple[int, ...], str]
"""Name, shape with -1 for a dynamic axis, dtype: of an input or output."""
Signature = tuple[list[TensorInfo], list[TensorInfo], list[str]]
"""Inputs, outputs of one clip, labels (none for tasks without labels)."""


class EmbeddedPipeline:
    """The pipeline behind the C functions. No view of the caller's memory is kept after a call.

    Arguments and errors are those of `tvlt_deploy.load`.
    """

    def __init__(
        self,
        bundle: str,
        backend: str,
        device: str,
        precision: str | None,
        threads: int | None,
        trust_engine: str | None,
    ) -> None:
        self.pipeline = load(bundle, backend, device, precision, threads=threads, trust_engine=trust_engine)

    def signature(self, raw: bool) -> Signature:
        """Inputs of raw clips, or the model's own; outputs of one clip, without the batch axis; labels."""
        runtime = self.pipeline.runtime
        inputs = RAW_INPUTS if raw else runtime.inputs
        return _infos(inputs, 0), _infos(runtime.outputs, 1), list(self.pipeline.labels)

    def run_clips(self, clips: Sequence[ClipView]) -> list[Row]:
        """Run clips as a call of the pipeline does.

        Args:
            clips: frames and sound of each clip, as views of the caller's memory.

        Returns:
            The result of each clip, in order.

        Raises:
            InputError: as for a call of the pipeline.
        """
        images: list[np.ndarray | None] = []
        audio: list[np.ndarray | None] = []
        expected = rate = self.pipeline.processor.feature_extractor.sampling_rate
        for frames, shape, strides, samples, sampling_rate in clips:
            images.append(
                None if frames is None else np.ndarray((*shape, 3), np.uint8, frames, strides=(*strides, 3, 1))
            )
            audio.append(None if samples is None else np.frombuffer(samples, np.float32))
            if samples is not None and sampling_rate != expected:
                rate = sampling_rate  # the pipeline refuses it
        outputs = self.pipeline(images, audio, rate)
        return [self._row({name: np.asarray(v[index]) for name, v in outputs.items()}) for index in range(len(clips))]

    def run_tensors(self, tensors: Sequence[TensorView]) -> list[Row]:
        """Run a batch of prepared tensors as `run` of the runtime does.

        Args:
            tensors: the inputs of the task, as views of the caller's memory.

        Returns:
            The result of each row of the batch.

        Raises:
            InputError: as for `run` of the runtime.
        """
        feeds = {name: np.frombuffer(view, np.float32).reshape(shape) for name, shape, view in tensors}
        outputs = self.pipeline.runtime.run(feeds)
        batch = len(next(iter(outputs.values())))
        return [self._row({name: values[index] for name, values in outputs.items()}) for index in range(batch)]

    def run_media(self, media: Sequence[MediaFile]) -> list[Row]:
        """Run media files as `tvlt_deploy.inference.files.answer_files` does.

        Args:
            media: the files, each with its window.

        Returns:
            The result of each file, in order.

        Raises:
            TvltError: the error of the first file that cannot be answered.
        """
        from tvlt_deploy.inference.files import answer_files

        rows = []
        for path, audio, start, duration, strict in media:
            source = Path(path), None if audio is None else Path(audio)
            for answer in answer_files(self.pipeline, [source], start=start, duration=duration, strict=strict):
                if answer.error is not None:
                    raise answer.error
                rows.append(self._row(answer.outputs, answer.answer))
        return rows

    def _row(self, outputs: Mapping[str, np.ndarray], answer: Answer | None = None) -> Row:
        if answer is None and self.pipeline.has_labels:
            answer = self.pipeline.answers(next(iter(outputs.values()))[None])[0]
        arrays = [(name, np.ascontiguousarray(values, np.float32)) for name, values in outputs.items()]
        if answer is None:
            return arrays, None
        return arrays, (list(answer.scores), list(answer.scores.values()), answer.label, answer.score)

    def close(self) -> None:
        """Close the pipeline."""
        self.pipeline.close()


def _infos(specs: Mapping[str, TensorSpec], first: int) -> list[TensorInfo]:
    """Names and types, and shapes from axis `first` on."""
    return [
        (name, tuple(size if isinstance(size, int) else -1 for size in spec.shape[first:]), spec.dtype)
        for name, spec in specs.items()
    ]


def describe(error: BaseException) -> tuple[int, str]:
    """Turn an exception into the status and the text for a C caller.

    Args:
        error: the exception.

    Returns:
        The exit code that the command would have, and a message.
    """
    if isinstance(error, TvltError):
        return error.exit_code, str(error)
    if isinstance(error, OSError | ImportError | MemoryError):
        return EnvironmentLackError.exit_code, f"{type(error).__name__}: {error}"
    return TvltError.exit_code, "".join(traceback.format_exception(error))
