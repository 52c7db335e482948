"""The public API: names that users, documents and the C++ library rely on, and a snapshot of every signature."""

from __future__ import annotations

import difflib
import importlib

import pytest

from tests.public_api import SNAPSHOT, describe
from tvlt_deploy import _version, errors
from tvlt_deploy.cli import main

CONTRACT = {
    "tvlt_deploy": (
        "Answer", "Bundle", "Pipeline", "TvltConfig", "TvltError", "__version__", "export", "fuse", "load", "quantize",
        "retrieve", "verify",
    ),
    "tvlt_deploy.bundle": ("Bundle",),
    "tvlt_deploy.conformance": ("Comparison", "Stage", "check_dump", "raise_on_difference", "write_vectors"),
    "tvlt_deploy.embedding": ("EmbeddedPipeline", "describe"),
    "tvlt_deploy.errors": (
        "BundleError", "CheckpointError", "ConfigError", "EnvironmentLackError", "FileRefusedError", "InputError",
        "MediaError", "TvltError", "UsageError", "VerdictError",
    ),
    "tvlt_deploy.locate": ("Location", "LayerError", "locate"),
    "tvlt_deploy.media": (
        "Clip", "Limits", "pair_folder", "read_audio", "read_clip", "read_image", "read_video", "resample",
    ),
    "tvlt_deploy.processors": ("TvltFeatureExtractor", "TvltImageProcessor", "TvltProcessor"),
    "tvlt_deploy.reference": (
        "TvltConfig", "TvltForAudioVisualClassification", "TvltForPreTraining", "TvltModel", "init_checkpoint",
        "open_checkpoint",
    ),
    "tvlt_deploy.runtimes": ("BACKENDS", "open_runtime"),
    "tvlt_deploy.runtimes.onnxruntime": ("open_fused",),
    "tvlt_deploy.tasks": ("PRECISIONS", "TASKS", "TensorSpec", "get_task"),
    "tvlt_deploy.tensorrt.build": ("build",),
}  # fmt: skip

COMMANDS = {
    "bench": {"--backend", "--precision", "--workload", "--report"},
    "build": {"--engine", "--precision", "--profile", "--target"},
    "conformance": {"--check"},
    "convert": {"--config"},
    "cpp": {"--print-ort"},
    "doctor": set(),
    "export": {
        "--task", "--precision", "--config", "--opset", "--fused", "--no-weights", "--no-verify", "--force",
    },
    "fuse": {"--no-verify"},
    "init-checkpoint": {"--config", "--seed"},
    "inspect": set(),
    "quantize": {"--clips", "--method", "--smooth", "--keep"},
    "retrieve": {"--queries", "--gallery"},
    "run": {"--audio", "--start", "--duration", "--backend", "--precision", "--format", "--strict"},
    "verify": {"--backend", "--precision", "--locate"},
}  # fmt: skip

EXIT_CODES = {
    "TvltError": 1, "UsageError": 2, "ConfigError": 2, "InputError": 2, "VerdictError": 3, "EnvironmentLackError": 4,
    "FileRefusedError": 5, "CheckpointError": 5, "BundleError": 5, "MediaError": 5,
}  # fmt: skip


@pytest.mark.parametrize("module", CONTRACT)
def test_names_that_users_rely_on_resolve(module: str) -> None:
    resolved = importlib.import_module(module)
    assert [name for name in CONTRACT[module] if not hasattr(resolved, name)] == []


def test_tasks_backends_and_precisions_keep_their_names() -> None:
    tasks, runtimes = importlib.import_module("tvlt_deploy.tasks"), importlib.import_module("tvlt_deploy.runtimes")
    assert list(tasks.TASKS) == [
        "feature-extraction", "audio-visual-classification", "audio-visual-matching", "masked-reconstruction",
    ]  # fmt: skip
    assert set(runtimes.BACKENDS) >= {"torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"}
    assert runtimes.AUTO == "auto"
    assert set(tasks.PRECISIONS) == {"fp32", "fp16", "bf16", "int8", "fp8"}


def test_commands_and_options_that_users_rely_on_exist() -> None:
    options = {name: {opt for param in command.params for opt in param.opts} for name, command in main.commands.items()}
    assert COMMANDS.keys() <= options.keys()
    missing = {name: expected - options[name] for name, expected in COMMANDS.items()}
    assert {name: some for name, some in missing.items() if some} == {}


def test_errors_keep_their_exit_codes_and_built_in_types() -> None:
    assert {name: getattr(errors, name).exit_code for name in EXIT_CODES} == EXIT_CODES
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.FileRefusedError, ValueError)
    assert issubclass(errors.EnvironmentLackError, RuntimeError)


def test_the_version_has_one_source() -> None:
    assert importlib.import_module("tvlt_deploy").__version__ == _version.__version__


def test_the_public_api_is_as_recorded() -> None:
    """A change of a public name or signature shows here; a deliberate one is recorded with the command below."""
    recorded, actual = SNAPSHOT.read_text(encoding="utf-8"), describe()
    difference = difflib.unified_diff(
        recorded.splitlines(), actual.splitlines(), "recorded", "actual", lineterm="", n=0
    )
    if changed := "\n".join(difference):
        pytest.fail(
            f"the public API changed:\n{changed}\n\nIf intended, run: python -m tests.public_api", pytrace=False
        )
