import gzip
from pathlib import Path

import numpy as np
import pytest

from gistrec.errors import ConfigError, DataError
from gistrec.events import read
from gistrec.events.csv import Csv
from gistrec.testing.events import EventsTests

HEADER = "user_id,item_id,timestamp\n"


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


class TestCsv(EventsTests):
    expected = [(1, 12, 50, 1), (1, 11, 100, 0), (1, 10, 100, 255), (2, 11, 7, 3)]

    def source(self, folder: Path):
        write(folder / "log-items.csv", 'item_id,title\n11,"eleven, ""11"""\n12,\n')
        text = "uid;iid;label;at\n2;11;3;7\n1;11;0;100\n1;12;1;50\n1;10;255;100\n"
        path = write(folder / "log.csv", text)
        return Csv(path, user="uid", item="iid", time="at", action="label")

    def test_finds_the_titles_beside_it(self, tmp_path: Path) -> None:
        assert self.source(tmp_path).read().titles == {11: 'eleven, "11"'}


class TestGzippedTabs(EventsTests):
    expected = [("007", "b", 1577836801, None), ("007", "a", 1577836801, None), ("7", "a", 0, None)]

    def source(self, folder: Path):
        late, early = "2020-01-01T00:00:01Z", "1970-01-01"
        text = f'user_id\titem_id\ttimestamp\n7\ta\t{early}\n007\t"b"\t{late}\n007\ta\t{late}\n'
        (folder / "log.tsv.gz").write_bytes(gzip.compress(text.encode()))
        return Csv(str(folder / "log.tsv.gz"))


def test_order_of_a_big_file_is_the_rows_order(tmp_path: Path) -> None:
    # 5 MB, so that several threads read it, one time, so that only the row's place counts
    item = np.random.default_rng(0).permutation(400_000)
    rows = "".join(f"{n % 3},{one},9\n" for n, one in enumerate(item.tolist()))
    events = read(write(tmp_path / "log.csv", HEADER + rows))
    assert np.array_equal(events.item_id, np.concatenate([item[user::3] for user in range(3)]))


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "1,2,3",
        "\ufeff" + HEADER + "1,2,3\n",
        HEADER.replace("\n", "\r\n") + "1,2,3\r\n",
        HEADER + "\n1,2,3\n\n",
        "extra,user_id,item_id,timestamp\n'\"',1,2,3\n".replace("'\"'", '"a,\nb"'),
        HEADER.replace(",", "|") + "1|2|3\n",
        " user_id, item_id, timestamp\n 1, 2, 3\n",
        HEADER + '"1","2","3"\n',
        HEADER + "1,2,3.0\n",
    ],
)
def test_ways_to_write_the_same(tmp_path: Path, text: str) -> None:
    events = read(write(tmp_path / "log.csv", text))
    assert (events.user_id.tolist(), events.item_id.tolist()) == ([1], [2])
    assert events.timestamp.tolist() == [3]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["7", "-7"], [7, -7]),
        (["7", "07"], ["7", "07"]),
        (["1e3", "2"], ["1e3", "2"]),
        (["1_000", "0x1f"], ["1_000", "0x1f"]),
        (["1.5", "b"], ["1.5", "b"]),
        (["9223372036854775807", "1"], [2**63 - 1, 1]),
        (["92233720368547758070", "b"], ["92233720368547758070", "b"]),
    ],
)
def test_ids_are_numbers_only_if_all_are_written_so(
    tmp_path: Path, ids: list[str], expected: list[int | str]
) -> None:
    rows = "".join(f"1,{one},{n}\n" for n, one in enumerate(ids))
    assert read(write(tmp_path / "log.csv", HEADER + rows)).item_id.tolist() == expected


BELOW = " below the header"
ID_TEXT = "remove the row or give it an id"
TIME_TEXT = "give whole numbers since 1970, or dates such as 2024-01-31 18:30:00 (UTC)"
MEND = "mend or remove what it names, or write the file anew if it is damaged or cut short"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,2,3\n,2,3\n", f", row 2{BELOW}, column 'user_id': no user id (NULL); {ID_TEXT}"),
        ("1,2,3\nNaN,2,3\n", f", row 2{BELOW}, column 'user_id': no user id ('NaN'); {ID_TEXT}"),
        (
            "1,2.0,3\n1,,3\n",
            ", column 'item_id': item ids are numbers with a decimal point (DOUBLE), as pandas "
            "makes of a column with missing values; drop the rows without an id and store the "
            "column as int64 or as text",
        ),
        (
            "1,2,3\n18446744073709551615,2,3\n",
            f", row 2{BELOW}, column 'user_id': '18446744073709551615' does not fit a signed "
            "64-bit number; number the ids anew, or make them text that is not only digits (u123)",
        ),
        (
            "1,2,-3\n",
            f", row 1{BELOW}, column 'timestamp': '-3' is before 1970; remove the row or mend its "
            "time",
        ),
        (
            "1,2,3\n1,2,nan\n",
            f", row 2{BELOW}, column 'timestamp': no time ('nan'); remove the row or mend its time",
        ),
        (
            "1,2,3\n1,2,3.5\n",
            f", row 2{BELOW}, column 'timestamp': '3.5' is not a whole number of s; {TIME_TEXT}",
        ),
        (
            "1,2,3\n1,2,x\n",
            f", row 2{BELOW}, column 'timestamp': 'x' is not a whole number of s; {TIME_TEXT}",
        ),
        (
            "1,2,2020-01-01\n1,2,2020-13-01\n",
            f", row 2{BELOW}, column 'timestamp': '2020-13-01' is not a time; {TIME_TEXT}",
        ),
        ("", " has no rows; give a log with at least one event"),
    ],
)
def test_wrong_rows(tmp_path: Path, rows: str, message: str) -> None:
    path = write(tmp_path / "log.csv", HEADER + rows)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value) == path + message


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ("1,2,3\n1,2\n1,2,3\n", "Expected Number of Columns: 3 Found: 2"),
        ("1,2,3\n1,2,3,4\n", "Expected Number of Columns: 3 Found: 4"),
        ('1,2,3\n1,"2,3\n1,2,3\n', "unterminated quote"),
    ],
)
def test_bad_lines(tmp_path: Path, rows: str, what: str) -> None:
    path = write(tmp_path / "log.csv", HEADER + rows)
    with pytest.raises(DataError, match=f"Line: 3, .*{what}") as error:
        read(path)
    assert str(error.value).startswith(f"{path} can't be read: ")
    assert str(error.value).endswith(MEND)
    assert len(str(error.value)) < 500


def test_bad_line_of_a_big_file_is_named(tmp_path: Path) -> None:
    lines = [HEADER] + ["1,2,3\n"] * 700_000
    lines[654_321 - 1] = "1,2\n"
    with pytest.raises(DataError, match="Line: 654321, "):
        read(write(tmp_path / "log.csv", "".join(lines)))


def test_missing_and_double_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "userId,itemId,when\n1,2,3\n")
    with pytest.raises(DataError) as error:
        Csv(path, user="userId", time="when").read()
    assert str(error.value) == (
        f"{path} has no column 'item_id' (item): did you mean item='itemId'? it has userId, "
        "itemId, when; say which is which with user=, item=, time=, action="
    )
    path = write(tmp_path / "double.csv", "user_id,user_id,timestamp\n1,2,3\n")
    with pytest.raises(DataError, match="column 'user_id' stands twice in the header; rename one"):
        read(path)


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes((HEADER + "1,2,3\n" * 9000 + "1,é,3\n").encode("latin-1"))
    with pytest.raises(DataError, match=r"Line: 9002, .*not utf-8 encoded"):
        read(tmp_path / "latin.csv")
    (tmp_path / "header.csv").write_bytes("é,item_id\n".encode("latin-1"))
    with pytest.raises(DataError, match="can't be read as UTF-8 text"):
        read(tmp_path / "header.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match="has no rows; a log is a line of column names and"):
        read(tmp_path / "empty.csv")


@pytest.mark.parametrize("kept", [10, 0.5, -4])
def test_cut_gzip(tmp_path: Path, kept: float) -> None:
    rows = "".join(f"{n},{n * 7919 % 1000},{n}\n" for n in range(50_000))
    whole = gzip.compress((HEADER + rows).encode())
    end = int(len(whole) * kept) if isinstance(kept, float) else kept
    (tmp_path / "log.csv.gz").write_bytes(whole[:end])
    with pytest.raises(DataError, match="can't be read"):
        read(tmp_path / "log.csv.gz")


def test_delimiter_is_one_character(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user_id;item_id;a,b,c,timestamp\n1;2;3\n")
    with pytest.raises(DataError, match="has no column 'user_id'"):  # more commas than semicolons
        read(path)
    path = write(tmp_path / "log.csv", "user_id;item_id;a,b,c;timestamp\n1;2;3;4\n")
    assert Csv(path, delimiter=";").read().timestamp.tolist() == [4]
    with pytest.raises(
        ConfigError, match=r"csv\(delimiter=...\) takes one character .* given '::'"
    ):
        Csv(path, delimiter="::")
