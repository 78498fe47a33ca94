"""Impressions: what was shown to whom, with labels, each with the history that was known by then.

Shapes: N impressions, R rows of the data set, T labels, C context columns, F item features, V
items, B sequences of a batch, S positions.

One file per source; its name is its spec name. A history is a *prefix view*: the rows of the
user that are older than the impression, by reference. Events of the impression's own second are
not part of it: what was shown together was not known to one another.
"""

import dataclasses
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gistrec import registry
from gistrec.dataset import Dataset, History, Ints, Vocabulary
from gistrec.errors import ConfigError, DataError
from gistrec.events import Events

Labels = NDArray[np.float32]
Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
SHARES = (0.8, 0.9)
"""Where, in the order of time, validation and test begin."""
FEATURE_ROWS = 1 << 14
"""Values of context columns and item features share so many rows, by hashing (Weinberger et al.
2009, arXiv 0902.2206): a value never seen before has a row, and no list of values is kept."""


def feature_row(column: str, value: Any) -> int:
    """The row of a column's value; -1 of a missing one."""
    if value is None or value == "" or value != value:
        return -1
    if isinstance(value, float) and value.is_integer():  # 3 and 3.0 are the same category
        value = int(value)
    return zlib.crc32(f"{column}={value}".encode()) % FEATURE_ROWS


def feature_rows(values: Mapping[str, Any]) -> list[int]:
    """Rows of an item's features by column; a text such as `Drama|War` has several values."""
    rows = [
        feature_row(name, part)
        for name, value in values.items()
        for part in (value.split("|") if isinstance(value, str) else [value])
    ]
    return [row for row in rows if row >= 0]


@dataclasses.dataclass(frozen=True)
class ImpressionBatch:
    """Stretches of histories for training, and the impressions that read them."""

    item_BS: Tensor
    """Item indices, `num_items` where there is none."""
    action_BS: Tensor
    """What the user did, -1 where nobody knows or there is no event."""
    time_BS: Tensor
    item_BN: Tensor
    """Item indices of impressions, `num_items` where there is none."""
    position_BN: Tensor
    """Position of the newest event that an impression's user had had by then; -1: none."""
    time_BN: Tensor
    length_BN: Tensor
    """Events of the whole history at that time."""
    context_BNC: Tensor
    """Feature rows, -1 where missing."""
    label_BNT: Tensor
    """1, 0, or nan where not known or there is no impression."""
    soft_BNT: Tensor
    """A teacher's chance of each label, nan where there is none."""
    number_BN: Tensor
    """Which impression it is, -1 where there is none."""

    @property
    def num_targets(self) -> int:
        """Labels that are known."""
        return int((~self.label_BNT.isnan()).sum())

    def to(self, device: torch.device | str) -> "ImpressionBatch":
        """The same batch on a device."""
        return ImpressionBatch(
            *(getattr(self, f.name).to(device) for f in dataclasses.fields(self))
        )


@dataclasses.dataclass(frozen=True)
class Impressions:
    """Impressions over a data set of histories, sorted by user and time."""

    dataset: Dataset
    """Histories. Users without events are there, too."""
    user: Ints
    """(N,) position in `dataset.user_ids`."""
    item_index: Ints
    """(N,)"""
    timestamp: Ints
    """(N,) Unix seconds."""
    history_end: Ints
    """(N,) row of the data set at which the history known by then ends."""
    label_NT: Labels
    """1 or 0; nan where it is not known."""
    labels: tuple[str, ...]
    """T names; candidates are ranked by the first."""
    context_NC: Ints
    """Feature rows, -1 where missing."""
    contexts: tuple[str, ...] = ()
    """C names."""
    feature_VF: Ints = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.int64))
    """Feature rows of items, -1 where there are fewer."""
    soft_NT: Labels | None = None
    """What a teacher says of each label, 0..1, for a student to learn."""

    def __len__(self) -> int:
        return len(self.user)

    @property
    def num_items(self) -> int:
        """V."""
        return self.dataset.num_items

    @property
    def items(self) -> Vocabulary:
        """Of histories and impressions."""
        return self.dataset.items

    @property
    def lengths(self) -> Ints:
        """Events of each impression's history, (N,)."""
        return self.history_end - self.dataset.offsets[self.user]

    @property
    def events(self) -> Events:
        """All histories as a log."""
        data = self.dataset
        return Events(
            np.repeat(data.user_ids, np.diff(data.offsets)),
            data.items.ids[data.item_index],
            data.timestamp,
            data.action,
            data.items.titles,
            source=data.source,
        )

    def history(self, n: int) -> History:
        """What was known of the user at the n-th impression."""
        return self.dataset.rows(int(self.dataset.offsets[self.user[n]]), int(self.history_end[n]))

    def part(self, part: Part) -> Ints:
        """The numbers of a part's impressions: the oldest 80 % train, the next 10 % validate.

        Raises:
            DataError: a part has no impressions.
        """
        first, second = np.quantile(self.timestamp, SHARES, method="higher")
        age = (self.timestamp >= first).astype(int) + (self.timestamp >= second)
        found = np.flatnonzero(age == PARTS.index(part))
        if not len(found):
            raise DataError(
                f"no impression is in the {part} part: of {len(self)} the first 80 % in time "
                "train, the next 10 % validate, the rest test; give a log that goes on for longer"
            )
        return found

    def batches(
        self,
        *,
        batch_tokens: int,
        max_len: int,
        rng: np.random.Generator | None = None,
        numbers: Ints | None = None,
        scheme: str = "",
        holdout: int = 1,
    ) -> Iterator[ImpressionBatch]:
        """Impressions in batches, those of one user that stand near each other on one stretch.

        Args:
            batch_tokens: Events and impressions of a batch, padding included.
            max_len: Events that an impression reads at least, if there are so many; at most twice.
            rng: Shuffles the batches; None: in order of size.
            numbers: Which impressions; None: those of the training part.
            scheme: Of next-item training; has no part in this.
            holdout: 0 takes all impressions for the training part.
        """
        if numbers is None:
            numbers = self.part("train") if holdout else np.arange(len(self))
        stretches = self._stretches(numbers, max_len)
        sizes = [self._size(s) for s in stretches]
        groups: list[list[int]] = [[]]
        for n in np.argsort([s + c for s, c in sizes], kind="stable").tolist():
            both = np.max([sizes[m] for m in [*groups[-1], n]], axis=0).sum()
            if groups[-1] and (len(groups[-1]) + 1) * both > batch_tokens:
                groups.append([])
            groups[-1].append(n)
        order = np.arange(len(groups)) if rng is None else rng.permutation(len(groups))
        for g in order.tolist():
            yield self._batch([stretches[n] for n in groups[g]])

    def _stretches(self, numbers: Ints, max_len: int) -> list[tuple[int, Ints]]:
        """First row of a stretch of history, and the impressions that read it."""
        user, end = self.user[numbers], self.history_end[numbers]
        out: list[tuple[int, Ints]] = []
        begin = 0
        for n in range(1, len(numbers) + 1):
            if (
                n == len(numbers)
                or user[n] != user[begin]
                or end[n] - end[begin] > max_len
                or n - begin >= max_len
            ):
                first = max(int(self.dataset.offsets[user[begin]]), int(end[begin]) - max_len)
                out.append((first, numbers[begin:n]))
                begin = n
        return out

    def _size(self, stretch: tuple[int, Ints]) -> tuple[int, int]:
        first, numbers = stretch
        return int(self.history_end[numbers[-1]]) - first, len(numbers)

    def _batch(self, stretches: Sequence[tuple[int, Ints]]) -> ImpressionBatch:
        sizes = np.array([self._size(s) for s in stretches])
        (events, shown), users = sizes.max(0), len(stretches)
        data = self.dataset
        item = np.full((users, events), self.num_items)
        action, time = np.full((users, events), -1), np.zeros((users, events), np.int64)
        number = np.full((users, shown), -1)
        position = np.full((users, shown), -1)
        for b, (first, numbers) in enumerate(stretches):
            rows = slice(first, first + int(sizes[b, 0]))
            item[b, : sizes[b, 0]] = data.item_index[rows]
            time[b, : sizes[b, 0]] = data.timestamp[rows]
            if data.action is not None:
                action[b, : sizes[b, 0]] = data.action[rows]
            number[b, : len(numbers)] = numbers
            position[b, : len(numbers)] = self.history_end[numbers] - first - 1
        there = number >= 0
        label = np.where(there[..., None], self.label_NT[number], np.nan)
        soft = np.full_like(label, np.nan)
        if self.soft_NT is not None:
            soft = np.where(there[..., None], self.soft_NT[number], np.nan)
        found = (
            item,
            action,
            time,
            np.where(there, self.item_index[number], self.num_items),
            position,
            self.timestamp[number],
            self.lengths[number],
            np.where(there[..., None], self.context_NC[number], -1),
            label.astype(np.float32),
            soft.astype(np.float32),
            number,
        )
        return ImpressionBatch(*(torch.from_numpy(np.ascontiguousarray(a)) for a in found))


def gather(
    events: Events,
    labels: Mapping[str, NDArray[Any]],
    *,
    shown: NDArray[np.bool_],
    happened: NDArray[np.bool_],
    context: Mapping[str, NDArray[Any]] | None = None,
    features: Mapping[Any, Sequence[int]] | None = None,
) -> Impressions:
    """Impressions from rows, sorted by user and time, of which some were shown and some happened.

    Args:
        events: All rows; `action` is what histories tell.
        labels: Name -> (R,) 1, 0 or nan, of the rows that were shown; the first one ranks.
        shown: Rows that are impressions.
        happened: Rows that are part of their user's history afterwards.
        context: Name -> (R,) values of a category.
        features: Item id -> feature rows.

    Raises:
        DataError: a label is neither 0 nor 1, or never both.
    """
    for name, values in labels.items():
        found = np.unique(values[shown])
        found = found[~np.isnan(found)]
        if not set(found) <= {0.0, 1.0}:
            raise DataError(
                f"{events.source or 'the log'}: label {name!r} has values such as "
                f"{next(v for v in found if v not in (0, 1)):g}; a label is 0 or 1 (or missing): "
                "say from which value on it is positive with positive=..."
            )
        if len(found) < 2:
            raise DataError(
                f"{events.source or 'the log'}: label {name!r} is never "
                f"{'both 0 and 1' if len(found) else 'known'}: there is nothing to learn"
            )
    rows = len(events)
    new_user = np.ones(rows, bool)
    new_user[1:] = events.user_id[1:] != events.user_id[:-1]
    new_time = new_user.copy()
    new_time[1:] |= events.timestamp[1:] != events.timestamp[:-1]
    user = new_user.cumsum() - 1
    before = np.concatenate([[0], happened.cumsum()])
    run_start = np.maximum.accumulate(np.where(new_time, np.arange(rows), 0))
    ids, index = np.unique(events.item_id, return_inverse=True)
    starts = np.flatnonzero(new_user)
    dataset = Dataset(
        user_ids=events.user_id[starts],
        offsets=np.append(before[starts], before[-1]).astype(np.int64),
        item_index=index[happened].astype(np.int64),
        timestamp=events.timestamp[happened],
        items=Vocabulary(ids, events.titles),
        action=None if events.action is None else events.action[happened],
        source=events.source,
    )
    return Impressions(
        dataset=dataset,
        user=user[shown],
        item_index=index[shown].astype(np.int64),
        timestamp=events.timestamp[shown],
        history_end=before[run_start][shown].astype(np.int64),
        label_NT=np.stack([v[shown] for v in labels.values()], 1).astype(np.float32),
        labels=tuple(labels),
        context_NC=_rows(context or {}, shown),
        contexts=tuple(context or {}),
        feature_VF=_padded([(features or {}).get(i, ()) for i in ids.tolist()]),
    )


def _rows(context: Mapping[str, NDArray[Any]], shown: NDArray[np.bool_]) -> Ints:
    columns = [np.zeros((int(shown.sum()), 0), np.int64)]
    for name, values in context.items():
        given = np.ma.asarray(values[shown]).tolist()  # None where masked
        row_of = cache(lambda value, name=name: feature_row(name, value))
        row = [row_of(value) for value in given]
        columns.append(np.array(row, np.int64).reshape(-1, 1))
    return np.concatenate(columns, 1)


def _padded(rows: Sequence[Sequence[int]]) -> Ints:
    out = np.full((len(rows), max(map(len, rows), default=0)), -1, np.int64)
    for n, row in enumerate(rows):
        out[n, : len(row)] = row
    return out


class ImpressionSource(ABC):
    """Where impressions come from. A frozen dataclass: its fields are its options."""

    @abstractmethod
    def read(self) -> Impressions:
        """Read all of them.

        Raises:
            DataError: naming the file, the column and what to do.
        """


COMPONENT_BASES = (ImpressionSource,)


def is_source(spec: str | Path) -> bool:
    """Whether a spec names impressions, not a log."""
    text = str(spec)
    if "(" not in text and not text.isidentifier():
        return False
    return registry.parse_spec(text)[0].name in registry.names("impressions")


def read(spec: str) -> Impressions:
    """Read impressions from a spec, such as `labelled(path='log.parquet', label='is_click')`.

    Raises:
        ConfigError: unknown source or option. DataError: the file is missing or wrong.
    """
    parts = registry.parse_spec(spec)
    if len(parts) != 1:
        raise ConfigError(f"impressions are of one source, given {spec!r}")
    source: ImpressionSource = registry.build("impressions", parts[0])
    found = source.read()
    return dataclasses.replace(found, dataset=dataclasses.replace(found.dataset, source=spec))
