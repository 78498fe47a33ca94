"""What a codec is, and how codecs are joined.

Shapes: M slots, H heads, K head width.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self, TypeVar

from torch import Tensor

from gistrec import registry
from gistrec.errors import BudgetError, CodecError
from gistrec.registry import Spec
from gistrec.state import UserState

SLOTS, WIDTH, PRECISION, BYTES = 0, 1, 2, 3
"""Stages of a chain, in order: which slots stay, how wide a row is, bits per number, bytes."""

Measure = Callable[["Codec"], float]
"""Mean stored bytes per user of a codec, measured on sample states (fits the codec if need be)."""


class _Component(ABC):
    """What codecs of states and of bytes have in common."""

    stage: ClassVar[int]
    """Its place in a chain."""
    dial: ClassVar[str] = ""
    """The option that trades bytes for accuracy; empty if there is none."""
    tables: Mapping[str, Tensor] = {}
    """Fitted tensors shared by all users (a dataclass field with `repr=False` where fitted)."""

    @property
    def dial_values(self) -> Sequence[Any]:
        """Values of the dial, from fewest bytes to most."""
        return ()

    @property
    def spec(self) -> Spec:
        """Name and options."""
        return registry.spec_of(self)

    def __str__(self) -> str:
        return str(self.spec)

    def table(self, name: str) -> Tensor:
        """A fitted table.

        Raises:
            CodecError: there is none of this name: not fitted, or fitted on other tensors.
        """
        if name not in self.tables:
            known = ", ".join(sorted(self.tables)) or "none, it is not fitted"
            raise CodecError(
                f"{self} has no table {name!r} (it has: {known}): fit it first on samples of what "
                "it is used on, codec.fit(states) or, for bytes, codec.fit_bytes(blobs)"
            )
        return self.tables[name]

    def with_tables(self, tables: Mapping[str, Tensor]) -> Self:
        """The same codec with fitted tables, as saved from `tables`."""
        return dataclasses.replace(self, tables=dict(tables)) if tables else self  # type: ignore[type-var]  # every component is a dataclass


class Codec(_Component):
    """A map from states to smaller states."""

    stage = PRECISION
    needs: ClassVar[frozenset[str]] = frozenset()
    """Names (without the layer) of tensors that it must find, for example {"k", "v"}; "item" may be
    a hint."""

    def fit(self, states: Sequence[UserState]) -> Self:
        """Learn shared tables from sample states, each seen as this codec's input."""
        return self

    @abstractmethod
    def encode(self, state: UserState) -> UserState:
        """The compressed state; the input is not changed."""

    @abstractmethod
    def decode(self, state: UserState) -> UserState:
        """The state that a backbone can read, from what `encode` made; evicted slots stay away."""

    def require(self, state: UserState) -> None:
        """Check that the state holds what the codec `needs`.

        Raises:
            CodecError: a tensor is missing.
        """
        held = {name.removeprefix("hint.").partition(".")[0] for name in state.tensors}
        if missing := self.needs - held:
            raise CodecError(
                f"{self} needs {', '.join(sorted(missing))} in the state, which holds "
                f"{', '.join(sorted(held))}: use a memory that writes it, or another codec"
            )

    def at_budget(self, budget_bytes: int, measure: Measure) -> Self:
        """The best setting of the dial whose measured bytes per user fit the budget, to be fitted.

        Raises:
            BudgetError: even the smallest setting is too big, or there is no dial.
        """
        return _turn_dial(self, budget_bytes, measure)

    def __or__(self, other: "Codec | ByteCodec") -> "Chain":
        return chain([self, other])


class ByteCodec(_Component):
    """Compression of a state's packed bytes; comes last in a chain."""

    stage = BYTES

    def fit_bytes(self, blobs: Sequence[bytes]) -> Self:
        """Learn a shared dictionary from sample payloads."""
        return self

    @abstractmethod
    def compress(self, data: bytes) -> bytes:
        """Fewer bytes, hopefully."""

    @abstractmethod
    def expand(self, data: bytes) -> bytes:
        """The exact inverse of `compress`.

        Raises:
            CorruptStateError: not something that `compress` made.
        """


C = TypeVar("C", bound=Codec)


def _turn_dial(codec: C, budget_bytes: int, measure: Measure) -> C:
    """Largest dial value within the budget, by bisection (bytes grow along `dial_values`)."""
    if not codec.dial:
        if (size := measure(codec)) <= budget_bytes:
            return codec
        raise BudgetError(
            f"{codec} has no dial and takes {size:.0f} bytes per user, more than {budget_bytes}: "
            'put an evicting codec in front, for example "recent(keep=64) | ..."'
        )

    def turned(value: Any) -> C:
        changes: dict[str, Any] = {codec.dial: value}
        if codec.tables:  # learned for another setting
            changes["tables"] = {}
        return dataclasses.replace(codec, **changes)  # type: ignore[type-var]  # a dataclass

    values = codec.dial_values
    low, high, smallest_bytes = 0, len(values), 0.0
    while low < high:  # invariant: values[:low] fit, values[high:] do not
        middle = (low + high) // 2
        size = measure(turned(values[middle]))
        if size <= budget_bytes:
            low = middle + 1
        else:
            high, smallest_bytes = middle, size
    if low == 0:
        raise BudgetError(
            f"{turned(values[0])} takes {smallest_bytes:.0f} bytes per user, more than the budget "
            f"of {budget_bytes}: allow more bytes or chain a stronger codec"
        )
    return turned(values[low - 1])


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
                states = [fitted[-1].encode(s) for s in states]
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
        for codec in self.codecs:
            state = codec.encode(state)
        needed = self.needs
        kept = {
            name: tensor
            for name, tensor in state.tensors.items()
            if not name.startswith("hint.") or name[5:] in needed
        }
        return state.replace(kept)

    def decode(self, state: UserState) -> UserState:
        """Last codec first."""
        for codec in reversed(self.codecs):
            state = codec.decode(state)
        return state

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
