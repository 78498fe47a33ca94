"""Event sources: raw logs in, columnar events out. One file per source; its name is its spec name.

Shapes: R rows. Rows are sorted by user, then by time, with a stable sort: events of one user with
equal times keep the order of the source.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from gistrec import registry
from gistrec.errors import ConfigError, DataError

Ids = NDArray[Any]
"""(R,) int64, or (R,) str objects where ids are text."""


@dataclasses.dataclass(frozen=True)
class Events:
    """An interaction log, columnar, sorted by (user, time), stable."""

    user_id: Ids
    """(R,) external user ids, int64 or str."""
    item_id: Ids
    """(R,) external item ids, int64 or str."""
    timestamp: NDArray[np.int64]
    """(R,) Unix seconds, UTC."""
    action: NDArray[np.int64] | None = None
    """(R,) what the user did, 0..255, where the log says so."""
    titles: Mapping[Any, str] = dataclasses.field(default_factory=dict)
    """Item id -> name for people, where known."""
    columns: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    """Name -> (R,) further columns that were asked for, as they are in the source."""
    source: str = dataclasses.field(default="", compare=False)
    """Where it was read from, for messages."""

    def __len__(self) -> int:
        return len(self.timestamp)


class EventSource(ABC):
    """Where a log comes from. A frozen dataclass: its fields are its options."""

    endings: ClassVar[tuple[str, ...]] = ()
    """Of files that `read` takes without a spec, in lower case."""

    @abstractmethod
    def read(self) -> Events:
        """Read the whole log.

        Raises:
            DataError: naming the file, the column, the row and what to do.
        """

    def rows_out_of_order(self) -> int | None:
        """Rows that are earlier than the row before of the same user; None where there is no file.

        `read` sorts them.
        """
        return None


COMPONENT_BASES = (EventSource,)


def read(spec: str | Path) -> Events:
    """Read a log from a spec or a path.

    `read("log.parquet")`, `read("parquet(path='log.parquet', user='uid')")`, `read("ml-1m")` (a
    folder of MovieLens, or with a `.inter` file of RecBole), `read("synthetic(users=100)")`.

    Raises:
        ConfigError: unknown source or option. DataError: the log is missing or wrong.
    """
    return dataclasses.replace(source_of(spec).read(), source=str(spec))


def source_of(spec: str | Path) -> EventSource:
    """The source that `read` reads.

    Raises:
        ConfigError: unknown source or option. DataError: nobody reads such a path.
    """
    text = str(spec)
    path = Path(text)
    endings = {
        ending: name
        for name in registry.names("events")
        for ending in registry.find("events", name).endings
    }
    if path.is_dir():
        source = _build("recbole" if any(path.glob("*.inter")) else "movielens", path=text)
    elif path.suffix.lower() in endings:
        source = _build(endings[path.suffix.lower()], path=text)
    elif isinstance(spec, Path) or not ("(" in text or text.isidentifier()):
        raise DataError(
            f"can't read {text!r}: no such folder, and the ending is not one of "
            f'{", ".join(endings)}; name the source, for example "csv(path={text!r})", or fetch '
            "MovieLens with `gistrec data get ml-1m`"
        )
    else:
        parts = registry.parse_spec(text)
        if len(parts) != 1:
            raise ConfigError(f"a log is one source, given {text!r}")
        source = _build(parts[0].name, **parts[0].options)
    return source


def from_table(
    table: Any,
    *,
    user: str = "",
    item: str = "",
    time: str = "",
    action: str = "",
    time_unit: Literal["s", "ms", "us"] = "s",
    titles: Mapping[Any, str] | None = None,
) -> Events:
    """Events of a pandas or polars DataFrame or an Arrow table, under the rules of a file.

    Tables with the column names of RecTools (`dataset.get_raw_interactions()`) and LensKit are
    taken as they are. Their weights and ratings are left out, unless `action` names them.

    Args:
        table: One row per event, in any order; the row order decides among equal times.
        user: Column of user ids, whole numbers or text; "" takes `user_id`, or else `user`.
        item: Column of item ids, whole numbers or text; "" takes `item_id`, or else `item`.
        time: Column of times: whole numbers since 1970, in `time_unit`, or dates (UTC); "" takes
            `timestamp`, or else `datetime`.
        action: Column of what the user did, whole numbers 0..255; "" if there is none.
        time_unit: s, ms or us.
        titles: Item id -> name for people.

    Raises:
        DataError: naming the column, the row and what to do.
    """
    from gistrec.events._check import Columns
    from gistrec.events._load import read_table

    return read_table(table, Columns(user, item, time, action, time_unit), titles or {})


def read_titles(path: str | Path, item_id: Ids) -> dict[Any, str]:
    """Item id -> title of a Parquet or CSV file with the columns `item_id` and `title`.

    Args:
        path: The file.
        item_id: Ids of the kind that is asked for: whole numbers or text.

    Raises:
        DataError: it can't be read, or lacks a column.
    """
    from gistrec.events import _load

    return _load.read_titles(Path(path), item_id, required=True)


def _build(name: str, **options: Any) -> EventSource:
    source: EventSource = registry.build("events", registry.Spec(name, options))
    return source
