"""A history in bytes: the head that new events are appended to, and the blocks they move into.

Shapes: n events. The layout is in docs/state-format.md.
"""

import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import index
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gistrec import integers
from gistrec.errors import CorruptStateError, DataError
from gistrec.integers import Ints, Reader, varint, zigzag
from gistrec.wire import frame, unframe

TAIL_EVENTS = 128
TAIL_BYTES = 2000
"""What a head may hold before its events move into a block; lmdb keeps such a head in one page."""
BLOCK_EVENTS = 512
REMEDY = "restore it from a copy of the store, or forget the user"
_TEXT, _ACTIONS, _DEFLATED = 1, 2, 4  # flags of heads and blocks


class Logged(NamedTuple):
    """Some events of one user, oldest first."""

    item_id: NDArray[Any]
    """(n,) external ids, int64 or str."""
    timestamp: Ints
    """(n,) Unix seconds as they came; they may go back."""
    action: Ints | None
    """(n,) what the user did or how it was rated; None if no event of the user says."""

    def part(self, start: int, end: int | None = None) -> "Logged":
        """Some of the events, one after another."""
        return self.rows(slice(start, end))

    def rows(self, rows: slice | Sequence[int]) -> "Logged":
        """Some of the events."""
        action = None if self.action is None else self.action[rows]
        return Logged(self.item_id[rows], self.timestamp[rows], action)

    def columns(self) -> tuple[NDArray[Any], Ints, Ints]:
        """Ids, times, actions; no action counts as 0."""
        return self.item_id, self.timestamp, _actions(self)


@dataclass(frozen=True)
class LogHead:
    """What a user's head entry holds."""

    is_text: bool
    """Item ids are text."""
    has_actions: bool = False
    """Tail events have an action; a block says for itself."""
    blocks: tuple[tuple[int, int], ...] = ()
    """Sealed blocks, oldest first: (events of a block, how many such blocks in a row)."""
    sealed_bytes: int = 0
    """Bytes of all blocks."""
    last_time: int = 0
    """Of the newest event."""
    tail_events: int = 0
    """Events that are not in blocks yet."""
    numbers: bytes = b""
    """Of every tail event, as varints: time difference, item id or length of its text, action."""
    texts: bytes = b""
    """Item ids of the tail events, if they are text."""

    @property
    def block_sizes(self) -> list[int]:
        """Events of every block."""
        return [events for events, repeats in self.blocks for _ in range(repeats)]

    @property
    def num_blocks(self) -> int:
        """How many blocks there are."""
        return sum(repeats for _, repeats in self.blocks)

    @property
    def length(self) -> int:
        """Events in all."""
        return sum(events * repeats for events, repeats in self.blocks) + self.tail_events

    def append(self, events: Logged) -> tuple["LogHead", list[bytes]]:
        """The head with more events, and the blocks that this fills, if any."""
        has_actions = self.has_actions or events.action is not None
        empty = replace(self, has_actions=has_actions, tail_events=0, numbers=b"", texts=b"")
        many = self.tail_events + len(events.timestamp) > TAIL_EVENTS
        tail = None
        if many or self.has_actions != has_actions:  # or the first action of all
            tail = joined([self.tail(), events])
        if not many:
            head = self._with_tail(events) if tail is None else empty._with_tail(tail)
            if not head._is_full:
                return head, []
        tail, head = head.tail() if tail is None else tail, empty
        blobs: list[bytes] = []
        for start in range(0, len(tail.timestamp), BLOCK_EVENTS):
            part = tail.part(start, start + BLOCK_EVENTS)
            if start and not (rest := head._with_tail(part))._is_full:
                return rest, blobs
            blobs.append(encode_block(part))
            head = head._with_block(part, len(blobs[-1]))
        return head, blobs

    def blocks_from(self, start: int) -> tuple[range, int]:
        """Numbers of the blocks that hold events from `start` on, and what event they begin at."""
        ends = [0, *accumulate(self.block_sizes)]
        first = bisect_right(ends, start) - 1
        return range(first, self.num_blocks), ends[first]

    def tail(self) -> Logged:
        """The events that are not in blocks."""
        fields = 2 + self.has_actions
        reader = Reader(self.numbers)
        table = reader.varints(self.tail_events * fields).reshape(-1, fields)
        reader.finish()
        elapsed = np.cumsum(table[:, 0])
        timestamp = elapsed - elapsed[-1:] + self.last_time
        item_id = _from_numbers(table[:, 1], self.texts if self.is_text else None)
        return Logged(item_id, timestamp, table[:, 2] if self.has_actions else None)

    def to_bytes(self) -> bytes:
        """The blob of the head's entry."""
        flags = self.is_text * _TEXT | self.has_actions * _ACTIONS
        scalars = [flags, len(self.blocks), *(n for pair in self.blocks for n in pair)]
        scalars += [self.sealed_bytes] if self.blocks else []
        scalars += [zigzag(self.last_time), self.tail_events]
        scalars += [len(self.numbers)] if self.is_text else []
        return frame(b"".join(map(varint, scalars)) + self.numbers + self.texts)

    @classmethod
    def from_bytes(cls, blob: bytes, what: str = "head of a history") -> "LogHead":
        """The inverse of `to_bytes`.

        Raises:
            FormatVersionError: written in another format version. CorruptStateError: damaged.
        """
        reader = unframe(blob, what, REMEDY)
        flags = reader.varint()
        blocks = tuple((reader.varint(), reader.varint()) for _ in range(reader.varint()))
        sealed_bytes = reader.varint() if blocks else 0
        last_time, tail_events = reader.signed(), reader.varint()
        numbers = reader.take(reader.varint() if flags & _TEXT else reader.left)
        return cls(
            bool(flags & _TEXT),
            bool(flags & _ACTIONS),
            blocks,
            sealed_bytes,
            last_time,
            tail_events,
            numbers,
            reader.take(reader.left),
        )

    @property
    def _is_full(self) -> bool:
        return self.tail_events > TAIL_EVENTS or len(self.numbers) + len(self.texts) > TAIL_BYTES

    def _with_tail(self, events: Logged) -> "LogHead":
        number, texts = _to_numbers(events.item_id)
        # the first event of all has no time before it; `tail` counts back from the last one
        before = self.last_time if self.length else int(events.timestamp[0])
        columns = [np.diff(events.timestamp, prepend=before), number]
        if self.has_actions:
            columns.append(_actions(events))
        return replace(
            self,
            last_time=int(events.timestamp[-1]),
            tail_events=self.tail_events + len(number),
            numbers=self.numbers + integers.varints(np.stack(columns, axis=1).ravel()),
            texts=self.texts + (texts or b""),
        )

    def _with_block(self, events: Logged, size_bytes: int) -> "LogHead":
        blocks, count, repeats = self.blocks, len(events.timestamp), 1
        if blocks and blocks[-1][0] == count:
            blocks, repeats = blocks[:-1], blocks[-1][1] + 1
        return replace(
            self,
            blocks=(*blocks, (count, repeats)),
            sealed_bytes=self.sealed_bytes + size_bytes,
            last_time=int(events.timestamp[-1]),
        )


def encode_block(events: Logged) -> bytes:
    """Events by column, each column as short as it gets."""
    number, texts = _to_numbers(events.item_id)
    columns, flags = [events.timestamp, number], 0
    if events.action is not None:
        columns.append(events.action)
        flags |= _ACTIONS
    if texts is not None:
        flags |= _TEXT
        if len(deflated := zlib.compress(texts, 9)) < len(texts):
            flags |= _DEFLATED
            texts = deflated
    head = varint(flags) + varint(len(number))
    return frame(head + b"".join(map(integers.encode, columns)) + (texts or b""))


def decode_block(blob: bytes, what: str = "block of a history") -> Logged:
    """The inverse of `encode_block`.

    Raises:
        FormatVersionError: written in another format version. CorruptStateError: damaged.
    """
    reader = unframe(blob, what, REMEDY)
    flags, count = reader.varint(), reader.varint()
    timestamp, number = reader.ints(count), reader.ints(count)
    action = reader.ints(count) if flags & _ACTIONS else None
    texts = reader.take(reader.left) if flags & _TEXT else None
    reader.finish()
    if texts is not None and flags & _DEFLATED:
        try:
            texts = zlib.decompress(texts)
        except zlib.error as error:
            raise CorruptStateError(f"the item ids of {what} can't be inflated: {error}") from None
    return Logged(_from_numbers(number, texts), timestamp, action)


def _to_numbers(item_id: NDArray[Any]) -> tuple[Ints, bytes | None]:
    """Item ids as numbers: themselves, or the lengths of texts that follow one another."""
    if item_id.dtype.kind != "U":
        return item_id, None
    texts = [text.encode() for text in item_id.tolist()]
    return np.array([len(text) for text in texts], np.int64), b"".join(texts)


def _from_numbers(number: Ints, texts: bytes | None) -> NDArray[Any]:
    """The inverse of `_to_numbers`."""
    if texts is None:
        return number
    ends = np.cumsum(number)
    if number.min(initial=0) < 0 or ends[-1:].sum() != len(texts):
        raise CorruptStateError("item ids do not add up to their lengths: the bytes are damaged")
    try:
        parts = [texts[a:b].decode() for a, b in zip(ends - number, ends, strict=True)]
    except UnicodeDecodeError:
        raise CorruptStateError("an item id is not valid UTF-8: the bytes are damaged") from None
    return np.array(parts, np.str_)


def _actions(events: Logged) -> Ints:
    return np.zeros_like(events.timestamp) if events.action is None else events.action


def joined(parts: Sequence[Logged]) -> Logged:
    """Events one part after another."""
    return Logged(
        np.concatenate([part.item_id for part in parts]),
        np.concatenate([part.timestamp for part in parts]),
        None
        if all(part.action is None for part in parts)
        else np.concatenate([_actions(part) for part in parts]),
    )


def overlap(stored: Logged, given: Logged) -> int | None:
    """How many of the given events stand in a history: all, or its end is their beginning.

    None if they neither overlap nor come after it.
    """
    count, length = len(given.timestamp), len(stored.timestamp)
    pairs = list(zip(stored.columns(), given.columns(), strict=True))
    if pairs[0][0].dtype.kind != pairs[0][1].dtype.kind:
        return 0  # refused when it is written
    firsts = np.logical_and.reduce([there == new[0] for there, new in pairs])
    for start in np.flatnonzero(firsts).tolist():
        shared = min(count, length - start)
        if all(np.array_equal(t[start : start + shared], n[:shared]) for t, n in pairs):
            return shared
    return 0 if given.timestamp[0] >= stored.timestamp.max(initial=-(2**63)) else None


def is_text(events: Logged) -> bool:
    """Whether item ids are text."""
    return events.item_id.dtype.kind == "U"


def columns_of(
    item_ids: Sequence[int | str], timestamps: Sequence[int], actions: Sequence[int] | None
) -> Logged:
    """The caller's events, checked."""
    lengths = [len(column) for column in (item_ids, timestamps, actions) if column is not None]
    if len(set(lengths)) > 1:
        raise DataError(f"columns of {lengths} entries: give every event all of its columns")
    if any(isinstance(item, str) for item in item_ids):
        item_id: NDArray[Any] = _texts(item_ids)
    else:
        item_id = _int64("item ids", item_ids)
    action = None if actions is None else _int64("actions", actions)
    return Logged(item_id, _int64("timestamps", timestamps), action)


def with_texts(events: Logged) -> Logged:
    """Events whose text ids, if they are Python's, are checked and made numpy's."""
    if events.item_id.dtype.kind != "O":
        return events
    return events._replace(item_id=_texts(events.item_id.tolist()))


def _int64(what: str, values: Iterable[Any]) -> Ints:
    try:
        return np.fromiter(map(index, values), np.int64)
    except (TypeError, OverflowError) as error:
        raise DataError(f"{what} must be whole numbers of 64 bits: {error}") from None


def _texts(item_ids: Sequence[Any]) -> NDArray[np.str_]:
    try:
        if any("\0" in item or not item.encode() for item in item_ids):
            raise ValueError  # numpy drops zero characters at the end
    except (TypeError, AttributeError, ValueError):
        raise DataError(
            f"item ids {list(item_ids)[:3]} ...: give all of them as whole numbers, or all as "
            "non-empty text without zero characters"
        ) from None
    return np.array(item_ids, np.str_)
