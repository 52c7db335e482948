"""Faults put into graphs are found where they were put, and the ranking tells which layer is worth keeping."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from tests.test_imports import loaded_by
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.changes import with_file
from tvlt_deploy.bundle.manifest import FP16_TWIN_FORM, NOT_RUN, ONNXRUNTIME_CPU_FORM, STANDARD_FORM, Variant
from tvlt_deploy.bundle.writer import file_entry, update_manifest, write_manifest
from tvlt_deploy.cli import main
from tvlt_deploy.errors import EnvironmentLackError, UsageError
from tvlt_deploy.exporters.onnx import save_graphs
from tvlt_deploy.exporters.precision import to_half
from tvlt_deploy.parity.cases import add_noise, fidelity_cases, synthetic_clip
from tvlt_deploy.runtimes import open_runtime
from tvlt_deploy.workflows import locate as module
from tvlt_deploy.workflows.locate import Location, locate, row_error
from tvlt_deploy.workflows.quantize import quantize

Feeds = dict[str, np.ndarray]


def clips_for(bundle: Bundle, count: int, seed: int) -> list[Feeds]:
    config = bundle.config
    sizes = [(1 + n % config.num_frames, 1 + n % config.time_patches) for n in range(count)]
    return [
        add_noise(bundle.task, config, synthetic_clip(config, *size, seed + n)) for n, size in enumerate(sizes)
    ]  # fmt: skip


def quantized(original: Bundle, place: Path, **options: Any) -> Bundle:
    shutil.copytree(original.directory, place)
    return quantize(place, clips_for(original, 8, 100), verify=False, threads=1, **options)


@pytest.fixture(scope="module")
def bundle(features: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """All hidden states, in fp32, fp16 and int8."""
    place = tmp_path_factory.mktemp("located") / "bundle"
    shutil.copytree(features.directory, place)
    graph = to_half(onnx_ir.load(features.path(features.variant("fp32").path)), "fp16")
    save_graphs({"model.onnx": graph}, place / "fp16", {})
    half = Variant("fp16", STANDARD_FORM, "fp16/model.onnx", ("fp16/model.onnx", "fp16/model.onnx.data"), 20, NOT_RUN)
    write_manifest(place, features.task, features.config, [*features.variants, half])
    return quantize(place, clips_for(features, 8, 100), verify=False, threads=1)


@pytest.fixture(scope="module")
def healthy(bundle: Bundle) -> list[Location]:
    return locate(bundle, threads=1)


def damage(bundle: Bundle, path: str, parameter: str, factor: float) -> None:
    """Scale a parameter of a graph and record the file's new hash, as a faulty exporter would have."""
    model = onnx.load(bundle.path(path))
    (tensor,) = [each for each in model.graph.initializer if each.name == parameter]
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), parameter))
    onnx.save(model, bundle.path(path))
    update_manifest(bundle, lambda manifest: with_file(manifest, path, file_entry(bundle.path(path))))


# The first layer -----------------------------------------------------------------------------------------------------


def test_healthy_graphs_keep_the_tolerance_in_every_layer(healthy: list[Location]) -> None:
    assert [(each.precision, each.form) for each in healthy] == [
        ("fp32", ONNXRUNTIME_CPU_FORM),
        ("fp16", STANDARD_FORM),
        ("int8", STANDARD_FORM),
        ("int8", ONNXRUNTIME_CPU_FORM),
        ("int8", FP16_TWIN_FORM),
    ]
    assert [each.first for each in healthy] == [None] * 5
    errors = [max(layer.error for layer in each.layers) for each in healthy]
    assert errors[0] < 1e-5 < errors[1] < 0.01 < min(errors[2:])  # float32, float16 and int8 round so


@pytest.mark.parametrize(
    ("path", "parameter", "factor", "layer"),
    [
        ("fp16/model.onnx", "encoder.layers.1.key.weight", 1.1, "encoder.layers.1.key"),
        ("fp16/model.onnx", "encoder.layers.0.norm_after.bias", -1, "encoder.layers.0.norm_after"),
        ("fp16/model.onnx", "embedding.audio_table", 1.1, "embedding.audio"),
        ("fp16/model.onnx", "encoder.layers.1.contract.weight", math.inf, "encoder.layers.1.contract"),
        ("int8/model.onnx", "encoder.layers.1.expand.weight_scale", 2, "encoder.layers.1.expand"),
        ("int8/model.onnx", "encoder.layers.0.project.input_scale", 50, "encoder.layers.0.project"),
        ("int8/model.onnxruntime-cpu.onnx", "encoder.layers.1.contract.input_scale", 50, "encoder.layers.1.contract"),
        ("int8/model.fp16.onnx", "encoder.layers.0.value.bias", -3, "encoder.layers.0.value"),
    ],
)
def test_a_damaged_layer_is_named(
    path: str, parameter: str, factor: float, layer: str, bundle: Bundle, copy_of: Callable[[Bundle], Path]
) -> None:
    copy = Bundle(copy_of(bundle))
    damage(copy, path, parameter, factor)
    located = locate(copy, precisions=[path.split("/")[0]], threads=1)
    assert {each.path: each.first.layer for each in located if each.first is not None} == {path: layer}


def test_a_damaged_step_tops_the_ranking(bundle: Bundle, copy_of: Callable[[Bundle], Path]) -> None:
    copy = Bundle(copy_of(bundle))
    damage(copy, "int8/model.onnxruntime-cpu.onnx", "encoder.layers.1.contract.input_scale", 50)
    (ranking,) = [each.ranking for each in locate(copy, precisions=["int8"], threads=1) if each.ranking]
    assert ranking[0].layer == "encoder.layers.1.contract"
    assert ranking[0].error > 5 * ranking[1].error


def test_layers_in_small_groups_measure_the_same(
    bundle: Bundle, healthy: list[Location], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAYERS_AT_A_TIME", 5)
    (half,) = locate(bundle, precisions=["fp16"], threads=1)
    (expected,) = [each for each in healthy if each.precision == "fp16"]
    assert [each.layer for each in half.layers] == [each.layer for each in expected.layers]
    for actual, error in zip(half.layers, expected.layers, strict=True):
        assert actual.error == pytest.approx(error.error, rel=0.5)


def test_the_error_of_rows() -> None:
    expected = np.array([[3, 4], [0, 5]], np.float32)
    assert row_error(expected, expected) == 0
    assert row_error(expected + np.array([[0, 0.5], [0, 0]], np.float32), expected) == pytest.approx(0.1)
    assert row_error(1.25 * expected, expected) == pytest.approx(0.25)
    # rows of length 1 and 7 are 5 long by root mean square
    uneven = np.array([[1, 0], [0, 7]], np.float32)
    assert row_error(uneven + np.array([[0.5, 0], [0, 0]], np.float32), uneven) == pytest.approx(0.1)
    assert row_error(uneven + np.array([[0, 0], [0, 0.7]], np.float32), uneven) == pytest.approx(0.1)
    assert row_error(np.full_like(expected, np.nan), expected) == math.inf
    assert row_error(expected[:1], expected) == math.inf


# The ranking ---------------------------------------------------------------------------------------------------------


def error_of(bundle: Bundle, clips: list[Feeds]) -> float:
    """Root mean square difference of the int8 answers from the fp32 answers, in standard deviations of those."""
    with (
        open_runtime(bundle, precision="int8", threads=1) as int8,
        open_runtime(bundle, precision="fp32", threads=1) as fp32,
    ):
        pairs = [(int8.run(feeds), fp32.run(feeds)) for feeds in clips]
    name = bundle.task.output_names[0]
    actual, expected = (
        np.concatenate([answers[name].ravel() for answers in side]) for side in zip(*pairs, strict=True)
    )
    return float(np.sqrt(np.square(actual - expected).mean()) / expected.std())


def test_keeping_the_top_layer_mends_more_than_keeping_the_bottom_layer(
    bundle: Bundle, features: Bundle, healthy: list[Location], tmp_path: Path
) -> None:
    rankings = [each.ranking for each in healthy]
    assert [len(ranking) for ranking in rankings] == [0, 0, 0, 6 * bundle.config.num_hidden_layers, 0]
    top, *_, bottom = rankings[3]
    assert top.error > 2 * bottom.error
    unseen = clips_for(bundle, 28, 500)
    all_int8 = error_of(bundle, unseen)
    kept = {
        each: error_of(quantized(features, tmp_path / each, keep=[each]), unseen) for each in (top.layer, bottom.layer)
    }
    assert kept[top.layer] < 0.97 * all_int8
    assert all_int8 - kept[top.layer] > 3 * (all_int8 - kept[bottom.layer])


def test_errors_add_up_as_squares(bundle: Bundle, healthy: list[Location]) -> None:
    ranked_on = {"one frame, one patch of sound", "no sound", "nothing valid"}  # one clip, at most half the size
    clips = [case.feeds for case in fidelity_cases(bundle.task, bundle.config) if case.name in ranked_on]
    total = math.sqrt(sum(layer.error**2 for layer in healthy[3].ranking))
    assert total == pytest.approx(error_of(bundle, clips), rel=0.2)


def test_a_smoothed_bundle_is_compared_in_its_own_channels(reconstruction: Bundle, tmp_path: Path) -> None:
    bundle = quantized(reconstruction, tmp_path / "bundle", smooth=True)
    exact, smoothed = (onnx_ir.load(bundle.path(bundle.variant(p).path)).graph for p in ("fp32", "int8"))
    before = exact.initializers["encoder.layers.0.norm_before.weight"].const_value.numpy().copy()
    module.smooth_alike(exact, smoothed)
    moved = 0
    for name in exact.initializers:
        if name.endswith((".norm_before.weight", ".norm_after.bias", ".value.bias")):
            actual, expected = (graph.initializers[name].const_value.numpy() for graph in (exact, smoothed))
            np.testing.assert_array_equal(actual, expected)
            moved += 1
    assert moved == 9  # three of each layer
    assert (before != exact.initializers["encoder.layers.0.norm_before.weight"].const_value.numpy()).any()
    located = locate(bundle, precisions=["int8"], threads=1)
    assert [each.first for each in located] == [None] * 3
    damage(bundle, "int8/model.onnx", "encoder.layers.1.project.input_scale", 50)
    assert locate(bundle, precisions=["int8"], threads=1)[0].first.layer == "encoder.layers.1.project"


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_prints_layers_and_ranking(bundle: Bundle, copy_of: Callable[[Bundle], Path]) -> None:
    copy = Bundle(copy_of(bundle))
    damage(copy, "int8/model.onnx", "encoder.layers.1.expand.weight_scale", 2)
    arguments = ["verify", str(copy.directory), "--precision", "int8", "--locate", "-q", "--threads", "1"]
    table = CliRunner().invoke(main, arguments)
    assert table.exit_code == 3
    assert "int8 standard: the first layer out of tolerance is encoder.layers.1.expand: 1" in table.stdout
    assert "int8 onnxruntime-cpu: no layer is out of tolerance" in table.stdout
    whole = CliRunner().invoke(main, [*arguments, "--json"])
    assert whole.exit_code == 3
    standard, fused, twin = json.loads(whole.stdout)["locations"]
    assert [each["first"] for each in (standard, fused, twin)] == ["encoder.layers.1.expand", None, None]
    assert [each["layer"] for each in standard["layers"]][:4] == [
        "embedding.pixel", "embedding.audio", "encoder.cls", "encoder.layers.0.norm_before"
    ]  # fmt: skip
    names = [each["layer"] for each in fused["ranking"]]
    assert all(name in table.stdout for name in names[:10])
    refused = CliRunner().invoke(main, ["verify", str(copy.directory), "--backend", "torch", "--locate"])
    assert refused.exit_code == 2
    assert "--locate with torch on cpu; expected onnxruntime on cpu" in refused.stderr


def test_without_polygraphy_it_says_how_to_get_it(features: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tvlt_deploy.workflows.locate")
    monkeypatch.setitem(sys.modules, "polygraphy.backend.onnx", None)
    result = CliRunner().invoke(main, ["verify", str(features.directory), "--locate"])
    assert result.exit_code == 4
    assert "locating needs polygraphy" in result.stderr
    assert "hint: pip install 'tvlt-deploy[cpu,polygraphy]'" in result.stderr
    assert "hashing" not in result.stderr  # nothing was measured before


def test_locating_needs_no_torch(features: Bundle) -> None:
    hidden = "import sys\nsys.modules['torch'] = None\nfrom tvlt_deploy.workflows.locate import locate\n"
    assert loaded_by(f"{hidden}assert len(locate({str(features.directory)!r}, threads=1)) == 1", ("polygraphy",))


def test_what_cannot_be_compared_is_refused(features: Bundle, copy_of: Callable[[Bundle], Path]) -> None:
    with pytest.raises(UsageError, match="has no int8 graph"):
        locate(features, precisions=["int8"])
    with pytest.raises(EnvironmentLackError, match="onnxruntime on cpu does not run bf16"):
        locate(features, precisions=["bf16"])
    copy = Bundle(copy_of(features))
    update_manifest(copy, lambda manifest: replace(manifest, variants=manifest.variants[:-1]))
    with pytest.raises(UsageError, match="contains no graph to compare with the fp32 graph"):
        locate(copy)
