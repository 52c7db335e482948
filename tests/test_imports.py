"""What an import costs: each room loads its own engine only, and only when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tvlt_deploy
from tvlt_deploy.bundle import Bundle

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "transformers",
    "scipy",
    "PIL",
    "av",
    "soxr",
    "safetensors",
    "onnx_ir",
    "click",
)


def loaded_by(code: str, modules: tuple[str, ...] = HEAVY) -> list[str]:
    """Which of the modules a fresh interpreter has loaded after running the code."""
    script = f"{code}\nimport sys\nprint([name for name in {modules!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return list(eval(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["", ".config", ".tasks", ".errors", "._internal.atomic", ".bundle", ".runtimes"])
def test_the_core_imports_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import tvlt_deploy{module}") == []


def test_names_of_the_package_load_without_engines() -> None:
    assert loaded_by("import tvlt_deploy; tvlt_deploy.TvltConfig(); tvlt_deploy.Bundle; tvlt_deploy.TvltError") == []
    assert not {"torch", "onnx", "onnxruntime", "transformers"} & set(
        loaded_by("import tvlt_deploy; tvlt_deploy.load, tvlt_deploy.verify, tvlt_deploy.export")
    )


def test_answering_with_onnx_runtime_loads_no_torch(classification: Bundle) -> None:
    code = (
        "import numpy as np, tvlt_deploy\n"
        f"with tvlt_deploy.load({str(classification.directory)!r}, threads=1) as pipe:\n"
        "    answers = pipe.predict(images=[np.zeros((2, 40, 40, 3), np.uint8)], audio=[np.zeros(4000, np.float32)],"
        " sampling_rate=44100)\n"
        "assert len(answers) == 1"
    )
    assert not {"torch", "onnx", "onnx_ir", "transformers", "safetensors", "av", "soxr"} & set(loaded_by(code))


def test_public_names_resolve() -> None:
    assert dir(tvlt_deploy) == sorted(tvlt_deploy.__all__)
    for name in tvlt_deploy.__all__:
        assert getattr(tvlt_deploy, name) is not None
    assert tvlt_deploy.load.__module__ == "tvlt_deploy.inference.pipeline"
    assert tvlt_deploy.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="module 'tvlt_deploy' has no attribute 'laod'"):
        _ = tvlt_deploy.laod
    with pytest.raises(ImportError):
        from tvlt_deploy import laod  # noqa: F401
