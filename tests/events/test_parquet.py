from hashlib import md5
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from gistrec.errors import ConfigError, DataError
from gistrec.events import read
from gistrec.events.parquet import Parquet
from gistrec.testing.events import EventsTests


def write(path: Path, sql: str) -> str:
    duckdb.execute(f"COPY ({sql}) TO '{path}' (FORMAT parquet)")
    return str(path)


def write_rows(path: Path, rows: str, columns: str = "user_id, item_id, timestamp") -> str:
    return write(path, f"SELECT * FROM (VALUES {rows}) AS log({columns})")


class TestParquet(EventsTests):
    expected = [(1, 12, 50, 1), (1, 11, 100, 0), (1, 10, 100, 255), (2, 11, 7, 3)]

    def source(self, folder: Path):
        rows = "(2, 11, 7, 3), (1, 11, 100, 0), (1, 12, 50, 1), (1, 10, 100, 255)"
        path = write_rows(folder / "log.parquet", rows, 'uid, iid, "at", label')
        write_rows(folder / "log-items.parquet", "(11, 'eleven'), (12, NULL)", "item_id, title")
        return Parquet(path, user="uid", item="iid", time="at", action="label")

    def test_finds_the_titles_beside_it(self, tmp_path: Path) -> None:
        assert self.source(tmp_path).read().titles == {11: "eleven"}


class TestTextIds(EventsTests):
    expected = [
        ("Zoe", "b", 5, None),
        ("Zoe", "a", 5, None),
        ("ann", "007", 1, None),
        ("émile", "a", 2, None),
    ]

    def source(self, folder: Path):
        rows = "('émile', 'a', 2), ('ann', '007', 1), ('Zoe', 'b', 5), ('Zoe', 'a', 5)"
        write_rows(folder / "names.parquet", "('007', 'Bond')", "item_id, title")
        return Parquet(
            write_rows(folder / "log.parquet", rows), titles=str(folder / "names.parquet")
        )

    def test_equal_ids_are_one_object(self, tmp_path: Path) -> None:
        events = self.source(tmp_path).read()
        assert events.user_id[0] is events.user_id[1]
        assert events.titles == {"007": "Bond"}


def test_order_of_a_big_file_is_the_rows_order(tmp_path: Path) -> None:
    # several row groups, one time: the whole log is one tie per user
    sql = "SELECT range % 3 AS user_id, range AS item_id, 9 AS timestamp FROM range(400000)"
    events = read(write(tmp_path / "log.parquet", sql))
    assert np.array_equal(
        events.item_id, np.concatenate([np.arange(u, 400_000, 3) for u in range(3)])
    )


def test_shuffled_ties_are_fixed_random_and_only_ties(tmp_path: Path) -> None:
    sql = "SELECT 1 AS user_id, range AS item_id, range // 100 AS timestamp FROM range(1000)"
    path = write(tmp_path / "log.parquet", sql)
    item = Parquet(path, shuffle_ties=True).read().item_id
    # by the MD5 of the row number, which no version of duckdb or Python will change
    mixed = sorted(range(1000), key=lambda row: (row // 100, md5(str(row).encode()).hexdigest()))
    assert item.tolist() == mixed
    assert abs(np.corrcoef(item[:100], np.arange(100))[0, 1]) < 0.3


@pytest.mark.parametrize(
    ("times", "unit", "expected"),
    [
        ("(1500,), (999,)", "ms", [0, 1]),
        ("(2999999,), (1000000,)", "us", [1, 2]),
        ("(7.0::DOUBLE,), (3.0,)", "s", [3, 7]),
        ("(7.50::DECIMAL(9, 2) * 2,), (3,)", "s", [3, 15]),
        ("(TIMESTAMP '2020-01-01 00:00:01.9',), ('2020-01-01')", "s", [1577836800, 1577836801]),
        ("(TIMESTAMPTZ '2020-01-01 02:00:00+02',)", "s", [1577836800]),
        ("(DATE '2020-01-01',)", "ms", [1577836800]),
        ("('2020-01-01T00:00:01Z',), ('2020-01-01 02:00:00+02',)", "s", [1577836800, 1577836801]),
        ("('12',), ('3',)", "s", [3, 12]),
        ("(3::UBIGINT,)", "s", [3]),
    ],
)
def test_times(tmp_path: Path, times: str, unit: str, expected: list[int]) -> None:
    sql = f"SELECT 1 AS user_id, 2 AS item_id, timestamp FROM (VALUES {times}) AS log(timestamp)"
    events = Parquet(write(tmp_path / "log.parquet", sql), time_unit=unit).read()
    assert events.timestamp.tolist() == expected


def test_rows_are_sorted_by_the_full_time(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "log.parquet", "(1, 10, 1900), (1, 11, 1100), (1, 12, 1500)")
    assert Parquet(path, time_unit="ms").read().item_id.tolist() == [11, 12, 10]


ID_TEXT = "remove the row or give it an id"
TIME_TEXT = "give whole numbers since 1970, or dates such as 2024-01-31 18:30:00 (UTC)"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("(1, 2, 3), (NULL, 2, 3)", f"row 2, column 'user_id': no user id (NULL); {ID_TEXT}"),
        (
            "(1, 2, 3), (1, NULL, 3), (1, 1, 1), (1, NULL, 4)",
            f"row 2, column 'item_id': no item id (NULL) (the first of 2 such rows); {ID_TEXT}",
        ),
        ("('a', 2, 3), ('nan', 2, 3)", f"row 2, column 'user_id': no user id ('nan'); {ID_TEXT}"),
        (
            "(1, 2.0::DOUBLE, 3)",
            "column 'item_id': item ids are numbers with a decimal point (DOUBLE), as pandas makes "
            "of a column with missing values; drop the rows without an id and store the column as "
            "int64 or as text",
        ),
        (
            "(1, [2], 3)",
            "column 'item_id': item ids are of type INTEGER[]; ids are whole numbers or text, so "
            "name another column or convert this one",
        ),
        (
            "(1, 2::UBIGINT, 3), (1, 18446744073709551615::UBIGINT, 4)",
            "row 2, column 'item_id': '18446744073709551615' does not fit a signed 64-bit number; "
            "number the ids anew, or make them text that is not only digits (u123)",
        ),
        (
            "(1, 2, 3), (1, 2, -5)",
            "row 2, column 'timestamp': '-5' is before 1970; remove the row or mend its time",
        ),
        (
            "(1, 2, 3), (1, 2, NULL)",
            "row 2, column 'timestamp': no time (NULL); remove the row or mend its time",
        ),
        (
            "(1, 2, 3::DOUBLE), (1, 2, 'nan')",
            "row 2, column 'timestamp': no time ('nan'); remove the row or mend its time",
        ),
        (
            "(1, 2, 3::DOUBLE), (1, 2, 1.5)",
            f"row 2, column 'timestamp': '1.5' is not a whole number of s; {TIME_TEXT}",
        ),
        (
            "(1, 2, 'infinity'::TIMESTAMP)",
            f"row 1, column 'timestamp': 'infinity' is not a time; {TIME_TEXT}",
        ),
        (
            "(1, 2, '2020-01-01'), (1, 2, 'yesterday')",
            f"row 2, column 'timestamp': 'yesterday' is not a time; {TIME_TEXT}",
        ),
        (
            "(1, 2, 1600000000000)",
            "row 1, column 'timestamp': '1600000000000' is after 9999; say time_unit='ms' or 'us' "
            "if it is not in s",
        ),
        ("(1, 2, true)", f"column 'timestamp': times are of type BOOLEAN; {TIME_TEXT}"),
    ],
)
def test_wrong_rows(tmp_path: Path, rows: str, message: str) -> None:
    path = write_rows(tmp_path / "log.parquet", rows)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value) in (f"{path}, {message}", f"{path}: {message}")
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize(("action", "row"), [("256", 2), ("-1", 2), ("NULL", 2), ("0.5", 2)])
def test_wrong_actions(tmp_path: Path, action: str, row: int) -> None:
    columns = "user_id, item_id, timestamp, act"
    path = write_rows(tmp_path / "log.parquet", f"(1, 2, 3, 255), (1, 2, 3, {action})", columns)
    what = f"row {row}, column 'act': .* is not a whole number from 0 to 255; number the actions so"
    with pytest.raises(DataError, match=what):
        Parquet(path, action="act").read()


def test_missing_column(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "log.parquet", "(1, 2, 3)", '"userId", item_id, timestamp')
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value) == (
        f"{path} has no column 'user_id' (user): did you mean user='userId'? it has userId, "
        "item_id, timestamp; say which is which with user=, item=, time=, action="
    )


def test_no_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.parquet", "SELECT 1 AS user_id, 2 AS item_id, 3 AS timestamp LIMIT 0"
    )
    with pytest.raises(DataError, match="has no rows; give a log with at least one event"):
        read(path)


def test_no_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file; give the path of one log file"):
        read(str(tmp_path / "none.parquet"))
    with pytest.raises(DataError, match="it is a folder"):
        Parquet(str(tmp_path)).read()


def cut(path: Path, where: str) -> None:
    whole = path.read_bytes()
    middle = whole[: len(whole) // 2]
    path.write_bytes(
        {
            "end": whole[:-20],
            "half": middle,
            "empty": b"",
            "text": b"not Parquet at all",
            "inside": middle[:100] + bytes(200) + whole[300:],
        }[where]
    )


@pytest.mark.parametrize("where", ["end", "half", "empty", "text", "inside"])
def test_damaged_file(tmp_path: Path, where: str) -> None:
    sql = "SELECT range % 7 AS user_id, range * 7919 % 99 AS item_id, range AS timestamp"
    path = tmp_path / "log.parquet"
    write(path, f"{sql} FROM range(10000)")
    before = set(tmp_path.iterdir())
    cut(path, where)
    with pytest.raises(DataError, match="can't be read: ") as error:
        read(str(path))
    assert str(path) in str(error.value)
    assert "write the file anew" in str(error.value)
    assert len(str(error.value)) < 600
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["it's.parquet", "a[1]*.parquet", "ä b?.parquet"])
def test_any_file_name(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / "plain.parquet", "(1, 2, 3)")
    (tmp_path / "plain.parquet").rename(tmp_path / name)
    assert read(str(tmp_path / name)).item_id.tolist() == [2]


def test_any_column_name(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "log.parquet", "(1, 2, 3)", '"the ""user""", row, rowid')
    events = Parquet(path, user='the "user"', item="row", time="rowid").read()
    assert (events.user_id[0], events.item_id[0], events.timestamp[0]) == (1, 2, 3)


def test_wrong_unit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"time_unit takes s, ms, us .* given 'ns'"):
        read("parquet(path='x.parquet', time_unit='ns')")


def test_titles_file_must_fit_when_named(tmp_path: Path) -> None:
    log = write_rows(tmp_path / "log.parquet", "(1, 2, 3)")
    other = write_rows(tmp_path / "log-items.parquet", "(2, 'x')", "item_id, name")
    assert read(log).titles == {}
    with pytest.raises(DataError, match="has the columns item_id, name; a file of titles needs"):
        Parquet(log, titles=other).read()


def test_id_types(tmp_path: Path) -> None:
    kinds: dict[str, Any] = {
        "3::UTINYINT": 3,
        "-3::BIGINT": -3,
        "9223372036854775807": 2**63 - 1,
        "7::DECIMAL(38, 0)": 7,
        "'x'::ENUM('x', 'y')": "x",
    }
    for n, (sql, expected) in enumerate(kinds.items()):
        path = write_rows(tmp_path / f"{n}.parquet", f"(1, {sql}, 3)")
        assert read(path).item_id.tolist() == [expected]
