"""The progress bar of a terminal. Imported only when there is something to show: rich takes time to load."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

REFRESH_PER_SECOND = 4  # more would disturb what `bench` measures
SPEED_PERIOD = 3600.0
"""Seconds of which the mean speed gives the time left. One step may take minutes."""


class _WhenCounted(ProgressColumn):
    """A column that is empty for work of unknown length."""

    def __init__(self, column: ProgressColumn, counted: bool = True) -> None:
        self.column, self.counted = column, counted
        super().__init__(column.get_table_column())

    def __call__(self, task: Task) -> Text:
        return self.column(task) if (task.total is not None) == self.counted else Text()  # type: ignore[return-value]

    def render(self, task: Task) -> Text:
        """Not called: the inner column renders."""
        return Text()


class ProgressBar:
    """One line on standard error: a bar with count and time left, or a spinner with the time elapsed."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            _WhenCounted(BarColumn(bar_width=24)),
            _WhenCounted(MofNCompleteColumn()),
            _WhenCounted(TimeRemainingColumn()),
            _WhenCounted(TimeElapsedColumn(), counted=False),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,  # standard output may be a file: nothing is to pass through the bar's console
            redirect_stderr=False,
            refresh_per_second=REFRESH_PER_SECOND,
            speed_estimate_period=SPEED_PERIOD,
        )
        self._status = self._progress.add_task("", total=None, visible=False)
        self._steps = self._progress.add_task("", total=1, visible=False)

    def show_status(self, text: str) -> None:
        """Show a spinner with a text."""
        self._progress.update(self._steps, visible=False)
        self._progress.reset(self._status, description=text, visible=True)
        self._progress.start()

    def show_step(self, text: str, done: int, total: int) -> None:
        """Show a bar.

        Args:
            text: What is being done.
            done: Steps that are finished.
            total: Steps in all. Another total, or a smaller `done` than before, starts a new series of steps: the time
                left is estimated from the steps of one series.
        """
        task = self._progress.tasks[1]
        if total != task.total or done < task.completed or not task.description:
            self._progress.reset(self._steps, total=total, completed=done)
        self._progress.update(self._status, visible=False)
        self._progress.update(self._steps, description=text, completed=done, visible=True)
        self._progress.start()

    def hide(self) -> None:
        """Remove the line from the terminal."""
        self._progress.stop()
