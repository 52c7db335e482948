"""From a bundle's graph to a TensorRT or TensorRT-RTX engine, with a receipt of what the engine computes in.

Networks are strongly typed: the graph decides every type, and no builder flag changes it. TensorRT builds for the GPU
that is there; TensorRT-RTX builds anywhere, for the GPUs that are named.
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
"""Warnings of a build that mean nothing for the engine; any other is an error."""
INCONSISTENT = "not self-consistent"

_building = threading.Lock()
"""One build at a time: the library's messages do not say which one they are of."""


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

    engine: `tensorrt` (for the GPU of this machine) or `tensorrt-rtx` (for `targets`, on any machine).
    precision: of the graph: `fp16`, `bf16`, `int8`, `fp8`; `fp32`, which no engine fuses, only with `allow_unfused`.
    profiles: ranges of sizes, as text (`tvlt_deploy.tensorrt.profiles.parse_profile`); by default one that takes
        everything.
    targets: compute capabilities such as `89`; none means whatever GPU will run it.

    The engine's hash goes into the user's trust store. On any error the bundle is as it was. Raises `UsageError` for
    arguments that cannot be, `VerdictError` when the engine does not compute in the precision asked for, its attention
    is not fused, or the build warned of anything not known to be harmless, and `EnvironmentLackError` when the library
    or a GPU is missing or the build fails.
    """
    opened = open_bundle(bundle)
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; wanted one of {', '.join(PRECISIONS)}")
    if precision == "fp32" and not allow_unfused:
        raise UsageError(
            "fp32 engines compute attention unfused, slowly and in gigabytes of memory",
            hint="use --precision fp16 or bf16, or --allow-unfused if it has to be fp32",
        )
    if engine not in PACKAGES:
        raise UsageError(f"engine is {engine!r}; wanted one of {', '.join(PACKAGES)}")
    wanted = capabilities(targets)
    check_precision(precision, wanted)
    chosen = _profiles(opened, profiles)
    variant = opened.variant(precision, FP16_TWIN_FORM if precision == "int8" else STANDARD_FORM)
    library = load_library(engine)
    if not builds_for_targets(library):
        if wanted:
            raise UsageError(
                f"{engine} builds for the GPU of this machine; --target is for tensorrt-rtx",
                hint="leave --target out, or use --engine tensorrt-rtx",
            )
        wanted = (_local_capability(),)
        check_precision(precision, wanted)
    opened.check(variant.files)
    target = target_name(wanted)
    name = f"{engine}-{library.__version__}-{target}-{profile_hash(chosen)}.engine"
    job = _Build(library, opened, variant, chosen, wanted, progress)
    content = job.run()
    expected = _expected(opened.path(variant.path))
    receipt = read_receipt(job.messages("VERBOSE", "INFO"), precision, *expected, len(chosen))
    check_receipt(receipt, precision, allow_unfused)
    made = Engine(
        engine=engine,
        version=library.__version__,
        target=target,
        os=operating_system(),
        precision=precision,
        path=f"{precision}/{name}",
        source=opened.manifest.files[variant.path].sha256,
        profiles=tuple(profile.to_entry() for profile in chosen),
        receipt=receipt,
        verdict=NOT_RUN,
    )
    progress(f"adding {made.path}")
    add_engine(opened, made, content)
    trust(opened.manifest.files[made.path].sha256)
    return made


def _profiles(bundle: Bundle, profiles: Sequence[str | Profile]) -> tuple[Profile, ...]:
    rate = rows_per_second(bundle)
    found = []
    for profile in profiles:
        if isinstance(profile, str):
            found.append(parse_profile(profile, bundle.config, rate))
        else:
            check_profile(profile, bundle.config, rate)
            found.append(profile)
    if len(set(found)) < len(found):
        raise UsageError("a profile is given twice", hint="leave one of them out")
    return tuple(found) or (default_profile(bundle.config, rate),)


def rows_per_second(bundle: Bundle) -> float:
    """Spectrogram rows that a second of sound becomes in a bundle."""
    processor = processor_of(bundle)
    extractor = TvltFeatureExtractor() if processor is None else processor.feature_extractor
    return float(extractor.sampling_rate / extractor.hop_length)


def _local_capability() -> int:
    with Cuda(0) as cuda:
        return cuda.capability


def _expected(graph: Path) -> tuple[int, int]:
    """Attention blocks and quantized MatMuls of an ONNX file."""
    import onnx

    nodes = onnx.load(graph, load_external_data=False).graph.node
    made_by = {output: node for node in nodes for output in node.output}
    products = [node for node in nodes if node.op_type == "MatMul"]
    both = lambda node: all(name in made_by and made_by[name].op_type == "DequantizeLinear" for name in node.input)  # noqa: E731
    return sum(node.op_type == "Softmax" for node in nodes), sum(both(node) for node in products)


class _Build:
    """One run of a builder. It works in a thread of its own, so that Ctrl-C is heard while it does."""

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
        """What the library logged, of these severities."""
        return [text for severity, text in self.log if severity in severities]

    def run(self) -> memoryview:
        """The engine's bytes. Raises as `build`; a KeyboardInterrupt cancels the build first."""
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
            config.clear_flag(trt.BuilderFlag.TF32)  # which would answer with ten bits of mantissa
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
                + ("; ".join(errors) or "it gives no reason"),
                hint="try another --precision or --target",
            )
        warnings = [text for text in self.messages("WARNING") if not any(known in text for known in HARMLESS)]
        warnings += [text for text in self.messages("INFO", "VERBOSE") if INCONSISTENT in text]
        if warnings:
            raise VerdictError(
                f"{self.title} warned: {'; '.join(warnings)}",
                hint="the engine may fail or answer wrongly at some size: change --profile",
            )


def _monitor(trt: Any, title: str, progress: Progress, cancelled: threading.Event) -> Any:
    """Progress of a build: the outermost phases are shown, and every step asks whether to go on."""

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
    """Kernel timings of earlier builds, where the library measures any; kept in the user's cache."""
    if builds_for_targets(trt):
        yield
        return
    path = user_cache("timing") / f"{trt.__name__}-{trt.__version__}-{target_name(targets)}.cache"
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, False)
    yield
    with staged_file(path) as temporary:
        temporary.write_bytes(config.get_timing_cache().serialize())
