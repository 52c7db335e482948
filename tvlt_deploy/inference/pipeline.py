"""The pipeline: clips in, answers out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.bundle import Bundle, BundleLike, open_bundle
from tvlt_deploy.bundle.preprocessing import processor_of
from tvlt_deploy.errors import BundleError, UsageError
from tvlt_deploy.inference.answers import Answer, answers_of, has_labels, label_names
from tvlt_deploy.inference.batching import group_clips, is_per_token, pad_batch, trim_outputs
from tvlt_deploy.inference.prepared import Prepared, prepare_clips
from tvlt_deploy.inference.selection import choose
from tvlt_deploy.processors import Processor
from tvlt_deploy.processors.recipe import RECIPES
from tvlt_deploy.runtimes import (
    AUTO,
    DEFAULT_BACKEND,
    DEFAULT_DEVICE,
    DEFAULT_PRECISION,
    ENGINE_BACKENDS,
    open_runtime,
)
from tvlt_deploy.runtimes.base import Closing, Runtime
from tvlt_deploy.runtimes.options import check_options

__all__ = ["Answer", "Pipeline", "Prepared", "load"]


class Pipeline(Closing):
    """A bundle with an open runtime and its pre-processing. `load` creates one; close it with `close` or `with`.

    Attributes:
        bundle: the bundle.
        task: the task of the bundle.
        config: the configuration of the model.
        runtime: the engine; `runtime.run` accepts tensors that you prepared yourself.
        processor: the pre-processing of the bundle, which turns frames and sound into those tensors.
        options: the options of the backend that the runtime was opened with.
    """

    def __init__(
        self, bundle: Bundle, runtime: Runtime, processor: Processor, options: Mapping[str, Any] | None = None
    ) -> None:
        self.bundle, self.runtime, self.processor, self.options = bundle, runtime, processor, dict(options or {})
        self.task, self.config = bundle.task, bundle.config

    @property
    def has_labels(self) -> bool:
        """Whether the task is answered with labels; otherwise with arrays."""
        return has_labels(self.task)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of `Answer.scores`; empty for tasks that are answered with arrays."""
        return label_names(self.task, self.config)

    def __call__(
        self,
        images: Sequence[Any] | None = None,
        audio: Sequence[Any] | None = None,
        sampling_rate: int | None = None,
        seed: int = 0,
    ) -> dict[str, np.ndarray | list[np.ndarray]]:
        """Run the model on clips.

        Args:
            images: one entry per clip: (T, H, W, 3) uint8, a list of frames, a single image, or None for no frames.
                None in place of the list if no clip has frames.
            audio: one entry per clip: (samples,) mono at 44100 Hz, or None for no sound. None in place of the list if
                no clip has sound.
            sampling_rate: sampling rate of the audio, in Hz. It must be that of the model.
            seed: seed of the masking noise, for a task that has it. The noise of a clip does not depend on the other
                clips in the batch.

        Returns:
            The outputs of the task, one row per clip, in the order of the clips. Outputs of a fixed size are arrays
            (clips, ...); outputs per token are lists of arrays, without the tokens of padding.

        Raises:
            InputError: the processors refuse a clip, the lists differ in length, the sampling rate is another, or a
                clip has neither frames nor sound.
        """
        clips = prepare_clips(self.processor, self.config, images, audio, sampling_rate)
        rows = dict(self.outputs(clips, seed))
        outputs: dict[str, np.ndarray | list[np.ndarray]] = {}
        for name, spec in self.runtime.outputs.items():
            values = [rows[index][name] for index in range(len(clips))]
            outputs[name] = values if is_per_token(spec) else np.stack(values)
        return outputs

    def predict(
        self,
        images: Sequence[Any] | None = None,
        audio: Sequence[Any] | None = None,
        sampling_rate: int | None = None,
    ) -> list[Answer]:
        """Answer clips with labels.

        Args:
            images: as for calling the pipeline.
            audio: as for calling the pipeline.
            sampling_rate: as for calling the pipeline.

        Returns:
            One answer per clip, in order.

        Raises:
            UsageError: the task is answered with arrays.
            InputError: as for calling the pipeline.
        """
        if not self.has_labels:
            raise UsageError(f"{self.task.name} returns arrays, not labels", hint="call the pipeline itself")
        outputs = self(images, audio, sampling_rate)
        return self.answers(np.asarray(outputs[self.task.output_names[0]]))

    def answers(self, logits: np.ndarray) -> list[Answer]:
        """Labels and scores of logits (clips, labels), or of matching logits (clips, 1)."""
        return answers_of(self.task, self.config, logits)

    def inputs(
        self, image: Any = None, audio: Any = None, sampling_rate: int | None = None, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Prepare the tensors that the runtime receives for one clip.

        Args:
            image: one entry of the list `images` of a call.
            audio: one entry of the list `audio` of a call.
            sampling_rate: as for calling the pipeline.
            seed: as for calling the pipeline.

        Returns:
            The inputs of the task by name, float32, a batch of one clip.

        Raises:
            InputError: as for calling the pipeline.
        """
        clip = self.prepare(image, audio, sampling_rate)
        return pad_batch([clip], self.task, self.config, self.processor, seed)

    def prepare(self, image: Any = None, audio: Any = None, sampling_rate: int | None = None) -> Prepared:
        """Pre-process one clip, for `outputs`. Arguments and errors are those of `inputs`."""
        return prepare_clips(self.processor, self.config, [image], [audio], sampling_rate)[0]

    def outputs(self, clips: Sequence[Prepared], seed: int = 0) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Run the model on prepared clips, batch by batch.

        Use it for clips that are prepared once and answered often, or that do not fit into memory together.

        Args:
            clips: results of `prepare`, at least one.
            seed: as for calling the pipeline.

        Yields:
            (index of the clip, its outputs) when its batch is done, smallest clips first. Outputs per token come
            without the tokens of padding.
        """
        for group in group_clips(clips, self.task, self.config, self.runtime.device):
            batch = [clips[index] for index in group]
            outputs = self.runtime.run(pad_batch(batch, self.task, self.config, self.processor, seed))
            padded_frames = max(clip.frames for clip in batch)
            for place, (index, clip) in enumerate(zip(group, batch, strict=True)):
                row = {name: values[place] for name, values in outputs.items()}
                yield index, trim_outputs(row, self.runtime.outputs, self.config, clip, padded_frames)

    def close(self) -> None:
        """Close the runtime."""
        self.runtime.close()


def load(
    bundle: BundleLike,
    backend: str = DEFAULT_BACKEND,
    device: str = DEFAULT_DEVICE,
    precision: str | None = None,
    *,
    threads: int | None = None,
    allow_fallback: bool = False,
    trust_engine: str | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Pipeline:
    """Open a bundle for inference. Every file that is opened is hashed first.

    Args:
        bundle: a bundle or its directory.
        backend: a backend by name, or `auto` for the fastest backend and precision within tolerance on this machine
            (`tvlt_deploy.inference.selection.choose`). `auto` measures once and caches the result.
        device: `cpu`, `cuda` or `cuda:N`.
        precision: by default fp32; with `auto` by default any.
        threads: CPU threads of the engine, by default all cores.
        allow_fallback: use the CPU when the device is not available.
        trust_engine: SHA-256 of a TensorRT engine that was not built on this machine. An engine is executable code.
        options: options of the backend by name, see `tvlt_deploy.runtimes.options.OPTIONS`; `auto` has none.
        progress: called with a line of text while `auto` measures.

    Returns:
        A pipeline on exactly the backend, device and precision that were asked for.

    Raises:
        BundleError: a file was altered, or the bundle has no pre-processing.
        UsageError: the bundle does not contain the precision, or an argument has no such value.
        EnvironmentLackError: a package or a device is missing.
    """
    opened = open_bundle(bundle)
    processor = processor_of(opened)
    if processor is None:
        raise BundleError(
            f"{opened.directory} has no {' or '.join(RECIPES)}: no processor creates the channels of its model",
            hint="use tvlt_deploy.runtimes.open_runtime and prepare the tensors yourself",
        )
    if options:
        check_options(backend, options)
    common: dict[str, Any] = {"threads": threads, "allow_fallback": allow_fallback, "trust_engine": trust_engine}
    if backend == AUTO:
        choice = choose(opened, device, precision, progress=progress, **common)
        backend, device, precision = choice.backend, choice.device, choice.precision
        progress(f"{AUTO} uses {backend} in {precision} on {device}")
        compiled = backend in ENGINE_BACKENDS
        common["allow_fallback"] = allow_fallback and not compiled
        common["trust_engine"] = trust_engine if compiled else None
    runtime = open_runtime(opened, backend, device, precision or DEFAULT_PRECISION, **common, **(options or {}))
    return Pipeline(opened, runtime, processor, options)
