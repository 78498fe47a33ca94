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


def states_of(store: StateStore, version: str) -> Iterator[list[StoredState]]:
    """All states of a version, a few hundred at a time, in the order of the users' ids."""
    prefixes = state_key(version, ""), block_key(version, "")
    users = heapq.merge(*(_users(store, prefix) for prefix in prefixes), key=str.encode)
    distinct = (user for user, _ in itertools.groupby(users))
    while part := list(itertools.islice(distinct, _PER_READ)):
        keys = [prefix + user for prefix in prefixes for user in part]
        found = store.sizes(keys)
        states = []
        for user, entry, block in zip(part, found[: len(part)], found[len(part) :], strict=True):
            nbytes = sum(size.nbytes for size in (entry, block) if size)
            states.append(StoredState(user, version, nbytes, entry.version if entry else 0))
        yield states


def _users(store: StateStore, prefix: str) -> Iterator[str]:
    return (key.removeprefix(prefix) for key in store.keys(prefix))


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
