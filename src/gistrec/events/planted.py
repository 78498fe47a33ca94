"""A log whose every user is asked, at the end, for what was learnt thousands of events before.

Whenever one of 12 occasions comes up, a user buys the same item, his own out of 40 for it. Events
come in pairs: an occasion and its purchase, or twice something else, any of 500 items. Of a user's
occasions 8 recur for good, one of them every 16 events on average, the rarest every 1,024. The
other 4 come up three times each, and then not any more, for `gap` events at least. The last pair of
the history is one of these: its purchase is the target, the last event.

| action | events | share | the item is | the evidence is |
|---|---|---|---|---|
| 0 | others | 72 % | any of 500 | nowhere |
| 1 | occasions | 14 % | one of 12 | nowhere |
| 2 | purchases | 14 % | the user's own, of the occasion's 40 | the occasion before, and older purchases |

What can be reached on the last events by one who knows all rules, and of the user the last M events:

| M | 1 | `gap` | all |
|---|---|---|---|
| HR@10 | 0.25 | 0.25 | 1.00 |
| NDCG@10 | 0.11 | 0.11 | 1.00 |

All this takes is a layer whose queries know an occasion and whose keys know what an item is bought
for, and purchases that recur within a training window teach it. Users live at different paces, of
1 minute to 2 hours between events, so that ages of years occur in such windows, too.
Predict it with the scheme `last_basket`: `leave_last_out` takes items that were bought before out
of the lists.

Cost: 10 million events in 2 seconds, 32 bytes each.
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
PERIODS = np.geomspace(16, 1024, num=8)
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
        due = rng.random(pairs)
        bounds = np.cumsum(2 / PERIODS)
        occasion = np.append(recurring, -1)[np.searchsorted(bounds, due, side="right")]
        early = (self.length - self.gap - 1) // 2
        occasion[rng.choice(early, OLD * SHOWN, replace=False) + self.length % 2] = np.repeat(old, SHOWN)
        occasion[-1] = old[0]

        first = OCCASIONS * (1 + PURCHASES)
        item = first + rng.integers(OTHERS, size=(pairs, 2))
        item[occasion >= 0] = np.stack([occasion, own[occasion]], 1)[occasion >= 0]
        action = np.where(occasion[:, None] >= 0, [1, 2], 0)

        pace = np.exp(rng.uniform(*np.log(PACES_S)))
        elapsed = 1 + rng.exponential(pace - 1, self.length).astype(np.int64)
        start = 1_600_000_000 + rng.integers(30 * 86_400)
        newest = slice(-self.length, None)  # an odd length begins with the end of a pair
        return item.ravel()[newest], start + np.cumsum(elapsed), action.ravel()[newest]
