"""What a runtime refuses to be fed, the pairs there are, and the devices there are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import truth
from tests.reference import hf
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import EnvironmentLackError, InputError, UsageError
from tvlt_deploy.runtimes import BACKENDS, PAIRS, check_pair, open_runtime, parse_device
from tvlt_deploy.runtimes.base import check_feeds
from tvlt_deploy.tasks import TASKS

CONFIG = TvltConfig(**{**hf.TINY, "spectrogram_length": 112})
INPUTS = TASKS["audio-visual-classification"].inputs(CONFIG)


def good(**changes: Any) -> dict[str, Any]:
    return {**truth.feeds(CONFIG, 2, 3, 5), **changes}


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def test_good_feeds_come_back_in_graph_order_as_contiguous_float32() -> None:
    shuffled = dict(reversed(good(pixel_mask=np.ones((2, 12), bool), audio_mask=np.ones((10, 2), np.uint8).T).items()))
    shuffled["audio_values"] = np.asfortranarray(shuffled["audio_values"])
    arrays = check_feeds(shuffled, INPUTS, CONFIG)
    assert list(arrays) == list(INPUTS)
    for name, array in arrays.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, shuffled[name])


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        (good(pixels=zeros(1)), r"unknown inputs \['pixels'\]; expected pixel_values, audio_values"),
        (good(pixel_noise=zeros(2, 12)), r"unknown inputs \['pixel_noise'\]"),
        ({k: v for k, v in good().items() if "mask" not in k}, r"missing inputs \['audio_mask', 'pixel_mask'\]"),
        ({}, r"missing inputs"),
        (good(pixel_values=zeros(2, 3, 3, 32, 32, dtype=np.float64)), "pixel_values is float64; expected float32"),
        (good(audio_values=zeros(2, 1, 80, 32, dtype=np.int16)), "audio_values is int16; expected float32"),
        (good(pixel_mask=np.full((2, 12), "x")), "pixel_mask is <U1; expected float32"),
        (good(pixel_values=zeros(3, 3, 32, 32)),
         r"pixel_values has shape \(3, 3, 32, 32\); expected \(batch, frames, 3"),
        (good(audio_values=zeros(1, 80, 32)), r"audio_values has shape \(1, 80, 32\); expected \(batch, 1, rows, 32\)"),
        (good(audio_values=zeros(2, 1, 80, 64)), r"audio_values has shape \(2, 1, 80, 64\); expected \(batch, 1, rows"),
        (good(pixel_values=zeros(2, 3, 1, 32, 32)), r"expected \(batch, frames, 3, 32, 32\)"),
        (good(pixel_mask=zeros(12)), r"pixel_mask has shape \(12,\); expected \(batch, pixel_patches\)"),
        (good(pixel_mask=zeros(2, 13)),
         r"pixel_mask has shape \(2, 13\); expected \(batch, pixel_patches\) = \(2, 12\)"),
        (good(audio_mask=zeros(2, 5)), r"audio_mask has shape \(2, 5\); expected \(batch, audio_patches\) = \(2, 10\)"),
        (good(audio_mask=zeros(3, 10)),
         r"audio_mask has shape \(3, 10\); expected \(batch, audio_patches\) = \(2, 10\)"),
        (good(audio_values=zeros(1, 1, 80, 32)), r"audio_values has shape \(1, 1, 80, 32\); .* = \(2, 1, 80, 32\)"),
        (good(audio_values=zeros(2, 1, 88, 32)), "audio_values has 88 rows; expected a multiple of 16 from 16 to 112"),
        (good(audio_values=zeros(2, 1, 8, 32)), "audio_values has 8 rows; expected a multiple of 16"),
        (good(audio_values=zeros(2, 1, 0, 32)), "audio_values has 0 rows; expected a multiple of 16"),
        (good(audio_values=zeros(2, 1, 128, 32), audio_mask=zeros(2, 16)), "audio_values has 128 rows; .* to 112"),
        (good(pixel_values=zeros(2, 5, 3, 32, 32), pixel_mask=zeros(2, 20)), "has 5 frames; expected 1 to 4"),
        (good(pixel_values=zeros(2, 0, 3, 32, 32), pixel_mask=zeros(2, 0)), "has 0 frames; expected 1 to 4"),
        ({name: array[:0] for name, array in good().items()}, "the batch is empty; expected at least one clip"),
    ],
)  # fmt: skip
def test_feeds_that_no_graph_can_take_are_refused(feeds: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        check_feeds(feeds, INPUTS, CONFIG)
    assert isinstance(caught.value, ValueError)


def test_the_input_at_fault_is_the_one_named() -> None:
    with pytest.raises(InputError, match=r"^audio_values has shape"):
        check_feeds(good(audio_values=zeros(80, 32)), INPUTS, CONFIG)


def test_noise_is_checked_as_masks_are() -> None:
    inputs = TASKS["masked-reconstruction"].inputs(CONFIG)
    noisy = truth.with_noise(CONFIG, good())
    assert list(check_feeds(noisy, inputs, CONFIG)) == list(inputs)
    with pytest.raises(InputError, match=r"audio_noise has shape \(2, 5\); expected .* = \(2, 10\)"):
        check_feeds({**noisy, "audio_noise": zeros(2, 5)}, inputs, CONFIG)
    with pytest.raises(InputError, match=r"missing inputs \['audio_noise', 'pixel_noise'\]"):
        check_feeds(good(), inputs, CONFIG)


# Pairs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "parsed"), [("cpu", ("cpu", 0)), ("cuda", ("cuda", 0)), ("cuda:3", ("cuda", 3))])
def test_devices_are_read(device: str, parsed: tuple[str, int]) -> None:
    assert parse_device(device) == parsed


@pytest.mark.parametrize("device", ["gpu", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", ""])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(UsageError, match=rf"device is '{device}'; expected cpu, cuda or cuda:N"):
        check_pair("torch", device, "fp32")


def test_every_pair_of_the_table_is_let_through_and_no_other() -> None:
    assert BACKENDS == ("torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx")
    for backend, kinds in PAIRS.items():
        for device, runs in kinds.items():
            for precision in ("fp32", "fp16", "bf16", "int8", "fp8"):
                if precision in runs:
                    check_pair(backend, device, precision)
                else:
                    with pytest.raises(EnvironmentLackError, match=f"{backend} on {device} does not run {precision}"):
                        check_pair(backend, device, precision)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            ("onnxruntime", "cpu", "bf16"),
            r"onnxruntime on cpu does not run bf16; it runs fp32, fp16, int8 "
            r"\(use --precision fp32; bf16 runs with torch on cpu\)",
        ),
        (("torch", "cpu", "fp16"), r"it runs fp32, bf16 \(use --precision fp32; fp16 runs with torch on cuda\)"),
        (
            ("onnxruntime", "cuda:1", "fp8"),
            r"onnxruntime on cuda does not run fp8; .* \(use --precision fp32; fp8 runs with tensorrt on cuda\)$",
        ),
    ],
)
def test_a_refused_pair_names_the_reason_and_the_nearest(asked: tuple[str, str, str], says: str) -> None:
    with pytest.raises(EnvironmentLackError, match=says) as caught:
        check_pair(*asked)
    assert caught.value.exit_code == 4


def test_unknown_names_and_thread_counts_are_usage_errors(classification: Any) -> None:
    with pytest.raises(UsageError, match="backend is 'tflite'; expected one of torch, onnxruntime"):
        open_runtime(classification, "tflite")
    with pytest.raises(UsageError, match="precision is 'fp64'; expected one of fp32, fp16, bf16, int8, fp8"):
        open_runtime(classification, precision="fp64")
    for threads in (0, -1, 1.5, "2"):
        with pytest.raises(UsageError, match=f"threads is {threads!r}; expected an int of at least 1"):
            open_runtime(classification, threads=threads)
