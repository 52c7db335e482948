"""The progress bar of a terminal. Imported only when there is something to show: rich takes time to load."""

from __future__ import annotations

from rich.console import Console, RenderableType
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

    def __init__(self, column: ProgressColumn) -> None:
        self.column = column
        super().__init__()

    def render(self, task: Task) -> RenderableType:
        """The inner column, or nothing."""
        return self.column(task) if task.total is not None else Text()


class _Time(ProgressColumn):
    """The time left, or the time elapsed for work of unknown length."""

    left, elapsed = TimeRemainingColumn(), TimeElapsedColumn()

    def render(self, task: Task) -> Text:
        """One of the two."""
        return (self.elapsed if task.total is None else self.left).render(task)


class ProgressBar:
    """One line on standard error: a bar with count and time left, or a spinner with the time elapsed."""

    def __init__(self) -> None:
        # A long description is cut, so that the bar and the times stay visible.
        description = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=description),
            _WhenCounted(BarColumn(bar_width=24)),
            _WhenCounted(MofNCompleteColumn()),
            _Time(),
            console=Console(stderr=True),
            transient=True,
            expand=True,
            redirect_stdout=False,  # standard output may be a file: nothing is to pass through the bar's console
            redirect_stderr=False,
            refresh_per_second=REFRESH_PER_SECOND,
            speed_estimate_period=SPEED_PERIOD,
        )
        self._status = self._progress.add_task("", total=None, visible=False)
        self._steps = self._progress.add_task("", total=0, visible=False)

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
        if total != task.total or done < task.completed:
            self._progress.reset(self._steps, total=total, completed=done)
        self._progress.update(self._status, visible=False)
        self._progress.update(self._steps, description=text, completed=done, visible=True)
        self._progress.start()

    def hide(self) -> None:
        """Remove the line from the terminal."""
        self._progress.stop()
