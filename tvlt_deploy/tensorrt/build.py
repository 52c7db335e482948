"""TensorRT and TensorRT-RTX engines from the graphs of a bundle, with a receipt of the types that they compute in.

Networks are strongly typed: the graph determines every type, and no builder flag changes it. TensorRT builds for the
GPU of the machine; TensorRT-RTX builds on any machine, for the GPUs that are named.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tvlt_deploy._internal.atomic import staged_file
from tvlt_deploy._internal.cache import user_cache
from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.bundle import Bundle, BundleLike, open_bundle
from tvlt_deploy.bundle.manifest import FP16_TWIN_FORM, NOT_RUN, STANDARD_FORM, Engine, Variant
from tvlt_deploy.bundle.preprocessing import processor_of
from tvlt_deploy.bundle.receipts import EngineReceipt
from tvlt_deploy.bundle.trust import trust
from tvlt_deploy.bundle.writer import add_engine
from tvlt_deploy.errors import EnvironmentLackError, UsageError, VerdictError
from tvlt_deploy.processors import TvltFeatureExtractor
from tvlt_deploy.tasks import PRECISIONS
from tvlt_deploy.tensorrt.cuda import Cuda
from tvlt_deploy.tensorrt.library import (
    PACKAGES,
    builds_for_targets,
    capabilities,
    check_precision,
    listening,
    load_library,
    operating_system,
    target_name,
)
from tvlt_deploy.tensorrt.profiles import Profile, check_profile, default_profile, parse_profile, profile_hash
from tvlt_deploy.tensorrt.receipt import check_receipt, read_receipt

HARMLESS = ("CUDA lazy loading is not enabled",)
"""Warnings of a build that do not concern the engine; any other is an error."""
INCONSISTENT = "not self-consistent"

_building = threading.Lock()
"""One build at a time: the messages of the library do not state which build they belong to."""


def build(
    bundle: BundleLike,
    *,
    engine: str,
    precision: str,
    profiles: Sequence[str | Profile] = (),
    targets: Sequence[str] = (),
    allow_unfused: bool = False,
    progress: Progress = silent,
) -> Engine:
    """Compile a graph of a bundle and add the engine to it.

    The engine's SHA-256 is recorded as trusted for this user. On any error the bundle is as it was.

    Args:
        bundle: A bundle or its path.
        engine: `tensorrt` (for the GPU of this machine) or `tensorrt-rtx` (for `targets`, on any machine).
        precision: Precision of the graph: `fp16`, `bf16`, `int8`, `fp8`; `fp32` only with `allow_unfused`.
        profiles: Input sizes, as `Profile`s or as text (see `tvlt_deploy.tensorrt.profiles.parse_profile`); by default
            one profile with all sizes that the model accepts.
        targets: Compute capabilities such as `89`, for `tensorrt-rtx`; by default any GPU.
        allow_unfused: Accept an engine whose attention is not fused into one kernel.
        progress: Receives a line of text for each step.

    Returns:
        The manifest's entry of the engine.

    Raises:
        UsageError: An argument is not valid, or the bundle has no such graph.
        BundleError: The graph differs from the manifest.
        VerdictError: The engine does not compute in `precision`, its attention is not fused, or the build warned of
            anything that is not known to be harmless.
        EnvironmentLackError: The library or a GPU is missing, or the build failed.
    """
    opened = open_bundle(bundle)
    _check_arguments(engine, precision, allow_unfused)
    requested = capabilities(targets)
    check_precision(precision, requested)
    chosen = _read_profiles(opened, profiles)
    variant = opened.variant(precision, FP16_TWIN_FORM if precision == "int8" else STANDARD_FORM)
    library = load_library(engine)
    capable = _build_targets(library, engine, precision, requested)
    opened.check(variant.files)
    job = _Build(library, opened, variant, chosen, capable, progress)
    content = job.run()
    counts = _count_operators(opened.path(variant.path))
    receipt = read_receipt(job.messages("VERBOSE", "INFO"), precision, *counts, len(chosen))
    check_receipt(receipt, precision, allow_unfused)
    built = job.entry(engine, receipt)
    progress(f"adding {built.path}")
    add_engine(opened, built, content)
    trust(opened.manifest.files[built.path].sha256)
    return built


def _check_arguments(engine: str, precision: str, allow_unfused: bool) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision == "fp32" and not allow_unfused:
        raise UsageError(
            "fp32 engines compute attention unfused, slowly and in gigabytes of memory",
            hint="use --precision fp16 or bf16, or --allow-unfused if it has to be fp32",
        )
    if engine not in PACKAGES:
        raise UsageError(f"engine is {engine!r}; expected one of {', '.join(PACKAGES)}")


def _build_targets(library: ModuleType, engine: str, precision: str, requested: tuple[int, ...]) -> tuple[int, ...]:
    """Compute capabilities to build for; none means any GPU."""
    if builds_for_targets(library):
        return requested
    if requested:
        raise UsageError(
            f"{engine} builds for the GPU of this machine; --target is for tensorrt-rtx",
            hint="leave --target out, or use --engine tensorrt-rtx",
        )
    local = (_local_capability(),)
    check_precision(precision, local)
    return local


def _read_profiles(bundle: Bundle, profiles: Sequence[str | Profile]) -> tuple[Profile, ...]:
    rate = rows_per_second(bundle)
    read = []
    for profile in profiles:
        if isinstance(profile, str):
            read.append(parse_profile(profile, bundle.config, rate))
        else:
            check_profile(profile, bundle.config, rate)
            read.append(profile)
    if len(set(read)) < len(read):
        raise UsageError("a profile is given twice", hint="leave one of them out")
    return tuple(read) or (default_profile(bundle.config, rate),)


def rows_per_second(bundle: Bundle) -> float:
    """Spectrogram rows per second of sound, in the pre-processing of a bundle."""
    processor = processor_of(bundle)
    extractor = TvltFeatureExtractor() if processor is None else processor.feature_extractor
    return float(extractor.sampling_rate / extractor.hop_length)


def _local_capability() -> int:
    with Cuda(0) as cuda:
        return cuda.capability


def _count_operators(graph: Path) -> tuple[int, int]:
    """Number of attention blocks and of quantized MatMuls of an ONNX file."""
    import onnx

    nodes = onnx.load(graph, load_external_data=False).graph.node
    producer = {output: node for node in nodes for output in node.output}
    products = [node for node in nodes if node.op_type == "MatMul"]
    both = lambda node: all(name in producer and producer[name].op_type == "DequantizeLinear" for name in node.input)  # noqa: E731
    return sum(node.op_type == "Softmax" for node in nodes), sum(both(node) for node in products)


class _Build:
    """One run of a builder, in a thread of its own, so that Ctrl-C works meanwhile."""

    def __init__(
        self,
        library: ModuleType,
        bundle: Bundle,
        variant: Variant,
        profiles: Sequence[Profile],
        targets: Sequence[int],
        progress: Progress,
    ) -> None:
        self.library, self.bundle, self.variant = library, bundle, variant
        self.profiles, self.targets, self.progress = profiles, targets, progress
        self.log: list[tuple[str, str]] = []
        self.cancelled = threading.Event()
        self.title = f"{library.__name__} {library.__version__}"

    def messages(self, *severities: str) -> list[str]:
        """The messages of these severities that the library logged."""
        return [text for severity, text in self.log if severity in severities]

    def run(self) -> memoryview:
        """Build the engine and return its bytes. Raises as `build`; a KeyboardInterrupt cancels the build first."""
        outcome: list[Any] = []
        done = threading.Event()

        def work() -> None:
            try:
                outcome.append(self._compile())
            except BaseException as error:  # raised again in the thread that waits
                outcome.append(error)
            finally:
                done.set()

        threading.Thread(target=work, name="tvlt-deploy build").start()
        try:
            while not done.wait(0.2):
                pass
        except BaseException:
            self.cancelled.set()
            done.wait()
            raise
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        self._check_log(outcome[0])
        return memoryview(outcome[0])

    def entry(self, engine: str, receipt: EngineReceipt) -> Engine:
        """The manifest's entry of the engine."""
        version, target = str(self.library.__version__), target_name(self.targets)
        name = f"{engine}-{version}-{target}-{profile_hash(self.profiles)}.engine"
        return Engine(
            engine=engine,
            version=version,
            target=target,
            os=operating_system(),
            precision=self.variant.precision,
            path=f"{self.variant.precision}/{name}",
            source=self.bundle.manifest.files[self.variant.path].sha256,
            profiles=tuple(profile.to_entry() for profile in self.profiles),
            receipt=receipt,
            verdict=NOT_RUN,
        )

    def _compile(self) -> Any:
        with _building, listening(self.library, lambda *entry: self.log.append(entry)) as logger:
            return self._build(logger)

    def _build(self, logger: Any) -> Any:
        trt = self.library
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        path = self.bundle.path(self.variant.path)
        self.progress(f"{self.title}: reading {path}")
        if not parser.parse_from_file(str(path)):
            errors = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
            raise EnvironmentLackError(
                f"{self.title} cannot read {path}: {'; '.join(errors)}", hint="export the bundle again"
            )
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.progress_monitor = _monitor(trt, self.title, self.progress, self.cancelled)
        if self.variant.precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)  # TF32 has ten bits of mantissa
        for profile in self.profiles:
            config.add_optimization_profile(self._optimization_profile(builder, profile))
        if builds_for_targets(trt) and self.targets:
            config.num_compute_capabilities = len(self.targets)
            for index, capability in enumerate(self.targets):
                config.set_compute_capability(self._capability(capability), index)
        with _timing_cache(trt, config, self.targets):
            return builder.build_serialized_network(network, config)

    def _optimization_profile(self, builder: Any, profile: Profile) -> Any:
        ranges = builder.create_optimization_profile()
        for name, shapes in profile.input_shapes(self.bundle.task, self.bundle.config).items():
            ranges.set_shape(name, *shapes)
        return ranges

    def _capability(self, capability: int) -> Any:
        known = self.library.ComputeCapability.__members__
        if f"SM{capability}" not in known:
            names = ", ".join(name for name in known if name.startswith("SM"))
            raise UsageError(f"{self.title} does not build for SM{capability}; it builds for {names}")
        return known[f"SM{capability}"]

    def _check_log(self, content: Any) -> None:
        errors = self.messages("INTERNAL_ERROR", "ERROR")
        if content is None or errors:
            raise EnvironmentLackError(
                f"{self.title} cannot build {self.bundle.path(self.variant.path)}: "
                + ("; ".join(errors) or "no reason was logged"),
                hint="try another --precision or --target",
            )
        warnings = [text for text in self.messages("WARNING") if not any(known in text for known in HARMLESS)]
        warnings += [text for text in self.messages("INFO", "VERBOSE") if INCONSISTENT in text]
        if warnings:
            raise VerdictError(
                f"{self.title} warned: {'; '.join(warnings)}",
                hint="the engine may fail or return wrong results at some sizes: change --profile",
            )


def _monitor(trt: Any, title: str, progress: Progress, cancelled: threading.Event) -> Any:
    """Progress of a build: reports the outermost phases, and stops the build at the next step if it is cancelled."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps
            if not parent:
                progress(f"{title}: {phase}")

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

        def step_complete(self, phase: str, step: int) -> bool:
            return not cancelled.is_set()

    return Monitor()


@contextmanager
def _timing_cache(trt: Any, config: Any, targets: Sequence[int]) -> Iterator[None]:
    """Use kernel timings of earlier builds, if the library measures any; they are stored in the user's cache."""
    if builds_for_targets(trt):
        yield
        return
    path = user_cache("timing") / f"{trt.__name__}-{trt.__version__}-{target_name(targets)}.cache"
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, False)
    yield
    with staged_file(path) as temporary:
        temporary.write_bytes(config.get_timing_cache().serialize())
