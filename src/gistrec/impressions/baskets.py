"""Baskets: what was bought, among products that were not, though they sell as often.

    baskets(log='completejourney.parquet', items='completejourney-items.parquet',
            features='category|department|brand')

Events of a user with one time are a basket. Its products are impressions with label 1. Beside each
stands one with label 0 that is *popularity-matched*: the product of a purchase drawn at random from
all purchases of that day, not in the basket. So a product is drawn as often as it is bought, and
popularity alone says nothing. Nobody was shown these products: a label of 0 says that this one was
not bought this time, and the figures compare methods, not shops.

The history is all purchases before the basket, with action 1. The hour and the weekday of the
basket are its context.

Cost: what the log costs to read, and 100 bytes per impression for a moment.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from gistrec import events
from gistrec.errors import ConfigError, DataError
from gistrec.events import Events
from gistrec.impressions import Impressions, ImpressionSource, gather
from gistrec.impressions._features import check, read_features

Ints = NDArray[np.int64]

_DAY_S = 86_400
_DRAWS = 20
"""So often is a product drawn that turns out to be in the basket; then it is left out."""


@dataclasses.dataclass(frozen=True)
class Baskets(ImpressionSource):
    """The newest baskets of every user of a log."""

    log: str = "completejourney()"
    """Spec or path of a log of purchases."""
    baskets: int = 10
    """So many of each user's newest baskets; the very first one has no history and is not asked."""
    items: str = ""
    """File with `item_id` and columns of features."""
    features: str = ""
    """Columns of item features in it, `category|brand`."""
    seed: int = 0
    """Of the products that were not bought."""

    def __post_init__(self) -> None:
        if self.baskets < 1 or self.seed < 0:
            raise ConfigError(f"{self}: baskets must be at least 1, seed at least 0")
        check(self.items, self.features)

    def read(self) -> Impressions:
        """Read the log and draw.

        Raises:
            DataError: the log can't be read, or no user has two baskets.
        """
        bought = events.read(self.log)
        _, user = np.unique(bought.user_id, return_inverse=True)
        ids, item = np.unique(bought.item_id, return_inverse=True)
        basket = _runs(user, bought.timestamp)
        newest = self._newest(user, basket)
        # a product that stands twice in a basket is one impression
        _, first = np.unique(basket * len(ids) + item, return_index=True)
        row = np.sort(first[newest[basket[first]]])
        if not len(row):
            raise DataError(
                f"{self.log}: no user has two baskets (events of one time): a basket needs a "
                "history to be told from"
            )
        other = self._drawn(bought.timestamp, item, basket, row, len(ids))
        row, other = row[other >= 0], other[other >= 0]
        return self._gathered(bought, row, ids[other])

    def _newest(self, user: Ints, basket: Ints) -> NDArray[np.bool_]:
        """Of each basket, whether it is one of its user's newest, and not the first."""
        _, start = np.unique(basket, return_index=True)
        owner = user[start]
        number = np.arange(len(owner))
        place = number - np.searchsorted(owner, owner)
        left = np.searchsorted(owner, owner, side="right") - number
        return (left <= self.baskets) & (place > 0)

    def _drawn(self, time: Ints, item: Ints, basket: Ints, row: Ints, items: int) -> Ints:
        """For each row a product that is bought as often and is not in its basket; -1: none."""
        rng = np.random.default_rng(self.seed)
        by_time = np.argsort(time, kind="stable")
        day = time[by_time] // _DAY_S
        low = np.searchsorted(day, time[row] // _DAY_S)
        high = np.searchsorted(day, time[row] // _DAY_S, side="right")
        held = np.unique(basket * items + item)
        found = np.full(len(row), -1)
        left = np.arange(len(row))
        for _ in range(_DRAWS):
            drawn = item[by_time[rng.integers(low[left], high[left])]]
            key = basket[row[left]] * items + drawn
            place = np.minimum(np.searchsorted(held, key), len(held) - 1)
            fits = held[place] != key
            found[left[fits]] = drawn[fits]
            left = left[~fits]
        return found

    def _gathered(self, bought: Events, row: Ints, other: NDArray[np.object_]) -> Impressions:
        rows, drawn = len(bought), len(row)
        time = np.concatenate([bought.timestamp, bought.timestamp[row]])
        user = np.concatenate([bought.user_id, bought.user_id[row]])
        order = np.lexsort([np.arange(rows + drawn), time, np.unique(user, return_inverse=True)[1]])
        label = np.concatenate([np.ones(rows), np.zeros(drawn)])[order]
        shown = np.zeros(rows + drawn, bool)
        shown[row] = shown[rows:] = True
        log = Events(
            user[order],
            np.concatenate([bought.item_id, other])[order],
            time[order],
            np.ones(rows + drawn, np.int64),
            titles=bought.titles,
            source=self.log,
        )
        features = None
        if self.items:
            text_ids = bought.item_id.dtype == object
            features = read_features(self.items, self.features, text_ids=text_ids)
        return gather(
            log,
            {"bought": label},
            shown=shown[order],
            happened=label == 1,
            context={
                "hour": log.timestamp % _DAY_S // 3600,
                "weekday": log.timestamp // _DAY_S % 7,
            },
            features=features,
        )


def _runs(user: Ints, time: Ints) -> Ints:
    """A number for each run of equal user and time."""
    new = np.ones(len(user), bool)
    new[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
    return new.cumsum() - 1
