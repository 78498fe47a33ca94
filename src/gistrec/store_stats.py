"""What a store holds, by version, counted without a model: only sizes and heads are read."""

import collections
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gistrec.history_log import HistoryLog
from gistrec.store_settings import StoreSettings, Version
from gistrec.stored_states import states_of
from gistrec.stores import StateStore

_USERS_PER_READ = 256


class Bytes(NamedTuple):
    """What some users take; keys and the engine's own overhead are not counted."""

    users: int
    bytes_total: int
    bytes_p50: float
    bytes_p99: float

    def projected(self, users: int) -> int:
        """What so many users would take, if they were like these on average."""
        return round(users * self.bytes_total / self.users) if self.users else 0


class VersionBytes(NamedTuple):
    """What the states of one version take."""

    version: str
    model: str
    codec: str
    serving: bool
    """Whether the settings name it as the one that serves."""
    states: Bytes


class StoreStats(NamedTuple):
    """What a store holds."""

    log: Bytes
    """The histories: heads, blocks and ids of events."""
    versions: list[VersionBytes]
    """By name."""


def store_stats(store: StateStore, *, report: Callable[[int], None] | None = None) -> StoreStats:
    """Count users and bytes of a store's histories and states.

    Args:
        store: Which.
        report: Called with the number of entries that were counted since the last call.
    """
    told = report or (lambda entries: None)
    settings = StoreSettings(store).read()
    by_version: dict[str, collections.Counter[int]] = {
        name: collections.Counter() for name in settings.versions
    }
    for states in states_of(store):
        for state in states:
            sizes = by_version.setdefault(state.version, collections.Counter())
            if state.entry_version:
                sizes[state.nbytes] += 1
        told(len(states))
    versions = []
    for name, sizes in sorted(by_version.items()):
        about = settings.versions.get(name, Version())
        serving = name == settings.serving
        versions.append(VersionBytes(name, about.model, about.codec, serving, _bytes_of(sizes)))
    log, sizes = HistoryLog(store), collections.Counter()
    users = log.users()
    while part := list(itertools.islice(users, _USERS_PER_READ)):
        sizes.update(log.nbytes_of(part))
        told(len(part))
    return StoreStats(_bytes_of(sizes), versions)


def _bytes_of(sizes: collections.Counter[int]) -> Bytes:
    users, total = sizes.total(), sum(size * count for size, count in sizes.items())
    return Bytes(users, total, _percentile(sizes, 50), _percentile(sizes, 99))


def _percentile(sizes: collections.Counter[int], percent: float) -> float:
    """As of the list of all sizes, which would not fit into memory."""
    if not sizes:
        return 0.0
    values = np.array(sorted(sizes))
    ends = np.cumsum([sizes[size] for size in values.tolist()])
    place = (ends[-1] - 1) * percent / 100
    low, high = values[np.searchsorted(ends, [np.floor(place), np.ceil(place)], "right")]
    return float(low + (high - low) * (place % 1))
