"""TVLT-base at full width against transformers 4.40.2."""

from __future__ import annotations

import pytest
import torch

from tests.reference import hf
from tvlt_deploy.config import TvltConfig
from tvlt_deploy.reference import TvltForPreTraining

pytestmark = pytest.mark.slow


def test_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = hf.transformers.TvltForPreTraining(hf.transformers.TvltConfig())
    hf.randomise(theirs)
    ours = TvltForPreTraining(TvltConfig())
    ours.load_state_dict(theirs.state_dict(), assign=True)
    assert len(ours.state_dict()) == 353
    assert sum(parameter.numel() for parameter in ours.parameters()) == 113_014_017
    inputs = hf.training_clip(frames=2, rows=160, config=ours.config)
    noise = hf.noises(inputs, ours.config)
    ours.train()
    theirs.train()
    with hf.injected(monkeypatch, noise), torch.no_grad():
        expected = theirs(**inputs)
        output = ours(**inputs, **noise)
        hf.assert_same(output, expected, limit=1e-5)
        ours.eval()
        theirs.eval()
        encoder = {key: value for key, value in inputs.items() if "mixed" not in key and key != "labels"}
        hf.assert_same(ours.tvlt(**encoder), theirs.tvlt(**encoder), limit=1e-5)
