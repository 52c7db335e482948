"""Help texts, and what an error prints."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tvlt_deploy import errors
from tvlt_deploy.cli import main

DOCS = Path(__file__).parents[2] / "docs"
ERRORS = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.TvltError)]


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_summary_fits_on_one_line(command: str) -> None:
    lines = CliRunner().invoke(main, ["--help"], terminal_width=80).output.splitlines()
    (line,) = [line.strip() for line in lines if line.startswith(f"  {command} ")]
    assert line == f"{command.ljust(len(max(main.commands, key=len)))}  {main.commands[command].short_help}"
    assert line.endswith(".")
    assert not line.endswith("...")


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_option_is_explained(command: str) -> None:
    for option in main.commands[command].params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert option.help.endswith("."), option.help


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_type_has_an_entry_in_the_docs(error: type[errors.TvltError]) -> None:
    page, _, anchor = error("x").reference.partition("#")
    assert f"{{ #{anchor} }}" in (DOCS.parent / page).read_text(encoding="utf-8")


def test_an_error_names_its_entry(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", str(tmp_path)])
    assert result.exit_code == 5
    error, hint, see = result.stderr.splitlines()
    assert re.match("error: .*manifest.json", error)
    assert hint.startswith("hint: ")
    assert see == "see: docs/reference/errors.md#BundleError"
