"""Models by their name on the hub, against a server on this machine that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import http.server
import importlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("huggingface_hub")

from tvlt_deploy._internal.hub import local_path
from tvlt_deploy.cli import main
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.errors import CheckpointError, EnvironmentLackError, UsageError
from tvlt_deploy.processors import TvltProcessor
from tvlt_deploy.reference import TvltModel
from tvlt_deploy.reference.loading import checkpoint_path

COMMITS = {"main": "a" * 40, "v1": "b" * 40}
NOT_WANTED = ("README.md", "flax_model.msgpack", "optimizer.pt")


class Hub(http.server.ThreadingHTTPServer):
    """Serves `models[name][commit][file]` as /name/resolve/revision/file; see huggingface_hub's `hf_hub_download`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        self.sent: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        name, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        commits = self.server.models.get(name)
        commit = COMMITS.get(revision, revision)
        if commits is None:
            return self.refuse(401, "RepoNotFound")
        if name in self.server.gated:
            return self.refuse(403, "GatedRepo")
        if commit not in commits:
            return self.refuse(404, "RevisionNotFound")
        if file not in commits[commit]:
            return self.refuse(404, "EntryNotFound", commit)
        content = commits[commit][file]
        if body:
            self.server.sent.append(file)
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def refuse(self, status: int, code: str, commit: str | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        if commit is not None:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(scope="module")
def files(checkpoint_of: Callable[..., Path]) -> dict[str, bytes]:
    checkpoint = checkpoint_of("TvltModel")
    return {path.name: path.read_bytes() for path in checkpoint.iterdir()} | dict.fromkeys(NOT_WANTED, b"large")


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Import huggingface_hub afresh with these settings, which it reads only then."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "huggingface_hub"}

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
            del sys.modules[name]

    def connect(endpoint: str, **settings: str) -> None:
        for name, value in {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "NO_PROXY": "*",
            **settings,
        }.items():
            monkeypatch.setenv(name, value)
        forget()
        importlib.import_module("huggingface_hub")

    yield connect
    forget()
    sys.modules.update(before)


@pytest.fixture
def hub(connect: Callable[..., None]) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    connect(f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a port that nobody listens on, which the library tries for half a minute otherwise."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_model_loads_by_its_name_and_nothing_else_is_fetched(
    hub: Hub, files: dict[str, bytes], checkpoint_of: Callable[..., Path]
) -> None:
    hub.models["some/tvlt"] = {COMMITS["main"]: {**files, "pytorch_model.bin": b"not needed"}}
    model, local = TvltModel.from_pretrained("some/tvlt"), TvltModel.from_pretrained(checkpoint_of("TvltModel"))
    assert sorted(hub.sent) == ["config.json", "model.safetensors"]
    for (name, actual), (_, expected) in zip(model.state_dict().items(), local.state_dict().items(), strict=True):
        assert actual.equal(expected), name
    hub.sent.clear()
    TvltModel.from_pretrained("some/tvlt@main")
    assert hub.sent == []  # from the cache


def test_files_are_of_one_revision_and_each_is_fetched_when_there_is_one(hub: Hub, files: dict[str, bytes]) -> None:
    old = {"config.json": files["config.json"], "pytorch_model.bin": b"old", "preprocessor_config.json": b"{}"}
    hub.models["some/tvlt"] = {COMMITS["main"]: files, COMMITS["v1"]: old}
    for name in ("some/tvlt@v1", f"some/tvlt@{COMMITS['v1']}"):
        found = checkpoint_path(name, optional=["preprocessor_config.json"])
        assert {path.name: path.read_bytes() for path in found.iterdir()} == old
    assert {path.name for path in checkpoint_path("some/tvlt").iterdir()} == {"config.json", "model.safetensors"}


def test_shards_come_with_their_index(hub: Hub, files: dict[str, bytes]) -> None:
    index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "../outside"}}'
    names = {"model.safetensors.index.json": index, "model-1.safetensors": b"1", "model-2.safetensors": b"2"}
    hub.models["some/tvlt"] = {
        COMMITS["main"]: {"config.json": files["config.json"], **names, "model-3.safetensors": b""}
    }
    assert {path.name for path in checkpoint_path("some/tvlt").iterdir()} == {"config.json", *names}


def test_what_was_fetched_works_without_the_hub(
    hub: Hub, files: dict[str, bytes], connect: Callable[..., None], unreachable: str
) -> None:
    hub.models["some/tvlt"] = {COMMITS["main"]: files}
    optional = ["preprocessor_config.json"]  # which it lacks
    first = checkpoint_path("some/tvlt", optional)
    connect(unreachable)
    assert checkpoint_path("some/tvlt", optional) == first
    connect("https://huggingface.co", HF_HUB_OFFLINE="1")
    assert checkpoint_path("some/tvlt", optional) == first


def test_configuration_and_processors_load_by_name(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    TvltProcessor.from_config(TvltConfig(num_frames=3)).save_pretrained(tmp_path)
    settings = (tmp_path / "preprocessor_config.json").read_bytes()
    hub.models["some/tvlt"] = {COMMITS["main"]: {**files, "preprocessor_config.json": settings}}
    assert TvltConfig.from_pretrained("some/tvlt").hidden_size == 64
    assert TvltProcessor.from_pretrained("some/tvlt").image_processor.num_frames == 3
    assert hub.sent == ["config.json", "preprocessor_config.json"]


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("some/missing", UsageError, "some/missing does not exist here, and the hub has no public model of that name"),
        ("some/gated", EnvironmentLackError, r"grants access on request \(ask for access"),
        ("some/tvlt@v9", UsageError, r"the model some/tvlt on the hub has no revision v9"),
        ("some/empty", CheckpointError, r"the model some/empty on the hub has no config.json"),
        ("some/bad--name", UsageError, "the hub has no public model of that name"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_is_a_typed_error(
    name: str, kind: type[Exception], says: str, hub: Hub, files: dict[str, bytes]
) -> None:
    hub.models |= {"some/tvlt": {COMMITS["main"]: files}, "some/gated": {}, "some/empty": {COMMITS["main"]: {}}}
    hub.gated.add("some/gated")
    with pytest.raises(kind, match=says):
        checkpoint_path(name)


@pytest.mark.parametrize("settings", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_connection_the_command_exits_with_four(
    settings: dict[str, str], connect: Callable[..., None], unreachable: str, tmp_path: Path
) -> None:
    connect(unreachable, **settings)
    result = CliRunner().invoke(main, ["export", "some/tvlt", str(tmp_path / "bundle")])
    assert result.exit_code == 4, result.output
    assert "the hub cannot be reached and the cache has no config.json of it" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_the_library_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    result = CliRunner().invoke(main, ["export", "some/tvlt", str(tmp_path / "bundle")])
    assert result.exit_code == 4, result.output
    assert "pip install 'tvlt-deploy[hub]'" in result.stderr


def test_a_local_path_wins_and_what_is_no_name_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "tvlt").mkdir(parents=True)
    for path in ("some/tvlt", "checkpoint", "./some/other", "a/b/c", tmp_path / "a", "some/"):
        assert local_path(path, required="config.json") == Path(path)
