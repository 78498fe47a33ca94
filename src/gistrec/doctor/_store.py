"""Whether a store can be read and written, has room, and holds what can be used."""

import itertools
import threading
from collections import Counter

from gistrec.doctor._check import Check, attempt
from gistrec.errors import CorruptStateError, FormatVersionError, GistrecError, StaleStateError
from gistrec.history_log import HistoryLog
from gistrec.recipe import Recipe
from gistrec.state_cache import StateCache
from gistrec.store_settings import StoreSettings
from gistrec.store_stats import store_stats
from gistrec.stores import StateStore, open_store, without_password
from gistrec.train import Model

_PROBE = "doctor"
LONGEST_WAIT_S = 5.0
LEAST_ROOM_BYTES = 1 << 30
SAMPLE = 1000
"""Users whose histories and states are read."""


def check_store(url: str, version: tuple[Model, Recipe] | None = None) -> list[Check]:
    """Look at a store, and at the states that a version has there.

    A key of its own is written and removed; nothing else is changed.
    """
    opened: list[StateStore] = []

    def open_it() -> str:
        opened.append(open_store(url))
        return without_password(url)

    checks = [attempt("store opens", open_it)]
    if not opened:
        return checks
    (store,) = opened
    checks.append(attempt("store writes", lambda: _writes(store)))
    if checks[-1].status == "broken":
        return checks  # a store that hangs may not even be closed
    try:
        checks.append(attempt("store has room", lambda: _room(store)))
        checks.append(attempt("histories", lambda: _histories(store)))
        checks.append(attempt("versions", lambda: _versions(store)))
        if version is not None:
            checks.append(attempt("states", lambda: _states(store, *version)))
    finally:
        store.close()
    return checks


def _writes(store: StateStore) -> str:
    """In a thread, as a store that somebody has locked makes a writer wait for ever."""
    failed: list[Exception] = []

    def write() -> None:
        try:
            store.put(_PROBE, b"well")
            store.delete(_PROBE)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(LONGEST_WAIT_S)
    if thread.is_alive():
        raise TimeoutError(
            f"a write has been waiting for {LONGEST_WAIT_S:.0f} s: another process holds the "
            "store's lock; find it (`fuser` on the folder) and end it if it hangs"
        )
    if failed:
        raise failed[0]
    return "what is written is acknowledged"


def _room(store: StateStore) -> str | Check:
    room = store.room()
    if room is None:
        return "this engine does not say how much"
    told = f"{room / 2**30:,.1f} GiB left"
    if room < LEAST_ROOM_BYTES:
        remedy = "free some, give a larger map_size, or bound it with `gistrec state limit`"
        return Check("store has room", "warning", f"{told}: {remedy}")
    return told


def _histories(store: StateStore) -> str | Check:
    log = HistoryLog(store)
    users, events, damaged = 0, 0, []
    for user_id in itertools.islice(log.users(), SAMPLE):
        users += 1
        try:
            events += len(log.read(user_id).timestamp)
        except GistrecError:
            damaged.append(user_id)
    if damaged:
        raise CorruptStateError(
            f"{len(damaged):,} of {users:,} cannot be read, such as that of {damaged[0]!r}: bring "
            "the store back from a copy, or erase such users (gistrec state forget) and import "
            "their events again"
        )
    if not users:
        told = "none: is this the right store? bring a log in with `gistrec import`"
        return Check("histories", "warning", told)
    return f"{users:,} users with {events:,} events read" + (", a sample" * (users == SAMPLE))


def _versions(store: StateStore) -> str | Check:
    found = store_stats(store)
    serving = StoreSettings(store).read().serving
    told = ", ".join(f"{v.version} ({v.states.users:,} users)" for v in found.versions)
    if serving and not any(v.serving and v.states.users for v in found.versions):
        return Check(
            "versions",
            "warning",
            f"version {serving} is to serve and has no states, there are {told or 'none'}: build "
            "its states (gistrec state build) or switch (gistrec state switch)",
        )
    return told or "no states yet: they are built on first use, or by `gistrec state build`"


def _states(store: StateStore, model: Model, recipe: Recipe) -> str | Check:
    states = StateCache(recipe, store, StoreSettings(store))
    log = HistoryLog(store)
    counts: Counter[str] = Counter()
    for user_id in itertools.islice(log.users(), SAMPLE):
        try:
            held = states.decode(user_id, states.read(user_id))
        except CorruptStateError:
            counts["damaged"] += 1
        except (StaleStateError, FormatVersionError):
            counts["of another version"] += 1
        else:
            behind = held is not None and held.state.length < log.length(user_id)
            counts["missing" if held is None else "behind the history" if behind else "good"] += 1
    told = ", ".join(f"{n:,} {name}" for name, n in counts.items()) or "none"
    if counts["damaged"] or counts["of another version"]:
        remedy = "these are rebuilt on next use, or now by `gistrec state build`"
        return Check("states", "warning", f"{told}: {remedy}; look for a failing disk")
    if counts["missing"] == sum(counts.values()) > 0:
        remedy = f"build those of version {states.version} with `gistrec state build`"
        return Check("states", "warning", f"{told}: {remedy}")
    return f"{told}, of version {states.version}"
