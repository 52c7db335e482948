"""Results on standard output: tables and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

FILE_WIDTH = 140
"""Columns of a table that goes to a pipe or a file, which has no width of its own."""


def console() -> Console:
    """The console of standard output. Tables use the width of the terminal, and `FILE_WIDTH` elsewhere."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)


def print_json(value: Any) -> None:
    """Print a value as indented JSON. Raises `ValueError` for NaN and infinite numbers."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table of texts, in which markup has no meaning."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)
