"""A log in RecBole's atomic files: `NAME.inter`, with titles from `NAME.item` beside it.

    user_id:token  item_id:token  rating:float  timestamp:float

Lines are tabs between values, and the header gives each column's type. Tokens are ids: numbers if
every one is written as a whole number, else text. Floats written as whole numbers are whole.

Source: Zhao et al. 2021, RecBole, arXiv 2011.01731, and its documentation of atomic files.
"""

import dataclasses
from pathlib import Path
from typing import Any

import duckdb

from gistrec.errors import DataError
from gistrec.events import Events, Ids
from gistrec.events._load import LogFile, titles_of
from gistrec.events._scan import Relation, connect, existing, scan_csv

_TYPES = ("token", "token_seq", "float", "float_seq")


@dataclasses.dataclass(frozen=True)
class RecBole(LogFile):
    """One line per interaction; `recbole(path='ml-100k')`, `recbole(path='ml-100k.inter')`.

    Columns are named without their type. Of a folder, the one `.inter` file in it is read.
    """

    endings = (".inter",)

    titles: str = ""
    """`.item` file with titles; "" takes the one of the log's name if there is one."""
    title: str = ""
    """Column of titles in it; "" takes the first whose name ends in `title` or `name`."""

    def read(self) -> Events:
        """Read the whole log.

        Raises:
            DataError: naming the file, the column, the row and what to do.
        """
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            return super().read()
        found = sorted(folder.glob("*.inter"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise DataError(
                f"{self.path} must hold one .inter file, it has {names}: give the path of a file; "
                "put parts of a split log into one"
            )
        return dataclasses.replace(self, path=str(found[0])).read()

    def _scan(self, con: duckdb.DuckDBPyConnection, path: Path) -> Relation:
        relation, kinds = _atomic(path)
        for role, column in self._columns().of_role().items():
            wanted = ("token",) if role in ("user", "item") else ("float", "token")
            if kinds.get(column, wanted[0]) not in wanted:
                raise DataError(
                    f"{path}, column {column!r} ({role}) is of type {kinds[column]}, allowed is "
                    f"{' or '.join(wanted)}: name another column, or mend the header"
                )
        return relation

    def _titles(self, path: Path, item_id: Ids) -> dict[Any, str]:
        items = existing(self.titles) if self.titles else path.with_suffix(".item")
        if not items.is_file():
            return {}
        relation, _ = _atomic(items)
        ends = [name for name in relation.columns if name.endswith(("title", "name"))]
        title = self.title or next(iter(ends), "title")
        required = bool(self.titles or self.title)
        with connect(str(items)) as con:
            return titles_of(con, relation, item_id, item=self.item, title=title, required=required)


def _atomic(path: Path) -> tuple[Relation, dict[str, str]]:
    """A file as a relation, its columns without their types; and the types by column.

    Raises:
        DataError: a column has no type, or two have one name.
    """
    relation = scan_csv(path, delimiter="\t", quote="")
    kinds, columns = {}, {}
    for field, sql in relation.columns.items():
        name, _, kind = field.rpartition(":")
        if kind not in _TYPES or not name:
            raise DataError(
                f"{path}: the header's {field!r} is not written name:type with one of "
                f"{', '.join(_TYPES)}, separated by tabs; is it an atomic file? Read others with "
                f"csv(path={str(path)!r})"
            )
        if name in columns:
            raise DataError(f"{path}: column {name!r} stands twice in the header; rename one")
        kinds[name], columns[name] = kind, sql
    return dataclasses.replace(relation, columns=columns), kinds
