"""The synthetic clips of a verification."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tvlt_deploy.bundle import Bundle
from tvlt_deploy.parity.cases import fidelity_cases
from tvlt_deploy.runtimes import open_runtime
from tvlt_deploy.tasks import TASKS


@pytest.mark.parametrize("task", TASKS)
def test_the_clips_reach_the_corners(task: str, bundle_of: Callable[..., Bundle]) -> None:
    bundle = bundle_of(task)
    cases = list(fidelity_cases(bundle.task, bundle.config))
    sizes = {(case.feeds["pixel_values"].shape[1], case.feeds["audio_values"].shape[2] // 16) for case in cases}
    assert {(1, 1), (4, 1), (1, 7), (4, 7)} <= sizes
    assert len({case.name for case in cases}) == len(cases)
    masks = [(case.feeds["pixel_mask"], case.feeds["audio_mask"]) for case in cases]
    assert any(not pixel.any() and audio.any() for pixel, audio in masks)
    assert any(pixel.any() and not audio.any() for pixel, audio in masks)
    assert any(not pixel.any() and not audio.any() for pixel, audio in masks)
    assert max(len(pixel) for pixel, _ in masks) >= 3
    with open_runtime(bundle, "torch") as runtime:
        for case in cases:
            runtime.run(case.feeds)  # and every one of them can be run
