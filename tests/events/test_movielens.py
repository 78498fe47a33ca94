import shutil
from pathlib import Path

import pytest

from gistrec.errors import DataError
from gistrec.events import read
from gistrec.events.movielens import MovieLens
from gistrec.testing.events import EventsTests

# user, movie, rating, time: the order in the file decides between movies 12 and 11
RATINGS = [(2, 10, 3, 50), (1, 12, 5, 60), (1, 11, 1, 60), (1, 10, 4, 20)]
# user, movie, time, rating as events must come
SORTED = [(1, 10, 20, 4), (1, 12, 60, 5), (1, 11, 60, 1), (2, 10, 50, 3)]


def lines(separator: str, *, half: bool = False) -> str:
    rows = [
        (user, movie, rating - 0.5 if half else rating, time)
        for user, movie, rating, time in RATINGS
    ]
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def write_100k(folder: Path) -> Path:
    folder.mkdir()
    (folder / "u.data").write_text(lines("\t"))
    (folder / "u.item").write_text("10|Amélie (2001)|x\n11|L'Ennui|y\n", encoding="latin-1")
    return folder


def write_1m(folder: Path) -> Path:
    folder.mkdir()
    (folder / "ratings.dat").write_text(lines("::"))
    (folder / "movies.dat").write_text("10::Amélie (2001)::Comedy\n", encoding="latin-1")
    return folder


def write_10m(folder: Path) -> Path:
    folder.mkdir()
    (folder / "ratings.dat").write_text(lines("::", half=True))
    (folder / "movies.dat").write_text("10::Amélie (2001)::Comedy\n", encoding="utf-8")
    return folder


def write_25m(folder: Path) -> Path:
    folder.mkdir()
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + lines(",", half=True))
    (folder / "movies.csv").write_text(
        'movieId,title,genres\r\n10,"Amélie, a ""film""",Comedy\r\n', encoding="utf-8", newline=""
    )
    return folder


class Test100K(EventsTests):
    expected = SORTED

    def source(self, folder: Path):
        if not (folder / "ml").exists():
            write_100k(folder / "ml")
        return MovieLens(str(folder / "ml"))

    def test_titles(self, tmp_path: Path) -> None:
        assert self.source(tmp_path).read().titles == {10: "Amélie (2001)", 11: "L'Ennui"}


class Test1M(EventsTests):
    expected = SORTED

    def source(self, folder: Path):
        if not (folder / "ml").exists():
            write_1m(folder / "ml")
        return MovieLens(str(folder / "ml"))


class Test25MZip(EventsTests):
    expected = [(user, movie, time, 2 * stars - 1) for user, movie, time, stars in SORTED]

    def source(self, folder: Path):
        if not (folder / "ml.zip").exists():
            write_25m(folder / "ml-25m")
            shutil.make_archive(str(folder / "ml"), "zip", folder, "ml-25m")
            shutil.rmtree(folder / "ml-25m")
        return MovieLens(str(folder / "ml.zip"))

    def test_titles(self, tmp_path: Path) -> None:
        assert self.source(tmp_path).read().titles == {10: 'Amélie, a "film"'}

    def test_leaves_no_files(self, tmp_path: Path) -> None:
        self.source(tmp_path).read()
        assert [path.name for path in tmp_path.iterdir()] == ["ml.zip"]


def test_10m_has_half_stars_and_utf8_titles(tmp_path: Path) -> None:
    events = read(write_10m(tmp_path / "ml-10M100K"))
    assert events.action is not None
    assert events.action.tolist() == [7, 9, 1, 5]
    assert events.titles == {10: "Amélie (2001)"}


def test_min_item_events(tmp_path: Path) -> None:
    events = MovieLens(str(write_100k(tmp_path / "ml")), min_item_events=2).read()
    assert events.item_id.tolist() == [10, 10]
    with pytest.raises(DataError, match=r"u.data: no item has 3 events; lower min_item_events"):
        MovieLens(str(tmp_path / "ml"), min_item_events=3).read()


def test_what_is_not_movielens(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not MovieLens: it has none of u.data, ratings.dat"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"no such folder or zip; fetch one with `gistrec data get"):
        MovieLens(str(tmp_path / "none.zip")).read()
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"cut.zip is damaged or cut short .*; fetch it again"):
        read(tmp_path / "cut.zip")


def test_damage_is_named_by_the_archives_name(tmp_path: Path) -> None:
    folder = write_1m(tmp_path / "ml-1m")
    (folder / "ratings.dat").write_text("1::2::3::4\n1::2::3::x\n")
    shutil.make_archive(str(tmp_path / "ml-1m"), "zip", tmp_path, "ml-1m")
    with pytest.raises(DataError, match=r"ml-1m.zip/ratings.dat, row 2, column 'timestamp': 'x'"):
        read(tmp_path / "ml-1m.zip")
    (folder / "ratings.dat").write_text("1::2::3::4\n1::2::3\n")
    with pytest.raises(DataError, match=r"ml-1m/ratings.dat can't be read: .*Line: 2"):
        read(folder)
    write_1m(tmp_path / "other")
    (tmp_path / "other" / "movies.dat").write_text("ten::Amélie\n")
    with pytest.raises(DataError, match=r"other/movies.dat is damaged: every line holds a movie"):
        read(tmp_path / "other")
