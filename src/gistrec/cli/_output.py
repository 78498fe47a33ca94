"""What a verb prints: text or JSON on stdout, progress and notes on stderr."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def _shown(default: object) -> str | None:
    """A default in a help text; that of a flag goes without saying."""
    return None if default is None or default is False else str(default)


PARAMETER = Parameter(negative=(), show_default=_shown)
"""How every option behaves unless it says otherwise."""


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class Output:
    """Options of every verb."""

    json: bool = False
    """Print one JSON document on stdout instead of text."""

    def show(self, document: Any, text: str) -> None:
        """Print a result: plain data that JSON can hold, or the same for people."""
        line = msgspec.json.encode(document).decode() if self.json else text
        sys.stdout.write(line.rstrip("\n") + "\n")
        sys.stdout.flush()


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class Work(Output):
    """Options of a verb that takes a while."""

    quiet: bool = False
    """No progress and no notes on stderr. There is no progress either where it is no terminal."""

    def note(self, text: str) -> None:
        """Say something on stderr that is not part of the result."""
        if not (self.json or self.quiet):
            sys.stderr.write(text + "\n")

    def progress(self, *columns: ProgressColumn | str) -> Progress:
        """A bar with what is left, and columns of the verb's own."""
        console = Console(stderr=True)
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            *columns,
            TimeRemainingColumn(),
            console=console,
            disable=self.json or self.quiet or not console.is_terminal,
            transient=True,
        )


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows of cells as columns: the first `left` ones to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if n < left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
