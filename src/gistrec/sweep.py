"""Keep a store within its limits: drop expired, surplus and orphaned states, end idle histories.

The limits stand in the store's settings. A dropped state loses nothing, as it is rebuilt when its
user comes back; histories are touched by no limit but their own.

A state counts as used when it was written, which every observed event does. Reads are not written
down; but a state that is read when it was last written a quarter of its lifetime ago, or an hour
ago if there is a budget, is written anew. So an unused state goes after three quarters of its
lifetime at the earliest, and states beyond a budget go in the order of their last use, give or take
an hour.
"""

import collections
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gistrec.errors import ConfigError, ConflictError, GistrecError
from gistrec.history_log import HistoryLog
from gistrec.store_settings import StoreSettings
from gistrec.stored_states import UNVERSIONED, StoredState, remove, states_of, versions_in
from gistrec.stores import StateStore

_USERS_PER_READ = 256
_LEASE = "v/swept"
"""Written at the beginning of every sweep of a server, so that one of them does it."""

log = logging.getLogger(__name__)


class Swept(NamedTuple):
    """What a sweep removed and left."""

    expired: int
    """States that nobody used for their lifetime."""
    evicted: int
    """States used longest ago, to get within the budget."""
    orphaned: int
    """States of users without a history, halves of states, and those of layouts of the past."""
    forgotten: int
    """Users without a new event for the lifetime of histories."""
    state_bytes: int
    """Of all states that are left."""


def sweep(store: StateStore, *, report: Callable[[int], None] | None = None) -> Swept:
    """Apply the limits in a store's settings, to the states of all versions alike.

    Reads the sizes of all states, and again if the budget is passed. May be killed at any time.

    Args:
        store: Which.
        report: Called with the number of entries that were looked at since the last call.
    """
    told = report or (lambda entries: None)
    limits = StoreSettings(store).read()
    forgotten = 0 if limits.log_ttl_s is None else _forget_idle(store, limits.log_ttl_s, told)
    used_before = time.time() - (limits.state_ttl_s or float("inf"))
    expired = orphaned = 0
    bytes_by_second: collections.Counter[int] = collections.Counter()
    for states in states_of(store):
        heads = HistoryLog(store).last_writes([state.user_id for state in states])
        orphans = [s for s, head in zip(states, heads, strict=True) if not head or _is_part(s)]
        old = [s for s in states if _used_at(store, s) < used_before and s not in orphans]
        orphaned += len(remove(store, orphans))
        expired += len(remove(store, old))
        for state in set(states).difference(orphans, old):
            bytes_by_second[int(_used_at(store, state))] += state.nbytes
        told(len(states))
    evicted, left = 0, bytes_by_second.total()
    if limits.state_budget_bytes is not None and left > limits.state_budget_bytes:
        evicted, freed = _evict(store, bytes_by_second, left - limits.state_budget_bytes, told)
        left -= freed
    return Swept(expired, evicted, orphaned, forgotten, left)


def drop(
    store: StateStore, version: str, *, report: Callable[[int], None] | None = None
) -> tuple[int, int]:
    """Remove all states of a version; may be killed and repeated.

    Args:
        store: From which.
        version: By name, or `unversioned` for those written before versions had names.
        report: Called with the number of states that were removed since the last call.

    Returns:
        How many states and bytes were removed.

    Raises:
        ConfigError: the store knows no such version, or it is the one that serves.
    """
    settings = StoreSettings(store)
    known = settings.read()
    names = {*versions_in(store), *known.versions}
    if version not in names:
        raise ConfigError(
            f"the store has no states of version {version!r}: it has those of "
            f"{', '.join(sorted(names)) or 'none'}"
        )
    if version == known.serving:
        raise ConfigError(
            f"version {version} serves: switch to another first, gistrec state switch"
        )
    states = nbytes = 0
    for part in states_of(store, version):
        removed = remove(store, part)
        states += len(removed)
        nbytes += sum(state.nbytes for state in removed)
        if report is not None:
            report(len(removed))
    settings.unregister(version)
    return states, nbytes


@contextlib.contextmanager
def sweeping(store: StateStore, *, every_s: float = 300.0) -> Iterator[None]:
    """Sweep in a thread while the block runs; of several servers on a store, one at a time.

    Less often than asked for if a sweep takes long: at most a twentieth of the time.
    """
    end = threading.Event()

    def run() -> None:
        pause_s = every_s
        while not end.wait(pause_s):
            begun = time.monotonic()
            try:
                if _takes_turn(store, pause_s):
                    log.info("swept: %s", sweep(store))
            except GistrecError as error:  # the next one may succeed
                log.warning("the store could not be swept: %s", error)
            pause_s = max(every_s, 20 * (time.monotonic() - begun))

    thread = threading.Thread(target=run, name="gistrec-sweep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _is_part(state: StoredState) -> bool:
    return not state.entry_version or state.version == UNVERSIONED


def _used_at(store: StateStore, state: StoredState) -> float:
    return store.written_at(state.entry_version)


def _evict(
    store: StateStore,
    bytes_by_second: collections.Counter[int],
    surplus: int,
    told: Callable[[int], None],
) -> tuple[int, int]:
    """Remove the states used longest ago: how many, and their bytes."""
    seconds = iter(sorted(bytes_by_second.items()))
    last, of_last = next(seconds)
    while of_last < surplus:
        surplus -= of_last
        last, of_last = next(seconds)
    evicted = freed = 0
    for states in states_of(store):
        chosen = []
        for state in states:
            second = int(_used_at(store, state))
            if second < last:
                chosen.append(state)
            elif second == last and surplus > 0:  # as many of this second's as needed
                chosen.append(state)
                surplus -= state.nbytes
        removed = remove(store, chosen)
        evicted += len(removed)
        freed += sum(state.nbytes for state in removed)
        told(len(states))
    return evicted, freed


def _forget_idle(store: StateStore, ttl_s: float, told: Callable[[int], None]) -> int:
    """Forget who had no new event; a user's states are then without a history."""
    history, forgotten = HistoryLog(store), 0
    users = history.users()
    while part := list(itertools.islice(users, _USERS_PER_READ)):
        for user_id, version in zip(part, history.last_writes(part), strict=True):
            if version and store.written_at(version) < time.time() - ttl_s:
                forgotten += history.forget(user_id, if_version=version)
        told(len(part))
    return forgotten


def _takes_turn(store: StateStore, pause_s: float) -> bool:
    """Whether nobody has swept lately, nor limits say that there is nothing to do."""
    limits = StoreSettings(store).read()
    if (limits.state_ttl_s, limits.state_budget_bytes, limits.log_ttl_s) == (None, None, None):
        return False
    entry = store.get(_LEASE)
    if entry and time.time() - store.written_at(entry.version) < pause_s / 2:
        return False
    try:
        store.put(_LEASE, b"", if_version=entry.version if entry else 0)
    except ConflictError:
        return False
    return True
