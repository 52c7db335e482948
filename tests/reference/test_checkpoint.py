"""One checkpoint object for either layout: what it can serve, what it loads, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import original
from tests.reference import hf
from tvlt_deploy.errors import CheckpointError, UsageError
from tvlt_deploy.processors import TvltProcessor
from tvlt_deploy.reference import OriginalCheckpoint, TvltForPreTraining, init_checkpoint, open_checkpoint


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    init_checkpoint(tmp_path / "checkpoint", hf.our_config())
    return tmp_path / "checkpoint"


def test_a_directory(directory: Path) -> None:
    checkpoint = open_checkpoint(directory)
    assert checkpoint.path == directory
    assert checkpoint.tasks == ("feature-extraction", "audio-visual-matching", "masked-reconstruction")
    assert checkpoint.default_task == "audio-visual-matching"
    assert checkpoint.preprocessing_file is None
    TvltProcessor.from_config(hf.our_config()).save_pretrained(directory)
    assert checkpoint.preprocessing_file == directory / "preprocessor_config.json"


def test_a_file_of_the_authors_code() -> None:
    path = original.path_of("mosei_sentiment")
    checkpoint = open_checkpoint(path, settings=original.settings_of("mosei_sentiment"))
    assert isinstance(checkpoint, OriginalCheckpoint)
    assert checkpoint.path == path
    assert checkpoint.tasks == ("feature-extraction", "audio-visual-classification")
    assert checkpoint.default_task == "audio-visual-classification"
    assert checkpoint.preprocessing_file is None


@pytest.mark.parametrize("layout", ["directory", "file"])
def test_config_is_that_of_the_loaded_model(layout: str, directory: Path) -> None:
    settings = original.settings_of("pretrain") if layout == "file" else None
    checkpoint = open_checkpoint(original.path_of("pretrain") if settings else directory, settings=settings)
    for task in (None, *checkpoint.tasks):
        assert checkpoint.load(task).config == checkpoint.config(task)
    matching = checkpoint.config("audio-visual-matching")
    assert (matching.task_matching, matching.task_mae) == (True, False)
    both = checkpoint.load()
    assert isinstance(both, TvltForPreTraining)
    assert (both.config.task_matching, both.config.task_mae) == (True, True)
    assert checkpoint.load("feature-extraction", dtype=torch.float16).dtype == torch.float16


def test_a_task_that_it_cannot_serve(directory: Path) -> None:
    with pytest.raises(CheckpointError, match="has no head for audio-visual-classification; the tasks it can serve: "):
        open_checkpoint(directory).load("audio-visual-classification")


def test_settings_and_heads_are_for_files(directory: Path) -> None:
    for options in ({"settings": {}}, {"head": "classifier"}):
        with pytest.raises(UsageError, match="is not a file of the authors' code"):
            open_checkpoint(directory, **options)  # type: ignore[arg-type]


def test_a_missing_directory(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tmp_path / "nothing")
    for read in (checkpoint.config, checkpoint.load, lambda: checkpoint.tasks, lambda: checkpoint.default_task):
        with pytest.raises(CheckpointError, match="nothing does not exist or is not a directory"):
            read()
