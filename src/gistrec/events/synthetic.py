"""A log with planted long-range structure, made so that the worth of a longer memory is known.

Every user has the same number of events, an exponential gap apart (mean one hour). A component
makes each event, drawn without regard to what came before; `action` names it:

| action | component | share | the item is | the evidence is |
|---|---|---|---|---|
| 3 | staples | 14 % | one of the user's 12 staples that is due | 20 to 2,000 events back |
| 2 | interests | 52 % | one of the user's 8 favourites in the topic | in this visit or the last |
| 1 | transitions | 21 % | the successor of the item before, for all users | 1 event back |
| 0 | noise | 13 % | any item, by popularity 1 / (rank + 10) | nowhere |

Each staple has its own period, from 20 to 2,000 events in equal ratios; gaps deviate from it by up
to a tenth. A topic is 50 items. A visit lasts 15 to 45 events, and all the user's 100 topics are
visited in random order before the next round begins: a topic returns after 3,000 events on average
(after 30 for every 50 items where there are fewer than 5,000 items). Favourites that are forgotten
must be learnt anew in every visit.

What can be reached, over the second half of histories of 10,000 events and with 5,000 items, by a
predictor that knows all rules and the topic being visited, and of the user what the last M events
showed (favourites seen, last purchase of each staple):

| M | 1 | 20 | 100 | 1,000 | 2,000 | 5,000 | all |
|---|---|---|---|---|---|---|---|
| HR@10 | 0.27 | 0.53 | 0.62 | 0.65 | 0.68 | 0.82 | 0.84 |
| NDCG@10 | 0.25 | 0.36 | 0.42 | 0.43 | 0.44 | 0.49 | 0.50 |

Real logs differ: periods there are of days, not of events, tastes drift, and times are equal.

Cost: 10 million events in 2 seconds, 32 bytes each.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gistrec.errors import ConfigError
from gistrec.events import Events, EventSource

Ints = NDArray[np.int64]

STAPLE_PERIODS = np.geomspace(20, 2000, num=12)
"""Mean events between two purchases of a user's staple n."""
JITTER = 0.1
"""Largest deviation of one gap from the period, as a share of it."""
TOPIC_ITEMS = 50
USER_TOPICS = 100
FAVOURITES = 8
STAY = (15, 45)
"""Fewest and most events in one visit of a topic."""
TRANSITION, INTEREST = 0.25, 0.6
"""Shares among the events that no staple claims; the rest is noise."""


class World(NamedTuple):
    """What all users share."""

    popularity_V: NDArray[np.float64]
    topic_items: Ints
    """(topics, TOPIC_ITEMS) item ids."""
    cycle_V: Ints
    """All items in a fixed cyclic order: each is followed by its successor."""
    place_V: Ints
    """Where an item stands in `cycle_V`."""


class Person(NamedTuple):
    """One user's tastes and history."""

    staples: Ints
    """(12,) item ids, one per period."""
    favourites: Ints
    """(topics, FAVOURITES) item ids, a row per topic of the user."""
    topic: Ints
    """(length,) which row of `favourites` is visited at each event."""
    item_id: Ints
    component: Ints
    timestamp: Ints

    def returning(self, after: int, *, shown: int = 3) -> Ints:
        """Events that only old events tell, ascending.

        The item is a favourite in the topic being visited, at least `shown` interests of this visit
        have told which topic that is, and the user has met the item before, but not within the
        `after` events before this one.
        """
        interest, step = self.component == 2, np.arange(len(self.item_id))
        visit = np.concatenate([[0], np.cumsum(np.diff(self.topic) != 0)])
        before = np.cumsum(interest) - interest
        begun = before[np.searchsorted(visit, visit)]  # interests before this visit's first event
        order = np.argsort(self.item_id, kind="stable")
        met = np.full(len(step), -1)
        again = self.item_id[order][1:] == self.item_id[order][:-1]
        met[order[1:][again]] = order[:-1][again]
        old = (met >= 0) & (step - met > after)
        return np.flatnonzero(interest & (before - begun >= shown) & old)


@dataclasses.dataclass(frozen=True)
class Synthetic(EventSource):
    """Users with staples, returning interests and short-range transitions (see the module)."""

    users: int = 200
    """Users with the same seed are the same, however many there are."""
    items: int = 5000
    """At least 50."""
    length: int = 10_000
    """Events per user; fewer than 5,000 hardly show what returns."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.users, self.length) < 1 or self.items < TOPIC_ITEMS or self.seed < 0:
            raise ConfigError(
                f"{self}: users and length must be at least 1, items at least {TOPIC_ITEMS}, "
                "seed at least 0"
            )

    def read(self) -> Events:
        """Generate the log; `action` says which component made an event."""
        world = self.world()
        columns = np.empty((3, self.users, self.length), np.int64)
        for user in range(self.users):
            person = self.person(user, world)
            columns[:, user] = person.item_id, person.timestamp, person.component
        item_id, timestamp, component = columns.reshape(3, -1)
        return Events(np.repeat(np.arange(self.users), self.length), item_id, timestamp, component)

    def world(self) -> World:
        """Draw what all users share."""
        rng = np.random.default_rng(self.seed)
        popularity_V = rng.permutation(1.0 / (np.arange(self.items) + 10))
        topics = rng.permutation(self.items)[: self.items // TOPIC_ITEMS * TOPIC_ITEMS]
        cycle_V = rng.permutation(self.items)
        return World(
            popularity_V / popularity_V.sum(),
            topics.reshape(-1, TOPIC_ITEMS),
            cycle_V,
            np.argsort(cycle_V),
        )

    def person(self, user: int, world: World) -> Person:
        """Draw one user: tastes first, then the history."""
        rng = np.random.default_rng([self.seed, user])
        staples = rng.choice(
            self.items, size=len(STAPLE_PERIODS), replace=False, p=world.popularity_V
        )
        topics = rng.permutation(world.topic_items)[:USER_TOPICS]
        favourites = rng.permuted(topics, axis=1)[:, :FAVOURITES]

        step = np.arange(self.length)
        rounds = -(-self.length // (STAY[0] * len(topics)))
        visits = rng.permuted(np.tile(np.arange(len(topics)), (rounds, 1)), axis=1).ravel()
        stays = rng.integers(STAY[0], STAY[1], size=visits.size, endpoint=True)
        topic = np.repeat(visits, stays)[: self.length]

        dice = rng.random(self.length)
        component = np.select([dice < TRANSITION, dice < TRANSITION + INTEREST], [1, 2], 0)
        component[0] = 2  # there is nothing before it to follow
        noise = rng.choice(self.items, size=self.length, p=world.popularity_V)
        favourite = favourites[topic, rng.integers(FAVOURITES, size=self.length)]
        item_id = np.where(component == 2, favourite, noise)
        for staple, period in zip(staples, STAPLE_PERIODS, strict=True):
            count = int(self.length / (period * (1 - JITTER))) + 1
            gaps = period * rng.uniform(1 - JITTER, 1 + JITTER, size=count)
            gaps[0] = period * rng.random()
            due = np.cumsum(gaps).astype(np.int64)
            due = due[due < self.length]
            item_id[due], component[due] = staple, 3
        origin = np.maximum.accumulate(np.where(component == 1, 0, step))
        follows = world.cycle_V[(world.place_V[item_id[origin]] + step - origin) % self.items]
        item_id = np.where(component == 1, follows, item_id)

        start = 1_600_000_000 + rng.integers(30 * 86_400)
        timestamp = start + np.cumsum(1 + rng.exponential(3_599, self.length).astype(np.int64))
        return Person(staples, favourites, topic, item_id, component, timestamp)
