"""Progress of long work on standard error."""

from __future__ import annotations

import os
import re
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from tvlt_deploy._internal.progress import Step

if TYPE_CHECKING:
    from tvlt_deploy.cli.progress_bar import ProgressBar


class ProgressDisplay:
    """A `Progress` callable: a bar or a spinner on a terminal, plain lines elsewhere, nothing with `quiet`.

    Use with `with`, so that nothing of it stays on the terminal. `hide` before printing to a terminal; the next line of
    progress shows it again.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
        self._bar: ProgressBar | None = None

    def __call__(self, message: str) -> None:
        """Show a line of text; a `Step` moves the bar."""
        if self._quiet:
            return
        if not self._terminal:
            click.echo(message, err=True)
            return
        if self._bar is None:
            from tvlt_deploy.cli.progress_bar import ProgressBar

            self._bar = ProgressBar()
        if isinstance(message, Step):
            # The bar has the count itself.
            text = re.sub(rf",? *\b\d+/{message.total}\b", "", message).strip()
            self._bar.show_step(text, message.done, message.total)
        else:
            self._bar.show_status(message)

    def hide(self) -> None:
        """Remove the bar from the terminal until the next line of progress."""
        if self._bar is not None:
            self._bar.hide()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hide()
