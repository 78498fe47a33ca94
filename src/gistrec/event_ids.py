"""Ids of a user's newest events, by which an event that comes again is known and not logged twice.

Only of events to which the caller gave an id, and only of the newest `KEPT` of them: a repetition
that comes later is a new event. An id is kept as 8 bytes of its BLAKE2b hash, so an event is taken
for another one's repetition once in 3e17.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from gistrec.errors import DataError
from gistrec.wire import frame, unframe

KEPT = 64
MAX_ID_BYTES = 256
_HASH_BYTES = 8


@dataclass(frozen=True)
class EventIds:
    """What is known of a user's newest ids, oldest first."""

    hashes: tuple[bytes, ...] = ()

    def news(self, given: Iterable[bytes | None]) -> list[int]:
        """Places of the events that did not come before; one without an id is always new."""
        seen = set(self.hashes)
        places = []
        for place, hashed in enumerate(given):
            if hashed is None or hashed not in seen:
                places.append(place)
            if hashed is not None:
                seen.add(hashed)
        return places

    def with_new(self, hashes: Iterable[bytes | None]) -> Self:
        """With the ids of events behind them."""
        every = (*self.hashes, *(h for h in hashes if h is not None))
        return type(self)(every[-KEPT:])

    def to_bytes(self) -> bytes:
        """The blob of the entry."""
        return frame(b"".join(self.hashes))

    @classmethod
    def from_bytes(cls, blob: bytes, what: str, remedy: str) -> Self:
        """The inverse of `to_bytes`.

        Raises:
            FormatVersionError: written in another format version. CorruptStateError: damaged.
        """
        reader = unframe(blob, what, remedy)
        hashes = [reader.take(_HASH_BYTES) for _ in range(reader.left // _HASH_BYTES)]
        reader.finish()
        return cls(tuple(hashes))


def hash_of(event_id: str | None) -> bytes | None:
    """What is kept of an id.

    Raises:
        DataError: it is no text of 1 to `MAX_ID_BYTES` bytes.
    """
    if event_id is None:
        return None
    try:
        raw = event_id.encode()
    except (AttributeError, UnicodeEncodeError):
        raise DataError(f"event id {event_id!r} is not a text: give one, or None") from None
    if not 0 < len(raw) <= MAX_ID_BYTES:
        raise DataError(
            f"event id {event_id[:40]!r} has {len(raw)} bytes, allowed are 1 to {MAX_ID_BYTES}"
        )
    return hashlib.blake2b(raw, digest_size=_HASH_BYTES).digest()
