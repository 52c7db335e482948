"""The fused graph: pixels, features and answers against the processors, transformers and every engine that takes it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from tests import truth
from tests.data.fused import generate
from tests.processors.test_audio import SIGNALS
from tests.reference import hf
from tvlt_deploy import export
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.changes import with_file, without_files
from tvlt_deploy.bundle.manifest import NOT_RUN
from tvlt_deploy.bundle.writer import file_entry, update_manifest
from tvlt_deploy.cli import main
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import InputError, UsageError, VerdictError
from tvlt_deploy.exporters.onnx import DEFAULT_OPSET, IR_VERSION
from tvlt_deploy.exporters.preprocessing import graph as fused_module
from tvlt_deploy.inference.pipeline import load
from tvlt_deploy.parity.cases import raw_cases
from tvlt_deploy.processors import OriginalProcessor, TvltProcessor
from tvlt_deploy.processors.serialization import PREPROCESSOR_FILE
from tvlt_deploy.runtimes import open_runtime
from tvlt_deploy.runtimes.onnxruntime import open_fused
from tvlt_deploy.tasks import TASKS, TensorSpec
from tvlt_deploy.workflows.fuse import fuse
from tvlt_deploy.workflows.locate import locate

RATE = 44100
RANDOM = np.random.default_rng(0)

SIZES = [
    (360, 640), (640, 360), (224, 224), (224, 398), (225, 223), (223, 225), (333, 517), (100, 131), (7, 9), (1, 1),
    (2, 1), (1, 6), (17, 1000), (1000, 17), (1, 2674), (1080, 1920), (2160, 3840),
]  # fmt: skip


def picture(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (*shape, 3), dtype=np.uint8)


def no_frames(height: int = 224, width: int = 224) -> np.ndarray:
    return np.zeros((0, height, width, 3), np.uint8)


NO_SOUND = np.zeros(0, np.float32)


def preprocessing_graph(config: TvltConfig, processor: TvltProcessor) -> onnx_ir.Model:
    """The fused graph of a model that returns its inputs, each under its name and `.echo`."""
    specs = TASKS["feature-extraction"].inputs(config)
    float32 = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    inputs = [onnx_ir.Value(name=name, type=float32, shape=onnx_ir.Shape(spec.shape)) for name, spec in specs.items()]
    outputs = [onnx_ir.Value(name=f"{name}.echo", type=float32) for name in specs]
    nodes = [onnx_ir.node("Identity", [x], outputs=[y]) for x, y in zip(inputs, outputs, strict=True)]
    graph = onnx_ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": DEFAULT_OPSET}, name="echo")
    model = onnx_ir.Model(graph, ir_version=IR_VERSION)
    free = {f"{name}.echo": TensorSpec("float32", tuple("abcde"[: len(spec.shape)])) for name, spec in specs.items()}
    echo = SimpleNamespace(outputs=lambda config: free)  # axes of other names: nothing is trimmed
    fused_module.join(model, echo, config, processor)  # type: ignore[arg-type]
    return model


@pytest.fixture(scope="module")
def processor() -> TvltProcessor:
    return TvltProcessor.from_config(TvltConfig())


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-processing of the default sizes alone."""
    path = tmp_path_factory.mktemp("preprocessing") / "model.onnx"
    onnx_ir.save(preprocessing_graph(TvltConfig(), TvltProcessor.from_config(TvltConfig())), path)
    return path


Preprocess = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def preprocess(graph: Path) -> Preprocess:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name.removesuffix(".echo") for output in session.get_outputs()]
    return lambda frames, wave: dict(zip(names, session.run(None, {"frames": frames, "waveform": wave}), strict=True))


@pytest.fixture(scope="module")
def fused_of(bundle_of: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """(task, configuration changes) -> a bundle with a fused graph that was verified."""
    made: dict[str, Bundle] = {}

    def make(task: str, **changes: Any) -> Bundle:
        key = json.dumps([task, changes])
        if key not in made:
            place = tmp_path_factory.mktemp("fused") / "bundle"
            made[key] = fuse(shutil.copytree(bundle_of(task, **changes).directory, place))
        return made[key]

    return make


@pytest.fixture(scope="module")
def fused(fused_of: Callable[..., Bundle]) -> Bundle:
    return fused_of("audio-visual-classification")


# Pre-processing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_the_processors_to_the_last_bit(
    preprocess: Preprocess, processor: TvltProcessor, size: tuple[int, int]
) -> None:
    frames = picture(1 if max(size) > 1000 else 3, *size)
    expected = processor.image_processor([list(frames)], input_data_format="channels_last")
    actual = preprocess(frames, NO_SOUND)
    for name in ("pixel_values", "pixel_mask"):
        assert actual[name].dtype == np.float32
        np.testing.assert_array_equal(actual[name], expected[name])


@pytest.mark.slow
def test_pixels_of_random_sizes(preprocess: Preprocess, processor: TvltProcessor) -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        frames = picture(1, *random.integers(1, 1500, 2))
        expected = processor.image_processor([list(frames)], input_data_format="channels_last")["pixel_values"]
        np.testing.assert_array_equal(preprocess(frames, NO_SOUND)["pixel_values"], expected, err_msg=str(frames.shape))


def test_pixels_are_those_of_transformers(preprocess: Preprocess) -> None:
    frames = picture(8, 240, 321)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = hf.transformers.TvltImageProcessor()(list(frames), return_tensors="np")
    actual = preprocess(frames, NO_SOUND)
    np.testing.assert_array_equal(actual["pixel_values"], expected["pixel_values"])
    np.testing.assert_array_equal(actual["pixel_mask"], expected["pixel_mask"])


def assert_golden(actual: dict[str, np.ndarray], golden: dict[str, Any], limit: float) -> None:
    for name, expected in golden.items():
        picked = generate.picked(actual[name])
        assert picked["shape"] == expected["shape"]
        np.testing.assert_allclose(picked["values"], expected["values"], rtol=0, atol=limit, err_msg=name)
        assert picked["magnitude"] == pytest.approx(expected["magnitude"], rel=1e-4)


def test_prepared_arrays_are_the_frozen_ones_of_transformers() -> None:
    config = TvltConfig(**generate.CONFIG)
    model = onnx_ir.to_proto(preprocessing_graph(config, TvltProcessor.from_config(config))).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    values = session.run(None, {"frames": generate.frames(), "waveform": generate.waveform()})
    actual = {output.name.removesuffix(".echo"): x for output, x in zip(session.get_outputs(), values, strict=True)}
    assert_golden(actual, json.loads(generate.GOLDEN.read_text())["inputs"], 5e-5)


@pytest.mark.parametrize("task", generate.ARCHITECTURES)
def test_answers_are_the_frozen_ones_of_transformers(task: str, tmp_path: Path) -> None:
    golden = json.loads(generate.GOLDEN.read_text())[task]
    assert generate.write_checkpoint(tmp_path / "checkpoint", task) == golden["sha256"]
    bundle = export(tmp_path / "checkpoint", tmp_path / "bundle", task=task, fused=True, verify=False)
    with open_fused(bundle, threads=1) as runtime:
        assert_golden(runtime.run(generate.frames(), generate.waveform()), golden["outputs"], 1e-4)


@pytest.mark.parametrize("signal", SIGNALS)
def test_features_are_those_of_transformers(preprocess: Preprocess, signal: str) -> None:
    expected = hf.transformers.TvltFeatureExtractor()(SIGNALS[signal], sampling_rate=RATE, return_tensors="np")
    actual = preprocess(no_frames(), SIGNALS[signal])
    np.testing.assert_allclose(actual["audio_values"], expected["audio_values"], rtol=0, atol=5e-5)
    np.testing.assert_array_equal(actual["audio_mask"], expected["audio_mask"])


def test_features_of_pure_tones_stay_close_to_the_floor(preprocess: Preprocess, processor: TvltProcessor) -> None:
    """Where float32 is worst: quiet filters beside a tone, 80 dB below it, on and off the centres of bins."""
    random = np.random.default_rng(2)
    for number in range(60):
        hertz = random.uniform(20, 22000) if number % 2 else RATE / 2048 * random.integers(1, 1023)
        time = np.arange(RATE // 4) / RATE
        wave = (10 ** random.uniform(-3, 0) * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
        expected = processor.feature_extractor([wave], sampling_rate=RATE)["audio_values"]
        actual = preprocess(no_frames(), wave)["audio_values"]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-5, err_msg=f"{hertz} Hz")


# Around one row, the mirrored edge, whole frames, a patch of rows, the cap; 60 s.
LENGTHS = [512, 513, 700, 1023, 1024, 1025, 1535, 2048, 4410, 8703, 8704, 2048 * 512 - 1, 2048 * 512 + 600, 60 * RATE]


@pytest.mark.parametrize("samples", LENGTHS)
def test_sounds_of_every_length(preprocess: Preprocess, processor: TvltProcessor, samples: int) -> None:
    wave = (0.2 * np.random.default_rng(3).normal(size=samples)).astype(np.float32)
    wave[-samples // 10 :] *= 4  # beyond the cap too: the loudest counts wherever it is
    expected = processor.feature_extractor([wave], sampling_rate=RATE)
    actual = preprocess(no_frames(), wave)
    np.testing.assert_allclose(actual["audio_values"], expected["audio_values"], rtol=0, atol=5e-5)
    np.testing.assert_array_equal(actual["audio_mask"], expected["audio_mask"])


@pytest.mark.parametrize("samples", [0, 1, 2, 511])
def test_less_than_a_row_of_sound_is_none(preprocess: Preprocess, samples: int) -> None:
    found = preprocess(picture(1, 30, 40), np.ones(samples, np.float32))
    assert found["audio_values"].shape == (1, 1, 16, 128)
    assert (found["audio_mask"].shape, found["audio_mask"].any()) == ((1, 8), False)
    assert (found["pixel_mask"].shape, found["pixel_mask"].all()) == ((1, 196), True)


def test_no_frames_are_one_that_is_masked(preprocess: Preprocess) -> None:
    found = preprocess(no_frames(), SIGNALS["noise"])
    assert found["pixel_values"].shape == (1, 1, 3, 224, 224)
    assert (found["pixel_mask"].shape, found["pixel_mask"].any()) == ((1, 196), False)
    assert found["audio_mask"].all()


# Answers -------------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_transformers(fused: Bundle, checkpoint_of: Callable[..., Path]) -> None:
    frames, wave = picture(3, 61, 83), (0.1 * np.random.default_rng(4).normal(size=40000)).astype(np.float32)
    settings = json.loads(fused.path(PREPROCESSOR_FILE).read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {
            **hf.transformers.TvltImageProcessor(**settings["image_processor"])(list(frames), return_tensors="np"),
            **hf.transformers.TvltFeatureExtractor(**settings["feature_extractor"])(
                wave, sampling_rate=RATE, return_tensors="np"
            ),
        }
    expected = truth.hf_answers(
        "audio-visual-classification", checkpoint_of("TvltForAudioVisualClassification"), theirs
    )["logits"]
    with open_fused(fused, threads=1) as runtime:
        actual = runtime.run(frames, wave)["logits"]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("task", ["audio-visual-classification", "audio-visual-matching", "feature-extraction"])
def test_answers_are_those_of_the_pipeline(fused_of: Callable[..., Bundle], task: str) -> None:
    bundle = fused_of(task)
    with load(bundle, "torch") as pipeline, open_fused(bundle, threads=1) as runtime:
        for case in raw_cases(bundle.config, 512, 112):
            actual = runtime.run(case.frames, case.waveform)
            expected = pipeline([case.frames], [case.waveform], RATE)
            truth.assert_close(actual, {name: np.asarray(values[0])[None] for name, values in expected.items()})


def test_more_frames_than_the_model_takes_are_refused(fused: Bundle) -> None:
    with open_fused(fused, threads=1) as runtime, pytest.raises(InputError, match="5 frames; expected at most 4"):
        runtime.run(picture(5, 20, 20))
    session = onnxruntime.InferenceSession(fused.path("fused/model.onnx"), providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="Add"):
        session.run(None, {"frames": picture(5, 20, 20), "waveform": NO_SOUND})


@pytest.mark.parametrize(
    ("frames", "wave", "says"),
    [
        (None, None, "both None"),
        (np.zeros((2, 3, 4, 5, 3), np.uint8), None, "frames is uint8 of shape"),
        (np.zeros((1, 8, 8, 4), np.uint8), None, "expected uint8"),
        (np.zeros((1, 8, 8, 3), np.float32), None, "frames is float32"),
        (np.zeros((1, 0, 8, 3), np.uint8), None, "has no pixels"),
        (None, np.zeros((2, 900), np.float32), "waveform is float32 of shape"),
        (None, np.zeros(900), "waveform is float64"),
        (None, np.full(900, np.nan, np.float32), "NaN"),
    ],
)
def test_refused_clips(fused: Bundle, frames: Any, wave: Any, says: str) -> None:
    with open_fused(fused, threads=1) as runtime, pytest.raises(InputError, match=says):
        runtime.run(frames, wave)


# Engines -------------------------------------------------------------------------------------------------------------


def test_openvino_pre_processes_the_same(graph: Path, preprocess: Preprocess) -> None:
    openvino = pytest.importorskip("openvino")
    request = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    clips = [
        (picture(2, 181, 97), SIGNALS["speech"]),
        (no_frames(), SIGNALS["tone 440"]),
        (picture(1, 9, 70), NO_SOUND),
    ]
    for frames, wave in clips:
        request.infer({"frames": frames, "waveform": wave})
        expected = preprocess(frames, wave)
        for name, values in expected.items():
            limit = 2e-5 if name == "audio_values" else 0
            np.testing.assert_allclose(request.get_tensor(name).data, values, rtol=0, atol=limit, err_msg=name)


def test_openvino_answers_the_same(fused: Bundle) -> None:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(fused.path("fused/model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    with open_fused(fused, threads=1) as runtime:
        for case in raw_cases(fused.config, 512, 112):
            frames = no_frames(*fused.config.image_shape) if case.frames is None else case.frames
            wave = NO_SOUND if case.waveform is None else case.waveform
            request.infer({"frames": frames, "waveform": wave})
            expected = runtime.run(case.frames, case.waveform)["logits"]
            np.testing.assert_allclose(
                request.get_tensor("logits").data, expected, rtol=0, atol=1e-5, err_msg=case.name
            )


def test_tensorrt_rtx_builds_it(fused: Bundle) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="building needs tensorrt_rtx")
    from tvlt_deploy.tensorrt.library import listening

    heard: list[tuple[str, str]] = []
    with listening(trt, lambda *entry: heard.append(entry)) as logger:
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        assert parser.parse_from_file(str(fused.path("fused/model.onnx"))), parser.get_error(0).desc()
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        profile = builder.create_optimization_profile()
        profile.set_shape("frames", (0, 1, 1, 3), (4, 360, 640, 3), (4, 2160, 3840, 3))
        profile.set_shape("waveform", (0,), (RATE,), (60 * RATE,))
        config.add_optimization_profile(profile)
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)
        engine = builder.build_serialized_network(network, config)
    assert [text for severity, text in heard if "ERROR" in severity] == []
    assert engine.nbytes > 10**6


# The bundle ----------------------------------------------------------------------------------------------------------


def test_fuse_adds_a_proved_graph_and_nothing_else(classification: Bundle, copy_of: Callable[[Bundle], Path]) -> None:
    directory = copy_of(classification)
    shown = CliRunner().invoke(main, ["fuse", str(directory), "-q"])
    assert (shown.exit_code, "fused/model.onnx" in shown.stdout) == (0, True)
    assert "fused    frames uint8 (frames, height, width, 3)\nfused    waveform float32 (samples)\n" in shown.stdout
    bundle = Bundle(directory)
    bundle.check()
    variant = bundle.variant("fp32", "fused")
    assert (variant.path, variant.files) == ("fused/model.onnx", ("fused/model.onnx", "fused/model.onnx.data"))
    assert (variant.parity.verdict, variant.parity.form) == ("pass", "fused")
    assert bundle.variants[:-1] == classification.variants
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [path.name for path in classification.directory.iterdir()] + ["fused"]
    )
    model = onnx.load(bundle.path(variant.path), load_external_data=False)
    onnx.checker.check_model(str(bundle.path(variant.path)), full_check=True)
    shapes = lambda values: {  # noqa: E731
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in values
    }
    assert shapes(model.graph.input) == {"frames": ["frames", "height", "width", 3], "waveform": ["samples"]}
    assert shapes(model.graph.output) == {"logits": [1, 2]}
    assert {node.domain for node in model.graph.node} == {""}
    fuse(directory, verify=False)
    assert Bundle(directory).variant("fp32", "fused").parity == NOT_RUN
    report = CliRunner().invoke(main, ["verify", str(directory), "--precision", "fp32", "--json", "-q"])
    assert report.exit_code == 0
    forms = [
        verdict["form"] for verdict in json.loads(report.stdout)["verdicts"] if verdict["backend"] == "onnxruntime"
    ]
    assert forms == ["standard", "onnxruntime-cpu", "fused"]
    assert [location.form for location in locate(directory)] == ["onnxruntime-cpu"]


def test_export_with_the_fused_graph(checkpoint_of: Callable[..., Path], traced_already: None, tmp_path: Path) -> None:
    checkpoint = str(checkpoint_of("TvltForPreTraining"))
    place = str(tmp_path / "bundle")
    arguments = ["export", checkpoint, place, "--task", "audio-visual-matching", "--fused", "--no-weights", "-q"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    bundle = Bundle(place)
    assert [variant.form for variant in bundle.variants] == ["standard", "onnxruntime-cpu", "fused"]
    assert bundle.variants[-1].parity.verdict == "pass"
    with open_fused(bundle, threads=1) as runtime:
        assert runtime.run(picture(1, 20, 20))["matching_logits"].shape == (1, 1)
    again = CliRunner().invoke(main, ["fuse", place])
    assert (again.exit_code, "--no-verify" in again.stderr) == (2, True)


def test_a_missed_tolerance_leaves_the_bundle_as_it_was(
    classification: Bundle, copy_of: Callable[[Bundle], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copy_of(classification)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    wrong = fused_module.write_audio_graph
    monkeypatch.setattr(
        fused_module, "write_audio_graph", lambda op, wave, extractor: wrong(op, op.Mul(wave, 0.9), extractor)
    )
    with pytest.raises(VerdictError, match="onnxruntime cpu fp32 fused"):
        fuse(directory)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_what_has_no_fused_graph(
    bundle_of: Callable[..., Bundle], classification: Bundle, copy_of: Callable[[Bundle], Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="masked-reconstruction has no fused graph"):
        fuse(bundle_of("masked-reconstruction"))
    with pytest.raises(UsageError, match="fuse BUNDLE adds it"):
        open_fused(classification)
    with pytest.raises(UsageError, match="open_fused"):
        open_runtime(classification, form="fused")
    with pytest.raises(UsageError, match="fused graph is fp32"):
        export(classification.directory, tmp_path / "half", precisions=["fp16"], fused=True)
    OriginalProcessor.from_config(classification.config).save_pretrained(directory := copy_of(classification))
    (directory / PREPROCESSOR_FILE).unlink()

    bundle, entry = Bundle(directory), file_entry(directory / "preprocessing.json")
    update_manifest(
        bundle,
        lambda manifest: with_file(without_files(manifest, PREPROCESSOR_FILE), "preprocessing.json", entry),
    )
    with pytest.raises(UsageError, match=r"original recipe \(preprocessing.json\)"):
        fuse(bundle)


@pytest.mark.parametrize(
    ("part", "settings", "says"),
    [
        ("image_processor", {"resample": 3}, "resample is BICUBIC"),
        ("image_processor", {"do_resize": False}, "do_resize is False"),
        ("image_processor", {"size": {"shortest_edge": 20}}, "does not pad"),
        ("feature_extractor", {"hop_length": 441, "hop_length_to_sampling_rate": 100}, "hop 441"),
    ],
)
def test_settings_that_the_graph_does_not_reproduce(part: str, settings: dict[str, Any], says: str) -> None:
    config = TvltConfig(**hf.TINY)
    processor = TvltProcessor.from_config(config)
    changed = type(getattr(processor, part)).from_dict({**getattr(processor, part).to_dict(), **settings})
    setattr(processor, part, changed)
    with pytest.raises(UsageError, match=says):
        preprocessing_graph(config, processor)


def test_settings_that_it_does() -> None:
    """Oblong frames of a fixed size, other means, other windows, sound padded with another value."""
    config = TvltConfig(**{**hf.TINY, "image_size": [32, 48]})
    processor = TvltProcessor.from_config(config)
    processor.image_processor = type(processor.image_processor)(
        size={"height": 40, "width": 60},
        crop_size={"height": 32, "width": 48},
        image_mean=[0.4, 0.5, 0.6],
        image_std=0.2,
    )
    processor.feature_extractor = type(processor.feature_extractor)(
        spectrogram_length=64, feature_size=32, n_fft=1024, hop_length=256, padding_value=-0.25
    )
    model = onnx_ir.to_proto(preprocessing_graph(config, processor)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    frames, wave = picture(2, 77, 50), SIGNALS["speech"]
    pixels, values, _, mask = session.run(None, {"frames": frames, "waveform": wave[:9000]})
    np.testing.assert_array_equal(
        pixels, processor.image_processor([list(frames)], input_data_format="channels_last")["pixel_values"]
    )
    expected = processor.feature_extractor([wave[:9000]], sampling_rate=RATE)
    np.testing.assert_allclose(values, expected["audio_values"], rtol=0, atol=5e-5)
    np.testing.assert_array_equal(mask, expected["audio_mask"])


@pytest.mark.slow
def test_base_size(tmp_path: Path) -> None:
    from tvlt_deploy.reference import init_checkpoint

    init_checkpoint(tmp_path / "checkpoint", TvltConfig(), 0, "TvltForAudioVisualClassification")
    bundle = export(tmp_path / "checkpoint", tmp_path / "bundle", verify=False, fused=True)
    frames, wave = picture(8, 360, 640), (0.1 * np.random.default_rng(5).normal(size=10 * RATE)).astype(np.float32)
    with torch.no_grad(), load(bundle, "torch") as pipeline, open_fused(bundle) as runtime:
        expected = pipeline([frames], [wave], RATE)["logits"]
        np.testing.assert_allclose(runtime.run(frames, wave)["logits"], expected, rtol=0, atol=1e-4)
