"""A log in a text file with a header line: `.csv`, `.tsv`, either also gzipped.

The text has no types, so all values of a column decide: ids are numbers if every one is written as
a whole number (`007` is text), times are numbers or dates.

Cost: 10 million lines with number ids in 10 to 15 seconds and 2 GB.
"""

import dataclasses
from pathlib import Path

import duckdb

from gistrec.errors import ConfigError
from gistrec.events._load import LogFile
from gistrec.events._scan import Relation, scan_csv


@dataclasses.dataclass(frozen=True)
class Csv(LogFile):
    """One line per event, values quoted where needed; `csv(path='log.csv', user='uid')`."""

    endings = (".csv", ".tsv", ".gz")

    delimiter: str = ""
    """One character; "" takes the comma, tab, semicolon or bar that the header line is full of."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.delimiter) > 1 or self.delimiter in ("'", '"', "\n"):
            raise ConfigError(
                f"csv(delimiter=...) takes one character such as ',' or '\\t', "
                f"given {self.delimiter!r}"
            )

    def _scan(self, con: duckdb.DuckDBPyConnection, path: Path) -> Relation:
        return scan_csv(path, delimiter=self.delimiter)
