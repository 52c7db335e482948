"""Quantization to int8 and fp8: activation ranges from real clips, and graphs with these ranges.

How to calibrate, and the fields of the receipt: docs/how-to/calibration.md.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tvlt_deploy._internal.progress import Progress, Step, silent
from tvlt_deploy.bundle import Bundle, BundleLike, open_bundle
from tvlt_deploy.bundle.manifest import (
    FP16_TWIN_FORM,
    ONNXRUNTIME_CPU_FORM,
    QUANTIZED,
    STANDARD_FORM,
    WEIGHTS_FILE,
    Variant,
)
from tvlt_deploy.bundle.receipts import Calibration, ClipShape, Evaluation, ValueRange
from tvlt_deploy.bundle.writer import replace_graphs, staging, write_manifest
from tvlt_deploy.config import CONFIG_FILE
from tvlt_deploy.errors import BundleError, EnvironmentLackError, UsageError
from tvlt_deploy.inference.pipeline import Pipeline, load
from tvlt_deploy.runtimes import DEFAULT_BACKEND, open_runtime
from tvlt_deploy.workflows.verify import verify as run_verify

try:
    import onnx_ir
    import torch
    from torch import nn

    from tvlt_deploy.exporters import onnx
    from tvlt_deploy.exporters.inference_model import inference_form, standard_attention
    from tvlt_deploy.exporters.precision import to_half
    from tvlt_deploy.exporters.quantization.histogram import METHODS, check_method
    from tvlt_deploy.exporters.quantization.observers import Observer, Watch, linear_layers
    from tvlt_deploy.exporters.quantization.qdq import insert_qdq
    from tvlt_deploy.exporters.quantization.smoothquant import check_alpha, smooth_layers
    from tvlt_deploy.runtimes.torch import TorchRuntime
    from tvlt_deploy.workflows.calibration import ClipReader, Clips
except ImportError as error:
    raise EnvironmentLackError(
        f"quantizing needs {error.name}, which is not installed", hint="pip install 'tvlt-deploy[export,cpu]'"
    ) from error

DEFAULT_METHOD = "percentile"
DEFAULT_PERCENTILE = 99.99
DEFAULT_ALPHA = 0.5
MAX_UNREADABLE = 0.1


@dataclass(frozen=True)
class _Settings:
    """The arguments of `quantize` that decide about the calibration."""

    precisions: Sequence[str]
    method: str
    percentile: float
    smooth: bool
    alpha: float
    keep: Sequence[str]
    count: int | None
    max_unreadable: float
    threads: int | None

    def __post_init__(self) -> None:
        """Raise `UsageError` for values that are not allowed."""
        check_method(self.method, self.percentile)
        check_alpha(self.alpha)
        for precision in self.precisions:
            if precision not in QUANTIZED:
                raise UsageError(f"precision is {precision!r}; expected {' or '.join(QUANTIZED)}")
        if not self.precisions:
            raise UsageError(f"no precision is asked for; expected {' or '.join(QUANTIZED)}")
        if self.count is not None and self.count < 1:
            raise UsageError(f"count is {self.count}; expected at least 1")
        if not 0 <= self.max_unreadable <= 1:
            raise UsageError(f"max_unreadable is {self.max_unreadable}; expected a share from 0 to 1")


@dataclass(frozen=True)
class _Calibration:
    """The result of a calibration.

    names: the names of each linear layer. layers: those to quantize. observers: of the tensors that the layers read.
    smoothed: the weights after SmoothQuant, empty without it. receipt: `calibration` of the manifest.
    """

    names: Mapping[str, tuple[str, ...]]
    layers: set[str]
    observers: Mapping[str, Observer]
    smoothed: Mapping[str, torch.Tensor]
    receipt: Calibration

    def limits(self, precision: str) -> dict[str, float]:
        """Max input magnitude of each layer to quantize, by all its names."""
        ranges = self.receipt.ranges
        return {
            alias: ranges[name].largest if precision == "fp8" else ranges[name].limit
            for name, observer in self.observers.items()
            for reader in observer.readers
            if reader in self.layers
            for alias in self.names[reader]
        }


def quantize(
    bundle: BundleLike,
    clips: Clips,
    *,
    precisions: Sequence[str] = ("int8",),
    method: str = DEFAULT_METHOD,
    percentile: float = DEFAULT_PERCENTILE,
    smooth: bool = False,
    alpha: float = DEFAULT_ALPHA,
    keep: Sequence[str] = (),
    count: int | None = None,
    evaluation: Clips | None = None,
    max_unreadable: float = MAX_UNREADABLE,
    threads: int | None = None,
    verify: bool = True,
    progress: Progress = silent,
) -> Bundle:
    """Calibrate a bundle on clips, and add int8 graphs, fp8 graphs or both to it. Existing ones are replaced.

    The receipt of the calibration is `calibration` in the manifest. On any error the bundle is unchanged.

    Args:
        bundle: a bundle with the fp32 graphs and the weights, or its directory.
        clips: a folder of media files, or an iterable of model inputs: dicts of arrays with a batch axis, by the names
            of the inputs of the runtime. Identical clips count once.
        precisions: `int8`, `fp8` or both.
        method: how the range of an int8 activation is chosen: `minmax`, `percentile`, `entropy` or `mse`. fp8 always
            uses the largest value, because clipping does not make a floating-point grid finer.
        percentile: for the method `percentile`, 99.9 to 99.999.
        smooth: use SmoothQuant, folded into norms and weights. The clips are read twice.
        alpha: the strength of SmoothQuant, 0 to 1.
        keep: layers to leave in higher precision: names or patterns such as `encoder.layers.0` or `*.contract`.
        count: number of distinct clips to read; by default all.
        evaluation: clips on which you measure accuracy; the receipt states how many of them are calibrated on.
        max_unreadable: max share of clips that cannot be read, 0 to 1.
        threads: CPU threads, by default all cores.
        verify: verify the int8 graphs (`tvlt_deploy.verify`).
        progress: called with a line of text at each step.

    Returns:
        The bundle.

    Raises:
        UsageError: an argument is not allowed, or there are too few distinct clips.
        MediaError: too many clips cannot be read.
        InputError: a clip has NaN or infinity.
        VerdictError: a graph misses a limit, or a weight is too large for fp16.
        EnvironmentLackError: a package is missing.
    """
    settings = _Settings(precisions, method, percentile, smooth, alpha, keep, count, max_unreadable, threads)
    opened = _open_bundle(bundle, clips, evaluation)
    with staging(opened, (CONFIG_FILE, WEIGHTS_FILE)) as stage:
        calibration = _calibrate(opened, clips, evaluation, settings, progress)
        _write(opened, stage, list(dict.fromkeys(precisions)), calibration, progress)
        if verify and "int8" in precisions:
            _verify(stage, threads, progress)
        replace_graphs(opened, Bundle(stage), QUANTIZED, calibration.receipt)
    return opened


def _open_bundle(bundle: BundleLike, *clips: Clips | None) -> Bundle:
    """The bundle, after a check of it and of the folders of clips. The fp32 graphs are hashed."""
    for source in clips:
        if isinstance(source, str | os.PathLike) and not os.path.isdir(source):
            raise UsageError(f"{source} is not a folder", hint="name one that contains media files")
    opened = open_bundle(bundle)
    for form in (STANDARD_FORM, ONNXRUNTIME_CPU_FORM):
        opened.check(opened.variant("fp32", form).files)
    if not opened.has_weights:
        raise UsageError(
            f"{opened.directory} was exported without weights, which calibration needs",
            hint="export again without --no-weights",
        )
    return opened


def _verify(stage: Path, threads: int | None, progress: Progress) -> None:
    report = run_verify(stage, backends=[DEFAULT_BACKEND], precisions=["int8"], threads=threads, progress=progress)
    report.raise_on_failure(
        "try more clips, --smooth or another --method; or add the graphs with --no-verify, find the layers with the "
        "largest errors with tvlt-deploy verify --precision int8 --locate, and --keep those"
    )


# Calibration ---------------------------------------------------------------------------------------------------------


def choose_layers(names: Mapping[str, tuple[str, ...]], keep: Sequence[str]) -> set[str]:
    """Choose the linear layers to quantize.

    Args:
        names: all names of each layer, as `linear_layers` returns them.
        keep: names or patterns of layers to leave out, or of modules that contain them.

    Returns:
        The keys of `names` that no pattern matches.

    Raises:
        UsageError: a pattern matches no layer, or no layer is left.
    """
    chosen = set(names)
    for pattern in keep:
        fits = lambda name, pattern=pattern: fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")  # noqa: E731
        kept = {name for name, others in names.items() if any(map(fits, others))}
        if not kept:
            raise UsageError(
                f"keep is {pattern!r}, which matches no layer; the layers are {', '.join(list(names)[:6])} and so on",
                hint="use a name, the first parts of one, or a pattern such as '*.contract'",
            )
        chosen -= kept
    if not chosen:
        raise UsageError(f"all {len(names)} linear layers are kept; none is left to quantize", hint="keep fewer")
    return chosen


def _calibrate(
    bundle: Bundle, clips: Clips, evaluation: Clips | None, settings: _Settings, progress: Progress
) -> _Calibration:
    progress(f"loading {bundle.directory}")
    with _open(bundle, settings.threads, clips, evaluation) as (runtime, pipeline):
        assert runtime.model is not None
        module = inference_form(runtime.model, bundle.task, standard_attention)
        names = linear_layers(module)
        layers = choose_layers(names, settings.keep)
        reader = ClipReader(clips, runtime, pipeline, settings.count, settings.max_unreadable)
        smoothed: dict[str, torch.Tensor] = {}
        if settings.smooth:
            observers = observe(module, reader, "smoothing", progress, counting=False)
            smoothed = smooth_layers(module, observers, settings.alpha)
        observers = observe(module, reader, "calibrating", progress, counting=settings.method != "minmax")
        evaluated = None
        if evaluation is not None:
            evaluated = ClipReader(evaluation, runtime, pipeline, None, settings.max_unreadable)
        clips_receipt = _clips_receipt(reader, evaluated, progress)
    limit = METHODS[settings.method]
    receipt = Calibration(
        precisions=tuple(settings.precisions),
        **clips_receipt,
        method=settings.method,
        percentile=settings.percentile if settings.method == "percentile" else None,
        smooth=settings.alpha if settings.smooth else None,
        kept=tuple(name for name in names if name not in layers),
        ranges={
            name: ValueRange(observer.histogram.largest, limit(observer.histogram, settings.percentile))
            for name, observer in observers.items()
        },
    )
    return _Calibration(names, layers, observers, smoothed, receipt)


@contextlib.contextmanager
def _open(bundle: Bundle, threads: int | None, *clips: Clips | None) -> Iterator[tuple[TorchRuntime, Pipeline | None]]:
    """The reference, and the pipeline around it if any of the clips are media files."""
    if any(isinstance(source, str | os.PathLike) for source in clips):
        with load(bundle, backend="torch", threads=threads) as pipeline:
            assert isinstance(pipeline.runtime, TorchRuntime)
            yield pipeline.runtime, pipeline
    else:
        with open_runtime(bundle, "torch", threads=threads) as runtime:
            assert isinstance(runtime, TorchRuntime)
            yield runtime, None


def observe(
    form: nn.Module, reader: ClipReader, label: str, progress: Progress, counting: bool = True
) -> dict[str, Observer]:
    """Run all clips through an inference form once.

    Args:
        form: the inference form of the model.
        reader: the clips.
        label: what the pass is for, the start of each line of progress.
        progress: called with a line of text for each clip.
        counting: fill the histograms; otherwise only the largest values are measured.

    Returns:
        An observer for each tensor that linear layers read.
    """
    names = list(reader.runtime.inputs)
    with Watch(form, counting) as watch, torch.inference_mode():
        for index, feeds in enumerate(reader):
            text = f"{label}: clip {index + 1}"
            progress(Step(f"{text}/{reader.total}", index, reader.total) if reader.total else text)
            form(*(torch.from_numpy(feeds[name]) for name in names))
    return watch.observers


def _clips_receipt(reader: ClipReader, evaluated: ClipReader | None, progress: Progress) -> dict[str, Any]:
    """The fields of `Calibration` that describe the clips."""
    seen, evaluation = reader.seen, None
    if evaluated is not None:
        progress("reading the evaluation clips")
        for _ in evaluated:
            pass
        shared = len(set(seen.sha256) & set(evaluated.seen.sha256))
        evaluation = Evaluation(len(evaluated.seen.sha256), shared, disjoint=shared == 0)
    return {
        "clips": seen.clips,
        "distinct": len(seen.sha256),
        "sha256": tuple(seen.sha256),
        "shapes": tuple(ClipShape(*shape, clips) for shape, clips in sorted(seen.shapes.items())),
        "unreadable": seen.unreadable,
        "evaluation": evaluation,
    }


# Files ---------------------------------------------------------------------------------------------------------------


def _write(
    bundle: Bundle, stage: Path, precisions: Sequence[str], calibration: _Calibration, progress: Progress
) -> None:
    """Write the graphs of all precisions and their manifest."""
    variants: list[Variant] = []
    for index, precision in enumerate(precisions):
        progress(Step(f"writing the {precision} graphs", index, len(precisions)))
        variants += _write_precision(bundle, stage, precision, calibration)
    write_manifest(stage, bundle.task, bundle.config, variants)


def _write_precision(bundle: Bundle, stage: Path, precision: str, calibration: _Calibration) -> list[Variant]:
    """Quantize the forms that a precision has, and write them."""
    limits, layers = calibration.limits(precision), len(calibration.layers)
    fp32 = {form: bundle.variant("fp32", form) for form in (STANDARD_FORM, ONNXRUNTIME_CPU_FORM)}
    graphs = {}
    for form, variant in fp32.items():
        if form == STANDARD_FORM or precision == "int8":
            graphs[form] = onnx_ir.load(bundle.path(variant.path))
            _replace_parameters(graphs[form], calibration.smoothed)
            found = insert_qdq(graphs[form], limits, precision, unsigned=form == ONNXRUNTIME_CPU_FORM)
            if len(found) < layers:
                raise BundleError(
                    f"{bundle.path(variant.path)} has {len(found)} of {layers} linear layers",
                    hint="export the bundle again",
                )
    twin = to_half(graphs[STANDARD_FORM], "fp16")
    graphs = {STANDARD_FORM: twin} if precision == "fp8" else {**graphs, FP16_TWIN_FORM: twin}
    return onnx.save_variants(graphs, stage, precision, bundle.task, bundle.config)


def _replace_parameters(model: onnx_ir.Model, parameters: Mapping[str, torch.Tensor]) -> None:
    for name, value in parameters.items():
        if name in model.graph.initializers:
            model.graph.initializers[name].const_value = onnx_ir.tensor(value.numpy(), name=name)
