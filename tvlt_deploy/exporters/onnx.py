"""From the torch reference to one ONNX file per precision and form, proved on every dynamic axis."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from torch import nn

from tvlt_deploy._version import __version__
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import UsageError
from tvlt_deploy.exporters.inference_model import Attention, inference_form
from tvlt_deploy.tasks import AUDIO_PATCHES, BATCH, FRAMES, PIXEL_PATCHES, ROWS, Task, TensorSpec, token_counts

DEFAULT_OPSET = 20
"""The oldest with a `Gelu` operator, which ONNX Runtime fuses with its bias."""
OPSETS = range(18, 24)
IR_VERSION = 10
"""Set explicitly: the onnx package's own default is newer than released runtimes read."""
WEIGHTS_FILE = "model.onnx.data"


def check_opset(opset: int) -> None:
    """Raise `UsageError` for an opset outside `OPSETS`."""
    if opset not in OPSETS:
        raise UsageError(f"opset is {opset}; wanted {OPSETS.start} to {OPSETS.stop - 1}, the default {DEFAULT_OPSET}")


def _traced_sizes(config: TvltConfig) -> dict[str, int]:
    """Sizes to trace with: none of them 1 unless it can be nothing else, as the tracer takes 1 for a constant."""
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


def example_inputs(task: Task, config: TvltConfig, sizes: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
    """Zero values, full masks and tie-free noise of the given sizes, in graph order."""
    tensors = []
    for name, spec in task.inputs(config).items():
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
        if name.endswith("_mask"):
            tensors.append(torch.ones(shape))
        elif name.endswith("_noise"):
            tensors.append(((torch.arange(shape[1]) + 0.5) / shape[1]).expand(shape).clone())
        else:
            tensors.append(torch.zeros(shape))
    return tuple(tensors)


def _dynamic_shapes(task: Task, config: TvltConfig) -> tuple[dict[int, Any], ...]:
    """For each input, its dynamic axes; an axis that can have one size only is left to the tracer as a constant."""
    frames = torch.export.Dim(FRAMES, min=1, max=config.num_frames) if config.num_frames > 1 else None
    time = torch.export.Dim("time", min=1, max=config.time_patches) if config.time_patches > 1 else None
    # a Dim times one is refused
    multiple = lambda factor, dim: dim if dim is None or factor == 1 else factor * dim  # noqa: E731
    axes: dict[int | str, Any] = {
        BATCH: torch.export.Dim(BATCH, min=1),
        FRAMES: frames,
        ROWS: multiple(config.audio_patch[0], time),
        PIXEL_PATCHES: multiple(config.patches_per_frame, frames),
        AUDIO_PATCHES: multiple(config.frequency_patches, time),
    }
    return tuple(
        {index: axes[axis] for index, axis in enumerate(spec.shape) if axes.get(axis)}
        for spec in task.inputs(config).values()
    )


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns about torchvision operators it would register; nothing here uses them."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_axes(model: onnx_ir.Model, specs: Mapping[str, TensorSpec], values: list[onnx_ir.Value]) -> None:
    """Give graph inputs or outputs the names and axis names of the task table."""
    for value, (name, spec) in zip(values, specs.items(), strict=True):
        value.name = name
        value.shape = onnx_ir.Shape(list(spec.shape))


def build_graph(model: nn.Module, task: Task, attention: Attention, opset: int = DEFAULT_OPSET) -> onnx_ir.Model:
    """Trace the inference form of `model` into an ONNX graph with the task's names and dynamic axes.

    `model` is a reference model in eval mode, on the CPU, float32. Raises `UsageError` for an opset outside 18..23.
    """
    check_opset(opset)
    config: TvltConfig = model.config  # type: ignore[assignment]
    form = inference_form(model, task, attention)
    inputs, outputs = task.inputs(config), task.outputs(config)
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            form,
            example_inputs(task, config, _traced_sizes(config)),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=_dynamic_shapes(task, config),
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    graph: onnx_ir.Model = program.model
    _name_axes(graph, inputs, list(graph.graph.inputs))
    _name_axes(graph, outputs, list(graph.graph.outputs))
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
    """Write forms of one model (file name -> graph) that share their weights in `WEIGHTS_FILE` beside them.

    Weights always stand outside the graphs: a protobuf file ends at 2 GiB, a runtime maps them into memory instead of
    parsing them, and a second form costs kilobytes. `metadata` becomes each file's `metadata_props`. The files are
    checked against the ONNX specification.
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
