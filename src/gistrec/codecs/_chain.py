"""How codecs are joined, and how many states go through them at once.

Shapes: M slots.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from gistrec.codecs._codec import PRECISION, SLOTS, ByteCodec, Codec, Measure
from gistrec.errors import CodecError
from gistrec.kernels.packed import Coded
from gistrec.state import UserState, positions, slot_axis

_SLOTS_AT_ONCE = 4096
"""Slots coded side by side: few calls, and numbers that stay in the cache."""


@dataclasses.dataclass(frozen=True, repr=False)
class Chain(Codec):
    """Codecs applied left to right, then byte codecs on the packed result."""

    codecs: tuple[Codec, ...]
    byte_codecs: tuple[ByteCodec, ...] = ()

    def __str__(self) -> str:
        return " | ".join(map(str, (*self.codecs, *self.byte_codecs)))

    __repr__ = __str__

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]  # of its codecs
        """What any of its codecs needs."""
        return frozenset[str]().union(*(codec.needs for codec in self.codecs))

    def fit(self, states: Sequence[UserState]) -> Self:
        """Fit each codec on what the codecs before it make of the samples."""
        fitted: list[Codec] = []
        for codec in self.codecs:
            if fitted:
                last = fitted[-1]
                apart = last.slotwise and last.stage != SLOTS
                each = _at_once if apart else _one_by_one
                states = each(last.encode, states)
            fitted.append(codec.fit(states))
        return dataclasses.replace(self, codecs=tuple(fitted))

    def fit_bytes(self, blobs: Sequence[bytes]) -> Self:
        """Fit each byte codec on what the byte codecs before it make of packed samples."""
        fitted: list[ByteCodec] = []
        for codec in self.byte_codecs:
            if fitted:
                blobs = [fitted[-1].compress(b) for b in blobs]
            fitted.append(codec.fit_bytes(blobs))
        return dataclasses.replace(self, byte_codecs=tuple(fitted))

    def encode(self, state: UserState) -> UserState:
        """First codec first; hints that none of them needs are left out."""
        return self._code(self._choose(state))

    def decode(self, state: UserState) -> UserState:
        """Last codec first."""
        return self._restore(self._read(state))

    @property
    def slotwise(self) -> bool:  # type: ignore[override]  # of its codecs
        """Whether all of its codecs are."""
        return all(codec.slotwise for codec in self.codecs)

    def encode_many(self, states: Sequence[UserState]) -> list[UserState]:
        """`encode` of each state; where slots are coded apart, those of all users at once."""
        if not self.slotwise:
            return [self.encode(state) for state in states]
        return _at_once(self._code, [self._choose(state) for state in states])

    def decode_many(self, states: Sequence[UserState]) -> list[UserState]:
        """`decode` of each state, in the same way."""
        if not self.slotwise:
            return [self.decode(state) for state in states]
        return [self._restore(state) for state in _at_once(self._read, states)]

    def encode_grown(
        self, states: Sequence[UserState], before: Sequence[UserState]
    ) -> tuple[list[UserState], list[UserState]]:
        """Encode decoded states that have gained slots.

        Where slots are coded apart, only the new ones are: by the laws of codecs, the others' codes
        are those that they had.

        Args:
            states: Decoded states followed by new slots.
            before: What the states were decoded from.

        Returns:
            The encoded states, and those decoded.
        """
        if not self.slotwise or any(_fixed(state) for state in states):
            encoded = self.encode_many(states)
            return encoded, self.decode_many(encoded)
        chosen = [self._choose(state) for state in states]
        known = [_known(c, b) for c, b in zip(chosen, before, strict=True)]
        news = [_from(c, len(index)) for c, index in zip(chosen, known, strict=True)]
        codes = _at_once(self._code, news)
        rows = _at_once(self._read, codes)
        encoded, decoded = [], []
        for state, was, index, code, row in zip(chosen, before, known, codes, rows, strict=True):
            encoded.append(_followed(_slots(was, index), code, state))
            decoded.append(self._restore(_followed(_to(state, len(index)), row, state)))
        return encoded, decoded

    def _choose(self, state: UserState) -> UserState:
        """The codecs that choose slots; hints that no codec needs are left out."""
        for codec in self.codecs:
            if codec.stage == SLOTS:
                state = codec.encode(state)
        needed = self.needs
        kept = {
            name: tensor
            for name, tensor in state.tensors.items()
            if not name.startswith("hint.") or name[5:] in needed
        }
        return state.replace(kept)

    def _code(self, state: UserState) -> UserState:
        """The codecs behind those, first codec first."""
        for codec in self.codecs:
            if codec.stage != SLOTS:
                state = codec.encode(state)
        return state

    def _read(self, state: UserState) -> UserState:
        """The inverse of `_code`."""
        for codec in reversed(self.codecs):
            if codec.stage != SLOTS:
                state = codec.decode(state)
        return state

    def _restore(self, state: UserState) -> UserState:
        """The inverse of `_choose`."""
        for codec in reversed(self.codecs):
            if codec.stage == SLOTS:
                state = codec.decode(state)
        return state

    def coded(self, name: str, rows: Coded) -> Coded | None:
        """By all of its codecs."""
        found: Coded | None = rows
        for codec in self.codecs:
            found = found and codec.coded(name, found)
        return found

    def stays(self) -> tuple[int, int] | None:
        """Of the one codec that chooses slots; all slots stay if there is none."""
        chosen = [codec.stays() for codec in self.codecs if codec.stage == SLOTS]
        return (0, -1) if not chosen else chosen[0] if len(chosen) == 1 else None

    def compress(self, data: bytes) -> bytes:
        """The byte codecs on a packed state."""
        for codec in self.byte_codecs:
            data = codec.compress(data)
        return data

    def expand(self, data: bytes) -> bytes:
        """The inverse of `compress`."""
        for codec in reversed(self.byte_codecs):
            data = codec.expand(data)
        return data

    def at_budget(self, budget_bytes: int, measure: Measure) -> Self:
        """Turn the dial of the first codec that has one; the others stay as written."""
        for place, codec in enumerate(self.codecs):
            if codec.dial:

                def whole(part: Codec, place: int = place) -> Chain:
                    parts = (*self.codecs[:place], part, *self.codecs[place + 1 :])
                    return dataclasses.replace(self, codecs=parts)

                return whole(codec.at_budget(budget_bytes, lambda c: measure(whole(c))))  # type: ignore[return-value]  # replace keeps the type
        return super().at_budget(budget_bytes, measure)

    def all_tables(self) -> dict[str, Tensor]:
        """Every part's fitted tables, named `<place>.<table>`."""
        parts = (*self.codecs, *self.byte_codecs)
        return {f"{i}.{n}": t for i, part in enumerate(parts) for n, t in part.tables.items()}

    def with_tables(self, tables: Mapping[str, Tensor]) -> Self:
        """The inverse of `all_tables`."""

        def of(place: int) -> dict[str, Tensor]:
            head = f"{place}."
            return {n[len(head) :]: t for n, t in tables.items() if n.startswith(head)}

        count = len(self.codecs)
        return dataclasses.replace(
            self,
            codecs=tuple(c.with_tables(of(i)) for i, c in enumerate(self.codecs)),
            byte_codecs=tuple(b.with_tables(of(count + i)) for i, b in enumerate(self.byte_codecs)),
        )


def chain(parts: Iterable[Codec | ByteCodec]) -> Chain:
    """Join codecs, checking their order.

    Raises:
        CodecError: no part, one that stands after a part of a later stage, or two that set the
            precision.
    """
    flat: list[Codec | ByteCodec] = []
    for part in parts:
        flat += [*part.codecs, *part.byte_codecs] if isinstance(part, Chain) else [part]
    for before, after in pairwise(flat):
        if after.stage < before.stage or (after.stage == before.stage == PRECISION):
            raise CodecError(
                f"{after} can't follow {before}: first choose slots, then the width of rows, then "
                'one precision, then bytes, for example "recent(keep=64) | int8() | zstd()"'
            )
    if not flat:
        raise CodecError('a chain needs at least one codec: write "identity()" to change nothing')
    states = tuple(p for p in flat if isinstance(p, Codec))
    return Chain(states, tuple(p for p in flat if isinstance(p, ByteCodec)))


def _at_once(
    change: Callable[[UserState], UserState], states: Sequence[UserState]
) -> list[UserState]:
    """A change that treats every slot alike, made to many users' slots side by side."""
    if len(states) < 2 or any(_fixed(state) for state in states):
        return _one_by_one(change, states)
    out, group, slots = list[UserState](), list[UserState](), 0
    for state in states:
        if group and slots + state.num_slots > _SLOTS_AT_ONCE:
            out += _side_by_side(change, group)
            group, slots = [], 0
        group.append(state)
        slots += state.num_slots
    return out + _side_by_side(change, group)


def _one_by_one(
    change: Callable[[UserState], UserState], states: Sequence[UserState]
) -> list[UserState]:
    return [change(state) for state in states]


def _side_by_side(
    change: Callable[[UserState], UserState], states: Sequence[UserState]
) -> list[UserState]:
    counts = [state.num_slots for state in states]
    names = [name for name, _ in states[0].slots()]
    joined = {}
    for name in names:
        whole = [s.hint(name) if name.startswith("hint.") else s.tensors[name] for s in states]
        joined[name] = torch.cat(whole, slot_axis(name, whole[0]))
    changed = change(UserState(joined, sum(counts), states[0].model))
    parts = {n: t.split(counts, slot_axis(n, t)) for n, t in changed.tensors.items()}
    alone = [name for name in states[0].tensors if name not in joined]
    return [
        state.replace(
            {name: state.tensors[name] for name in alone}
            | {name: part[number] for name, part in parts.items()}
        )
        for number, state in enumerate(states)
    ]


def _fixed(state: UserState) -> bool:
    return any(name.startswith("fixed.") for name in state.tensors)


def _known(chosen: UserState, before: UserState) -> Tensor:
    """Which slots of `before` are the first ones of `chosen`: those that are not new."""
    was_M, now_M = positions(before), positions(chosen)
    if not len(was_M):
        return was_M
    old = int(torch.searchsorted(now_M, was_M[-1], right=True))
    return torch.searchsorted(was_M, now_M[:old])


def _slots(state: UserState, index_M: Tensor) -> UserState:
    """Some slots of every slot tensor, ascending."""
    if len(index_M) == state.num_slots:
        return state
    first = len(index_M) and int(index_M[0])
    if len(index_M) and int(index_M[-1]) - first + 1 == len(index_M):  # a window: no copy
        return _narrowed(state, first, len(index_M))
    kept = {n: t.index_select(slot_axis(n, t), index_M) for n, t in state.slots()}
    return state.replace(dict(state.tensors) | kept)


def _narrowed(state: UserState, start: int, count: int) -> UserState:
    kept = {}
    for name, tensor in state.slots():
        whole = state.hint(name) if name.startswith("hint.") else tensor
        kept[name] = whole.narrow(slot_axis(name, whole), start, count)
    return state.replace(dict(state.tensors) | kept)


def _from(state: UserState, start: int) -> UserState:
    """The slots from `start` on."""
    return _narrowed(state, start, state.num_slots - start)


def _to(state: UserState, end: int) -> UserState:
    """The slots up to `end`."""
    return _narrowed(state, 0, end)


def _followed(old: UserState, new: UserState, chosen: UserState) -> UserState:
    """Old slots followed by new ones; what stands alone in its slot is as in `chosen`."""
    tensors = dict(new.tensors)
    for name, tensor in new.slots():
        if tensor.ndim == 1 and name in chosen.tensors:
            tensors[name] = chosen.tensors[name]
        else:
            tensors[name] = torch.cat([old.tensors[name], tensor], slot_axis(name, tensor))
    return new.replace(tensors)
