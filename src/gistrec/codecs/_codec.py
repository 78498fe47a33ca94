"""What a codec is.

Shapes: M slots, H heads, K head width.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from torch import Tensor

from gistrec import registry
from gistrec.errors import BudgetError, CodecError
from gistrec.kernels.packed import Coded
from gistrec.registry import Spec
from gistrec.state import UserState

if TYPE_CHECKING:
    from gistrec.codecs._chain import Chain

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
    slotwise: ClassVar[bool] = False
    """Whether a slot's code depends on that slot alone (and on whether it stays)."""
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

    def coded(self, name: str, rows: Coded) -> Coded | None:
        """How a tensor's rows are coded by this codec, for `gistrec.kernels.packed`.

        Args:
            name: The tensor.
            rows: How the codecs before this one code it.

        Returns:
            None: in a way that is read by `decode` alone.
        """
        return None

    def stays(self) -> tuple[int, int] | None:
        """Which slots stay, of a codec that chooses them by their places alone; None: it does not.

        Returns:
            How many of the oldest, and how many in all: the others are the newest. -1: all stay.
        """
        return None

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
        from gistrec.codecs._chain import chain

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
    """Largest dial value within the budget; bytes grow along `dial_values`.

    The largest of all is tried first, then small ones, which are cheap to measure, are doubled
    until one does not fit, and what is between is bisected.
    """
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
    if measure(turned(values[-1])) <= budget_bytes:
        return turned(values[-1])
    low, high, step, smallest_bytes = 0, len(values) - 1, 1, 0.0
    while low < high:  # invariant: values[:low] fit, values[high:] do not
        doubled = step and low + step <= high
        middle = low + step - 1 if doubled else (low + high) // 2
        size = measure(turned(values[middle]))
        if size <= budget_bytes:
            low, step = middle + 1, step * 2
        else:
            high, step, smallest_bytes = middle, 0, size
    if low == 0:
        raise BudgetError(
            f"{turned(values[0])} takes {smallest_bytes:.0f} bytes per user, more than the budget "
            f"of {budget_bytes}: allow more bytes or chain a stronger codec"
        )
    return turned(values[low - 1])
