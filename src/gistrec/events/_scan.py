"""Files and tables as relations that duckdb can scan, in the order of their rows."""

import csv
import dataclasses
import gzip
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from gistrec.errors import DataError


@dataclasses.dataclass(frozen=True)
class Relation:
    """Something that duckdb can scan."""

    name: str
    """What messages call it: the file's path, or "the table"."""
    sql: str
    """A FROM item."""
    columns: Mapping[str, str]
    """Column name -> SQL expression."""
    row: str = ""
    """SQL of the row number, from 0. Without one, rows are copied in order before use."""
    counted_from: str = ""
    """Said behind a row number: where rows are counted from."""
    typed: bool = True
    """Whether the columns have types; otherwise all are text and their values decide."""


@contextmanager
def connect(name: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A private in-memory database; what goes wrong inside is a `DataError` about `name`."""
    # when it runs out of memory it spills to the system's folder, not to a new one beside the user
    with duckdb.connect(config={"temp_directory": tempfile.gettempdir()}) as con:
        con.execute("SET TimeZone = 'UTC'")  # dates without an offset are UTC
        try:
            yield con
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise DataError(
                f"{name} can't be read: {first_words(error)}; mend or remove what it names, or "
                "write the file anew if it is damaged or cut short"
            ) from None


def first_words(error: duckdb.Error) -> str:
    """What happened and where, without duckdb's SQL and its advice on its own options."""
    told = re.split(r"\n+(?:Possible |LINE 1:|  file = )", str(error))[0].split(": ", 1)[-1]
    lines = [line[:100] for line in told.splitlines() if line]
    return ", ".join(lines[:2] + lines[2:][-1:]).rstrip(". ")


def existing(path: str) -> Path:
    """The file of a path.

    Raises:
        DataError: there is none.
    """
    file = Path(path).expanduser()
    if file.is_file():
        return file
    what = "it is a folder" if file.is_dir() else "no such file"
    raise DataError(f"can't read {path!r}: {what}; give the path of one log file")


def quoted(column: str) -> str:
    """A column name as an SQL identifier."""
    return '"' + column.replace('"', '""') + '"'


def _literal(path: Path) -> str:
    """A path as an SQL string that means this one file, whatever characters are in it."""
    plain = "".join(f"[{char}]" if char in "[*?" else char for char in str(path))
    return "'" + plain.replace("'", "''") + "'"


def scan_table(con: duckdb.DuckDBPyConnection, name: str, sql: str) -> Relation:
    """A FROM item whose columns have types of their own."""
    found = con.execute(f"SELECT column_name FROM (DESCRIBE SELECT * FROM {sql})").fetchall()
    return Relation(name, sql, {column: quoted(column) for (column,) in found})


def scan_parquet(con: duckdb.DuckDBPyConnection, path: Path) -> Relation:
    """A Parquet file."""
    numbered = f"read_parquet({_literal(path)}, file_row_number = true)"
    relation = scan_table(con, str(path), f"read_parquet({_literal(path)})")
    return dataclasses.replace(relation, sql=numbered, row="file_row_number")


def scan_csv(
    path: Path, *, delimiter: str = "", header: Sequence[str] = (), quote: str = '"'
) -> Relation:
    """A text file with one row a line; every column is text.

    Args:
        path: The file; may be gzipped.
        delimiter: What stands between columns; "" takes what the header line is full of.
        header: Column names, for a file that does not begin with them.
        quote: What values may be wrapped in; "" for nothing.

    Raises:
        DataError: not UTF-8 text, empty, or a column name that stands twice.
    """
    has_names = not header
    if has_names:
        line = _first_line(path)
        delimiter = delimiter or max(",\t;|", key=line.count)
        header = [column.strip() for column in next(csv.reader([line], delimiter=delimiter))]
        for column in header:
            if header.count(column) > 1:
                raise DataError(f"{path}: column {column!r} stands twice in the header; rename one")
    types = ", ".join(f"'c{n}': 'VARCHAR'" for n in range(len(header)))
    # nothing is left to duckdb's guessing, so that a file is not read differently when it grows
    sql = (
        f"read_csv({_literal(path)}, auto_detect = false, header = {has_names}, "
        f"columns = {{{types}}}, delim = '{delimiter}', quote = '{quote}', escape = '{quote}')"
    )
    return Relation(
        str(path),
        sql,
        {column: f"c{n}" for n, column in enumerate(header)},
        counted_from=" below the header" if has_names else "",
        typed=False,
    )


def _first_line(path: Path) -> str:
    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            line: str = file.readline().rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as UTF-8 text: {error}; write it anew") from None
    if not line:
        raise DataError(f"{path} has no rows; a log is a line of column names and a line per event")
    return line
