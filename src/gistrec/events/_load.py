"""Relations -> sorted `Events`, and the options that the file sources share.

No Python loop touches an event: duckdb checks, sorts and fetches the columns.
"""

import dataclasses
import difflib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from gistrec.errors import DataError
from gistrec.events import Events, EventSource, Ids
from gistrec.events._check import Columns, TimeUnit, check
from gistrec.events._scan import (
    Relation,
    connect,
    existing,
    first_words,
    quoted,
    scan_csv,
    scan_parquet,
    scan_table,
)

_KNOWN_NAMES = {
    "user": ("user_id", "user"),
    "item": ("item_id", "item"),
    "time": ("timestamp", "datetime"),
}
"""What gistrec, RecTools and LensKit call the columns of a table."""


def read_relation(
    con: duckdb.DuckDBPyConnection,
    relation: Relation,
    columns: Columns,
    *,
    shuffle_ties: bool = False,
    half_stars: bool = False,
    users: int = 0,
    min_item_events: int = 1,
    extra: Sequence[str] = (),
) -> Events:
    """Check, sort and fetch a log.

    Args:
        con: The connection that the relation belongs to.
        relation: The log.
        columns: Which of its columns hold what.
        shuffle_ties: Put events of one user with equal times in a fixed random order, instead of
            the order of the source.
        half_stars: Double the actions if one of them is not a whole number.
        users: Keep only that many users, the first in ascending order; 0 keeps all.
        min_item_events: Leave out items that have fewer events (among the users kept).
        extra: Further columns to fetch, unchecked.

    Raises:
        DataError: what is wrong, with its column and row.
    """
    _stage(con, relation, columns, extra)
    log = check(con, relation, columns, half_stars=half_stars)
    con.execute(
        f'CREATE TEMP VIEW log AS SELECT row, {log.user} AS "user", {log.item} AS item, '
        f"{log.ticks} AS ticks, {log.seconds} AS seconds, {log.action} AS action"
        f"{_each(extra, 'x{0}')} FROM raw"
    )
    kept = "SELECT * FROM log"
    if users:
        kept += f' WHERE "user" IN (SELECT DISTINCT "user" FROM log ORDER BY 1 LIMIT {users})'
    if min_item_events > 1:
        rare = f"SELECT item FROM kept GROUP BY item HAVING count(*) < {min_item_events}"
        kept = f"WITH kept AS ({kept}) SELECT * FROM kept WHERE item NOT IN ({rare})"
    con.execute(f"CREATE TEMP VIEW kept AS {kept}")

    # A text id is sorted and fetched as its rank: one Python string per id, not one per row.
    ids: dict[str, NDArray[Any]] = {}
    shown, joins = {"user": 'kept."user"', "item": "kept.item"}, ""
    for role in log.text_roles:
        con.execute(
            f"CREATE TEMP TABLE {role}_ids AS SELECT id, row_number() OVER (ORDER BY id) - 1 AS "
            f"rank FROM (SELECT DISTINCT {quoted(role)} AS id FROM kept)"
        )
        found = con.execute(f"SELECT id FROM {role}_ids ORDER BY rank").fetchnumpy()
        ids[role] = np.asarray(found["id"], dtype=object)
        shown[role] = f"{role}_ids.rank"
        joins += f" JOIN {role}_ids ON {role}_ids.id = kept.{quoted(role)}"
    # md5, because duckdb's own hash may change with its version
    tie = "md5(kept.row::VARCHAR)" if shuffle_ties else "kept.row"
    fetched = con.execute(
        f"SELECT {shown['user']} AS u, {shown['item']} AS i, kept.seconds AS s, kept.action AS a"
        f"{_each(extra, 'kept.x{0} AS x{0}')} FROM kept{joins} ORDER BY u, kept.ticks, {tie}"
    ).fetchnumpy()
    user, item = np.asarray(fetched["u"]), np.asarray(fetched["i"])
    if not len(user):
        raise DataError(
            f"{relation.name}: no item has {min_item_events} events; lower min_item_events"
        )
    return Events(
        user_id=ids["user"][user] if "user" in ids else user,
        item_id=ids["item"][item] if "item" in ids else item,
        timestamp=np.asarray(fetched["s"]),
        action=np.asarray(fetched["a"]) if columns.action else None,
        columns={name: fetched[f"x{n}"] for n, name in enumerate(extra)},
    )


def _each(extra: Sequence[str], form: str) -> str:
    return "".join(", " + form.format(n) for n in range(len(extra)))


def _stage(
    con: duckdb.DuckDBPyConnection, relation: Relation, columns: Columns, extra: Sequence[str]
) -> None:
    """Create `raw(row, user, item, time, action)`, its rows numbered in the order of the source.

    Further columns are `x0`, `x1` and so on.
    """
    further = {f"columns[{n}]": name for n, name in enumerate(extra)}
    for role, column in (columns.of_role() | further).items():
        if column not in relation.columns:
            near = difflib.get_close_matches(column, relation.columns, n=1, cutoff=0.5)
            guess = f"did you mean {role}={near[0]!r}? " if near else ""
            raise DataError(
                f"{relation.name} has no column {column!r} ({role}): {guess}it has "
                f"{', '.join(relation.columns)}; say which is which with user=, item=, time=, "
                "action="
            )
    expressions = {role: relation.columns[name] for role, name in columns.of_role().items()}
    given = ", ".join(
        f"{sql} AS {quoted(role)}"
        for role, sql in ({"action": "NULL::BIGINT"} | expressions).items()
    )
    given += "".join(f", {relation.columns[name]} AS x{n}" for n, name in enumerate(extra))
    if relation.row:
        con.execute(
            f"CREATE TEMP VIEW raw AS SELECT {relation.row} AS row, {given} FROM {relation.sql}"
        )
    else:
        # A fresh table numbers its rows in the order of the source, also if several threads read it
        # (duckdb's preserve_insertion_order, which is on unless switched off).
        con.execute(f"CREATE TEMP TABLE staged AS SELECT {given} FROM {relation.sql}")
        con.execute("CREATE TEMP VIEW raw AS SELECT rowid AS row, * FROM staged")


def read_table(table: Any, columns: Columns, titles: Mapping[Any, str]) -> Events:
    """A pandas, polars or Arrow table as events (see `gistrec.events.from_table`)."""
    with connect("the table") as con:
        try:
            con.register("given", table)
            relation = scan_table(con, "the table", "given")
        except duckdb.Error as error:
            raise DataError(
                "from_table takes a pandas or polars DataFrame or an Arrow table, "
                f"given {type(table).__name__} ({first_words(error)})"
            ) from None
        known = {
            role: next((name for name in names if name in relation.columns), names[0])
            for role, names in _KNOWN_NAMES.items()
        }
        user, item, time = (columns.of_role().get(role, name) for role, name in known.items())
        columns = dataclasses.replace(columns, user=user, item=item, time=time)
        events = read_relation(con, relation, columns)
    return dataclasses.replace(events, titles=titles)


def read_titles(path: Path, item_id: Ids, *, required: bool = False) -> dict[Any, str]:
    """Item id -> title from an items file, the ids of the same type as `item_id`.

    Raises:
        DataError: it can't be read, or it is `required` and lacks `item_id` or `title`.
    """
    path = existing(str(path))
    with connect(str(path)) as con:
        is_parquet = path.suffix.lower() in (".parquet", ".pq")
        relation = scan_parquet(con, path) if is_parquet else scan_csv(path)
        return titles_of(con, relation, item_id, required=required)


def titles_of(
    con: duckdb.DuckDBPyConnection,
    relation: Relation,
    item_id: Ids,
    *,
    item: str = "item_id",
    title: str = "title",
    required: bool = False,
) -> dict[Any, str]:
    """Item id -> title from two columns of an items file, as `read_titles` has it."""
    if not {item, title} <= relation.columns.keys():
        if not required:
            return {}
        raise DataError(
            f"{relation.name} has the columns {', '.join(relation.columns)}; a file of titles "
            f"needs {item} and {title}"
        )
    kind = "VARCHAR" if item_id.dtype == object else "BIGINT"
    found = con.execute(
        f"SELECT TRY_CAST({relation.columns[item]} AS {kind}) AS item, "
        f"{relation.columns[title]}::VARCHAR AS title "
        f"FROM {relation.sql} WHERE item IS NOT NULL AND title IS NOT NULL"
    ).fetchall()
    return dict(found)


@dataclasses.dataclass(frozen=True)
class LogFile(EventSource):
    """A log in one file. Base of `parquet` and `csv`."""

    path: str
    user: str = "user_id"
    """Column of user ids: whole numbers or text."""
    item: str = "item_id"
    """Column of item ids: whole numbers or text."""
    time: str = "timestamp"
    """Column of times: whole numbers since 1970, in `time_unit`, or dates (UTC)."""
    action: str = ""
    """Column of what the user did, whole numbers 0..255; "" if there is none."""
    time_unit: TimeUnit = "s"
    """s, ms or us. Rows are sorted by the full time and then cut to seconds."""
    titles: str = ""
    """Parquet or CSV file with `item_id` and `title`; "" takes `<log>-items.parquet` or
    `<log>-items.csv` from beside the log if there is one."""
    shuffle_ties: bool = False
    """Put events of one user with equal times in a fixed random order: for baskets, where the order
    of the source (say, ascending item ids) would give the next item away."""

    columns: str = ""
    """Further columns to read, `rating|tab`: what is done with them is up to who asked."""

    def __post_init__(self) -> None:
        self._columns()

    def _columns(self) -> Columns:
        return Columns(self.user, self.item, self.time, self.action, self.time_unit)

    @abstractmethod
    def _scan(self, con: duckdb.DuckDBPyConnection, path: Path) -> Relation:
        """The file as a relation."""

    def read(self) -> Events:
        """Read the whole log.

        Raises:
            DataError: naming the file, the column, the row and what to do.
        """
        path = existing(self.path)
        with connect(str(path)) as con:
            relation = self._scan(con, path)
            events = read_relation(
                con,
                relation,
                self._columns(),
                shuffle_ties=self.shuffle_ties,
                extra=[name for name in self.columns.split("|") if name],
            )
        return dataclasses.replace(events, titles=self._titles(path, events.item_id))

    def rows_out_of_order(self) -> int:
        """Rows that are earlier than the row before of the same user."""
        path = existing(self.path)
        with connect(str(path)) as con:
            relation, columns = self._scan(con, path), self._columns()
            _stage(con, relation, columns, ())
            ticks = check(con, relation, columns, half_stars=False).ticks
            found = con.execute(
                f"SELECT count(*) FROM (SELECT {ticks} AS ticks, lag({ticks}) OVER "
                '(PARTITION BY "user" ORDER BY row) AS before FROM raw) WHERE ticks < before'
            ).fetchall()
        return int(found[0][0])

    def _titles(self, path: Path, item_id: Ids) -> dict[Any, str]:
        if self.titles:
            return read_titles(Path(self.titles), item_id, required=True)
        stem = path.name.removesuffix(".gz").rpartition(".")[0]
        for suffix in (".parquet", ".csv"):
            beside = path.with_name(f"{stem}-items{suffix}")
            if beside.is_file():
                return read_titles(beside, item_id)
        return {}
