"""Sound to `audio_values` inside a graph, within 5e-5 of `tvlt_deploy.processors.TvltFeatureExtractor`.

Only ONNX Runtime supports the operators DFT and STFT as needed here, so the transform is two matrix products: one step
of the Cooley-Tukey algorithm for n_fft = a * b.

Features reach 80 dB below the loudest. There, next to a pure tone, plain float32 sums have errors of up to 1.5e-4. The
sound is therefore split into integers of a few bits and a small remainder: sums of products of the integers with the
upper bits of the transform are exact in float32. They are not in TF32 or half precision.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from tvlt_deploy.errors import UsageError
from tvlt_deploy.exporters.preprocessing.builder import Operators
from tvlt_deploy.processors import TvltFeatureExtractor
from tvlt_deploy.processors.spectrogram import DYNAMIC_RANGE, MIN_POWER, hann_window

LARGEST = 256.0
"""The loudest sample is scaled to this."""
MIN_PEAK = np.float32(1e-15)
"""Sound that stays below this has far less than the minimum power."""


def check_feature_extractor(extractor: TvltFeatureExtractor) -> None:
    """Check that the graph reproduces the settings of a feature extractor.

    Raises:
        UsageError: It does not.
    """
    n_fft, hop = extractor.n_fft, extractor.hop_length
    if n_fft % hop or n_fft % 4:
        raise UsageError(
            f"n_fft is {n_fft} and the hop {hop} samples; pre-processing in a graph needs an n_fft that is a multiple "
            "of the hop and of 4"
        )


def write_audio_graph(op: Operators, waveform: ir.Value, extractor: TvltFeatureExtractor) -> tuple[ir.Value, ir.Value]:
    """Append the operators for the log-mel spectrogram of a waveform.

    Args:
        op: The operators to append to.
        waveform: (samples,) float32, of any length.
        extractor: The settings.

    Returns:
        `audio_values` (1, 1, rows, filters) float32, padded to complete patches, and the number of rows of sound (1,)
        int64. A waveform shorter than one hop has no row of sound, and one patch of padding.

    Raises:
        UsageError: A setting is not supported.
    """
    check_feature_extractor(extractor)
    hop, n_fft = extractor.hop_length, extractor.n_fft
    samples = op.size(waveform, 0)
    with op.stage("scale"):
        peak = op.ReduceMax(op.Abs(op.Concat(waveform, np.full(1, MIN_PEAK), axis=0)), keepdims=0)
        waveform = op.Mul(waveform, op.Div(LARGEST, peak))
    with op.stage("frames"):
        hops = op.Div(samples, hop)  # the last of the 1 + hops frames is used for the loudest value only
        frames = _frames(op, _mirrored(op, waveform, samples, n_fft // 2), op.Add(hops, 1), hop, n_fft)
    with op.stage("spectrum"):
        power, bins = _power(op, op.Mul(frames, hann_window(n_fft).astype(np.float32)), n_fft)
    with op.stage("mel"):
        gain = op.Mul(peak, 1 / LARGEST)
        mel = op.MatMul(power, extractor.mel_filters.T[bins].astype(np.float32))
        mel = op.Mul(mel, op.Mul(gain, gain))
    with op.stage("decibel"):
        rows = op.Min(hops, extractor.max_rows)
        floor = op.Max(op.Mul(op.ReduceMax(mel, keepdims=0), DYNAMIC_RANGE), MIN_POWER)
        mel = op.Max(op.Slice(mel, [0], rows, [0]), floor)
        # clip((10 log10(mel) - 20) / 40, -2, 0) + 1
        values = op.Add(op.Mul(op.Log(mel), 0.25 / math.log(10)), 0.5)
        values = op.Min(op.Max(values, -1.0), 1.0)
    with op.stage("pad"):
        patch = extractor.patch_size[0]
        padded = op.Mul(op.Div(op.Add(op.Max(rows, 1), patch - 1), patch), patch)
        pads = op.Concat([0, 0], op.Sub(padded, rows), [0], axis=0)
        values = op.Pad(values, pads, extractor.padding_value)
    return op.Unsqueeze(values, [0, 1]), rows


def _mirrored(op: Operators, waveform: ir.Value, samples: ir.Value, width: int) -> ir.Value:
    """The waveform with `width` samples before and after it, mirrored about its ends as often as needed."""
    some = op.Concat(waveform, np.zeros(1, np.float32), axis=0)  # Gather needs at least one sample
    period = op.Max(op.Mul(op.Sub(samples, 1), 2), 1)

    def mirror(places: ir.Value) -> ir.Value:
        inside = op.Sub(places, op.Mul(op.Div(places, period), period))
        return op.Gather(some, op.Min(inside, op.Sub(period, inside)))

    before = mirror(op.constant(np.arange(width, 0, -1)))
    after = mirror(op.Add(samples, np.arange(width)))
    return op.Concat(before, waveform, after, axis=0)


def _frames(op: Operators, samples: ir.Value, count: ir.Value, hop: int, n_fft: int) -> ir.Value:
    """`count` overlapping frames (count, n_fft), concatenated from adjacent hops."""
    steps = n_fft // hop
    cut = op.Slice(samples, [0], op.Mul(op.Add(count, steps - 1), hop), [0])
    hops = op.Reshape(cut, [-1, hop])
    return op.Concat(*(op.Slice(hops, [step], op.Add(count, step), [0]) for step in range(steps)), axis=1)


def _power(op: Operators, frames: ir.Value, n_fft: int) -> tuple[ir.Value, np.ndarray]:
    """The power spectrum (frames, n_fft / 2) in another order, and the bin of each column.

    The last bin is left out: no filter reads it.

    With n = b n1 + n2 and k = k1 + a k2: X[k] = sum over n2 of W_b^(n2 k2) W_n^(n2 k1) sum over n1 of W_a^(n1 k1) x[n].
    """
    b = next(size for size in range(math.isqrt(n_fft), n_fft + 1) if n_fft % size == 0 and size % 2 == 0)
    a = n_fft // b
    k1, n2, k2 = np.arange(a), np.arange(b), np.arange(b // 2)
    turn = lambda left, right, size: -2 * np.pi * (np.outer(left, right) % size) / size  # noqa: E731
    angles = turn(k1, k1, a)
    split = op.Reshape(frames, [-1, a, b])
    parts = _product(op, np.concatenate([np.cos(angles), np.sin(angles)]), split, 1.0)
    real, imaginary = op.Slice(parts, [0], [a], [1]), op.Slice(parts, [a], [2 * a], [1])
    cos, sin = (part(turn(k1, n2, n_fft)).astype(np.float32) for part in (np.cos, np.sin))
    twiddled = op.Concat(
        op.Sub(op.Mul(real, cos), op.Mul(imaginary, sin)),
        op.Add(op.Mul(real, sin), op.Mul(imaginary, cos)),
        axis=2,
    )
    cos, sin = (part(turn(n2, k2, b)) for part in (np.cos, np.sin))
    spectrum = _product(op, twiddled, np.block([[cos, sin], [-sin, cos]]), float(a))
    squares = op.Mul(spectrum, spectrum)
    power = op.Add(op.Slice(squares, [0], [b // 2], [2]), op.Slice(squares, [b // 2], [b], [2]))
    return op.Reshape(power, [-1, n_fft // 2]), (k1[:, None] + a * k2).reshape(-1)


def _product(op: Operators, left: ir.Value | np.ndarray, right: ir.Value | np.ndarray, unit: float) -> ir.Value:
    """left @ right, where one is a constant of float64 in [-1, 1] and the other a value.

    The value is split into multiples of `unit`, at most 256 of them, and a remainder. The sum of the products of the
    multiples with the upper eight bits of the constant is exact; the two products that complete it are small, and so
    are their rounding errors.
    """
    matrix, values = (left, right) if isinstance(left, np.ndarray) else (right, left)
    assert isinstance(matrix, np.ndarray)
    coarse = op.Mul(op.Round(op.Mul(values, 1 / unit)), unit) if unit != 1 else op.Round(values)
    upper = np.round(matrix * 256) / 256
    exact, lower, rest = (
        op.MatMul(part.astype(np.float32), x) if matrix is left else op.MatMul(x, part.astype(np.float32))
        for x, part in ((coarse, upper), (coarse, matrix - upper), (op.Sub(values, coarse), matrix))
    )
    return op.Add(exact, op.Add(lower, rest))
