"""Tiny checkpoints written by transformers and the bundles exported from them, created once per session.

Do not change bundles of the session; a test that changes one uses `copy_of(bundle)`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.bundle.manifest import ONNXRUNTIME_CPU_FORM, STANDARD_FORM
from tvlt_deploy.tasks import TASKS

SMALL: dict[str, Any] = {
    "spectrogram_length": 112,
    "hidden_size": 64,
    "decoder_num_hidden_layers": 1,
    "decoder_hidden_size": 32,
}
"""On top of `tests.reference.hf.TINY`: 4 frames of 4 patches, 7 steps of 2 patches of sound, rows long enough for a
cosine."""

FORMS = (STANDARD_FORM, ONNXRUNTIME_CPU_FORM)


@pytest.fixture(scope="session", autouse=True)
def manifests_follow_the_schema() -> Iterator[None]:
    """Every manifest that a test writes is valid by the JSON Schema that ships."""
    import jsonschema

    from tests.bundle.field_lists import schema
    from tvlt_deploy._internal.atomic import write_json

    validator = jsonschema.Draft202012Validator(schema())

    def write_valid(path: Path, values: Any) -> None:
        validator.validate(json.loads(json.dumps(values)))
        write_json(path, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tvlt_deploy.bundle.writer.write_json", write_valid)
        yield


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(architecture, configuration changes) -> a directory that transformers wrote, every parameter random."""
    cache: dict[str, Path] = {}

    def make(architecture: str, **changes: Any) -> Path:
        from tests.reference import hf

        key = json.dumps([architecture, changes], sort_keys=True)
        if key not in cache:
            model = getattr(hf.transformers, architecture)(hf.hf_config(**{**SMALL, **changes}))
            hf.randomise(model)
            cache[key] = tmp_path_factory.mktemp("checkpoint")
            model.save_pretrained(cache[key])
        return cache[key]

    return make


@pytest.fixture(scope="session")
def bundle_of(checkpoint_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """(task, configuration changes) -> a bundle that was exported and verified."""
    cache: dict[str, Bundle] = {}

    def make(task: str, **changes: Any) -> Bundle:
        from tvlt_deploy import export

        key = json.dumps([task, changes], sort_keys=True)
        if key not in cache:
            checkpoint = checkpoint_of(TASKS[task].architecture, **changes)
            cache[key] = export(checkpoint, tmp_path_factory.mktemp("bundle") / "bundle", task=task)
        return cache[key]

    return make


@pytest.fixture(scope="session")
def classification(bundle_of: Callable[..., Bundle]) -> Bundle:
    return bundle_of("audio-visual-classification")


@pytest.fixture(scope="session")
def matching(bundle_of: Callable[..., Bundle]) -> Bundle:
    return bundle_of("audio-visual-matching")


@pytest.fixture(scope="session")
def features(bundle_of: Callable[..., Bundle]) -> Bundle:
    return bundle_of("feature-extraction")


@pytest.fixture(scope="session")
def reconstruction(bundle_of: Callable[..., Bundle]) -> Bundle:
    return bundle_of("masked-reconstruction")


@pytest.fixture(scope="session")
def runtime_of(bundle_of: Callable[..., Bundle]) -> Iterator[Callable[..., Any]]:
    """(task, form, configuration changes) -> an open ONNX Runtime on that graph, on two threads."""
    from tvlt_deploy.runtimes import open_runtime

    opened: dict[str, Any] = {}

    def get(task: str, form: str = ONNXRUNTIME_CPU_FORM, **changes: Any) -> Any:
        key = json.dumps([task, form, changes], sort_keys=True)
        if key not in opened:
            opened[key] = open_runtime(bundle_of(task, **changes), "onnxruntime", threads=2, form=form)
        return opened[key]

    yield get
    for runtime in opened.values():
        runtime.close()


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Bundle], Path]:
    """A bundle's copy to alter: its directory."""

    def copy(bundle: Bundle) -> Path:
        return Path(shutil.copytree(bundle.directory, tmp_path / "copy"))

    return copy


@pytest.fixture
def misfit_of(copy_of: Callable[[Bundle], Path]) -> Callable[..., Path]:
    """(bundle, name of a weight) -> a copy whose torch weights differ from its graphs, with a manifest that fits.

    It opens and passes every checksum, and its graphs miss the limits of fp32.
    """

    def alter(bundle: Bundle, name: str, shift: float = 0.5) -> Path:
        from safetensors.numpy import load_file, save_file

        from tvlt_deploy.bundle.changes import with_file
        from tvlt_deploy.bundle.writer import file_entry, update_manifest

        copy = Bundle(copy_of(bundle))
        path = copy.path("model.safetensors")
        weights = load_file(path)
        weights[name].flat[0] += shift
        save_file(weights, path, {"format": "pt"})
        update_manifest(copy, lambda manifest: with_file(manifest, path.name, file_entry(path)))
        return copy.directory

    return alter


@pytest.fixture
def traced_already(bundle_of: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of the small models take their graphs from the session's bundles: no tracing, the rest as it is."""
    import onnx_ir

    from tvlt_deploy.bundle.manifest import GRAPH_FILES
    from tvlt_deploy.exporters import inference_model as graph
    from tvlt_deploy.exporters import onnx

    form_of = {graph.standard_attention: STANDARD_FORM, graph.multi_head_attention: ONNXRUNTIME_CPU_FORM}
    trace = onnx.build_graph

    def load(model: Any, task: Any, attention: Any, opset: int = onnx.DEFAULT_OPSET) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx, "build_graph", trace)
            bundle = bundle_of(task.name)
        return onnx_ir.load(bundle.directory / "fp32" / GRAPH_FILES[form_of[attention]])

    monkeypatch.setattr(onnx, "build_graph", load)
