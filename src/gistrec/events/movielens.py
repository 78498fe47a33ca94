r"""MovieLens, every edition, as GroupLens packs it: a folder, or the zip itself.

| edition | ratings | titles |
|---|---|---|
| 100K | `u.data`, tabs | `u.item`, latin-1 |
| 1M, 10M | `ratings.dat`, `::` | `movies.dat`, latin-1 (1M) or UTF-8 |
| 20M, 25M, 32M, latest | `ratings.csv` | `movies.csv` |

Ratings were typed in in bursts from list pages and many share a second; the order of the file
decides among them, as in the published sequential work. For 1M that work also leaves out movies
with fewer than five ratings: `min_item_events=5`.

Source: Harper and Konstan 2015, The MovieLens Datasets, doi 10.1145/2827872.
"""

import csv
import dataclasses
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from gistrec.errors import DataError
from gistrec.events import Events, EventSource
from gistrec.events._check import Columns
from gistrec.events._load import read_relation
from gistrec.events._scan import connect, scan_csv


class _Layout(NamedTuple):
    ratings: str
    delimiter: str
    titles: str
    titles_delimiter: str
    header: bool = False


_LAYOUTS = (
    _Layout("u.data", "\t", "u.item", "|"),
    _Layout("ratings.dat", "::", "movies.dat", "::"),
    _Layout("ratings.csv", ",", "movies.csv", ",", header=True),
)
_COLUMNS = ("userId", "movieId", "rating", "timestamp")


@dataclasses.dataclass(frozen=True)
class MovieLens(EventSource):
    """Ratings as events; `movielens(path='ml-1m')`.

    The action is the rating: 1..5 stars, or 1..10 half stars in the editions that have half stars.
    """

    endings = (".zip",)

    path: str
    """The unpacked folder, or the zip as downloaded."""
    min_item_events: int = 1
    """Leave out movies with fewer ratings."""

    def read(self) -> Events:
        """Read the whole log.

        Raises:
            DataError: no edition of MovieLens, or a file of it is damaged.
        """
        path = Path(self.path).expanduser()
        if path.is_dir():
            return self._read(path)
        if path.suffix.lower() != ".zip" or not path.is_file():
            raise DataError(
                f"can't read {self.path!r}: no such folder or zip; "
                "fetch one with `gistrec data get ml-1m`"
            )
        with tempfile.TemporaryDirectory() as folder:
            _unpack(path, Path(folder))
            return self._read(Path(folder))

    def _read(self, folder: Path) -> Events:
        for layout in _LAYOUTS:
            if (folder / layout.ratings).is_file():
                break
        else:
            raise DataError(
                f"{self.path} is not MovieLens: it has none of "
                f"{', '.join(layout.ratings for layout in _LAYOUTS)}"
            )
        name = f"{self.path}/{layout.ratings}"
        user, item, action, time = _COLUMNS
        with connect(name) as con:
            relation = scan_csv(
                folder / layout.ratings,
                delimiter=layout.delimiter,
                header=() if layout.header else _COLUMNS,
                quote="",
            )
            events = read_relation(
                con,
                dataclasses.replace(relation, name=name),
                Columns(user=user, item=item, time=time, action=action),
                half_stars=True,
                min_item_events=self.min_item_events,
            )
        return dataclasses.replace(events, titles=self._titles(folder / layout.titles, layout))

    def _titles(self, path: Path, layout: _Layout) -> dict[int, str]:
        """Movie id -> title; nothing where the file is missing."""
        if not path.is_file():
            return {}
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:  # 100K and 1M
            text = raw.decode("latin-1")
        lines = [line.rstrip("\r") for line in text.split("\n")][layout.header :]
        rows = (
            list(csv.reader(lines))
            if layout.header
            else [line.split(layout.titles_delimiter) for line in lines if line]
        )
        try:
            return {int(row[0]): row[1] for row in rows if row}
        except (ValueError, IndexError):
            raise DataError(
                f"{self.path}/{layout.titles} is damaged: every line holds a movie id and a title; "
                "fetch MovieLens again, or remove the file to go without titles"
            ) from None


def _unpack(archive: Path, folder: Path) -> None:
    """The files that hold ratings and titles, without the folder they are in."""
    wanted = {name for layout in _LAYOUTS for name in (layout.ratings, layout.titles)}
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                if Path(member.filename).name in wanted:
                    member.filename = Path(member.filename).name
                    opened.extract(member, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive} is damaged or cut short ({error}); fetch it again") from None
