"""The C++ libraries, built as their users build them: ctest, the installed package, the example service, hosts.

Skipped, with what is missing, where there is no compiler, CMake, or header of ONNX Runtime.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cpp import golden
from tests.cpp.data import clips, write_data
from tvlt_deploy.bundle import Bundle
from tvlt_deploy.runtimes.onnxruntime import shared_library

ROOT = Path(__file__).parents[2]
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
"""Where clang-format and clang-tidy are looked for: the Python environment first."""
MISSING = re.compile(
    r"Could NOT find .*|Could not find a package.*|.*was not found\..*|.*required packages.*not found.*"
)


def _run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900, **options)


def _checked(*command: object, **options: Any) -> str:
    done = _run(*command, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/python of a virtual environment that sees this tree and the packages of the running one."""
    folder = tmp_path_factory.mktemp("environment")
    _checked(sys.executable, "-m", "venv", "--without-pip", folder)
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "tree.pth").write_text("\n".join([str(ROOT), *packages]) + "\n")
    return folder / "bin" / "python"


def _configure(folder: Path, **definitions: object) -> None:
    """Skips if something that the build needs is missing."""
    settings = [f"-D{name}={value}" for name, value in definitions.items()]
    configured = _run("cmake", "-S", ROOT / "cpp", "-B", folder, f"-DPython3_EXECUTABLE={sys.executable}", *settings)
    if configured.returncode:
        missing = MISSING.search(configured.stderr)
        assert missing is not None, configured.stderr
        pytest.skip(missing[0].strip())


@pytest.fixture(scope="session")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips if the library cannot be built, before anything slow."""
    for tool in ("cmake", "c++", "pkg-config"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    _configure(tmp_path_factory.mktemp("cpp-trial"))


@pytest.fixture(scope="session")
def data(
    toolchain: None, tmp_path_factory: pytest.TempPathFactory, bundle_of: Callable[..., Bundle], environment: Path
) -> Path:
    folder = tmp_path_factory.mktemp("cpp-data")
    write_data(folder, bundle_of, environment)
    return folder


@pytest.fixture(scope="session")
def build_of(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Callable[..., Path]:
    """(CMake definitions) -> a build directory with libraries and tests."""
    builds: dict[str, Path] = {}

    def build(**definitions: str) -> Path:
        key = json.dumps(definitions, sort_keys=True)
        if key not in builds:
            folder = tmp_path_factory.mktemp("cpp-build")
            _configure(folder, TVLT_TESTS="ON", TVLT_TEST_DATA=data, **definitions)
            _checked("cmake", "--build", folder, "--parallel", os.cpu_count())
            builds[key] = folder
        return builds[key]

    return build


@pytest.fixture(scope="session")
def full_build(build_of: Callable[..., Path]) -> Path:
    return build_of(TVLT_PYTHON="ON", TVLT_SERVICE="ON")


def _ctest(build: Path, *arguments: str) -> None:
    _checked("ctest", "--test-dir", build, "--no-tests=error", "--output-on-failure", *arguments)


def test_the_library_passes_its_tests(build_of: Callable[..., Path]) -> None:
    _ctest(build_of())


@pytest.mark.slow
def test_the_embedded_pipeline_passes_its_tests(full_build: Path) -> None:
    _ctest(full_build, "--tests-regex", "python")


@pytest.mark.slow
@pytest.mark.parametrize(
    "definitions",
    [
        # Python is not built with ThreadSanitizer, and all its threads share one lock.
        pytest.param({"TVLT_SANITIZE": "thread"}, id="thread"),
        pytest.param({"TVLT_SANITIZE": "address,undefined", "TVLT_PYTHON": "ON"}, id="address and undefined"),
    ],
)
def test_sanitizers_find_nothing(build_of: Callable[..., Path], definitions: dict[str, str]) -> None:
    _ctest(build_of(**definitions))


def test_golden_values_are_those_of_transformers() -> None:
    stored = json.loads(golden.FILE.read_text())["cases"]
    for old, new in zip(stored, golden.cases(), strict=True):
        assert {**old, "values": None} == {**new, "values": None}
        np.testing.assert_allclose(old["values"], new["values"], atol=1e-5)


def test_format(tmp_path: Path) -> None:
    if shutil.which("clang-format", path=TOOLS) is None:
        pytest.skip("no clang-format")
    _checked(ROOT / "cpp" / "lint", tmp_path, env={**os.environ, "PATH": TOOLS})


@pytest.mark.slow
def test_lint(build_of: Callable[..., Path]) -> None:
    if shutil.which("clang-tidy", path=TOOLS) is None:
        pytest.skip("no clang-tidy")
    _checked(ROOT / "cpp" / "lint", build_of(TVLT_PYTHON="ON", TVLT_SERVICE="ON"), env={**os.environ, "PATH": TOOLS})


def test_only_the_c_functions_are_exported(build_of: Callable[..., Path]) -> None:
    listed = _checked("nm", "--dynamic", "--defined-only", build_of() / "libtvlt_deploy.so")
    names = {line.split()[-1].partition("@")[0] for line in listed.splitlines()}
    header = (ROOT / "cpp" / "include" / "tvlt_deploy.h").read_text()
    assert names == set(re.findall(r"^TVLT_API .*?\b(tvlt_\w+)\(", header, re.MULTILINE))


def test_the_page_of_the_docs_builds_against_the_installed_package(
    build_of: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    prefix, source, bundle = tmp_path / "prefix", tmp_path / "source", data / "audio-visual-classification"
    _checked("cmake", "--install", build_of(), "--prefix", prefix)
    source.mkdir()
    page = (ROOT / "docs" / "how-to" / "cpp.md").read_text()
    for language, name in (("cpp", "main.cpp"), ("cmake", "CMakeLists.txt")):
        (source / name).write_text(re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)[1])  # type: ignore[index]
    assert len((source / "main.cpp").read_text().splitlines()) <= 32
    _checked("cmake", "-S", source, "-B", source / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    _checked("cmake", "--build", source / "build")
    run = {"TVLT_ONNXRUNTIME": str(shared_library())}
    assert re.fullmatch(r"LABEL_[01] [01]\.\d{4}\n", _checked(source / "build" / "service", bundle, env=run))
    refused = _run(source / "build" / "service", bundle, env={"TVLT_ONNXRUNTIME": "/nowhere.so"})
    assert (refused.returncode, "/nowhere.so" in refused.stderr) == (4, True)

    (package,) = prefix.rglob("tvlt_deploy.pc")
    flags = _checked("pkg-config", "--cflags", "--libs", package).split()
    _checked("c++", "-std=c++17", source / "main.cpp", "-o", source / "plain", *flags)
    libraries = {**run, "LD_LIBRARY_PATH": str(package.parents[1])}
    assert "LABEL_" in _checked(source / "plain", bundle, env=libraries)


class Service:
    """The example service on a free port."""

    def __init__(self, program: Path, bundle: Path) -> None:
        variables = {**os.environ, "TVLT_ONNXRUNTIME": str(shared_library())}
        self.process = subprocess.Popen(
            [program, bundle, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    def post(self, query: str, body: bytes) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", f"/answer?{query}", body, {"Content-Type": "application/octet-stream"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def _body(frames: np.ndarray | None, sound: np.ndarray | None) -> tuple[str, bytes]:
    count, height, width = (0, 0, 0) if frames is None else frames.shape[:3]
    samples = b"" if sound is None else sound.tobytes()
    pixels = b"" if frames is None else frames.tobytes()
    return f"samples={len(samples) // 4}&frames={count}&height={height}&width={width}", samples + pixels


@pytest.mark.slow
def test_the_example_service(full_build: Path, data: Path) -> None:
    cases = json.loads((data / "cases.json").read_text())["cases"]["tvlt_deploy"]["clips"]
    bundle = Bundle(data / "audio-visual-classification")
    expected = {case["name"]: case["answers"][0]["scores"] for case in cases if case["bundle"] == bundle.task.name}
    service = Service(full_build / "tvlt_service", bundle.directory)
    try:
        asked = {name: _body(*clip) for name, clip in clips(bundle.config).items()}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda name: (name, *service.post(*asked[name])), list(asked) * 20))
        for name, status, answer in answers:
            assert status == 200, answer
            assert answer["scores"] == pytest.approx(expected[f"{bundle.task.name}: {name}"], abs=1e-4)
            assert answer["score"] == answer["scores"][answer["label"]] == max(answer["scores"].values())
        query, body = asked["frames of odd size and sound"]
        assert service.post(query, body[:-1])[0] == 400
        assert service.post(query.replace("samples=", "samples=-"), body)[0] == 400
        assert "neither frames nor samples" in service.post("", b"")[1]["error"]
        assert service.post(query, body)[0] == 200
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
    finally:
        service.process.kill()
        service.process.communicate()


@pytest.mark.slow
def test_a_host_that_loads_the_embedded_pipeline_privately(full_build: Path, data: Path, environment: Path) -> None:
    bundle = data / "audio-visual-classification"
    host = full_build / "tests" / "tvlt_host", full_build / "libtvlt_deploy_python.so"
    assert _checked(*host, environment, bundle, env={}).split() == ["0", "0"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["missing", "empty", "other version", "elsewhere"])
def test_environments_that_are_refused(full_build: Path, data: Path, tmp_path: Path, case: str) -> None:
    python = tmp_path / "bin" / "python"
    expected = {
        "missing": f"there is no executable {python}",
        "empty": "No module named",
        "other version": f"{python} is Python 3.2; expected Python {sys.version_info.major}.",
        "elsewhere": f"expected {tmp_path}",
    }[case]
    if case == "empty":
        _checked(sys.executable, "-m", "venv", "--without-pip", tmp_path)
    elif case != "missing":
        python.parent.mkdir()
        python.write_text("#!/bin/sh\n")
        python.chmod(0o755)
    if case == "other version":
        (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.2.1\n")
    host = full_build / "tests" / "tvlt_host", full_build / "libtvlt_deploy_python.so"
    lines = _checked(*host, python, data / "audio-visual-classification", env={}).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("4 ")
        assert expected in line


@pytest.mark.slow
def test_the_embedded_pipeline_inside_a_python_program(full_build: Path, data: Path) -> None:
    script = (
        "import ctypes, sys\n"
        "library = ctypes.CDLL(sys.argv[1])\n"
        "session = ctypes.c_void_p()\n"
        "status = library.tvlt_open(sys.argv[2].encode(), None, ctypes.byref(session))\n"
        "library.tvlt_last_error.restype = ctypes.c_char_p\n"
        "assert status == 0, library.tvlt_last_error()\n"
        "library.tvlt_close(session)\n"
        "print('tvlt_deploy.inference.c_api' in sys.modules)\n"
    )
    arguments = full_build / "libtvlt_deploy_python.so", data / "audio-visual-classification"
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert _checked(sys.executable, "-c", script, *arguments, env=variables) == "True\n"
