"""The history log: every event of every user in a few bytes, appended to and never edited.

Shapes: n events.

A user has one head and any number of blocks. The head holds the newest events as small records, so
that appending one writes nothing else; when it grows past `TAIL_EVENTS` or `TAIL_BYTES`, its events
move into a block, coded by column, that never changes again. Ids are the caller's, so the log
outlives every model. The layout is in docs/state-format.md.

Cost: 3.2 bytes an event on ml-1m with ratings, appended one by one.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from gistrec.errors import ConflictError, CorruptStateError, DataError, StateError
from gistrec.event_ids import EventIds, hash_of
from gistrec.log_blocks import (
    REMEDY,
    Logged,
    LogHead,
    columns_of,
    decode_block,
    is_text,
    joined,
    overlap,
    with_texts,
)
from gistrec.stores import NUMBERED, Entry, Put, StateStore
from gistrec.wire import check_user_id

_HEADS = "h/"
_ATTEMPTS = 1000  # at writing a head; one of several writers always succeeds


class Appended(NamedTuple):
    """What an append found and did."""

    length: int
    """Events of the history now."""
    nbytes: int
    """Bytes of it."""
    beside: bool
    """Whether what was to be written beside it was."""


class Beside(Protocol):
    """What is read and written together with a history, in one call of the store each."""

    keys: Sequence[str]
    """Of the user's group."""

    def puts(self, entries: Sequence[Entry | None], length: int, events: Logged) -> list[Put]:
        """What is to be written with new events, if the entries of the keys are still the same.

        Args:
            entries: Of the keys.
            length: Events that are logged already.
            events: New ones.
        """


class HistoryLog:
    """All users' histories on a store. Many processes may append and read at the same time."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def append(
        self,
        user_id: str,
        item_ids: Sequence[int | str],
        timestamps: Sequence[int],
        actions: Sequence[int] | None = None,
        *,
        event_ids: Sequence[str | None] | None = None,
        expected_length: int | None = None,
    ) -> int:
        """Add events at the end of a user's history.

        A call whose outcome is not known may be repeated, if it gave ids or the expected length:
        nothing is then logged twice.

        Args:
            user_id: Any text of 1 to 256 bytes in UTF-8.
            item_ids: All whole numbers or all text, as the user's earlier ones.
            timestamps: Unix seconds; kept as they are, in the order given.
            actions: What was done, one whole number an event. As soon as one event of a user has an
                action, the others count as 0.
            event_ids: Of every event a text of 1 to 256 bytes, or None. An event whose id is among
                the newest 64 of the user is known, and not logged again.
            expected_length: Append only if the history has this many events now, or if these very
                events follow that many already.

        Returns:
            The new length.

        Raises:
            ConflictError: the history has another length than expected.
            StoreUnavailableError: whether the events are logged is not known.
            DataError: the columns do not fit together, or the item ids not to the earlier ones.
        """
        return self.append_beside(
            None,
            user_id,
            item_ids,
            timestamps,
            actions,
            event_ids=event_ids,
            expected_length=expected_length,
        ).length

    def append_beside(
        self,
        beside: Beside | None,
        user_id: str,
        item_ids: Sequence[int | str],
        timestamps: Sequence[int],
        actions: Sequence[int] | None = None,
        *,
        event_ids: Sequence[str | None] | None = None,
        expected_length: int | None = None,
    ) -> Appended:
        """`append`, and what is written with the events if there are new ones: all or nothing."""
        given, hashes = columns_of(item_ids, timestamps, actions), _hashes(event_ids, item_ids)
        for _ in range(_ATTEMPTS):
            events = given
            keys = [head_key(user_id), *(beside.keys if beside else ())]
            keys += [_ids_key(user_id)] if hashes or beside else []
            entry, *found = self._store.get_many(keys)
            there = found.pop() if hashes or beside else None
            head = head_of(user_id, entry) or LogHead(is_text=is_text(events))
            if hashes:
                ids = _ids_of(user_id, there)
                places = ids.news(hashes)
                if not places:
                    return Appended(head.length, self.nbytes(user_id), False)
                events = given.rows(places)
            if expected_length is not None and expected_length != head.length:
                if self._has(user_id, expected_length, events):
                    return Appended(head.length, self.nbytes(user_id), False)
                raise ConflictError(
                    f"the history of user {user_id!r} has {head.length} events, expected were "
                    f"{expected_length}: read it again and repeat the change"
                )
            if not len(events.timestamp):
                return Appended(head.length, self.nbytes(user_id), False)
            before = head.length
            head, puts = _appended(user_id, entry, head, events)
            ids_blob = there.blob if there else b""
            if hashes:
                ids_blob = ids.with_new(hashes[place] for place in places).to_bytes()
                puts.append(Put(_ids_key(user_id), ids_blob))
            more = beside.puts(found, before, events) if beside else []
            try:
                self._store.put_many([*puts, *more])
            except ConflictError:
                continue
            nbytes = len(puts[0].blob or b"") + head.sealed_bytes + len(ids_blob)
            return Appended(head.length, nbytes, bool(more))
        raise _too_many_writers(user_id)

    def extend(self, histories: Sequence[tuple[str, Logged]]) -> list[int | None]:
        """Add what is not logged yet of many users' histories, in one call of the store.

        Events that stand in the log already, one after another, are not logged again: all of those
        given, or the first of them at the end of the log. So a call may be repeated.

        Args:
            histories: Of different users, each with at least one event.

        Returns:
            Of every user, how many events were added. None: nothing was, since the log holds other
            events at that time or later ones.

        Raises:
            DataError: item ids of another kind than the user's earlier ones.
            StoreUnavailableError: whether the events are logged is not known.
        """
        given = [(user_id, with_texts(events)) for user_id, events in histories]
        for _ in range(_ATTEMPTS):
            entries = self._store.get_many([head_key(user_id) for user_id, _ in given])
            added: list[int | None] = []
            puts = []
            for (user_id, events), entry in zip(given, entries, strict=True):
                head = head_of(user_id, entry) or LogHead(is_text=is_text(events))
                # the head's version says whether this is still so when it is written
                known = overlap(self.read(user_id), events) if head.length else 0
                new = None if known is None else events.part(known)
                added.append(None if new is None else len(new.timestamp))
                if added[-1] and new is not None:
                    puts += _appended(user_id, entry, head, new)[1]
            try:
                self._store.put_many(puts)
            except ConflictError:
                if len(given) > 1:  # one user's writer must not hold up the others
                    return [self.extend([one])[0] for one in given]
                continue
            return added
        raise _too_many_writers(given[0][0])

    def heads(self, user_ids: Sequence[str]) -> list[LogHead | None]:
        """Of every user what says how long the history is and what it holds."""
        entries = self._store.get_many([head_key(user_id) for user_id in user_ids])
        return [head_of(u, entry) for u, entry in zip(user_ids, entries, strict=True)]

    def read(self, user_id: str, start: int = 0, *, head: LogHead | None = None) -> Logged:
        """The events from a place in the history on; only the blocks that hold them are read.

        Args:
            user_id: Whose.
            start: The place.
            head: As it was a moment ago, if that is known.

        Raises:
            CorruptStateError: the stored bytes are damaged.
        """
        if start < 0:
            raise DataError(f"a history starts at 0, given start={start}")
        numbers = range(0)
        if head:
            numbers, first = head.blocks_from(start)
            if not numbers:
                return head.tail().part(start - first)
        while True:
            # head and blocks as of one moment: a writer may seal a block, or forget the user
            keys = [head_key(user_id), *(_block_key(user_id, n) for n in numbers)]
            entry, *blocks = self._store.get_many(keys)
            head = head_of(user_id, entry)
            if head is None:
                return Logged(np.zeros(0, np.int64), np.zeros(0, np.int64), None)
            needed, first = head.blocks_from(start)
            if needed == numbers:
                break
            numbers = needed
        sizes = head.block_sizes
        parts = []
        for n, block in zip(numbers, blocks, strict=True):
            what = f"block {n} of the history of user {user_id!r}"
            parts.append(decode_block(block.blob if block else b"", what))
            if len(parts[-1].timestamp) != sizes[n]:
                raise CorruptStateError(f"{what} does not have {sizes[n]} events: {REMEDY}")
        return joined([*parts, head.tail()]).part(start - first)

    def length(self, user_id: str) -> int:
        """How many events a user's history has."""
        head = head_of(user_id, self._store.get(head_key(user_id)))
        return head.length if head else 0

    def lengths(self, user_ids: Sequence[str]) -> list[int | None]:
        """How many events several users have; None where the head is damaged."""
        found: list[int | None] = []
        for user_id, entry in zip(
            user_ids, self._store.get_many([head_key(u) for u in user_ids]), strict=True
        ):
            try:
                head = head_of(user_id, entry)
            except StateError:
                found.append(None)
            else:
                found.append(head.length if head else 0)
        return found

    def nbytes(self, user_id: str) -> int:
        """Bytes stored for a user: head, blocks and ids of events, keys not counted."""
        entry, ids = self._store.get_many([head_key(user_id), _ids_key(user_id)])
        head = head_of(user_id, entry)
        ids_bytes = len(ids.blob) if ids else 0
        return len(entry.blob) + head.sealed_bytes + ids_bytes if entry and head else 0

    def nbytes_of(self, user_ids: Sequence[str]) -> list[int]:
        """The bytes of several users; of a damaged head those of the head itself."""
        entries = self._store.get_many([head_key(user_id) for user_id in user_ids])
        ids = self._store.sizes([_ids_key(user_id) for user_id in user_ids])
        found = []
        for user_id, entry, size in zip(user_ids, entries, ids, strict=True):
            try:
                head = head_of(user_id, entry)
            except StateError:
                head = None
            nbytes = (len(entry.blob) if entry else 0) + (head.sealed_bytes if head else 0)
            found.append(nbytes + (size.nbytes if size else 0))
        return found

    def last_writes(self, user_ids: Sequence[str]) -> list[int]:
        """Of several users the version of the head, which tells when it was written; 0 if none."""
        sizes = self._store.sizes([head_key(user_id) for user_id in user_ids])
        return [size.version if size else 0 for size in sizes]

    def forget(self, user_id: str, *, if_version: int | None = None) -> bool:
        """Remove a user's history, damaged or not; whether there was one.

        Args:
            user_id: Whose.
            if_version: Only if the head is at this version, as `last_writes` gave it.
        """
        while (entry := self._store.get(head_key(user_id))) is not None:
            if if_version is not None and if_version != entry.version:
                return False
            puts = [Put(head_key(user_id), None, entry.version), Put(_ids_key(user_id), None)]
            puts += [Put(key, None) for key in self._block_keys(user_id, entry)]
            try:
                self._store.put_many(puts)
            except ConflictError:
                continue  # an event came in between
            return True
        return False

    def _has(self, user_id: str, start: int, events: Logged) -> bool:
        """Whether these events, and there are some, follow the first `start` ones."""
        count = len(events.timestamp)
        there = self.read(user_id, start).part(0, count)
        return count > 0 and all(
            np.array_equal(one, other)
            for one, other in zip(there.columns(), events.columns(), strict=True)
        )

    def _block_keys(self, user_id: str, entry: Entry) -> list[str]:
        """Of all blocks of a user; where the head can't say, the store is searched."""
        try:
            head = head_of(user_id, entry)
        except StateError:
            prefix = _block_key(user_id, "")
            return [k for k in self._store.keys(prefix) if k.removeprefix(prefix).isdigit()]
        return [_block_key(user_id, n) for n in range(head.num_blocks if head else 0)]

    def users(self) -> Iterator[str]:
        """The ids of all users who have a history, in byte order."""
        return (key.removeprefix(_HEADS) for key in self._store.keys(_HEADS))


def _appended(
    user_id: str, entry: Entry | None, head: LogHead, events: Logged
) -> tuple[LogHead, list[Put]]:
    """The head with more events, and what is to be written if it is still the same."""
    if is_text(events) != head.is_text:
        kind = "text" if head.is_text else "whole numbers"
        raise DataError(
            f"item ids of user {user_id!r} have been {kind} so far, given now "
            f"{events.item_id[:3].tolist()}: give {kind}"
        )
    head, blocks = head.append(events)
    first = head.num_blocks - len(blocks)
    puts = [Put(head_key(user_id), head.to_bytes(), entry.version if entry else 0)]
    puts += [Put(_block_key(user_id, first + n), blob) for n, blob in enumerate(blocks)]
    return head, puts


def _too_many_writers(user_id: str) -> ConflictError:
    return ConflictError(
        f"the history of user {user_id!r} changed {_ATTEMPTS} times while appending: too many "
        "writers for one user; try again"
    )


def head_key(user_id: str) -> str:
    """Of the head of a user's history."""
    return _HEADS + check_user_id(user_id)


def _block_key(user_id: str, number: int | str) -> str:
    return f"{NUMBERED}{user_id}/{number}"


def _ids_key(user_id: str) -> str:
    return f"i/{user_id}"


def _ids_of(user_id: str, entry: Entry | None) -> EventIds:
    if entry is None:
        return EventIds()
    return EventIds.from_bytes(entry.blob, f"event ids of user {user_id!r}", REMEDY)


def _hashes(
    event_ids: Sequence[str | None] | None, item_ids: Sequence[int | str]
) -> list[bytes | None]:
    """Of every event what is kept of its id; nothing if no event has one."""
    hashes = [hash_of(event_id) for event_id in event_ids or ()]
    if hashes and len(hashes) != len(item_ids):
        raise DataError(
            f"{len(hashes)} event ids for {len(item_ids)} events: give each its own, or None"
        )
    return hashes if any(hashes) else []


def head_of(user_id: str, entry: Entry | None) -> LogHead | None:
    """The head in an entry.

    Raises:
        CorruptStateError: it is damaged.
    """
    if entry is None:
        return None
    return LogHead.from_bytes(entry.blob, f"history of user {user_id!r}")
