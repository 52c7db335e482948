"""Options of the backends: from text, from Python, and from the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tvlt_deploy
from tests.cli.test_commands import write_wav
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.cli import main
from tvlt_deploy.errors import UsageError
from tvlt_deploy.runtimes import BACKENDS, open_runtime
from tvlt_deploy.runtimes.options import OPTIONS, check_options, options_text, parse_options


def test_every_backend_has_a_row_in_the_table() -> None:
    assert tuple(OPTIONS) == BACKENDS
    assert options_text().startswith("onnxruntime: cuda_graphs, form, provider; openvino: graph; tensorrt: cuda_graphs")


def test_values_are_read_from_text() -> None:
    texts = ["cuda_graphs=true", "provider=cuda", "a=false", "b=12", "c=-3", "d=1.5", "e=x=y", "b=13"]
    assert parse_options(texts) == {
        "cuda_graphs": True, "provider": "cuda", "a": False, "b": 13, "c": -3, "d": "1.5", "e": "x=y",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["cuda_graphs", "=true", "cuda_graphs=", ""])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected KEY=VALUE"):
        parse_options([text])


@pytest.mark.parametrize(
    ("backend", "options", "says"),
    [
        ("onnxruntime", {"cuda_graph": True}, "'cuda_graph' for onnxruntime; expected cuda_graphs or form or provider"),
        ("openvino", {"provider": "cuda"}, r"expected graph \(onnxruntime has it\)"),
        ("torch", {"cuda_graphs": True}, r"expected none: .* \(onnxruntime, tensorrt, tensorrt-rtx have it\)"),
        ("tensorrt", {"cuda_graphs": "yes"}, "cuda_graphs is 'yes'; expected true or false"),
        ("onnxruntime", {"cuda_graphs": 1}, "cuda_graphs is 1; expected true or false"),
        ("onnxruntime", {"provider": True}, "provider is True; expected text"),
        ("auto", {"cuda_graphs": True}, "for backend 'auto'; expected torch or onnxruntime"),
        ("onnxruntime", {"threads": 1}, "option 'threads' for onnxruntime; expected"),
    ],
)
def test_options_that_a_backend_does_not_have_are_refused(backend: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_options(backend, options)


def test_options_reach_the_runtime_from_python(classification: Bundle) -> None:
    with tvlt_deploy.load(classification, options={"form": "standard"}) as pipe:
        assert pipe.runtime.session._model_path.endswith("fp32/model.onnx")
        assert pipe.options == {"form": "standard"}
    with tvlt_deploy.load(classification) as pipe:
        assert pipe.runtime.session._model_path.endswith("fp32/model.onnxruntime-cpu.onnx")
    with pytest.raises(UsageError, match="cuda_graphs needs a CUDA device"):
        tvlt_deploy.load(classification, options={"cuda_graphs": True})
    with pytest.raises(UsageError, match="for backend 'auto'"):
        tvlt_deploy.load(classification, "auto", options={"form": "standard"})
    with pytest.raises(UsageError, match="option 'colour' for torch"):
        open_runtime(classification, "torch", colour="red")


def test_options_reach_the_runtime_from_the_command(matching: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("av")
    sound = str(write_wav(tmp_path / "tone.wav"))
    run = ["run", str(matching.directory), sound, "--json", "-q", "--engine-option"]
    assert CliRunner().invoke(main, [*run, "form=standard"]).exit_code == 0
    for text, says in (
        ("form=round", "round"),
        ("cuda_graphs=true", "cuda_graphs needs a CUDA device and the provider cuda"),
        ("cuda_graphs=maybe", "cuda_graphs is 'maybe'; expected true or false"),
        ("colour=red", "option 'colour' for onnxruntime; expected cuda_graphs or form or provider"),
        ("colour", "expected KEY=VALUE"),
    ):
        result = CliRunner().invoke(main, [*run, text])
        assert result.exit_code == 2, result.output
        assert says in result.stderr
    bench = ["bench", str(matching.directory), "--backend", "torch", "--engine-option", "form=standard"]
    refused = CliRunner().invoke(main, bench)
    assert refused.exit_code == 2
    assert "options are form for torch" in refused.stderr
