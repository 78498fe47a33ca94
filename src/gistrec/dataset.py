"""Events -> dense sequences, splits and training batches.

Shapes: U users, R events, V items, B sequences of a batch, S positions, Q queries, P pairs.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gistrec.errors import ConfigError, DataError
from gistrec.events import Events

Ints = NDArray[np.int64]
Scheme = Literal["leave_last_out", "last_basket"]
SCHEMES: tuple[Scheme, ...] = ("leave_last_out", "last_basket")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Item ids and their dense indices 0..V-1."""

    ids: NDArray[Any]
    """(V,) external ids, ascending, int64 or str."""
    titles: Mapping[Any, str] = dataclasses.field(default_factory=dict)
    """Item id -> name for people, where known."""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _index(self) -> dict[Any, int]:
        return {item: n for n, item in enumerate(self.ids.tolist())}

    def index(self, item_id: Any) -> int:
        """The dense index of an item, or -1 if the model does not know it."""
        return self._index.get(item_id, -1)

    def indices(self, item_ids: NDArray[Any]) -> Ints:
        """The dense indices of items, -1 for those that the model does not know."""
        if not len(self) or {self.ids.dtype, item_ids.dtype} != {np.dtype(np.int64)}:
            return np.array([self.index(item) for item in item_ids.tolist()], np.int64)
        place = np.searchsorted(self.ids, item_ids).clip(max=len(self) - 1)
        return np.where(self.ids[place] == item_ids, place, -1)

    def known(self, item_ids: Sequence[Any]) -> list[int]:
        """The indices of items that must be there.

        Raises:
            DataError: one of them is not.
        """
        index = [self.index(i) for i in item_ids]
        if -1 in index:
            raise DataError(
                f"item {item_ids[index.index(-1)]!r} is not in the model's catalogue of "
                f"{len(self)} items: leave it out or train a model that knows it"
            )
        return index

    def title(self, index: int) -> str:
        """An item's name, or its id where no name is known."""
        item = self.ids[index]
        item = item.item() if isinstance(item, np.generic) else item
        return self.titles.get(item, str(item))


@dataclasses.dataclass(frozen=True)
class History:
    """One user's events in time order, items as dense indices."""

    item_index: Ints
    """(n,)"""
    timestamp: Ints
    """(n,) Unix seconds, ascending."""
    action: Ints | None = None
    """(n,) what the user did, 0..255, where the log says so; most backbones do not ask."""

    def __len__(self) -> int:
        return len(self.item_index)

    def __getitem__(self, part: slice) -> "History":
        action = None if self.action is None else self.action[part]
        return History(self.item_index[part], self.timestamp[part], action)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Sequences for training and what to predict from them.

    A query is a position whose output is asked for, at a request time; a pair joins a query with
    one item to be predicted. Next-item training has a query and a pair per position; next-basket
    training a query per basket end and a pair per item of the basket that follows.
    """

    item_BS: Tensor
    """Item indices, `num_items` where there is none."""
    time_BS: Tensor
    """Event times; the last one repeated where there is none."""
    next_time_BS: Tensor
    """Time of each position's next event: the request time of a query there."""
    query_row_Q: Tensor
    query_position_Q: Tensor
    pair_query_P: Tensor
    """Which query a pair belongs to, ascending."""
    pair_item_P: Tensor
    """The item to be predicted."""

    @property
    def num_targets(self) -> int:
        """P."""
        return len(self.pair_item_P)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        return Batch(*(getattr(self, f.name).to(device) for f in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class Split:
    """Where each user's history ends and the events to be predicted begin.

    Row numbers into the dataset's columns, one per user kept. `target_start == target_end` never
    occurs. Everything before `target_start` is history.
    """

    user: Ints
    """(U,) position of the user in `Dataset.user_ids`."""
    history_start: Ints
    target_start: Ints
    target_end: Ints

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: Ints) -> "Split":
        """Some of the users."""
        return Split(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class Dataset:
    """All users' histories as columns with offsets: user n owns rows offsets[n]..offsets[n+1]."""

    user_ids: NDArray[Any]
    """(U,) external ids, in order of first row."""
    offsets: Ints
    """(U + 1,)"""
    item_index: Ints
    """(R,)"""
    timestamp: Ints
    """(R,)"""
    items: Vocabulary
    action: Ints | None = None
    """(R,) where the log has it."""
    dropped_users: int = 0
    """Users left out for having fewer than `min_events` events."""
    source: str = dataclasses.field(default="", compare=False)
    """Where the log was read from, for messages."""

    @classmethod
    def from_events(cls, events: Events, *, min_events: int = 5) -> "Dataset":
        """Group a log by user and give items dense indices.

        Args:
            events: A log, sorted by user and time (every source sorts).
            min_events: Users with fewer events are left out (counted in `dropped_users`).

        Raises:
            DataError: no user has that many events.
        """
        rows = len(events)
        changes = np.flatnonzero(events.user_id[1:] != events.user_id[:-1]) + 1
        offsets = np.concatenate([[0], changes, [rows]]).astype(np.int64)
        counts = np.diff(offsets)
        keep = counts >= min_events
        if not keep.any():
            raise DataError(
                f"no user has at least {min_events} events (the longest history has "
                f"{counts.max(initial=0)}): give a log with longer histories or lower min_events"
            )
        row_kept = np.repeat(keep, counts)
        ids, index = np.unique(events.item_id[row_kept], return_inverse=True)
        return cls(
            user_ids=events.user_id[offsets[:-1][keep]],
            offsets=np.concatenate([[0], np.cumsum(counts[keep])]).astype(np.int64),
            item_index=index.astype(np.int64),
            timestamp=events.timestamp[row_kept],
            items=Vocabulary(ids, events.titles),
            action=None if events.action is None else events.action[row_kept],
            dropped_users=int((~keep).sum()),
            source=events.source,
        )

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """V."""
        return len(self.items)

    def rows(self, start: int, end: int) -> History:
        """The events of some rows of one user."""
        action = None if self.action is None else self.action[start:end]
        return History(self.item_index[start:end], self.timestamp[start:end], action)

    def history(self, user: int) -> History:
        """All events of the user at a position of `user_ids`."""
        return self.rows(self.offsets[user], self.offsets[user + 1])

    def split(self, scheme: Scheme = "leave_last_out", *, holdout: int = 0) -> Split:
        """What to predict from what, per user.

        Args:
            scheme: `leave_last_out` predicts the last event, `last_basket` all events at the last
                timestamp.
            holdout: 0 for the test split; 1 for the validation split, which leaves the test target
                out and predicts what comes before it. Users without history are left out.

        Raises:
            DataError: a user has one event only, or nobody has a history and a target.
            ConfigError: unknown scheme.
        """
        if scheme not in SCHEMES:
            raise ConfigError(f"unknown split {scheme!r}: allowed: {', '.join(SCHEMES)}")
        self._check_no_single_events()
        start, end = self.offsets[:-1], self.offsets[1:].copy()
        target = self._target_start(scheme, end)
        for _ in range(holdout):
            end = target
            target = self._target_start(scheme, end)
        good = np.flatnonzero((target > start) & (end > target))
        if not len(good):
            raise DataError(
                f"no user has events before its target under {scheme!r} with holdout {holdout}: "
                "give a log with longer histories"
            )
        return Split(good, start[good], target[good], end[good])

    def _check_no_single_events(self) -> None:
        single = np.flatnonzero(np.diff(self.offsets) == 1)
        if len(single):
            row = self.offsets[single[0]]
            item = self.items.ids[self.item_index[row]]
            raise DataError(
                f"{self.source or 'the log'}: {len(single)} users have one event only, the first "
                f"is user {self.user_ids[single[0]]!s} (item {item!s}, timestamp "
                f"{self.timestamp[row]}): there is nothing to predict it from; leave such users "
                "out with min_events=2 or more"
            )

    def _target_start(self, scheme: Scheme, end: Ints) -> Ints:
        start = self.offsets[:-1]
        if scheme == "leave_last_out":
            return np.maximum(end - 1, start)
        # first row of the run of equal timestamps (within the user) that row end-1 belongs to
        run_starts = self._basket_starts
        return np.where(
            end > start, run_starts[np.searchsorted(run_starts, end - 1, side="right") - 1], start
        )

    def popularity(self, scheme: Scheme = "leave_last_out", *, holdout: int = 1) -> Ints:
        """Events of each item, (V,), without those of the targets that are left out."""
        end = self._training_end(scheme, holdout)
        users = np.repeat(np.arange(self.num_users), np.diff(self.offsets))
        seen = np.arange(len(self.item_index)) < end[users]
        return np.bincount(self.item_index[seen], minlength=self.num_items)

    def _training_end(self, scheme: Scheme, holdout: int) -> Ints:
        end = self.offsets[1:].copy()
        for _ in range(holdout):
            end = self._target_start(scheme, end)
        return end

    @cached_property
    def _basket_starts(self) -> Ints:
        rows = len(self.timestamp)
        first = np.zeros(rows, bool)
        first[1:] = self.timestamp[1:] != self.timestamp[:-1]
        first[self.offsets[:-1][self.offsets[:-1] < rows]] = True
        return np.flatnonzero(first)

    def batches(
        self,
        *,
        batch_tokens: int,
        max_len: int,
        rng: np.random.Generator,
        scheme: Scheme = "leave_last_out",
        holdout: int = 1,
    ) -> Iterator[Batch]:
        """One epoch of training batches, sequences of similar length together, shuffled.

        A history longer than `max_len` is cut into windows at places that differ by epoch, so all
        its events are trained on.

        Args:
            batch_tokens: Positions per batch, padding included.
            max_len: Longest window.
            rng: Draws windows and order.
            scheme: `last_basket` trains next-basket pairs, `leave_last_out` next-item pairs.
            holdout: How many targets are left out at the end: 1 for a final fit (the test target
                alone), 2 to choose hyper-parameters on the validation target.

        Raises:
            DataError: a user has one event only, or nobody has two events to train on.
        """
        self._check_no_single_events()
        end = self._training_end(scheme, holdout)
        windows = _windows(self.offsets[:-1], end, max_len, rng)
        if not len(windows):
            raise DataError(
                f"no user has two events left to train on once {holdout} target(s) per user are "
                "left out: give a log with longer histories"
            )
        order = np.argsort(windows[:, 1] - windows[:, 0], kind="stable")
        groups: list[list[int]] = [[]]
        for n in order:
            length = windows[n, 1] - windows[n, 0]
            if groups[-1] and (len(groups[-1]) + 1) * length > batch_tokens:
                groups.append([])
            groups[-1].append(n)
        for g in rng.permutation(len(groups)):
            yield self._batch([tuple(windows[n]) for n in groups[g]], scheme)

    def _batch(self, windows: Sequence[tuple[int, int, int]], scheme: Scheme) -> Batch:
        size = max(end - start for start, end, _ in windows) - 1
        item = np.full((len(windows), size), self.num_items)
        time = np.zeros((len(windows), size), np.int64)
        next_time = np.zeros_like(time)
        query_row, query_position, pair_query, pair_item = [], [], [], []
        queries = 0
        for row, (start, end, _) in enumerate(windows):
            n = end - start - 1
            items, times = self.item_index[start:end], self.timestamp[start:end]
            item[row, :n], time[row, :n], next_time[row, :n] = items[:-1], times[:-1], times[1:]
            time[row, n:], next_time[row, n:] = times[-2], times[-1]
            if scheme == "last_basket":
                ends = np.flatnonzero(times[1:] != times[:-1])  # last position of each basket
            else:
                ends = np.arange(n)
            if not len(ends):
                continue
            # item j (>= 1) belongs to the newest query before it
            owner = np.searchsorted(ends, np.arange(1, n + 1) - 1, side="right") - 1
            has = owner >= 0
            query_row.append(np.full(len(ends), row))
            query_position.append(ends)
            pair_query.append(owner[has] + queries)
            pair_item.append(items[1:][has])
            queries += len(ends)

        def joined(parts: list[Ints]) -> Tensor:
            return torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0, np.int64))

        return Batch(
            torch.from_numpy(item),
            torch.from_numpy(time),
            torch.from_numpy(next_time),
            joined(query_row),
            joined(query_position),
            joined(pair_query),
            joined(pair_item),
        )


def _windows(start: Ints, end: Ints, max_len: int, rng: np.random.Generator) -> Ints:
    """Rows (start, end, user) of training windows: at most max_len + 1 events, at least 2.

    Neighbouring windows share one event, so that each event but a user's first is a target once.
    """
    out = []
    for user, (first, last) in enumerate(zip(start.tolist(), end.tolist(), strict=True)):
        length = last - first
        cuts = [first]
        if length > max_len + 1:
            cuts += range(first + int(rng.integers(1, max_len + 1)), last - 1, max_len)
        cuts.append(last - 1)
        out += [(a, b + 1, user) for a, b in pairwise(cuts) if b > a]
    return np.array(out, np.int64).reshape(-1, 3)
