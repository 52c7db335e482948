"""Facts about this machine, and what is reported where they cannot be found."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from tvlt_deploy import __version__
from tvlt_deploy._internal import machine


def nvidia_smi(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a fake nvidia-smi in front of everything on the path."""
    tool = directory / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=os.pathsep)


def test_versions_of_missing_packages_are_none_and_nothing_is_imported() -> None:
    versions = machine.package_versions(("numpy", "no-such-package"))
    assert versions["numpy"] is not None
    assert versions["no-such-package"] is None
    script = (
        "import sys; from tvlt_deploy._internal import machine; machine.package_versions(); "
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_processor_has_a_name() -> None:
    assert machine.cpu_model() == machine.cpu_model().strip() != ""


def test_usable_cores_follow_the_affinity_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5})
    assert machine.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


def test_gpus_are_those_that_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "NVIDIA L4, 23034 MiB, 580.65"
    nvidia_smi(tmp_path, f'echo "{line}"; echo; echo " {line} "', monkeypatch)
    assert machine.gpu_names() == [line, line]


@pytest.mark.parametrize("script", ["echo 'NVIDIA-SMI has failed'; exit 9", "exit 0"])
def test_a_driver_that_lists_nothing_means_no_gpus(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path, script, monkeypatch)
    assert machine.gpu_names() == []


def test_a_driver_that_hangs_means_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "exit 0", monkeypatch)

    def hang(command: list[str], timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert machine.gpu_names() == []


def test_without_the_driver_s_tool_there_are_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpu_names() == []


def test_a_description_has_every_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = machine.describe_machine()
    assert list(facts) == ["cpu", "cores", "memory", "gpus", "os"]
    assert facts["cores"] >= 1
    assert facts["memory"] > 1 << 27
    assert facts["gpus"] == []


def test_versions_of_imported_modules_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", types.SimpleNamespace(__version__="2099.1"))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    versions = machine.imported_versions()
    assert versions["openvino"] == "2099.1"
    assert versions["tvlt_deploy"] == __version__
    assert "tensorrt" not in versions
