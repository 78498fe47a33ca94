"""What a verb prints: text or JSON on stdout, progress and notes on stderr."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table as Drawn


def _shown(default: object) -> str | None:
    """A default in a help text; that of a flag goes without saying."""
    return None if default is None or default is False else str(default)


PARAMETER = Parameter(negative=(), show_default=_shown)
"""How every option behaves unless it says otherwise."""
MARKDOWN: dict[str, Any] = {"help_format": "markdown"}
"""How the help of a verb is written."""


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class Output:
    """Options of every verb."""

    json: bool = False
    """Print one JSON document on stdout instead of text."""

    def show(self, document: Any, *parts: "str | Table") -> None:
        """Print a result: plain data that JSON can hold, or the same for people.

        Parts for people stand below each other. Tables are drawn where stdout is a terminal.
        """
        if self.json or not sys.stdout.isatty():
            text = (
                msgspec.json.encode(document).decode()
                if self.json
                else "\n\n".join(map(str, parts))
            )
            sys.stdout.write(text.rstrip("\n") + "\n")
            sys.stdout.flush()
            return
        from rich.console import Console

        console = Console(highlight=False, markup=False, emoji=False)
        for number, part in enumerate(parts):
            if number:
                console.print()
            # a command that is to be copied must not be broken in the middle
            console.print(part, soft_wrap=isinstance(part, str))


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

    def progress(self, unit: str, *columns: str) -> "Progress":
        """A bar with what is done of the total, how fast it goes and how long it still takes.

        Args:
            unit: What is counted: "users". "" for a share of 1.
            columns: Of the verb's own: "{task.fields[best]}".
        """
        from gistrec.cli._progress import counting

        return counting(unit, columns, hidden=self.json or self.quiet)

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Says what is done and for how long already, where nobody knows how long it takes."""
        from gistrec.cli._progress import spinning

        with spinning(hidden=self.json or self.quiet) as progress:
            progress.add_task(text, total=None)
            yield


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells: aligned text where it is read by a program, drawn where by people."""

    rows: Sequence[Sequence[str]]
    left: int = 1
    """So many columns are aligned to the left, the others to the right."""
    title: str = ""
    head: bool = False
    """Whether the first row names the columns."""
    styles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """How a cell of this text is drawn."""

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        lines = [self.title] if self.title else []
        for row in self.rows:
            cells = [
                cell.ljust(width) if n < self.left else cell.rjust(width)
                for n, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def __rich__(self) -> "Drawn":
        from rich import box, table
        from rich.text import Text

        drawn = table.Table(
            box=box.SIMPLE_HEAD,
            show_header=self.head,
            pad_edge=False,
            title=Text(self.title) if self.title else None,
            title_justify="left",
            title_style="bold",
        )
        head, *rest = self.rows if self.head else ([""] * len(self.rows[0]), *self.rows)
        for n, name in enumerate(head):
            drawn.add_column(
                Text(name), justify="left" if n < self.left else "right", overflow="fold"
            )
        for row in rest:
            drawn.add_row(*(Text(cell, self.styles.get(cell, "")) for cell in row))
        return drawn
