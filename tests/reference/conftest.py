from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _few_threads_and_a_seed() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
