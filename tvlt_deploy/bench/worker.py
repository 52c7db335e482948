"""The process that is measured: one bundle, one backend, one precision, one workload.

It reads requests from standard input and writes answers to standard output, one JSON value a line:
`["open", {...}]` first, then `["warm_up", {...}]`, `["turn", {...}]`, `["answers", {...}]` and `["summary", {}]`. An
answer is `{"ok": value}` or `{"error": {"type", "message", "hint"}}`. The end of its input ends it.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from tvlt_deploy._internal.machine import imported_versions
from tvlt_deploy.bench import timing
from tvlt_deploy.bench.memory import peak_memory
from tvlt_deploy.bench.results import END_TO_END
from tvlt_deploy.bench.workloads import make_workload
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import FUSED_FORM, STANDARD_FORM
from tvlt_deploy.bundle.preprocessing import processor_of
from tvlt_deploy.errors import TvltError
from tvlt_deploy.inference.pipeline import Pipeline, load
from tvlt_deploy.runtimes import open_runtime
from tvlt_deploy.runtimes.base import Runtime


class Stopwatch:
    """Seconds spent in each stage of one call, and the size (clips, frames, rows) of each batch."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.batches: list[tuple[int, int, int]] = []

    def time(self, stage: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the function, add its time to the stage, and return its result."""
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class _Timed:
    """Wraps a processor or a runtime and adds the time of its calls to a stage."""

    def __init__(self, target: Any, stage: str, watch: Stopwatch) -> None:
        self._target, self._stage, self._watch = target, stage, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._watch.time(self._stage, self._target, *args, **kwargs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        pixels, sound = feeds["pixel_values"].shape, feeds["audio_values"].shape
        self._watch.batches.append((pixels[0], pixels[1], sound[2]))
        outputs: dict[str, np.ndarray] = self._watch.time(self._stage, self._target.run, feeds)
        return outputs


class Session:
    """A workload and what answers it, with a stopwatch. Subclasses open a backend and implement `_call`."""

    def __init__(self, watch: Stopwatch, pipe: Pipeline, workload: str, load_seconds: float) -> None:
        self.watch, self.pipe, self.load_seconds = watch, pipe, load_seconds
        sound = pipe.processor.feature_extractor
        self.rate = sound.sampling_rate
        self.workload = make_workload(workload, pipe.config.num_frames, sound.max_samples / self.rate, self.rate)

    def _call(self) -> Mapping[str, Any]:
        """The task's outputs for all clips, in one call or clip by clip."""
        raise NotImplementedError

    def once(self) -> dict[str, float]:
        """Seconds of each stage of one call, and of the complete call."""
        self.watch.seconds, self.watch.batches = {}, []
        start = time.perf_counter()
        self._call()
        return {**self.watch.seconds, END_TO_END: time.perf_counter() - start}

    def answers(self, path: str) -> None:
        """Write the task's first output for all clips, one value after another, to an .npy file."""
        outputs = self._call()[self.pipe.task.output_names[0]]
        np.save(path, np.concatenate([np.ravel(row) for row in outputs]))

    def _clips(self) -> tuple[list[Any], list[Any]]:
        """Frames and sounds of one call; a media file is decoded each time."""
        images: list[Any] = list(self.workload.images)
        audio: list[Any] = list(self.workload.audio)
        if self.workload.path is not None:
            from tvlt_deploy.inference.files import read_for

            clip = self.watch.time("decode", read_for, self.pipe, self.workload.path)
            images, audio = [clip.pictures], [clip.waveform]
        return images, audio

    def warm_up(self, seconds: float) -> dict[str, Any]:
        """See `timing.warm_up`."""
        calls, stable = timing.warm_up(self.once, seconds)
        return {"calls": calls, "stable": stable}

    def turn(self, seconds: float) -> list[dict[str, float]]:
        """Times of one call after another, until `seconds` have passed; at least one."""
        begin, times = time.perf_counter(), [self.once()]
        while time.perf_counter() - begin < seconds:
            times.append(self.once())
        return times

    def summary(self) -> dict[str, Any]:
        """What does not change from call to call, and the peak of memory so far in bytes."""
        return {
            "clips": self.workload.clips,
            "description": self.workload.description,
            "note": self.workload.note,
            "batches": self.watch.batches,
            "load_seconds": self.load_seconds,
            "peak_memory": peak_memory(),
            "versions": imported_versions(),
        }


class PipelineSession(Session):
    """A pipeline on one backend."""

    def __init__(self, bundle: str, backend: str, device: str, precision: str, workload: str, **options: Any) -> None:
        watch, start = Stopwatch(), time.perf_counter()
        pipe = load(bundle, backend, device, precision, **options)
        load_seconds = time.perf_counter() - start
        processor = copy.copy(pipe.processor)
        processor.image_processor = cast(Any, _Timed(processor.image_processor, "image", watch))
        processor.feature_extractor = cast(Any, _Timed(processor.feature_extractor, "audio", watch))
        timed = Pipeline(pipe.bundle, cast(Runtime, _Timed(pipe.runtime, "model", watch)), processor)
        super().__init__(watch, timed, workload, load_seconds)

    def _call(self) -> Mapping[str, Any]:
        images, audio = self._clips()
        return self.pipe(images=images, audio=audio, sampling_rate=self.rate)


class FusedSession(Session):
    """The fused graph, clip by clip, and besides it the model alone: the same form, on tensors prepared beforehand.

    The stage `model` is not part of the call that is timed: it is what the call would take without pre-processing.
    """

    def __init__(self, bundle: str, threads: int | None, workload: str) -> None:
        from tvlt_deploy.runtimes.onnxruntime import open_fused

        watch, start = Stopwatch(), time.perf_counter()
        opened = Bundle(bundle)
        self.runtime = open_fused(opened, threads)
        load_seconds = time.perf_counter() - start
        processor = processor_of(opened)
        assert processor is not None  # or there is no fused graph
        model = open_runtime(opened, threads=threads, form=STANDARD_FORM)
        pipe = Pipeline(opened, cast(Runtime, _Timed(model, "model", watch)), processor)
        super().__init__(watch, pipe, workload, load_seconds)
        self.prepared = [pipe.inputs(*clip, self.rate) for clip in zip(*self._clips(), strict=True)]

    def once(self) -> dict[str, float]:
        """Seconds of the fused graph on all clips, and of the model alone on them."""
        times = super().once()
        for feeds in self.prepared:
            self.pipe.runtime.run(feeds)
        return {**self.watch.seconds, END_TO_END: times[END_TO_END]}

    def _call(self) -> Mapping[str, Any]:
        clips = zip(*self._clips(), strict=True)
        outputs = [self.runtime.run(frames, wave) for frames, wave in clips]
        return {name: [row[name] for row in outputs] for name in self.pipe.task.output_names}

    def summary(self) -> dict[str, Any]:
        """As of any session, without the peak of memory, which would be that of two sessions."""
        return {**super().summary(), "peak_memory": None}


def open_session(bundle: str, backend: str, threads: int | None, workload: str, **options: Any) -> Session:
    """The session of a backend, or of the fused graph, which has no options."""
    if backend == FUSED_FORM:
        return FusedSession(bundle, threads, workload)
    return PipelineSession(bundle, backend, workload=workload, threads=threads, **options)


def main() -> None:
    """Serve requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what a library prints is not to be read as an answer
    session: Session | None = None
    for line in sys.stdin:
        request, arguments = json.loads(line)
        try:
            if session is None:
                session = open_session(**arguments)
                answer: dict[str, Any] = {"ok": None}
            else:
                answer = {"ok": getattr(session, request)(**arguments)}
        except TvltError as error:
            answer = {"error": {"type": type(error).__name__, "message": error.message, "hint": error.hint}}
        except Exception as error:
            answer = {
                "error": {"type": type(error).__name__, "message": f"{type(error).__name__}: {error}", "hint": ""}
            }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
