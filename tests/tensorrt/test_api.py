"""Every attribute of TensorRT that the code uses exists in the oldest and newest release and in TensorRT-RTX.

`tests/data/tensorrt_api` holds the attribute names of the classes in use, read from the real Python bindings.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import tvlt_deploy

APIS = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parents[1] / "data/tensorrt_api").glob("*")}
PACKAGE = Path(tvlt_deploy.__file__).parent

OBJECTS = {
    "tensorrt/build.py": {
        "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "config": "IBuilderConfig",
        "ranges": "IOptimizationProfile",
    },
    "runtimes/tensorrt.py": {
        "runtime": "Runtime", "engine": "ICudaEngine", "self._engine": "ICudaEngine",
        "self.context": "IExecutionContext", "self.config": "IRuntimeConfig", "self.cache": "IRuntimeCache",
    },
    "tensorrt/library.py": {},
}  # fmt: skip
"""Module -> expression -> the TensorRT class it is."""

MODULES = ("trt", "library", "self.library")
"""Expressions that are the TensorRT module."""

RTX_ONLY = {
    "IBuilderConfig": {"num_compute_capabilities", "set_compute_capability"},
    "ComputeCapability": {"*"},
    "IRuntimeConfig": {"create_runtime_cache", "set_runtime_cache", "cuda_graph_strategy"},
    "IRuntimeCache": {"*"},
    "CudaGraphStrategy": {"*"},
}
"""Used only behind a `hasattr` that TensorRT-RTX alone answers."""


def used() -> set[tuple[str, str]]:
    """(class, attribute) pairs that the code mentions; a class itself is (class, "")."""
    found = set()
    for module, objects in OBJECTS.items():
        for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            owner = ast.unparse(node.value)
            if owner in objects:
                found.add((objects[owner], node.attr))
            elif owner in MODULES and node.attr[0].isupper():
                found.add((node.attr, ""))
            elif (
                any(owner == f"{name}.{owner.rpartition('.')[2]}" for name in MODULES)
                and owner.split(".")[-1][0].isupper()
            ):
                found.add((owner.rpartition(".")[2], node.attr))
    return found


def test_the_scan_sees_what_matters() -> None:
    found = used()
    for pair in (
        ("Builder", "build_serialized_network"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("BuilderFlag", "TF32"),
        ("IBuilderConfig", "set_compute_capability"),
        ("IOptimizationProfile", "set_shape"),
        ("IExecutionContext", "execute_async_v3"),
        ("IRuntimeConfig", "create_runtime_cache"),
        ("IRuntimeCache", "serialize"),
        ("IProgressMonitor", ""),
    ):
        assert pair in found
    assert len(found) > 35


@pytest.mark.parametrize("name", APIS)
def test_every_attribute_exists_or_is_asked_for_first(name: str) -> None:
    api: dict[str, Any] = APIS[name]
    missing = []
    for owner, attribute in sorted(used()):
        if attribute.startswith("__"):
            continue
        known = api["classes"].get(owner)
        if known is not None and (not attribute or attribute in known):
            continue
        alone = RTX_ONLY.get(owner, set())
        if api["library"] == "tensorrt" and ("*" in alone or attribute in alone):
            continue
        missing.append(f"{owner}.{attribute}")
    assert not missing


@pytest.mark.parametrize("name", APIS)
def test_the_questions_that_tell_the_libraries_apart(name: str) -> None:
    api = APIS[name]
    rtx = api["library"] == "tensorrt_rtx"
    assert ("set_compute_capability" in api["classes"]["IBuilderConfig"]) == rtx
    assert ("create_runtime_cache" in api["classes"]["IRuntimeConfig"]) == rtx
    assert {"ERROR", "INFO", "INTERNAL_ERROR", "VERBOSE", "WARNING"} <= set(api["classes"]["ILogger.Severity"])
    assert not {"FP16", "INT8"} & set(api["classes"]["BuilderFlag"]) or api["version"].startswith("10.")


def test_the_installed_library_is_the_one_listed() -> None:
    library = pytest.importorskip("tensorrt_rtx")
    name = f"tensorrt-rtx-{library.__version__}"
    if name not in APIS:
        pytest.skip(f"{name} is not listed")
    for owner, names in APIS[name]["classes"].items():
        found: Any = library
        for part in owner.split("."):
            found = getattr(found, part)
        assert {attribute for attribute in names if not hasattr(found, attribute)} == set(), owner
