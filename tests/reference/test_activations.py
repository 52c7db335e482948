from __future__ import annotations

import pytest
import torch

from tests.reference import hf
from tvlt_deploy.errors import ConfigError
from tvlt_deploy.reference import TvltModel
from tvlt_deploy.reference.activations import ACTIVATIONS, get_activation

theirs = hf.pytest.importorskip("transformers.activations").ACT2FN


def test_the_names_are_those_of_transformers() -> None:
    assert set(ACTIVATIONS) == set(theirs)


@pytest.mark.parametrize("name", sorted(theirs))
def test_values(name: str) -> None:
    x = torch.linspace(-20, 20, 4001)
    assert (get_activation(name)(x) - theirs[name](x)).abs().max() <= 1e-6 * max(
        1.0, theirs[name](x).abs().max().item()
    )


def test_an_unknown_name_lists_the_names() -> None:
    with pytest.raises(
        ConfigError, match=r"hidden_act is 'swiglu'; expected one of gelu, .*quick_gelu.* or a callable"
    ):
        TvltModel(hf.our_config(hidden_act="swiglu"))
