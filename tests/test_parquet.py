import os

import duckdb
import numpy as np
import pytest

from gistrec import parquet


def rows(path) -> list[tuple[object, ...]]:
    with duckdb.connect() as con:
        return con.execute("SELECT * FROM read_parquet(?)", [str(path)]).fetchall()


def test_chunks_become_rows(tmp_path):
    chunks = [
        {"a": np.arange(2), "b": np.array(["x", None], object)},
        {"a": np.arange(1), "b": np.array(["y"], object)},
    ]
    told = []
    out = tmp_path / "new" / "it's.parquet"
    about = {"said by": "'me'"}
    written = parquet.write(
        out, ["a BIGINT", "b VARCHAR"], chunks, select="a + 1, b", about=about, report=told.append
    )
    assert (written, told) == (3, [2, 3])
    assert rows(out) == [(1, "x"), (2, None), (1, "y")]
    assert os.listdir(out.parent) == [out.name]


def test_a_failure_leaves_the_file_that_was_there(tmp_path):
    out = tmp_path / "log.parquet"
    parquet.write(out, ["a BIGINT"], [{"a": np.arange(3)}])

    def chunks():
        yield {"a": np.arange(1)}
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError):
        parquet.write(out, ["a BIGINT"], chunks())
    assert rows(out) == [(0,), (1,), (2,)]
    assert os.listdir(tmp_path) == ["log.parquet"]
