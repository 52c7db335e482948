"""Frames to `pixel_values` inside a graph, bit-identical to `tvlt_deploy.processors.TvltImageProcessor`.

Pillow resizes 8-bit images in integers: along one axis at a time, each output level is the sum of input levels times
weights of 22 fractional bits, rounded to the nearest level (Pillow's `Resample.c`). Here each axis is two matrix
products in float32, by the upper and the lower eleven bits of the weights. Every sum is an integer below 2^24, which
float32 represents exactly, whatever the order of the additions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from PIL import Image

from tvlt_deploy.errors import UsageError
from tvlt_deploy.exporters.preprocessing.builder import Operators
from tvlt_deploy.processors import TvltImageProcessor

HALF_WEIGHT = 1 << 11
"""Half of Pillow's 22 bits: a weight is upper * 2^11 + lower."""
BLOCKS = 4
"""An axis is resized in this many parts, each of which multiplies only the input that it reads."""


@dataclass(frozen=True)
class _Axis:
    """One axis of a resize and a crop: sizes before and after, and the first kept sample and their number."""

    size: ir.Value
    resized: ir.Value
    start: ir.Value
    kept: int


def check_image_processor(processor: TvltImageProcessor) -> None:
    """Check that the graph reproduces the settings of an image processor.

    Raises:
        UsageError: It does not.
    """
    size, crop = processor.size, processor.crop_size
    smallest = size if "height" in size else dict.fromkeys(crop, size["shortest_edge"])
    settings = {
        "do_resize": (processor.do_resize, True),
        "do_center_crop": (processor.do_center_crop, True),
        "resample": (Image.Resampling(processor.resample).name, Image.Resampling.BILINEAR.name),
    }
    for name, (actual, expected) in settings.items():
        if actual != expected:
            raise UsageError(f"{name} is {actual}; pre-processing in a graph needs {expected}")
    if any(smallest[side] < crop[side] for side in crop):
        raise UsageError(f"size is {size} and crop_size {crop}; pre-processing in a graph does not pad")


def write_image_graph(op: Operators, frames: ir.Value, processor: TvltImageProcessor) -> tuple[ir.Value, ir.Value]:
    """Append the operators that resize, crop and normalize frames.

    Args:
        op: The operators to append to.
        frames: (frames, height, width, 3) uint8 RGB.
        processor: The settings.

    Returns:
        `pixel_values` (1, frames, 3, crop height, crop width) float32 and the number of frames (1,) int64. Without
        frames, `pixel_values` is one black frame.

    Raises:
        UsageError: A setting is not supported.
    """
    check_image_processor(processor)
    count = op.size(levels := op.Cast(frames, to=ir.DataType.FLOAT), 0)  # TensorRT accepts uint8 only in a Cast
    with op.stage("window"):
        rows, columns = _axes(op, op.size(levels, 1), op.size(levels, 2), processor)
        (top, bottom), (left, right) = (_span(op, axis, 0, axis.kept) for axis in (rows, columns))
        levels = op.Slice(levels, op.Concat(top, left, axis=0), op.Concat(bottom, right, axis=0), [1, 2])
        levels = op.Transpose(levels, perm=[0, 3, 1, 2])
    with op.stage("width"):
        levels = _resize(op, levels, 3, columns, left)
    with op.stage("absent"):  # here frames are small, and engines still multiply empty tensors
        missing = op.Sub(op.Max(count, 1), count)
        levels = op.Pad(levels, op.Concat([0, 0, 0, 0], missing, [0, 0, 0], axis=0))
    with op.stage("height"):
        levels = _resize(op, levels, 2, rows, top)
    with op.stage("normalize"):
        table = processor.level_table()
        offsets = np.arange(3, dtype=np.int32).reshape(3, 1, 1) * table.shape[1]
        values = op.Gather(table.reshape(-1), op.Add(op.Cast(levels, to=ir.DataType.INT32), offsets))
    return op.Unsqueeze(values, [0]), count


def _axes(op: Operators, height: ir.Value, width: ir.Value, processor: TvltImageProcessor) -> tuple[_Axis, _Axis]:
    """The axes of rows and columns. Sizes are rounded towards zero, as in the processor."""
    resized: tuple[ir.Value, ...]
    if "height" in processor.size:
        resized = op.constant(processor.size["height"]), op.constant(processor.size["width"])
    else:
        short, edge = op.Min(height, width), processor.size["shortest_edge"]
        resized = tuple(op.Div(op.Mul(size, edge), short) for size in (height, width))
    crop = processor.crop_size["height"], processor.crop_size["width"]
    rows, columns = (
        _Axis(before, after, op.Div(op.Sub(after, kept), 2), kept)
        for before, after, kept in zip((height, width), resized, crop, strict=True)
    )
    return rows, columns


def _span(op: Operators, axis: _Axis, first: int, count: int) -> tuple[ir.Value, ir.Value]:
    """Start and end of the input that kept output samples first .. first + count - 1 read, or a little more.

    Output i reads inputs within max(size, resized) / resized of (i + 1/2) * size / resized.
    """
    reach = op.Max(axis.size, axis.resized)
    begin, end = (op.Mul(op.Add(axis.start, place), axis.size) for place in (first, first + count))
    low = op.Sub(op.Div(op.Sub(begin, reach), axis.resized), 2)
    high = op.Add(op.Div(op.Add(end, reach), axis.resized), 2)
    return op.Max(low, 0), op.Min(high, axis.size)


def _resize(op: Operators, levels: ir.Value, dimension: int, axis: _Axis, origin: ir.Value) -> ir.Value:
    """Resize and crop dimension 2 or 3 of levels, whose first sample is input `origin`."""
    parts = []
    bounds = [axis.kept * block // BLOCKS for block in range(BLOCKS + 1)]
    for first, stop in itertools.pairwise(bounds):
        if first == stop:
            continue
        low, high = _span(op, axis, first, stop - first)
        part = op.Slice(levels, op.Sub(low, origin), op.Sub(high, origin), [dimension])
        upper, lower = (
            op.MatMul(weights, part) if dimension == 2 else op.MatMul(part, op.Transpose(weights, perm=[1, 0]))
            for weights in _weights(op, axis, first, stop - first, low, high)
        )
        # (upper * 2^11 + lower + 2^21) >> 22
        carried = op.Add(upper, op.Floor(op.Mul(lower, 1 / HALF_WEIGHT)))
        parts.append(op.Floor(op.Mul(op.Add(carried, HALF_WEIGHT / 2), 1 / HALF_WEIGHT)))
    return op.Concat(*parts, axis=dimension)


def _weights(
    op: Operators, axis: _Axis, first: int, count: int, low: ir.Value, high: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Upper and lower half of Pillow's weights, each (count, inputs from low to high) float32 of integers.

    The triangle filter of input j for output i is proportional to u = max(d - |(2j + 1) resized - (2i + 1) size|, 0)
    with d = 2 max(size, resized), an integer; its weight is u / sum(u) in 22 bits, rounded. Dividing by eleven bits at
    a time stays within 32 bits for all but extreme shapes: OpenVINO computes int64 in 32 bits.
    """
    scalar = lambda value: op.Squeeze(value, [0])  # noqa: E731
    inputs = op.Add(op.Mul(op.Range(scalar(low), scalar(high), np.array(1, np.int64)), 2), 1)
    outputs = op.Add(op.Mul(axis.start, 2), 2 * np.arange(first, first + count)[:, None] + 1)
    distance = op.Abs(op.Sub(op.Mul(inputs, axis.resized), op.Mul(outputs, axis.size)))
    overlap = op.Max(op.Sub(op.Mul(op.Max(axis.size, axis.resized), 2), distance), 0)
    total = op.ReduceSum(overlap, [1], keepdims=1)
    scaled = op.Mul(overlap, HALF_WEIGHT)
    upper = op.Div(scaled, total)
    remainder = op.Mul(op.Sub(scaled, op.Mul(upper, total)), HALF_WEIGHT)
    lower = op.Div(op.Add(remainder, op.Div(total, 2)), total)
    return op.Cast(upper, to=ir.DataType.FLOAT), op.Cast(lower, to=ir.DataType.FLOAT)
