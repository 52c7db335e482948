"""The fused graph: pre-processing and model in one, from frames and sound to answers, for hosts without Python.

One clip a call, in strict float32. An absent part is one of length zero. The model is the standard form in fp32.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tvlt_deploy._version import __version__
from tvlt_deploy.bundle.manifest import FUSED_FORM, NOT_RUN, Variant
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.processors import TvltProcessor
from tvlt_deploy.tasks import AUDIO_PATCHES, PIXEL_PATCHES, RAW_INPUTS, TASKS, TOKENS, Task, TensorSpec

try:
    import onnx_ir as ir

    from tvlt_deploy.exporters import onnx
    from tvlt_deploy.exporters.preprocessing.audio import write_audio_graph
    from tvlt_deploy.exporters.preprocessing.builder import Operators
    from tvlt_deploy.exporters.preprocessing.image import write_image_graph
except ImportError as error:
    raise EnvironmentLackError(
        f"fusing needs {error.name}, which is not installed", hint="pip install 'tvlt-deploy[export,cpu]'"
    ) from error

DIRECTORY = "fused"


def check_task(task: Task) -> None:
    """Raise `UsageError` for a task that has no fused graph."""
    if task.needs_noise:
        raise UsageError(
            f"{task.name} has no fused graph: it wants masking noise for as many patches as the clip has",
            hint="prepare the tensors with tvlt_deploy.Pipeline.inputs",
        )


def write_fused(
    standard: Path, directory: Path, task: Task, config: TvltConfig, processor: TvltProcessor, opset: int
) -> Variant:
    """Write the fused graph and its weights below `directory`, from the standard graph in the file `standard`.

    The weights stand there a second time: a graph's data file must lie beside it, as a file of its own (ONNX's checker,
    ONNX Runtime and OpenVINO refuse a path that leaves the directory and symbolic links, the checker hard links too).
    """
    model = ir.load(standard)
    join(model, task, config, processor)
    metadata = {"tvlt.task": task.name, "tvlt.precision": "fp32", "tvlt.config": json.dumps(config.to_dict())}
    onnx.save_graphs({"model.onnx": model}, directory / DIRECTORY, metadata)
    path = f"{DIRECTORY}/model.onnx"
    return Variant("fp32", FUSED_FORM, path, (path, f"{DIRECTORY}/{onnx.WEIGHTS_FILE}"), opset, NOT_RUN)


def preprocessing_graph(config: TvltConfig, processor: TvltProcessor, opset: int = onnx.DEFAULT_OPSET) -> ir.Model:
    """The pre-processing alone: `RAW_INPUTS` to the model's values and masks, one clip.

    `pixel_values` and both masks are those of `tvlt_deploy.Pipeline.inputs` to the last bit where the part is there,
    `audio_values` within 5e-5. Less sound than one hop counts as none.
    """
    written = _Preprocessing(config, processor)
    for name, spec in TASKS["feature-extraction"].inputs(config).items():
        written.values[name].type, written.values[name].shape = _tensor_type(spec), ir.Shape([1, *spec.shape[1:]])
    graph = ir.Graph(
        written.inputs,
        list(written.values.values()),
        nodes=written.op.nodes,
        initializers=list(written.op.constants.values()),
        opset_imports={"": opset},
        name="preprocessing",
    )
    return ir.Model(graph, ir_version=onnx.IR_VERSION, producer_name="tvlt-deploy", producer_version=__version__)


def join(model: ir.Model, task: Task, config: TvltConfig, processor: TvltProcessor) -> None:
    """Put pre-processing in front of a standard graph, in place, and cut the tokens of an absent part from its outputs.

    The tensors between the two keep the names of the model's inputs.
    """
    graph = model.graph
    written = _Preprocessing(config, processor)
    for value in list(graph.inputs):
        made = written.values[value.name or ""]
        made.type, made.shape = value.type, value.shape
        value.replace_all_uses_with(made)
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
    """Operators from the raw inputs to the model's, `values` by name."""

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
            # Patches that are there, and patches that the model is given: of an absent part, one frame or step.
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

    def _mask(self, there: ir.Value, given: ir.Value) -> ir.Value:
        valid = self.op.Cast(self.op.Min(there, 1), to=ir.DataType.FLOAT)
        return self.op.Expand(valid, self.op.Concat([1], given, axis=0))

    def trim(self, value: ir.Value, shape: tuple[int | str, ...]) -> ir.Value:
        """An output (batch, tokens, hidden) without the tokens of an absent part; any other is left as it is."""
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
