"""Item and user vectors as Parquet, for an index or a model outside of gistrec.

Shapes: B users, V items, D width.

A user's score of an item is `user . item + bias`. Of a model with repeats that is an item's score
as a new one: what a user had before is counted as well, and no product of vectors.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gistrec import parquet
from gistrec.recommender import Recommender
from gistrec.train import Model

ITEMS, USERS = "items.parquet", "users.parquet"
_AT_ONCE = 256


def export_items(model: Model, folder: Path) -> int:
    """Write `items.parquet`: item_id, title (or null), vector, bias; how many.

    Raises:
        ConfigError: the model does not score by vectors.
    """
    item_VD, bias_V = model.backbone.item_vectors()
    ids = model.items.ids
    title_V = np.array([model.items.titles.get(i) for i in ids.tolist()], dtype=object)
    kind = "VARCHAR" if ids.dtype == object else "BIGINT"
    chunk = {"item_id": ids, "title": title_V, "bias": bias_V.numpy()}
    columns = [f"item_id {kind}", "title VARCHAR", "bias FLOAT"]
    return _write(folder / ITEMS, columns, iter([(chunk, item_VD)]), model)


def export_users(
    recommender: Recommender,
    folder: Path,
    *,
    at: int | None = None,
    report: Callable[[int], None] | None = None,
) -> int:
    """Write `users.parquet`: user_id (text) and vector of all users of the store; how many.

    A user's state is read as it is stored, and built where it is missing. Users without an event
    of a known item have no vector.

    Args:
        recommender: The model and the store.
        folder: Where to put it.
        at: When the vectors are asked for, Unix seconds; None: right after a user's newest event.
        report: Called with the number of users that are behind.

    Raises:
        ConfigError: the model does not score by vectors.
    """
    served = recommender.served

    def chunks() -> Iterator[tuple[dict[str, NDArray[Any]], Tensor]]:
        users, behind = recommender.log.users(), 0
        while some := list(itertools.islice(users, _AT_ONCE)):
            states = [served.current(user_id).state for user_id in some]
            user_BD = served.backbone.user_vectors(states, at=[at] * len(some))
            known_B = user_BD.any(1)
            yield {"user_id": np.array(some, dtype=object)[known_B.numpy()]}, user_BD[known_B]
            behind += len(some)
            if report is not None:
                report(behind)

    return _write(folder / USERS, ["user_id VARCHAR"], chunks(), served.model)


def _write(
    out: Path,
    columns: list[str],
    chunks: Iterator[tuple[Mapping[str, NDArray[Any]], Tensor]],
    model: Model,
) -> int:
    width = model.backbone.item_vectors()[0].shape[1]
    numbers = [f"v{n}" for n in range(width)]

    def flat() -> Iterator[dict[str, NDArray[Any]]]:
        for chunk, vector_BD in chunks:
            by_number = np.ascontiguousarray(vector_BD.numpy().T)
            yield {**chunk, **dict(zip(numbers, by_number, strict=True))}

    names = [column.split()[0] for column in columns]
    return parquet.write(
        out,
        [*columns, f"vector FLOAT[{width}]"],
        flat(),
        select=", ".join([*names, f"array_value({', '.join(numbers)})"]),
        about={
            "gistrec.model": model.backbone.fingerprint(),
            "gistrec.score": "user . item + bias",
        },
    )
