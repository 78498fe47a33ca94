"""Features of items, from a table beside the log."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from gistrec.errors import ConfigError, DataError
from gistrec.impressions import feature_rows


def check(items: str, features: str) -> None:
    """A file of items without columns says nothing, nor do columns without a file.

    Raises:
        ConfigError: one of them is missing.
    """
    if bool(items) != bool(features):
        raise ConfigError("items (a file) and features (its columns) go together")


def read_features(items: str, features: str, *, text_ids: bool) -> dict[Any, list[int]]:
    """Item id -> feature rows.

    Args:
        items: Parquet, CSV or TSV file with `item_id`.
        features: Its columns, `genres|year`; a text such as `Drama|War` has several values.
        text_ids: Whether the log's item ids are texts.

    Raises:
        DataError: there is no such file or column.
    """
    path = Path(items)
    if not path.is_file():
        raise DataError(f"{path} does not exist: it was to hold the features of items")
    names = features.split("|")
    kind = str if text_ids else int
    return {
        kind(item): feature_rows(dict(zip(names, values, strict=True)))
        for item, *values in _table(path, names)
    }


def _table(path: Path, names: Collection[str]) -> list[tuple[Any, ...]]:
    import duckdb

    chosen = ", ".join(f'"{name}"' for name in ["item_id", *names])
    reader = "read_parquet" if path.suffix.lower() in (".parquet", ".pq") else "read_csv"
    try:
        return duckdb.execute(f"SELECT {chosen} FROM {reader}(?)", [str(path)]).fetchall()
    except duckdb.Error as error:
        first = str(error).splitlines()[0]
        raise DataError(
            f"{path}: can't read item_id, {', '.join(names)} ({first}): name columns it has"
        ) from None
