from __future__ import annotations

from pathlib import Path

import pytest

from tvlt_deploy.bench import BenchReport, bench
from tvlt_deploy.config import TvltConfig

TINY = TvltConfig(
    image_size=32,
    num_frames=4,
    spectrogram_length=96,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    loading = pytest.importorskip("tvlt_deploy.reference")
    from tvlt_deploy.workflows.export import export

    folder = tmp_path_factory.mktemp("bench")
    loading.init_checkpoint(folder / "checkpoint", TINY, architecture="TvltForAudioVisualClassification")
    export(folder / "checkpoint", folder / "bundle", weights=False, verify=False)
    return folder / "bundle"


@pytest.fixture(scope="session")
def report(bundle: Path) -> BenchReport:
    """All workloads, in the precision that the bundle holds and in one that does not run."""
    return bench(bundle, precisions=("fp32", "int8"), seconds=0, threads=1)
