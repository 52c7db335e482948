"""The seam to CUDA: every name it uses exists in NVIDIA's bindings, and every failure says what to do."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tvlt_deploy.errors import EnvironmentLackError
from tvlt_deploy.tensorrt import cuda
from tvlt_deploy.tensorrt.cuda import Cuda


def used() -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(Path(cuda.__file__).read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self._runtime", "runtime"):
            found.add(node.attr)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value).startswith("self._runtime."):
            if isinstance(node.value, ast.Attribute):
                found.add(f"{node.value.attr}.{node.attr}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "self._call":
            found.add(ast.literal_eval(node.args[0]))
    return found


def test_every_name_exists_in_the_bindings() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    names = used()
    assert {"cudaMalloc", "cudaGetDeviceCount", "cudaMemcpyKind.cudaMemcpyHostToDevice", "cudaGraphLaunch"} <= names
    for name in names:
        found: Any = runtime
        for part in name.split("."):
            assert hasattr(found, part), name
            found = getattr(found, part)


class Runtime(SimpleNamespace):
    """`cuda.bindings.runtime` with two devices, where one call fails."""

    def __init__(self, fails: str = "", devices: int = 2) -> None:
        super().__init__(fails=fails, devices=devices, calls=[])
        self.cudaDeviceAttr = SimpleNamespace(
            cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
        )
        self.cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, tuple[Any, ...]] = {
            "cudaGetDeviceCount": (self.__dict__["devices"],),
            "cudaGetErrorString": (b"out of memory",),
            "cudaMalloc": (4096,),
            "cudaRuntimeGetVersion": (13000,),
        }

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            if name == "cudaDeviceGetAttribute":
                return 0, {"major": 8, "minor": 9}[arguments[0]]
            return (2 if name == self.fails else 0), *answers.get(name, ())

        return call


def opened(monkeypatch: pytest.MonkeyPatch, runtime: Any, index: int = 0) -> Cuda:
    package = SimpleNamespace(runtime=runtime)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(bindings=package))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    return Cuda(index)


def test_calls_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    device = opened(monkeypatch, runtime, index=1)
    assert runtime.calls == [("cudaGetDeviceCount",), ("cudaSetDevice", 1)]
    assert (device.capability, device.version, device.allocate(100)) == (89, 13000, 4096)
    device.copy_to_device(1, 2, 3, 4)
    device.copy_to_host(1, 2, 3, 4)
    assert runtime.calls[-2:] == [("cudaMemcpyAsync", 1, 2, 3, 1, 4), ("cudaMemcpyAsync", 1, 2, 3, 2, 4)]


def test_failures_name_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    device = opened(monkeypatch, Runtime(fails="cudaMalloc"))
    with pytest.raises(EnvironmentLackError, match=r"cudaMalloc failed: out of memory \(close other programs"):
        device.allocate(100)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentLackError, match=r"device is cuda:2; expected one of 2 CUDA device\(s\)"):
        opened(monkeypatch, Runtime(), index=2)
    for runtime in (Runtime(devices=0), Runtime(fails="cudaGetDeviceCount")):
        with pytest.raises(EnvironmentLackError, match="no CUDA device is available"):
            opened(monkeypatch, runtime)


def test_bindings_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(
        EnvironmentLackError, match=r"cuda-bindings is not installed \(pip install 'tvlt-deploy\[tensorrt\]'"
    ):
        Cuda(0)
