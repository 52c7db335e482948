"""The layout of the code: size limits, a test for every module, and layers that import-linter really checks."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tvlt_deploy"
MODULE_LINES = 450
FUNCTION_LINES = 60

TESTED_BY = {
    "bench/measurement": "bench/test_run.py",
    "bench/memory": "bench/test_run.py",
    "bench/results": "bench/test_report.py",
    "bundle/preprocessing": "inference/test_pipeline.py",
    "cli": "cli/test_commands.py",
    "conformance": "workflows/test_golden_vectors.py",
    "doctor": "cli/test_commands.py",
    "exporters/preprocessing": "workflows/test_fuse.py",
    "inference/prepared": "inference/test_pipeline.py",
    "locate": "workflows/test_locate.py",
    "media/clip": "media/test_hostile.py",
    "processors/frames": "processors/test_image.py",
    "processors/mel": "processors/test_audio.py",
    "processors/original": "processors/test_original.py",
    "processors/output": "processors/test_processor.py",
    "processors/parallel": "processors/test_image.py",
    "processors/spectrogram": "processors/test_audio.py",
    "processors/waveform": "processors/test_audio.py",
    "reference/architectures": "reference/test_weights.py",
    "reference/base": "reference/test_weights.py",
    "reference/inputs": "reference/test_model.py",
    "reference/original": "reference/test_original.py",
    "reference/outputs": "reference/test_model.py",
    "reference/seeded": "reference/test_weights.py",
    "runtimes/onnxruntime_fused": "workflows/test_fuse.py",
    "runtimes/onnxruntime_session": "runtimes/test_engines.py",
    "runtimes/options": "runtimes/test_engines.py",
    "runtimes/pairs": "runtimes/test_engines.py",
    "runtimes/torch": "runtimes/test_engines.py",
    "workflows/score_store": "workflows/test_retrieve.py",
}
"""Modules and packages that no test imports, and the test that covers them through the code that uses them."""


def modules(*folders: str) -> Iterator[tuple[str, str]]:
    """(path relative to the repository, source) of every Python file."""
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """(qualified name, lines without the docstring) of every function."""
    for child in ast.iter_child_nodes(node):
        name = f"{prefix}{getattr(child, 'name', '')}"
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, _lines(child) - (_lines(child.body[0]) if ast.get_docstring(child) else 0)
        inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from functions(child, f"{name}." if inner else prefix)


def _lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_modules_are_short() -> None:
    lines = {name: source.count("\n") for name, source in modules("tvlt_deploy", "benchmarks", "examples", "docs")}
    assert {name: count for name, count in lines.items() if count > MODULE_LINES} == {}


def test_functions_are_short() -> None:
    long = {
        f"{path}: {name}": lines
        for path, source in modules("tvlt_deploy", "benchmarks", "examples", "docs")
        for name, lines in functions(ast.parse(source))
        if lines > FUNCTION_LINES
    }
    assert long == {}


def imported_by_tests() -> set[str]:
    """Dotted names that the tests import."""
    names: set[str] = set()
    for _, source in modules("tests"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    return names


def test_every_module_has_a_test() -> None:
    """A test file at the same place, a test that imports it, or an entry in `TESTED_BY`."""
    imported, tests = imported_by_tests(), ROOT / "tests"
    untested = []
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).with_suffix("")
        if file.name.startswith("__"):
            continue
        mirror = tests / place.parent / f"test_{place.name}.py"
        if mirror.exists() or f"tvlt_deploy.{'.'.join(place.parts)}" in imported:
            continue
        entries = [TESTED_BY.get(name.as_posix(), "") for name in (place, *place.parents)]
        if not any(entry and (tests / entry).exists() for entry in entries):
            untested.append(place.as_posix())
    assert untested == []
    places = [PACKAGE / place for place in TESTED_BY]
    assert [place for place in places if not place.is_dir() and not place.with_suffix(".py").exists()] == []


def test_import_linter_reports_every_kind_of_violation(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "tvlt_deploy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    violations = {
        "processors/mel.py": "from tvlt_deploy.runtimes import open_runtime",  # up
        "_internal/cache.py": "def later():\n    from tvlt_deploy.media import Limits",  # sideways, lazily
        "bench/memory.py": "from tvlt_deploy import load",  # the package's own __init__
        "new_room.py": "",  # in no layer
    }
    for path, line in violations.items():
        with (tmp_path / "tvlt_deploy" / path).open("a") as file:
            file.write(f"\n{line}\n")
    lint = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(
        [lint, "--no-cache"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    report = done.stdout.partition("Broken contracts")[2]
    layers, _, own = report.partition("The package's own __init__ is imported by nobody inside")
    assert "tvlt_deploy.processors.mel -> tvlt_deploy.runtimes" in layers
    assert "tvlt_deploy._internal.cache -> tvlt_deploy.media" in layers
    assert "- tvlt_deploy.new_room" in layers
    assert "tvlt_deploy.bench.memory -> tvlt_deploy (" in own
