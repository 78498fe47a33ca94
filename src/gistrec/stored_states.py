"""Where states lie in a store, how large and how old they are: what is known without a recipe.

The states of a **version** (a model and its recipe, named by the manifest's id in hexadecimal) have
keys of their own, so several versions live beside each other in one store.
"""

import heapq
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gistrec.errors import ConflictError
from gistrec.stores import Put, StateStore

UNVERSIONED = "unversioned"
"""States of a layout without versions in the keys: never read, erased with their user."""
_KEY = re.compile(r"[sq]([0-9a-f]{8})?/(.+)", re.DOTALL)
_PER_READ = 256


class StoredState(NamedTuple):
    """A user's state of one version, unread."""

    user_id: str
    version: str
    nbytes: int
    """Of the state and its sealed block."""
    entry_version: int
    """Of its entry in the store; 0 if only a block is left."""


def state_key(version: str, user_id: str) -> str:
    """Of a whole state or its tail."""
    return f"s{'' if version == UNVERSIONED else version}/{user_id}"


def block_key(version: str, user_id: str) -> str:
    """Of the sealed block of a large state."""
    return f"q{'' if version == UNVERSIONED else version}/{user_id}"


def versions_in(store: StateStore) -> list[str]:
    """The versions that a store has states of; reads all of their keys."""
    found = {_KEY.fullmatch(key) for kind in "sq" for key in store.keys(kind)}
    return sorted({match[1] or UNVERSIONED for match in found if match})


def states_of(store: StateStore, version: str | None = None) -> Iterator[list[StoredState]]:
    """All states of a version, or of all, a few hundred at a time, by version and user.

    Goes through the store's keys twice.
    """
    part_of_key = "" if version is None else state_key(version, "")[1:]
    names = heapq.merge(*(_names(store, kind + part_of_key) for kind in "sq"))
    distinct = (name for name, _ in itertools.groupby(names))
    while part := list(itertools.islice(distinct, _PER_READ)):
        users = [(name or UNVERSIONED, user.decode()) for name, user in part]
        keys = [key(*user) for key in (state_key, block_key) for user in users]
        found = store.sizes(keys)
        states = []
        for user, entry, block in zip(users, found[: len(part)], found[len(part) :], strict=True):
            nbytes = sum(size.nbytes for size in (entry, block) if size)
            states.append(StoredState(user[1], user[0], nbytes, entry.version if entry else 0))
        yield states


def _names(store: StateStore, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Version, "" for none, and user, in that order, of keys with a prefix."""
    found = (_KEY.fullmatch(key) for key in store.keys(prefix))
    return ((match[1] or "", match[2].encode()) for match in found if match)


def remove(store: StateStore, states: Sequence[StoredState]) -> list[StoredState]:
    """Remove states that are as they were found; those that are gone then."""
    puts = {state: _removal(state) for state in states}
    try:
        store.put_many([put for pair in puts.values() for put in pair])
    except ConflictError:
        pass  # each for itself, but for what was written since
    else:
        return list(states)
    removed = []
    for state, pair in puts.items():
        try:
            store.put_many(pair)
        except ConflictError:
            if store.sizes([pair[0].key]) != [None]:
                continue
        removed.append(state)
    return removed


def _removal(state: StoredState) -> list[Put]:
    return [
        Put(state_key(state.version, state.user_id), None, state.entry_version),
        Put(block_key(state.version, state.user_id), None),
    ]
