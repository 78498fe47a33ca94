from pathlib import Path

import pytest

from gistrec.errors import ConfigError, DataError
from gistrec.events import read
from gistrec.events.recbole import RecBole
from gistrec.testing.events import EventsTests

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEMS = "item_id:token\tmovie_title:token_seq\tclass:token_seq\n"


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


class TestRecBole(EventsTests):
    expected = [(22, 377, 878887116, 1), (22, 376, 878887117, 5), (196, 242, 881250949, 3)]

    def source(self, folder: Path):
        write(folder / "ml-100k.item", ITEMS + '242\tKolya "1996"\tComedy\n376\t\tDrama\n')
        rows = "196\t242\t3\t881250949\n22\t377\t1\t878887116.0\n22\t376\t5.0\t878887117\n"
        write(folder / "ml-100k.inter", HEADER + rows)
        return RecBole(str(folder), action="rating")

    def test_titles_come_from_the_item_file(self, tmp_path: Path) -> None:
        assert self.source(tmp_path).read().titles == {242: 'Kolya "1996"'}


class TestTextIds(EventsTests):
    """Other names of columns, and an `.item` file of another name."""

    expected = [("A1", "B0", 5, None), ("A1", "B00", 5, None), ("A2", "B0", 3, None)]

    def source(self, folder: Path):
        write(folder / "things", "asin:token\tbrand:token\ttitle:token_seq\nB0\tAcme\tA box\n")
        text = "reviewer:token\tasin:token\tat:float\nA2\tB0\t3\nA1\tB0\t5\nA1\tB00\t5\n"
        path = write(folder / "toys.inter", text)
        things = str(folder / "things")
        return RecBole(path, user="reviewer", item="asin", time="at", titles=things)

    def test_titles_are_named(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        assert source.read().titles == {"B0": "A box"}
        named = RecBole(**{**vars(source), "title": "brand"})
        assert named.read().titles == {"B0": "Acme"}


def test_read_knows_the_file_and_its_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "log.inter", HEADER + "1\t2\t3\t4\n")
    for spec in (path, tmp_path, f"recbole(path={path!r})"):
        assert read(spec).timestamp.tolist() == [4]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("user_id,item_id,timestamp\n", "is not written name:type with one of token, token_seq"),
        ("user_id:token\titem_id\ttimestamp:float\n", "the header's 'item_id' is not written"),
        ("user_id:token\titem_id:int\ttimestamp:float\n", "'item_id:int' is not written"),
        (HEADER.replace("item_id:token", "item_id:float"), "(item) is of type float, allowed"),
        (HEADER.replace("timestamp:float", "timestamp:float_seq"), "allowed is float or token"),
        (HEADER.replace("rating:float", "user_id:float"), "'user_id' stands twice in the header"),
        (HEADER.replace("timestamp", "when"), "has no column 'timestamp' (time)"),
    ],
)
def test_wrong_headers_are_told(tmp_path: Path, header: str, said: str) -> None:
    path = write(tmp_path / "log.inter", header + "1\t2\t3\t4\n")
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value).startswith(path)
    assert said in str(error.value)


def test_wrong_rows_and_files_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "log.inter", HEADER + "1\t2\t3\t4.5\n")
    with pytest.raises(DataError, match=r"row 1 below the header, .*'4.5' is not a whole number"):
        read(path)
    write(tmp_path / "log.item", "item_id:token\tgenre:token_seq\n2\tDrama\n")
    write(tmp_path / "log.inter", HEADER + "1\t2\t3\t4\n")
    assert read(path).titles == {}
    with pytest.raises(DataError, match=r"has the columns item_id, genre; .* needs item_id and x"):
        RecBole(path, title="x").read()
    with pytest.raises(ConfigError, match="did you mean 'title'"):
        read(f"recbole(path={path!r}, titel='x')")
    write(tmp_path / "log.valid.inter", HEADER)
    with pytest.raises(DataError, match=r"one \.inter file, it has log\.inter, log\.valid\.inter"):
        read(tmp_path)
