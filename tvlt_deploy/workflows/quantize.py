"""Calibrated int8 and fp8: clips through the form that ships, ranges, and graphs with them written in.

How to calibrate, and what the receipt says: docs/how-to/calibration.md.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tvlt_deploy._internal.progress import Progress, silent
from tvlt_deploy.bundle import Bundle, BundleLike, open_bundle
from tvlt_deploy.bundle.manifest import (
    FP16_TWIN_FORM,
    GRAPH_FILES,
    NOT_RUN,
    ONNXRUNTIME_CPU_FORM,
    QUANTIZED,
    STANDARD_FORM,
    WEIGHTS_FILE,
    Variant,
)
from tvlt_deploy.bundle.writer import write_manifest
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
    from tvlt_deploy.exporters.quantization.qdq import insert_pairs
    from tvlt_deploy.exporters.quantization.smoothquant import check_alpha, smooth_layers
    from tvlt_deploy.runtimes.torch import TorchRuntime
    from tvlt_deploy.workflows.calibration import Clips, Source
except ImportError as error:
    raise EnvironmentLackError(
        f"quantizing needs {error.name}, which is not installed", hint="pip install 'tvlt-deploy[export,cpu]'"
    ) from error

DEFAULT_METHOD = "percentile"
DEFAULT_PERCENTILE = 99.99
DEFAULT_ALPHA = 0.5
MAX_UNREADABLE = 0.1


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
    """Calibrate a bundle on clips and add int8, fp8 or both to it, in place of those that it holds.

    bundle: one with the fp32 graphs and the weights.
    clips: a folder of media files, or an iterable of model inputs: dicts of arrays with a batch axis, by the names
        that the runtime's `inputs` list. Clips that are the same to the last bit count once.
    method: `minmax`, `percentile` (of `percentile`, 99.9 to 99.999), `entropy` or `mse`. fp8 takes the largest value
        whatever the method: a floating-point grid gains nothing from clipping.
    smooth: SmoothQuant with `alpha`, folded into norms and weights; the clips are read twice.
    keep: layers left in higher precision: names or patterns such as `encoder.layers.0` or `*.contract`.
    count: how many distinct clips are wanted; None takes all.
    evaluation: clips meant for measuring accuracy; the receipt says whether any of them was calibrated on.
    max_unreadable: the share of the clips that may fail to be read.
    verify: run the verdicts of `tvlt_deploy.workflows.verify` on the int8 graphs; a miss raises `VerdictError`.

    The receipt stands in the manifest as `calibration`. On any error the bundle is as it was. Raises `UsageError` for
    arguments that cannot be and for too few distinct clips, `MediaError` for too many unreadable ones, `InputError`
    for NaN, `VerdictError` also for weights that fp16 cannot hold, `EnvironmentLackError` for missing packages.
    """
    check_method(method, percentile)
    check_alpha(alpha)
    _check_arguments(precisions, count, max_unreadable)
    for source in (clips, evaluation):
        if isinstance(source, str | os.PathLike) and not os.path.isdir(source):
            raise UsageError(f"{source} is not a folder", hint="name one that holds media files")
    opened = open_bundle(bundle)
    for form in (STANDARD_FORM, ONNXRUNTIME_CPU_FORM):
        opened.check(opened.variant("fp32", form).files)
    if not opened.has_weights:
        raise UsageError(
            f"{opened.directory} was exported without weights, which calibration needs",
            hint="export again without --no-weights",
        )
    with opened.staging((CONFIG_FILE, WEIGHTS_FILE)) as stage:
        progress(f"loading {opened.directory}")
        with _open(opened, threads, clips, evaluation) as (runtime, pipeline):
            assert runtime.model is not None
            module = inference_form(runtime.model, opened.task, standard_attention)
            names = linear_layers(module)
            layers = choose_layers(names, keep)
            seen = Source(clips, runtime, pipeline, count, max_unreadable)
            smoothed: dict[str, torch.Tensor] = {}
            if smooth:
                smoothed = smooth_layers(module, observe(module, seen, "smoothing", progress, counting=False), alpha)
            observers = observe(module, seen, "calibrating", progress, counting=method != "minmax")
            held_out = None if evaluation is None else Source(evaluation, runtime, pipeline, None, max_unreadable)
            receipt = {
                "precisions": list(precisions),
                **_clips_receipt(seen, held_out, progress),
                "method": method,
                "percentile": percentile if method == "percentile" else None,
                "smooth": alpha if smooth else None,
                "kept": [name for name in names if name not in layers],
            }
            del module
        largest = {name: observer.histogram.largest for name, observer in observers.items()}
        clipped = {name: METHODS[method](observer.histogram, percentile) for name, observer in observers.items()}
        receipt["ranges"] = {name: {"largest": largest[name], "limit": clipped[name]} for name in observers}
        variants = []
        for precision in dict.fromkeys(precisions):
            progress(f"writing the {precision} graphs")
            chosen = largest if precision == "fp8" else clipped
            limits = {
                alias: chosen[name]
                for name, observer in observers.items()
                for reader in observer.readers
                if reader in layers
                for alias in names[reader]
            }
            variants += _write(opened, stage, precision, limits, len(layers), smoothed)
        write_manifest(stage, opened.task, opened.config, variants, {})
        if verify and "int8" in precisions:
            report = run_verify(
                stage, backends=(DEFAULT_BACKEND,), precisions=("int8",), threads=threads, progress=progress
            )
            report.raise_on_failure(
                "more clips, --smooth or another --method; or add it with --no-verify, see with "
                "tvlt-deploy verify --precision int8 --locate which layers are to blame, and --keep those"
            )
        opened.replace_graphs(Bundle(stage), QUANTIZED, {"calibration": receipt})
    return opened


# Arguments -----------------------------------------------------------------------------------------------------------


def _check_arguments(precisions: Sequence[str], count: int | None, max_unreadable: float) -> None:
    for precision in precisions:
        if precision not in QUANTIZED:
            raise UsageError(f"precision is {precision!r}; wanted {' or '.join(QUANTIZED)}")
    if not precisions:
        raise UsageError(f"no precision is asked for; wanted {' or '.join(QUANTIZED)}")
    if count is not None and count < 1:
        raise UsageError(f"count is {count}; wanted at least 1")
    if not 0 <= max_unreadable <= 1:
        raise UsageError(f"max_unreadable is {max_unreadable}; wanted a share from 0 to 1")


def choose_layers(names: Mapping[str, tuple[str, ...]], keep: Sequence[str]) -> set[str]:
    """The linear layers to quantize: all but those that a pattern of `keep` names, themselves or by what holds them.

    names: of each layer, as `linear_layers` gives them. Raises `UsageError` for a pattern that names none, and when
    none is left.
    """
    chosen = set(names)
    for pattern in keep:
        fits = lambda name, pattern=pattern: fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")  # noqa: E731
        kept = {name for name, others in names.items() if any(map(fits, others))}
        if not kept:
            raise UsageError(
                f"keep is {pattern!r}, which names no layer; the layers are {', '.join(list(names)[:6])} and so on",
                hint="give a name, the first parts of one, or a pattern such as '*.contract'",
            )
        chosen -= kept
    if not chosen:
        raise UsageError(f"all {len(names)} linear layers are kept; none is left to quantize", hint="keep fewer")
    return chosen


# Calibration ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open(bundle: Bundle, threads: int | None, *clips: Clips | None) -> Iterator[tuple[TorchRuntime, Pipeline | None]]:
    """The reference, and the pipeline around it where any of the clips are media files."""
    if any(isinstance(source, str | os.PathLike) for source in clips):
        with load(bundle, backend="torch", threads=threads) as pipeline:
            assert isinstance(pipeline.runtime, TorchRuntime)
            yield pipeline.runtime, pipeline
    else:
        with open_runtime(bundle, "torch", threads=threads) as runtime:
            assert isinstance(runtime, TorchRuntime)
            yield runtime, None


def observe(
    form: nn.Module, source: Source, step: str, progress: Progress, counting: bool = True
) -> dict[str, Observer]:
    """One pass of the clips through an inference form: an observer for each tensor that linear layers read."""
    names = list(source.runtime.inputs)
    with Watch(form, counting) as watch, torch.inference_mode():
        for index, feeds in enumerate(source, 1):
            progress(f"{step}: clip {index}{'' if source.count is None else f'/{source.count}'}")
            form(*(torch.from_numpy(feeds[name]) for name in names))
    return watch.observers


def _clips_receipt(source: Source, held_out: Source | None, progress: Progress) -> dict[str, Any]:
    seen = source.seen
    receipt: dict[str, Any] = {
        "clips": seen.clips,
        "distinct": len(seen.sha256),
        "sha256": seen.sha256,
        "shapes": [
            {"frames": frames, "rows": rows, "clips": clips} for (frames, rows), clips in sorted(seen.shapes.items())
        ],
        "unreadable": seen.unreadable,
        "evaluation": None,
    }
    if held_out is not None:
        progress("reading the evaluation clips")
        for _ in held_out:
            pass
        shared = len(set(seen.sha256) & set(held_out.seen.sha256))
        receipt["evaluation"] = {"distinct": len(held_out.seen.sha256), "shared": shared, "disjoint": shared == 0}
    return receipt


# Files ---------------------------------------------------------------------------------------------------------------


def _write(
    bundle: Bundle,
    stage: Path,
    precision: str,
    limits: Mapping[str, float],
    layers: int,
    smoothed: Mapping[str, torch.Tensor],
) -> list[Variant]:
    """Quantize the forms that a precision has, and write them. `layers` is how many `limits` names."""
    fp32 = {form: bundle.variant("fp32", form) for form in (STANDARD_FORM, ONNXRUNTIME_CPU_FORM)}
    graphs = {}
    for form, variant in fp32.items():
        if form == STANDARD_FORM or precision == "int8":
            graphs[form] = onnx_ir.load(bundle.path(variant.path))
            _replace_parameters(graphs[form], smoothed)
            found = insert_pairs(graphs[form], limits, precision, unsigned=form == ONNXRUNTIME_CPU_FORM)
            if len(found) < layers:
                raise BundleError(
                    f"{bundle.path(variant.path)} has {len(found)} of {layers} linear layers",
                    hint="export the bundle again",
                )
    twin = to_half(graphs[STANDARD_FORM], "fp16")
    graphs = {STANDARD_FORM: twin} if precision == "fp8" else {**graphs, FP16_TWIN_FORM: twin}
    metadata = {
        "tvlt.task": bundle.task.name,
        "tvlt.precision": precision,
        "tvlt.config": json.dumps(bundle.config.to_dict()),
    }
    onnx.save_graphs({GRAPH_FILES[form]: graph for form, graph in graphs.items()}, stage / precision, metadata)
    opset = fp32[STANDARD_FORM].opset
    variants = []
    for form in graphs:
        path = f"{precision}/{GRAPH_FILES[form]}"
        variants.append(Variant(precision, form, path, (path, f"{precision}/{onnx.WEIGHTS_FILE}"), opset, NOT_RUN))
    return variants


def _replace_parameters(model: onnx_ir.Model, parameters: Mapping[str, torch.Tensor]) -> None:
    for name, value in parameters.items():
        if name in model.graph.initializers:
            model.graph.initializers[name].const_value = onnx_ir.tensor(value.numpy(), name=name)
