"""The errors: what a caller reads from them, and that each one is documented."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tvlt_deploy import errors
from tvlt_deploy.errors import TvltError

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "errors.md"
CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]


@pytest.mark.parametrize("cls", CLASSES)
def test_message_and_hint_are_separate_and_printed_together(cls: type[TvltError]) -> None:
    error = cls("frames is 0; expected an int of at least 1", hint="pass a clip")
    assert error.message == "frames is 0; expected an int of at least 1"
    assert error.hint == "pass a clip"
    assert str(error) == "frames is 0; expected an int of at least 1 (pass a clip)"
    assert str(cls("frames is 0")) == "frames is 0"
    assert isinstance(error, TvltError)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_its_entry_in_the_reference(cls: type[TvltError]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    _, found, entry = page.partition(f"## {cls.__name__} {{ #{cls.__name__} }}\n")
    assert found, f"{PAGE} has no entry for {cls.__name__}"
    entry = entry.partition("\n## ")[0]
    assert cls is TvltError or ("**Cause.**" in entry and "**What to do.**" in entry)
    assert cls.__doc__
