import datetime as dt
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from gistrec.errors import ConfigError, DataError
from gistrec.events import Events, from_table, read

COLUMNS = {"user_id": [2, 1, 1], "item_id": ["a", "c", "b"], "timestamp": [5, 7, 7]}
TABLES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "arrow": pa.table}


def rows(events: Events) -> list[tuple[object, ...]]:
    columns = (events.user_id, events.item_id, events.timestamp)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("kind", TABLES)
def test_from_table(kind: str) -> None:
    events = from_table(TABLES[kind](COLUMNS), titles={"a": "A"})
    assert rows(events) == [(1, "c", 7), (1, "b", 7), (2, "a", 5)]
    assert events.titles == {"a": "A"}
    assert events.action is None


@pytest.mark.parametrize("kind", TABLES)
def test_from_a_big_table_in_the_rows_order(kind: str) -> None:
    item = np.random.default_rng(0).permutation(400_000)
    table = TABLES[kind]({"u": item % 3, "i": item, "t": np.zeros_like(item)})
    events = from_table(table, user="u", item="i", time="t")
    expected = np.concatenate([item[item % 3 == user] for user in range(3)])
    assert np.array_equal(events.item_id, expected)


def test_from_table_types() -> None:
    times = [dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2020, 1, 2, tzinfo=dt.UTC)]
    table = pd.DataFrame(
        {"u": pd.Categorical(["y", "x"]), "i": [1, 2], "t": times, "a": [True, False]}
    )
    events = from_table(table, user="u", item="i", time="t", action="a")
    assert rows(events) == [("x", 2, 1577923200), ("y", 1, 1577836800)]
    assert events.action is not None
    assert events.action.tolist() == [0, 1]
    milliseconds = pl.DataFrame({"u": [1], "i": [1], "t": [1999]})
    events = from_table(milliseconds, user="u", item="i", time="t", time_unit="ms")
    assert events.timestamp.tolist() == [1]


TIMES = [dt.datetime(2020, 1, 2), dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1)]
RECTOOLS = {"user_id": [7, 7, 5], "item_id": [1, 2, 3], "weight": [0.5, 1.0, 2.5]}
LENSKIT = {"user": [7, 7, 5], "item": [1, 2, 3], "rating": [4.0, 5.0, 3.0]}


@pytest.mark.parametrize("kind", TABLES)
def test_from_tables_of_neighbours(kind: str) -> None:
    events = from_table(TABLES[kind](RECTOOLS | {"datetime": TIMES}))
    assert rows(events) == [(5, 3, 1577836800), (7, 2, 1577836800), (7, 1, 1577923200)]
    table = TABLES[kind](LENSKIT | {"timestamp": [9, 8, 8]})
    events = from_table(table, action="rating")
    assert rows(events) == [(5, 3, 8), (7, 2, 8), (7, 1, 9)]
    assert events.action is not None
    assert events.action.tolist() == [3, 5, 4]
    both = TABLES[kind](LENSKIT | RECTOOLS | {"datetime": TIMES, "timestamp": [3, 2, 1]})
    assert from_table(both).timestamp.tolist() == [1, 2, 3]


def test_weights_of_rectools_are_no_actions() -> None:
    table = pd.DataFrame(RECTOOLS | {"datetime": TIMES})
    with pytest.raises(DataError, match=r"row 1, column 'weight': '0.5' is not a whole number"):
        from_table(table, action="weight")


def test_from_a_wrong_table() -> None:
    with pytest.raises(
        DataError, match=r"pandas or polars DataFrame or an Arrow table, given list"
    ):
        from_table([1, 2])
    with pytest.raises(DataError, match=r"the table has no column 'timestamp' \(time\)"):
        from_table(pd.DataFrame({"user_id": [1], "item_id": [2]}))
    with pytest.raises(DataError, match=r"no column 'user_id' \(user\): did you mean user='uid'"):
        from_table(pd.DataFrame({"uid": [1], "item": [2], "timestamp": [3]}))
    with pytest.raises(DataError, match=r"^the table, column 'user_id': user ids are numbers with"):
        from_table(pd.DataFrame(COLUMNS | {"user_id": [1, None, 2]}))
    with pytest.raises(DataError, match=r"^the table, row 2, column 'item_id': no item id"):
        from_table(pd.DataFrame(COLUMNS | {"item_id": ["a", None, "b"]}))
    huge = pa.table(COLUMNS | {"user_id": pa.array([1, 2**64 - 1, 2], pa.uint64())})
    with pytest.raises(
        DataError, match=r"row 2, column 'user_id': '18446744073709551615' does not"
    ):
        from_table(huge)


def test_read_takes_specs_and_paths(tmp_path: Path) -> None:
    text = "user_id,item_id,timestamp\n1,2,3\n"
    for name in ("log.csv", "log (1).CSV"):
        (tmp_path / name).write_text(text)
        assert rows(read(tmp_path / name)) == rows(read(str(tmp_path / name))) == [(1, 2, 3)]
    assert rows(read(f"csv(path='{tmp_path}/log.csv', user='timestamp')")) == [(3, 2, 3)]


@pytest.mark.parametrize("spec", ["ml-1m", "logs/today", "log.xlsx", Path("log")])
def test_read_of_what_is_not_there(spec: str | Path) -> None:
    with pytest.raises(
        DataError, match=r"no such folder, and the ending is not one of \.csv, .*\.zip"
    ):
        read(spec)


def test_read_of_wrong_specs() -> None:
    with pytest.raises(ConfigError, match="did you mean 'parquet'"):
        read("parqet(path='log')")
    with pytest.raises(ConfigError, match="a log is one source"):
        read("synthetic() | synthetic()")
    with pytest.raises(ConfigError, match="csv needs path"):
        read("csv")
