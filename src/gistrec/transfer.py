"""Logs of files into a store's history log, and out of it as Parquet.

Shapes: R events, U users.

Both may be killed at any moment. An import that is run again goes on: a user's events are logged
all or none, and those that are there are not logged again. An export writes its file under another
name until it is whole.

Cost: an import holds the log's columns in memory (32 bytes an event, and its texts); an export a
chunk of them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gistrec import parquet
from gistrec.errors import DataError
from gistrec.events import Events
from gistrec.history_log import HistoryLog
from gistrec.log_blocks import Logged

_EVENTS_AT_ONCE = 1 << 16
_USERS_AT_ONCE = 1024
_CHUNK_EVENTS = 1 << 20
_SHOWN = 5

Report = Callable[[int, int], None]
"""Called now and then with the events that are behind, and all there are."""


class Imported(NamedTuple):
    """What an import did."""

    users: int
    """Users of the file."""
    events: int
    """Events that were added."""
    kept: int
    """Events that were in the store already."""
    differing_users: int
    """Users of whom nothing was added, because the store has other events at that time or later."""
    examples: tuple[str, ...]
    """Some of these."""


class Exported(NamedTuple):
    """What an export wrote."""

    users: int
    events: int
    actions: bool = False
    """Whether there is a column of actions."""


def import_events(log: HistoryLog, events: Events, *, report: Report | None = None) -> Imported:
    """Add a log to a store; the store's user ids are the log's as text.

    A user's events continue the stored history, or begin within it: what is there is not logged
    again.

    Args:
        log: The store's history log.
        events: What to add.
        report: Told of the progress.

    Raises:
        DataError: item ids of another kind than a user's stored ones, or an id is too long.
        StoreUnavailableError: the store is away; run it again.
    """
    added = kept = 0
    differing: list[str] = []
    starts_U = _starts(events)
    for batch in _batches(starts_U):
        histories = [_history(events, start, end) for start, end in batch]
        for (user_id, given), new in zip(histories, log.extend(histories), strict=True):
            if new is None:
                differing.append(user_id)
            else:
                added += new
                kept += len(given.timestamp) - new
        if report is not None:
            report(batch[-1][1], len(events))
    examples = tuple(differing[:_SHOWN])
    return Imported(len(starts_U) - 1, added, kept, len(differing), examples)


def _starts(events: Events) -> list[int]:
    """Where each user's events begin, and the end of all."""
    user_R = events.user_id
    return [0, *(np.flatnonzero(user_R[1:] != user_R[:-1]) + 1).tolist(), len(events)]


def _batches(starts: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """First and last row of the users that are written together."""
    batch: list[tuple[int, int]] = []
    for start, end in itertools.pairwise(starts):
        batch.append((start, end))
        if end - batch[0][0] >= _EVENTS_AT_ONCE or len(batch) == _USERS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _history(events: Events, start: int, end: int) -> tuple[str, Logged]:
    (user,) = events.user_id[start : start + 1].tolist()
    action = None if events.action is None else events.action[start:end]
    return str(user), Logged(events.item_id[start:end], events.timestamp[start:end], action)


def export_events(
    log: HistoryLog, out: Path, *, text_users: bool = False, report: Report | None = None
) -> Exported:
    """Write all users' histories to a Parquet file: `user_id`, `item_id`, `timestamp`, `action`.

    User ids are numbers if every one is written as a whole number. There is a column `action` if an
    event of any user has one; it is 0 where an event has none. Within a user, rows have the order
    of the log. Users who come while it runs are left out.

    Args:
        log: The store's history log.
        out: The file; replaced as a whole if it exists.
        text_users: Leave user ids text, even if all are whole numbers.
        report: Told of the progress.

    Raises:
        DataError: there is no event, or some users' item ids are numbers and others' text.
        CorruptStateError: a history is damaged.
    """
    users, shape = _survey(log, text_users=text_users)

    def told(written: int) -> None:
        if report is not None:
            report(min(written, shape.events), shape.events)

    written = parquet.write(out, shape.columns, _chunks(log, users, shape), report=told)
    return Exported(len(users), written, shape.actions)


class _Shape(NamedTuple):
    """What the file's columns are, and how many events there were when this was found out."""

    number_users: bool
    text_items: bool
    actions: bool
    events: int

    @property
    def columns(self) -> list[str]:
        """In SQL."""
        found = ["user_id BIGINT" if self.number_users else "user_id VARCHAR"]
        found.append("item_id VARCHAR" if self.text_items else "item_id BIGINT")
        found.append("timestamp BIGINT")
        return [*found, "action BIGINT"] if self.actions else found


def _survey(log: HistoryLog, *, text_users: bool) -> tuple[list[str], _Shape]:
    """All users, in the order of the file, and what their heads say of the columns."""
    users = list(log.users())
    first_of_kind: dict[bool, str] = {}
    actions, events = False, 0
    for start in range(0, len(users), _USERS_AT_ONCE):
        some = users[start : start + _USERS_AT_ONCE]
        for user_id, head in zip(some, log.heads(some), strict=True):
            if head is not None and head.length:
                first_of_kind.setdefault(head.is_text, user_id)
                actions |= head.has_actions
                events += head.length
    if not events:
        raise DataError("the store holds no events: name one that `gistrec import` or a server fed")
    if len(first_of_kind) > 1:
        raise DataError(
            f"item ids of user {first_of_kind[True]!r} are text, those of user "
            f"{first_of_kind[False]!r} whole numbers: a Parquet column has one kind; forget the "
            "users of one kind first"
        )
    numbers = not text_users and all(map(_is_whole, users))
    users = sorted(users, key=int) if numbers else users
    return users, _Shape(numbers, True in first_of_kind, actions, events)


def _is_whole(text: str) -> bool:
    """Whether it is how a whole number of 64 bits is written."""
    try:
        return str(int(text)) == text and -(2**63) <= int(text) < 2**63
    except ValueError:
        return False


def _chunks(log: HistoryLog, users: Sequence[str], shape: _Shape) -> Iterator[dict[str, Any]]:
    """Columns of some users after another."""
    parts: list[tuple[str, Logged]] = []
    held = 0
    for user_id in users:
        logged = log.read(user_id)
        if not len(logged.timestamp):
            continue  # forgotten a moment ago
        if logged.action is not None and not shape.actions:
            raise DataError(
                f"user {user_id!r} got the store's first action while it was read: run it again"
            )
        parts.append((user_id, logged))
        held += len(logged.timestamp)
        if held >= _CHUNK_EVENTS:
            yield _columns(parts, shape)
            parts, held = [], 0
    if parts:
        yield _columns(parts, shape)


def _columns(parts: Sequence[tuple[str, Logged]], shape: _Shape) -> dict[str, Any]:
    users = [int(user_id) if shape.number_users else user_id for user_id, _ in parts]
    user_U = np.array(users, np.int64 if shape.number_users else object)
    items, times, actions = zip(*(logged.columns() for _, logged in parts), strict=True)
    found = {
        "user_id": np.repeat(user_U, [len(t) for t in times]),
        "item_id": np.concatenate([i.astype(object) if shape.text_items else i for i in items]),
        "timestamp": np.concatenate(times),
    }
    return found | {"action": np.concatenate(actions)} if shape.actions else found
