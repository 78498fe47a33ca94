"""A log whose every user is asked, at the end, for what was learnt thousands of events before.

Whenever one of 12 occasions comes up, a user buys the same item: of the 40 for it, his own. Events
come in pairs, an occasion and its purchase, or twice something else. Of a user's occasions 8 recur
for good, one of them every 8 events on average, the rarest every 512. The other 4 come up three
times each, and then not any more for at least `gap` events. The last pair of the history is one of
these: its purchase, the last event, is the target.

| action | events | share | the item is | the evidence is |
|---|---|---|---|---|
| 0 | others | 45 % | any of 500 | nowhere |
| 1 | occasions | 28 % | one of 12 | nowhere |
| 2 | purchases | 28 % | the user's own, of the occasion's 40 | the event before, older purchases |

What one reaches on the last events who knows all rules, and of the user the last M events:

| M | 1 to `gap` | all |
|---|---|---|
| HR@10 | 0.25 | 1.00 |
| NDCG@10 | 0.11 | 1.00 |

It takes one layer: queries that know an occasion, keys that know what an item is bought for. What
recurs within a training window teaches it. Users live at paces of their own, from 1 minute to 2
hours between events, so that the ages of old events occur in windows, too.
Predict it with the scheme `last_basket`: `leave_last_out` takes items that were bought before out
of the lists. Real logs differ: tastes are not that exact, and other events tell something, too.

Cost: 10 million events in 1 second, 32 bytes each.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from gistrec.errors import ConfigError
from gistrec.events import Events, EventSource

Ints = NDArray[np.int64]

OCCASIONS = 12
PURCHASES = 40
"""Items that are bought for one occasion."""
OTHERS = 500
PERIODS = np.geomspace(8, 512, num=8)
"""Mean events between two times of a user's recurring occasions."""
OLD, SHOWN = OCCASIONS - len(PERIODS), 3
"""Occasions of a user that do not recur, and how many times each comes up before."""
PACES_S = (60, 7200)
"""Bounds of a user's mean seconds between events."""


@dataclasses.dataclass(frozen=True)
class Planted(EventSource):
    """Users whose last purchase is told by events long past alone (see the module)."""

    users: int = 200
    """Users with the same seed are the same, however many there are."""
    length: int = 10_000
    """Events per user, the target included."""
    gap: int = 5000
    """So many events before the target tell nothing of it."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = self.gap + 2 * OLD * SHOWN + 3
        if min(self.users, self.gap) < 1 or self.length < least or self.seed < 0:
            raise ConfigError(
                f"{self}: users and gap must be at least 1, seed at least 0, and length at least "
                f"gap + {least - self.gap}"
            )

    def read(self) -> Events:
        """Generate the log; `action` says what an event is."""
        columns = np.empty((3, self.users, self.length), np.int64)
        for user in range(self.users):
            columns[:, user] = self._person(np.random.default_rng([self.seed, user]))
        item_id, timestamp, action = columns.reshape(3, -1)
        return Events(np.repeat(np.arange(self.users), self.length), item_id, timestamp, action)

    def _person(self, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
        """Items, times and actions of one user."""
        own = OCCASIONS + PURCHASES * np.arange(OCCASIONS) + rng.integers(PURCHASES, size=OCCASIONS)
        order = rng.permutation(OCCASIONS)
        old, recurring = order[:OLD], order[OLD:]

        pairs = -(-self.length // 2)
        dice = np.searchsorted(np.cumsum(2 / PERIODS), rng.random(pairs), side="right")
        occasion = np.append(recurring, -1)[dice]
        early = rng.choice((self.length - self.gap - 1) // 2, OLD * SHOWN, replace=False)
        occasion[early + self.length % 2] = np.repeat(old, SHOWN)
        occasion[-1] = old[0]

        item = OCCASIONS * (1 + PURCHASES) + rng.integers(OTHERS, size=(pairs, 2))
        bought = occasion >= 0
        item[bought] = np.stack([occasion, own[occasion]], axis=1)[bought]
        action = np.where(bought[:, None], [1, 2], 0)

        pace_s = np.exp(rng.uniform(*np.log(PACES_S)))
        start = 1_600_000_000 + rng.integers(30 * 86_400)
        elapsed = 1 + rng.exponential(pace_s, self.length).astype(np.int64)
        newest = slice(-self.length, None)  # an odd length begins with the second of a pair
        return item.ravel()[newest], start + np.cumsum(elapsed), action.ravel()[newest]
