"""Lines of progress, with and without counts."""

from __future__ import annotations

import pytest

from tvlt_deploy._internal.progress import Progress, Step, counted, silent


def test_a_step_is_its_text_with_counts() -> None:
    step = Step("clip 3/8", 2, 8)
    assert step == "clip 3/8"
    assert f"{step}" == "clip 3/8"
    assert (step.done, step.total) == (2, 8)


def test_a_plain_callable_receives_steps_as_text() -> None:
    lines: list[str] = []
    progress: Progress = lines.append
    progress("loading")
    progress(Step("clip 1/1", 0, 1))
    assert lines == ["loading", "clip 1/1"]


def test_silent_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silent("loading")
    silent(Step("clip 1/1", 0, 1))
    assert capsys.readouterr() == ("", "")


def test_a_loop_counts_its_items() -> None:
    lines: list[str] = []
    worked_on = []
    for item in counted([7, 8], "clip", lines.append, lambda item: f"number {item}"):
        worked_on.append((item, len(lines)))
    assert worked_on == [(7, 1), (8, 2)]  # a line comes before its item
    assert lines == ["clip 1/2: number 7", "clip 2/2: number 8"]
    assert [(line.done, line.total) for line in lines if isinstance(line, Step)] == [(0, 2), (1, 2)]
