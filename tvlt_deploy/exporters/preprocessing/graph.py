"""The fused graph: pre-processing and model in one, from frames and sound to answers, for hosts without Python.

It processes one clip per call, in float32 (TF32 is not enough). An absent part has length zero. The model is the
standard form in fp32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from tvlt_deploy.bundle.manifest import FUSED_FORM, Variant
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import UsageError
from tvlt_deploy.exporters.onnx import save_variants
from tvlt_deploy.exporters.preprocessing.audio import write_audio_graph
from tvlt_deploy.exporters.preprocessing.builder import Operators
from tvlt_deploy.exporters.preprocessing.image import write_image_graph
from tvlt_deploy.processors import OriginalProcessor, Processor, TvltProcessor
from tvlt_deploy.processors.serialization import PREPROCESSOR_FILE
from tvlt_deploy.tasks import AUDIO_PATCHES, PIXEL_PATCHES, RAW_INPUTS, TOKENS, Task, TensorSpec


def check_fusable(task: Task, processor: Processor | None, source: Path) -> TvltProcessor:
    """Check that a task and a recipe have a fused graph; `write_fused` checks the settings of the recipe.

    Args:
        task: The task of the model.
        processor: Its pre-processing; None where there is none.
        source: The checkpoint or bundle, for messages.

    Returns:
        The processor.

    Raises:
        UsageError: The task or the recipe has no fused graph.
    """
    if task.needs_noise:
        raise UsageError(
            f"{task.name} has no fused graph: its masking noise has the length of the prepared clip",
            hint="prepare the tensors with tvlt_deploy.Pipeline.inputs",
        )
    if isinstance(processor, OriginalProcessor):
        raise UsageError(
            f"{source} is pre-processed by the original recipe ({processor.file_name}), which has no fused graph",
            hint="use the pipeline, or prepare the tensors with tvlt_deploy.Pipeline.inputs",
        )
    if not isinstance(processor, TvltProcessor):
        raise UsageError(f"{source} has no {PREPROCESSOR_FILE}; there is nothing to fuse")
    return processor


def write_fused(standard: Path, directory: Path, task: Task, config: TvltConfig, processor: TvltProcessor) -> Variant:
    """Write the fused graph and its weights.

    The weights are stored a second time: the data file of a graph must be in the same directory, as a file of its own
    (ONNX's checker, ONNX Runtime and OpenVINO refuse paths out of the directory and symbolic links, the checker hard
    links too).

    Args:
        standard: The file of the standard graph in fp32.
        directory: The bundle that the fused graph is written to.
        task: The task of the model.
        config: The model's configuration.
        processor: The pre-processing.

    Returns:
        The variant, not verified yet.

    Raises:
        UsageError: A setting of the processor is not supported in a graph.
    """
    model = ir.load(standard)
    join(model, task, config, processor)
    (variant,) = save_variants({FUSED_FORM: model}, directory, "fp32", task, config)
    return variant


def join(model: ir.Model, task: Task, config: TvltConfig, processor: TvltProcessor) -> None:
    """Put pre-processing in front of a standard graph, in place, and cut the tokens of an absent part from its outputs.

    The tensors between the two keep the names of the model's inputs.

    Args:
        model: The standard graph in fp32.
        task: The task that it computes.
        config: The model's configuration.
        processor: The pre-processing.
    """
    graph = model.graph
    written = _Preprocessing(config, processor)
    for value in list(graph.inputs):
        prepared = written.values[value.name or ""]
        prepared.type, prepared.shape = value.type, value.shape
        value.replace_all_uses_with(prepared)
    graph.inputs[:] = written.inputs
    graph.insert_before(graph[0], written.op.nodes)
    done = len(written.op.nodes)
    for index, value in enumerate(graph.outputs):
        graph.outputs[index] = written.trim(value, task.outputs(config)[value.name or ""].shape)
    graph.extend(written.op.nodes[done:])
    for constant in written.op.constants.values():
        graph.register_initializer(constant)


def _tensor_type(spec: TensorSpec) -> ir.TensorType:
    return ir.TensorType(ir.DataType.from_numpy(np.dtype(spec.dtype)))


class _Preprocessing:
    """The operators from the raw inputs to the model's inputs; `values` has the latter by name."""

    def __init__(self, config: TvltConfig, processor: TvltProcessor) -> None:
        self.op = op = Operators()
        self.inputs = [
            ir.Value(name=name, type=_tensor_type(spec), shape=ir.Shape(spec.shape))
            for name, spec in RAW_INPUTS.items()
        ]
        frames, waveform = self.inputs
        with op.stage("image"):
            pixel_values, count = write_image_graph(op, frames, processor.image_processor)
        with op.stage("audio"):
            audio_values, rows = write_audio_graph(op, waveform, processor.feature_extractor)
        with op.stage("masks"):
            # The valid patches, and the patches that the model receives: of an absent part, one frame or time step.
            steps = op.Div(op.Add(rows, config.audio_patch[0] - 1), config.audio_patch[0])
            self.pixels, self.audio = (
                op.Mul(number, patches)
                for number, patches in ((count, config.patches_per_frame), (steps, config.frequency_patches))
            )
            self.given = op.Max(self.pixels, config.patches_per_frame)
            pixel_mask = self._mask(self.pixels, self.given)
            audio_mask = self._mask(self.audio, op.Max(self.audio, config.frequency_patches))
        self.values = {
            "pixel_values": pixel_values,
            "audio_values": audio_values,
            "pixel_mask": pixel_mask,
            "audio_mask": audio_mask,
        }
        for name, value in self.values.items():
            value.name = name

    def _mask(self, valid_patches: ir.Value, given: ir.Value) -> ir.Value:
        valid = self.op.Cast(self.op.Min(valid_patches, 1), to=ir.DataType.FLOAT)
        return self.op.Expand(valid, self.op.Concat([1], given, axis=0))

    def trim(self, value: ir.Value, shape: tuple[int | str, ...]) -> ir.Value:
        """An output (batch, tokens, hidden) without the tokens of an absent part; any other output unchanged."""
        op = self.op
        if TOKENS in shape:
            start = op.Add(self.given, 1)
            pixels = op.Slice(value, [0], op.Add(self.pixels, 1), [1])
            trimmed = op.Concat(pixels, op.Slice(value, start, op.Add(start, self.audio), [1]), axis=1)
        elif PIXEL_PATCHES in shape:
            trimmed = op.Slice(value, [0], self.pixels, [1])
        elif AUDIO_PATCHES in shape:
            trimmed = op.Slice(value, [0], self.audio, [1])
        else:
            trimmed = value
        if trimmed is not value:
            trimmed.type, trimmed.name = value.type, value.name
            value.name = f"{value.name}.given"
        trimmed.shape = ir.Shape([1, *shape[1:]])
        return trimmed
