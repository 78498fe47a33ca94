"""Bars of work on stderr, drawn where it is a terminal. Loaded where work begins, not for help."""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def counting(unit: str, columns: Sequence[str], *, hidden: bool) -> Progress:
    """A bar with what is done of the total, how fast it goes and how long it still takes."""
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return _progress(BarColumn(), _Count(unit), *columns, *times, hidden=hidden)


def spinning(*, hidden: bool) -> Progress:
    """For how long already."""
    return _progress(SpinnerColumn(), TimeElapsedColumn(), hidden=hidden)


def _progress(*columns: ProgressColumn | str, hidden: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        *columns,
        console=console,
        disable=hidden or not console.is_terminal,
        transient=True,
    )


class _Count(ProgressColumn):
    """`1,200 of 6,000 users, 310 users/s`; or a percentage."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Of a bar."""
        if not self._unit:
            return Text(f"{task.percentage:>3.0f} %")
        said = f"{task.completed:,.0f}"
        if task.total is not None:
            said += f" of {task.total:,.0f}"
        said += f" {self._unit}"
        if task.speed:
            said += f", {task.speed:,.{0 if task.speed >= 10 else 1}f} {self._unit}/s"
        return Text(said)
