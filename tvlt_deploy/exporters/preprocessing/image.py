"""Frames to `pixel_values` inside a graph, to the last bit as `tvlt_deploy.processors.TvltImageProcessor`.

Pillow resizes 8-bit images in whole numbers: along one axis at a time, each output level is the sum of input levels
times weights of 22 fractional bits, rounded to the nearest level (Pillow's `Resample.c`). Here each axis is two matrix
products in float32, by the upper and the lower eleven bits of the weights. Every sum is a whole number below 2^24, so
float32 holds it exactly, in whatever order an engine adds.
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
"""An axis is resized in as many parts, each of which multiplies only the input that it reads."""


@dataclass(frozen=True)
class _Axis:
    """One axis of a resize and a crop: sizes before and after, first sample kept, and (known) how many are kept."""

    found: ir.Value
    resized: ir.Value
    start: ir.Value
    kept: int


def check_image_processor(processor: TvltImageProcessor) -> None:
    """Raise `UsageError` for settings that the graph does not reproduce."""
    size, crop = processor.size, processor.crop_size
    smallest = size if "height" in size else dict.fromkeys(crop, size["shortest_edge"])
    wanted = {
        "do_resize": (processor.do_resize, True),
        "do_center_crop": (processor.do_center_crop, True),
        "resample": (Image.Resampling(processor.resample).name, Image.Resampling.BILINEAR.name),
    }
    for name, (found, needed) in wanted.items():
        if found != needed:
            raise UsageError(f"{name} is {found}; pre-processing inside a graph wants {needed}")
    if any(smallest[side] < crop[side] for side in crop):
        raise UsageError(f"size is {size} and crop_size {crop}; pre-processing inside a graph does not pad")


def write_image_graph(op: Operators, frames: ir.Value, processor: TvltImageProcessor) -> tuple[ir.Value, ir.Value]:
    """Resize, crop and normalise frames (frames, height, width, 3) uint8.

    Returns `pixel_values` (1, frames, 3, crop height, crop width) float32 and the number of frames (1,) int64. No
    frames become a black one.
    """
    check_image_processor(processor)
    count = op.size(levels := op.Cast(frames, to=ir.DataType.FLOAT), 0)  # TensorRT takes uint8 into a Cast alone
    with op.stage("window"):
        rows, columns = _axes(op, op.size(levels, 1), op.size(levels, 2), processor)
        (top, bottom), (left, right) = (_span(op, axis, 0, axis.kept) for axis in (rows, columns))
        levels = op.Slice(levels, op.Concat(top, left, axis=0), op.Concat(bottom, right, axis=0), [1, 2])
        levels = op.Transpose(levels, perm=[0, 3, 1, 2])
    with op.stage("width"):
        levels = _resize(op, levels, 3, columns, left)
    with op.stage("absent"):  # here, where frames are small and engines still multiply nothing by something
        missing = op.Sub(op.Max(count, 1), count)
        levels = op.Pad(levels, op.Concat([0, 0, 0, 0], missing, [0, 0, 0], axis=0))
    with op.stage("height"):
        levels = _resize(op, levels, 2, rows, top)
    with op.stage("normalise"):
        table = processor.level_table()
        offsets = np.arange(3, dtype=np.int32).reshape(3, 1, 1) * table.shape[1]
        values = op.Gather(table.reshape(-1), op.Add(op.Cast(levels, to=ir.DataType.INT32), offsets))
    return op.Unsqueeze(values, [0]), count


def _axes(op: Operators, height: ir.Value, width: ir.Value, processor: TvltImageProcessor) -> tuple[_Axis, _Axis]:
    """Rows and columns. Sizes are rounded towards zero, as the processor's."""
    resized: tuple[ir.Value, ...]
    if "height" in processor.size:
        resized = op.constant(processor.size["height"]), op.constant(processor.size["width"])
    else:
        short, edge = op.Min(height, width), processor.size["shortest_edge"]
        resized = tuple(op.Div(op.Mul(size, edge), short) for size in (height, width))
    crop = processor.crop_size["height"], processor.crop_size["width"]
    rows, columns = (
        _Axis(found, after, op.Div(op.Sub(after, kept), 2), kept)
        for found, after, kept in zip((height, width), resized, crop, strict=True)
    )
    return rows, columns


def _span(op: Operators, axis: _Axis, first: int, count: int) -> tuple[ir.Value, ir.Value]:
    """Start and end of the input that output samples first .. first + count - 1 (of those kept) read, or a little more.

    Output i reads inputs within max(found, resized) / resized of (i + 1/2) * found / resized.
    """
    reach = op.Max(axis.found, axis.resized)
    begin, end = (op.Mul(op.Add(axis.start, place), axis.found) for place in (first, first + count))
    low = op.Sub(op.Div(op.Sub(begin, reach), axis.resized), 2)
    high = op.Add(op.Div(op.Add(end, reach), axis.resized), 2)
    return op.Max(low, 0), op.Min(high, axis.found)


def _resize(op: Operators, levels: ir.Value, dimension: int, axis: _Axis, origin: ir.Value) -> ir.Value:
    """Resize and crop the last (3) or last but one (2) dimension of levels, whose first sample is input `origin`."""
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
    """Upper and lower half of Pillow's weights, each (count, inputs from low to high) float32 of whole numbers.

    The triangle filter of input j for output i is proportional to u = max(d - |(2j + 1) resized - (2i + 1) found|, 0)
    with d = 2 max(found, resized), a whole number; its weight is u / sum(u) in 22 bits, rounded. Dividing by eleven
    bits at a time keeps to 32 bits for all but extreme shapes: that is what OpenVINO computes int64 in.
    """
    scalar = lambda value: op.Squeeze(value, [0])  # noqa: E731
    inputs = op.Add(op.Mul(op.Range(scalar(low), scalar(high), np.array(1, np.int64)), 2), 1)
    outputs = op.Add(op.Mul(axis.start, 2), 2 * np.arange(first, first + count)[:, None] + 1)
    distance = op.Abs(op.Sub(op.Mul(inputs, axis.resized), op.Mul(outputs, axis.found)))
    overlap = op.Max(op.Sub(op.Mul(op.Max(axis.found, axis.resized), 2), distance), 0)
    total = op.ReduceSum(overlap, [1], keepdims=1)
    scaled = op.Mul(overlap, HALF_WEIGHT)
    upper = op.Div(scaled, total)
    remainder = op.Mul(op.Sub(scaled, op.Mul(upper, total)), HALF_WEIGHT)
    lower = op.Div(op.Add(remainder, op.Div(total, 2)), total)
    return op.Cast(upper, to=ir.DataType.FLOAT), op.Cast(lower, to=ir.DataType.FLOAT)
