"""Trace the torch reference into ONNX graphs with dynamic axes, and write graphs to files."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from torch import nn

from tvlt_deploy._internal.progress import Progress, Step, silent
from tvlt_deploy._version import __version__
from tvlt_deploy.bundle.manifest import (
    FUSED_FORM,
    GRAPH_FILES,
    NOT_RUN,
    ONNXRUNTIME_CPU_FORM,
    STANDARD_FORM,
    Variant,
)
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import UsageError
from tvlt_deploy.exporters.inference_model import Attention, inference_form, multi_head_attention, standard_attention
from tvlt_deploy.exporters.precision import to_half
from tvlt_deploy.tasks import AUDIO_PATCHES, BATCH, FRAMES, PIXEL_PATCHES, ROWS, Task, TensorSpec, token_counts

DEFAULT_OPSET = 20
"""The oldest with a `Gelu` operator, which ONNX Runtime fuses with its bias."""
OPSETS = range(18, 24)
IR_VERSION = 10
"""Set explicitly: the onnx package's own default is newer than released runtimes read."""
WEIGHTS_FILE = "model.onnx.data"


_ATTENTION = {STANDARD_FORM: standard_attention, ONNXRUNTIME_CPU_FORM: multi_head_attention}
"""Form -> how its attention is computed."""


def check_opset(opset: int) -> None:
    """Raise `UsageError` for an opset outside `OPSETS`."""
    if opset not in OPSETS:
        raise UsageError(f"opset is {opset}; expected {OPSETS.start} to {OPSETS.stop - 1} (default {DEFAULT_OPSET})")


def _traced_sizes(config: TvltConfig) -> dict[str, int]:
    """Sizes to trace with. The tracer treats 1 as a constant, so no size is 1 unless its axis has no other size."""
    frames = min(3, config.num_frames)
    steps = min(5, config.time_patches)
    pixel_patches, audio_patches = token_counts(config, frames, steps * config.audio_patch[0])
    return {
        BATCH: 2,
        FRAMES: frames,
        ROWS: steps * config.audio_patch[0],
        PIXEL_PATCHES: pixel_patches,
        AUDIO_PATCHES: audio_patches,
    }


def _example_inputs(inputs: Mapping[str, TensorSpec], sizes: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
    """Zero values, masks of ones and noise without ties of the given sizes, in graph order."""
    tensors = []
    for name, spec in inputs.items():
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
        if name.endswith("_mask"):
            tensors.append(torch.ones(shape))
        elif name.endswith("_noise"):
            tensors.append(((torch.arange(shape[1]) + 0.5) / shape[1]).expand(shape).clone())
        else:
            tensors.append(torch.zeros(shape))
    return tuple(tensors)


def _dynamic_shapes(inputs: Mapping[str, TensorSpec], config: TvltConfig) -> tuple[dict[int, Any], ...]:
    """The dynamic axes of each input; an axis with one possible size is a constant."""
    frames = torch.export.Dim(FRAMES, min=1, max=config.num_frames) if config.num_frames > 1 else None
    time = torch.export.Dim("time", min=1, max=config.time_patches) if config.time_patches > 1 else None
    # torch refuses a Dim times one
    multiple = lambda factor, dim: dim if dim is None or factor == 1 else factor * dim  # noqa: E731
    axes: dict[int | str, Any] = {
        BATCH: torch.export.Dim(BATCH, min=1),
        FRAMES: frames,
        ROWS: multiple(config.audio_patch[0], time),
        PIXEL_PATCHES: multiple(config.patches_per_frame, frames),
        AUDIO_PATCHES: multiple(config.frequency_patches, time),
    }
    return tuple(
        {index: axes[axis] for index, axis in enumerate(spec.shape) if axes.get(axis)} for spec in inputs.values()
    )


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide the exporter's warnings about torchvision operators, which are not used here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_axes(specs: Mapping[str, TensorSpec], values: list[onnx_ir.Value]) -> None:
    """Set the names and axis names of graph inputs or outputs to those of the task table."""
    for value, (name, spec) in zip(values, specs.items(), strict=True):
        value.name = name
        value.shape = onnx_ir.Shape(list(spec.shape))


def build_graph(model: nn.Module, task: Task, attention: Attention, opset: int = DEFAULT_OPSET) -> onnx_ir.Model:
    """Trace the inference form of a model into an ONNX graph.

    Args:
        model: A reference model in evaluation mode, float32, on the CPU.
        task: The task to compute; the graph has its input, output and axis names.
        attention: How attention is computed; this is what differs between the forms.
        opset: The ONNX operator set.

    Returns:
        The graph in fp32, without metadata of the tracer.

    Raises:
        UsageError: The opset is outside 18 to 23.
    """
    check_opset(opset)
    config: TvltConfig = model.config  # type: ignore[assignment]
    form = inference_form(model, task, attention)
    inputs, outputs = task.inputs(config), task.outputs(config)
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            form,
            _example_inputs(inputs, _traced_sizes(config)),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=_dynamic_shapes(inputs, config),
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    graph: onnx_ir.Model = program.model
    _name_axes(inputs, list(graph.graph.inputs))
    _name_axes(outputs, list(graph.graph.outputs))
    graph.ir_version = IR_VERSION
    graph.producer_name, graph.producer_version = "tvlt-deploy", __version__
    graph.doc_string = None
    for node in graph.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    return graph


def _same_tensor(first: onnx_ir.TensorProtocol, second: onnx_ir.TensorProtocol | None) -> bool:
    return (
        second is not None
        and (first.dtype, tuple(first.shape)) == (second.dtype, tuple(second.shape))
        and first.tobytes() == second.tobytes()
    )


def save_graphs(
    graphs: Mapping[str, onnx_ir.Model], directory: str | os.PathLike[str], metadata: Mapping[str, str]
) -> None:
    """Write forms of one model, which share their weights in the file `WEIGHTS_FILE`.

    Weights are always external data: a protobuf file is limited to 2 GiB, runtimes memory-map the data file instead
    of parsing it, and a second form adds only kilobytes. The files are checked against the ONNX specification.

    Args:
        graphs: The graph of each file name.
        directory: Created when missing.
        metadata: The `metadata_props` of each file.
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    shared: dict[str, onnx_ir.ExternalTensor] = {}
    for name, graph in graphs.items():
        graph.metadata_props.clear()
        graph.metadata_props.update(metadata)
        for value in graph.graph.initializers.values():
            stored = shared.get(value.name or "")
            if stored is not None and _same_tensor(stored, value.const_value):
                value.const_value = stored
        onnx_ir.save(graph, target / name, external_data=None if shared else WEIGHTS_FILE)
        if not shared:
            shared = {
                key: value.const_value
                for key, value in onnx_ir.load(target / name).graph.initializers.items()
                if isinstance(value.const_value, onnx_ir.ExternalTensor)
            }
        onnx.checker.check_model(str(target / name))


def save_variants(
    graphs: Mapping[str, onnx_ir.Model], directory: Path, precision: str, task: Task, config: TvltConfig
) -> list[Variant]:
    """Write graphs that share their weights, with the metadata that runtimes read.

    Args:
        graphs: The graph of each form.
        directory: The bundle. The files go to the subdirectory of the precision; the fused form has its own.
        precision: The precision of the graphs.
        task: The task that they compute.
        config: The model's configuration.

    Returns:
        One variant for each graph, not verified yet.
    """
    folder = FUSED_FORM if FUSED_FORM in graphs else precision
    metadata = {"tvlt.task": task.name, "tvlt.precision": precision, "tvlt.config": json.dumps(config.to_dict())}
    save_graphs({GRAPH_FILES[form]: graph for form, graph in graphs.items()}, directory / folder, metadata)
    variants = []
    for form, graph in graphs.items():
        path = f"{folder}/{GRAPH_FILES[form]}"
        files = (path, f"{folder}/{WEIGHTS_FILE}")
        variants.append(Variant(precision, form, path, files, graph.opset_imports[""], NOT_RUN))
    return variants


def write_graphs(
    model: nn.Module,
    config: TvltConfig,
    task: Task,
    precisions: Sequence[str],
    opset: int,
    directory: Path,
    progress: Progress = silent,
) -> list[Variant]:
    """Trace a model, and write its graphs in every precision.

    fp32 has both forms, the standard one and ONNX Runtime's for CPUs; fp16 and bf16 have the standard one.

    Args:
        model: A reference model in evaluation mode, float32, on the CPU.
        config: The model's configuration.
        task: The task that the graphs compute.
        precisions: Of `fp32`, `fp16` and `bf16`.
        opset: The ONNX operator set.
        directory: The bundle; each precision gets a subdirectory.
        progress: Receives one `Step` for each trace and each precision.

    Returns:
        One variant for each graph, not verified yet.

    Raises:
        VerdictError: A weight exceeds the range of fp16.
        UsageError: An operator does not exist in the precision and opset.
    """
    names = list(dict.fromkeys(precisions))
    forms = [STANDARD_FORM, *([ONNXRUNTIME_CPU_FORM] if "fp32" in names else [])]
    total = len(forms) + len(names)
    traced: dict[str, onnx_ir.Model] = {}
    for done, form in enumerate(forms):
        progress(Step(f"tracing the fp32 graph, {form} form", done, total))
        traced[form] = build_graph(model, task, _ATTENTION[form], opset)
    variants = []
    for done, name in enumerate(names, len(forms)):
        progress(Step(f"writing the {name} graphs and weights", done, total))
        graphs = traced if name == "fp32" else {STANDARD_FORM: to_half(traced[STANDARD_FORM], name)}
        variants += save_variants(graphs, directory, name, task, config)
    return variants
