"""Columns written as a Parquet file, chunk by chunk."""

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

_ROW_GROUP = 1 << 17


def write(
    out: Path,
    columns: Iterable[str],
    chunks: Iterable[Mapping[str, NDArray[np.generic]]],
    *,
    select: str = "*",
    about: Mapping[str, str] | None = None,
    report: Callable[[int], None] | None = None,
) -> int:
    """Write rows under another name, and then put the file in place; the number of rows.

    Args:
        out: The file; replaced as a whole if it exists.
        columns: What it has, as SQL: "item_id BIGINT".
        chunks: Columns of equal length by name. They are held on disk until all are there.
        select: SQL of a row, from a chunk's columns.
        about: Said in the file's metadata.
        report: Called after every chunk with the rows so far.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    part, rows = out.with_name(out.name + ".part"), 0
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        with duckdb.connect(os.path.join(folder, "rows.duckdb")) as con:
            con.execute(f"CREATE TABLE rows ({', '.join(columns)})")
            for chunk in chunks:
                con.register("chunk", dict(chunk))
                con.execute(f"INSERT INTO rows SELECT {select} FROM chunk")
                con.unregister("chunk")
                rows += len(next(iter(chunk.values())))
                if report is not None:
                    report(rows)
            said = ", ".join(
                f"{_text(name)}: {_text(value)}" for name, value in (about or {}).items()
            )
            metadata = f", KV_METADATA {{{said}}}" if said else ""
            con.execute(
                f"COPY rows TO {_text(str(part))} "
                f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP}{metadata})"
            )
        os.replace(part, out)
    return rows


def _text(value: str) -> str:
    """As SQL."""
    return "'" + value.replace("'", "''") + "'"
