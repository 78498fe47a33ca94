"""Types and rules of a log's columns: every row is checked before anything is sorted.

Works on a relation `raw(row, user, item, time, action)` in duckdb. A column's type picks the SQL
that makes its value and the rules that its rows must keep. One query counts the rows that break
each rule, and only then is the first of them looked up, for the message.
"""

import dataclasses
import re
from typing import Literal, NamedTuple, NoReturn

import duckdb

from gistrec.errors import ConfigError, DataError
from gistrec.events._scan import Relation, quoted

TimeUnit = Literal["s", "ms", "us"]
PER_SECOND: dict[str, int] = {"s": 1, "ms": 1_000, "us": 1_000_000}
LATEST = 253_402_300_799
"""The last second of the year 9999; a later time is one in another unit."""

MISSING = ("", "nan", "NaN", "<NA>", "None", "NULL", "null")
"""What a missing value becomes when a program writes it as text."""

_INTS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"}
_INTS |= {"UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
_FLOATS = ("FLOAT", "DOUBLE", "DECIMAL")
_DATES = ("TIMESTAMP", "DATE")
_TEXTS = ("VARCHAR", "ENUM", "UUID")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns of a log hold what."""

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    action: str = ""
    time_unit: TimeUnit = "s"

    def __post_init__(self) -> None:
        if self.time_unit not in PER_SECOND:
            raise ConfigError(
                f"time_unit takes {', '.join(PER_SECOND)} (of times that are numbers), "
                f"given {self.time_unit!r}"
            )

    def of_role(self) -> dict[str, str]:
        """Role -> column, for the roles that have one."""
        roles = {"user": self.user, "item": self.item, "time": self.time, "action": self.action}
        return {role: column for role, column in roles.items() if column}


class Rule(NamedTuple):
    """Something that no row may be."""

    role: str
    bad: str
    """SQL condition of a row that breaks it."""
    what: str
    """What is wrong with `{value}`."""
    remedy: str


class Checked(NamedTuple):
    """SQL of a log's clean values."""

    user: str
    item: str
    ticks: str
    """Time in the log's own resolution, for sorting."""
    seconds: str
    action: str
    text_roles: list[str]
    """Which of user and item are text."""


def check(
    con: duckdb.DuckDBPyConnection, relation: Relation, columns: Columns, *, half_stars: bool
) -> Checked:
    """Check every row of `raw`.

    Args:
        con: Where `raw` is.
        relation: What it was made of, for messages.
        columns: What the columns are called, for messages.
        half_stars: Double the actions if one of them is not a whole number.

    Raises:
        DataError: what is wrong, in which column, in which row first, and what to do.
    """
    described = con.execute("SELECT column_name, column_type FROM (DESCRIBE raw)").fetchall()
    return _Check(con, relation, columns, dict(described)).run(half_stars=half_stars)


class _Check:
    """Gathers the rules while it picks each column's SQL, then applies them all at once."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        relation: Relation,
        columns: Columns,
        types: dict[str, str],
    ) -> None:
        self.con, self.relation, self.columns, self.types = con, relation, columns, types
        self.rules: list[Rule] = []
        self.text_roles: list[str] = []

    def run(self, *, half_stars: bool) -> Checked:
        user, item = self._ids("user"), self._ids("item")
        ticks, per_second = self._ticks()
        action = self._action(half_stars=half_stars) if self.columns.action else "NULL::BIGINT"
        broken = ", ".join(f"count(*) FILTER (WHERE {rule.bad})" for rule in self.rules)
        rows, *counts = self.con.execute(f"SELECT count(*), {broken} FROM raw").fetchall()[0]
        if not rows:
            raise DataError(f"{self.relation.name} has no rows; give a log with at least one event")
        for count, rule in zip(counts, self.rules, strict=True):
            if count:
                self._refuse(rule, count)
        return Checked(user, item, ticks, f"{ticks} // {per_second}", action, self.text_roles)

    def _refuse(self, rule: Rule, count: int) -> NoReturn:
        row, value = self.con.execute(
            f"SELECT row + 1, {quoted(rule.role)}::VARCHAR FROM raw WHERE {rule.bad} "
            "ORDER BY row LIMIT 1"
        ).fetchall()[0]
        shown = "NULL" if value is None else repr(value)
        others = f" (the first of {count:,} such rows)" if count > 1 else ""
        raise DataError(
            f"{self.relation.name}, row {row}{self.relation.counted_from}, column "
            f"{self.columns.of_role()[rule.role]!r}: {rule.what.format(value=shown)}{others}; "
            f"{rule.remedy}"
        )

    def _wrong_type(self, role: str, what: str) -> DataError:
        column = self.columns.of_role()[role]
        return DataError(f"{self.relation.name}, column {column!r}: {what}")

    def _ids(self, role: str) -> str:
        column = quoted(role)
        kind = self.types[role] if self.relation.typed else self._kind_of_text_ids(role)
        missing = self._missing(role)
        self.rules.append(
            Rule(role, missing, f"no {role} id ({{value}})", "remove the row or give it an id")
        )
        if kind.startswith(_TEXTS):
            self.text_roles.append(role)
            return f"{column}::VARCHAR"
        if _is_whole(kind):
            value = f"TRY_CAST({column} AS BIGINT)"
            too_big = "{value} does not fit a signed 64-bit number"
            remedy = "number the ids anew, or make them text that is not only digits (u123)"
            self.rules.append(Rule(role, f"{value} IS NULL", too_big, remedy))
            return value
        if kind.startswith(_FLOATS):
            raise self._wrong_type(
                role,
                f"{role} ids are numbers with a decimal point ({kind}), as pandas makes of a "
                "column with missing values; drop the rows without an id and store the column as "
                "int64 or as text",
            )
        raise self._wrong_type(
            role,
            f"{role} ids are of type {kind}; ids are whole numbers or text, so name another "
            "column or convert this one",
        )

    def _ticks(self) -> tuple[str, int]:
        """SQL of the time, as whole ticks, and how many of them make a second."""
        text = self.types["time"] == "VARCHAR"
        kind = self._kind_of_text_times() if text else self.types["time"]
        per_second = PER_SECOND[self.columns.time_unit]
        wrong = "{value} is not a time"
        remedy = "give whole numbers since 1970, or dates such as 2024-01-31 18:30:00 (UTC)"
        if _is_whole(kind):
            ticks = 'TRY_CAST("time" AS BIGINT)'
        elif kind.startswith(_FLOATS):
            number = 'TRY_CAST("time" AS DOUBLE)'
            ticks = f"(CASE WHEN {number} = floor({number}) THEN TRY_CAST({number} AS BIGINT) END)"
            wrong = f"{{value}} is not a whole number of {self.columns.time_unit}"
        elif kind.startswith(_DATES):
            ticks = f"epoch_us({_date('time')})" if text else 'epoch_us("time")'
            per_second = PER_SECOND["us"]
        else:
            raise self._wrong_type("time", f"times are of type {kind}; {remedy}")
        unit = f"say time_unit='ms' or 'us' if it is not in {self.columns.time_unit}"
        mend = "remove the row or mend its time"
        self.rules += [
            Rule("time", self._missing("time"), "no time ({value})", mend),
            Rule("time", f"{ticks} IS NULL", wrong, remedy),
            Rule("time", f"{ticks} < 0", "{value} is before 1970", mend),
            Rule("time", f"{ticks} > {LATEST * per_second}", "{value} is after 9999", unit),
        ]
        return ticks, per_second

    def _action(self, *, half_stars: bool) -> str:
        number = "TRY_CAST(action AS DOUBLE)"
        if half_stars:
            halves = f"bool_or({number} != floor({number}))"
            number = f"({number} * (SELECT CASE WHEN {halves} THEN 2 ELSE 1 END FROM raw))"
        good = f"{number} BETWEEN 0 AND 255 AND {number} = floor({number})"
        what = "{value} is not a whole number from 0 to 255"
        remedy = "number the actions so, or leave action out"
        self.rules.append(Rule("action", f"({good}) IS NOT TRUE", what, remedy))
        return f"{number}::BIGINT"

    def _missing(self, role: str) -> str:
        column, kind = quoted(role), self.types[role]
        if kind.startswith(_TEXTS):
            return f"({column} IS NULL OR {column}::VARCHAR IN {MISSING})"
        if kind in ("FLOAT", "DOUBLE"):
            return f"({column} IS NULL OR isnan({column}))"
        return f"{column} IS NULL"

    def _kind_of_text_ids(self, role: str) -> str:
        column = quoted(role)
        kinds = self._kinds(
            role,
            big=f"regexp_full_match({column}, '-?[1-9][0-9]{{18,}}')",
            float=f"regexp_full_match({column}, '-?[0-9]+[.][0-9]*')",
        )
        if kinds <= {"int"}:
            return "BIGINT"
        if kinds <= {"int", "big"}:
            return "HUGEINT"
        return "DOUBLE" if kinds <= {"int", "float"} else "VARCHAR"

    def _kind_of_text_times(self) -> str:
        kinds = self._kinds(
            "time",
            float='TRY_CAST("time" AS DOUBLE) IS NOT NULL',
            date=f"{_date('time')} IS NOT NULL",
        )
        if kinds <= {"int"}:
            return "BIGINT"
        return "TIMESTAMP" if "date" in kinds else "DOUBLE"

    def _kinds(self, role: str, **conditions: str) -> set[str]:
        """What a text column holds, missing values aside: "int", the first that is true, "text"."""
        column = quoted(role)
        # only a number written as numbers are: `007` and `1e3` could be cast as well
        whole = f"TRY_CAST(trim({column}) AS BIGINT)::VARCHAR = trim({column})"
        others = " ".join(f"WHEN {sql} THEN '{kind}'" for kind, sql in conditions.items())
        found = self.con.execute(
            f"SELECT DISTINCT CASE WHEN {whole} THEN 'int' WHEN {self._missing(role)} THEN NULL "
            f"{others} ELSE 'text' END FROM raw"
        ).fetchall()
        return {kind for (kind,) in found if kind}


def _date(role: str) -> str:
    """SQL of a date written as text; one without an offset is UTC."""
    return f"TRY_CAST({quoted(role)} AS TIMESTAMPTZ)"


def _is_whole(kind: str) -> bool:
    return kind in _INTS or re.fullmatch(r"DECIMAL\(\d+,0\)", kind) is not None
