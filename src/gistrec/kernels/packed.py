"""States as the store holds them, run through the layers and grown by events, in one call each.

A state of a few hundred bytes is decoded, run, encoded and packed in a tenth of the time that
tensors take to be made and looked after; a large one is read where it stands. The long way, of
`wire`, `codecs` and the backbone's `append` and `score`, is the reference: what is written here is
byte for byte what it writes.

Shapes: M slots, L levels, C codewords, V items, W width of a row, D width.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gistrec.kernels.nearest import LANES
from gistrec.kernels.step import Stack

Kind = Literal["plain", "bf16", "int8", "int4", "codes", "items"]
_KINDS: tuple[Kind, ...] = get_args(Kind)
_PARTS = 4
Role = Literal["row", "item", "time", "position", "tail item", "tail time"]
_ROLES: tuple[Role, ...] = get_args(Role)
_MOST_AXES = 4


class Coded(NamedTuple):
    """How the rows of a state's tensor are coded, for codecs whose codes the kernel reads."""

    kind: Kind
    parts: tuple[str, ...] = ()
    """The tensors that hold the codes, in the order of `native/coded.h`."""
    words_LCW: NDArray[np.float32] | None = None
    """Codebooks, in whole steps."""
    columns: NDArray[np.float64] | None = None
    """The same, each with codewords as columns, then what is taken off products: see `Codebook`."""
    means_VW: Tensor | None = None
    """Items' rows (int16), in whole steps."""
    row_of: NDArray[np.int32] | None = None
    """Of ids from 0 on: their rows of `means_VW`; None: ids are rows. Unknown ids have the last."""
    step: float = 1.0
    group: int = 1
    """Numbers of a row that share a scale."""

    def numbers(self) -> list[int]:
        """What the kernel is told."""
        words, columns, means = self.words_LCW, self.columns, self.means_VW
        levels, codes = (0, 1) if words is None else words.shape[:2]
        addresses = [0 if a is None else a.ctypes.data for a in (words, columns)]
        addresses.append(0 if means is None else means.data_ptr())
        items = 1 if means is None else len(means)
        padded = -(-codes // LANES) * LANES
        told = [_KINDS.index(self.kind), *addresses, levels, codes, padded, items, self.group]
        return [
            *told,
            *((0, 0) if self.row_of is None else (self.row_of.ctypes.data, len(self.row_of))),
        ]


class Stored(NamedTuple):
    """What all states have in common in one tensor."""

    name: str
    number_bytes: int
    """Of a number that is stored as it is; 0: coded integers."""
    shape: tuple[int, ...]
    """-1 where it differs from state to state."""
    part: str
    """Tensors of one part are of one size."""
    role: Role
    base: str
    """Of a tail: the tensor that it is counted from, if there is one."""


class Grown(NamedTuple):
    """A state to be stored."""

    state: bytes
    """Whole, or a tail."""
    block: bytes | None
    """The block that a tail stands on, if it is a new one."""
    is_tail: bool


class Events(NamedTuple):
    """Of all slots and the newest event."""

    item: NDArray[np.int64]
    time: NDArray[np.int64]


class States:
    """A model's layers, and how its states are stored.

    Args:
        stack: The layers.
        manifest_id: Stands in every state.
        tensors: In the order in which they are stored.
        rows: How keys and values of each layer are coded, lowest layer first.
        stays: Slots that stay: so many of the oldest, and up to so many in all; -1: all.
        request_time: Whether a query knows when it is asked.
        grows: Whether a state may be divided.
        whole_bytes: A state up to that size is not.
    """

    def __init__(
        self,
        stack: Stack,
        manifest_id: int,
        tensors: Sequence[Stored],
        rows: Sequence[Coded],
        *,
        stays: tuple[int, int],
        request_time: bool,
        grows: bool,
        whole_bytes: int,
    ) -> None:
        from gistrec._native import States as Compiled

        place = {tensor.name: n for n, tensor in enumerate(tensors)}
        parts = {part: n for n, part in enumerate(dict.fromkeys(t.part for t in tensors))}
        specs = [
            [
                t.number_bytes,
                len(t.shape),
                *t.shape,
                *[0] * (_MOST_AXES - len(t.shape)),
                parts[t.part],
                _ROLES.index(t.role),
                place.get(t.base, -1),
            ]
            for t in tensors
        ]
        numbers = [manifest_id, len(parts), len(stack.item_VD) - 1, *stays]
        numbers += [request_time, grows, whole_bytes]
        places = [[place[p] for p in coded.parts] for coded in rows]
        self._width = stack.item_VD.shape[1]
        self._kept = stack, rows  # whose arrays are read
        self._compiled = Compiled(
            *stack.numbers,
            numbers,
            specs,
            [coded.numbers() for coded in rows],
            [coded.step for coded in rows],
            [n for own in places for n in (*own, *[-1] * (_PARTS - len(own)))],
        )

    def newest(
        self, state: bytes, block: bytes | None, length: int, at: int | None, *, events: bool
    ) -> tuple[Tensor, Events | None] | None:
        """The newest event's output (D,); None: the state must be read the long way.

        Args:
            state: Whole, or a tail.
            block: What a tail stands on.
            length: Events that the state must cover.
            at: When it is asked for, Unix seconds; None: at the event's own time.
            events: Whether slots' items and times are wanted, too.
        """
        out_D = torch.empty(self._width)
        found = self._compiled.newest(state, block, length, at, out_D.data_ptr(), events)
        if found is None:
            return None
        return out_D, Events(*(np.frombuffer(x, np.int64) for x in found)) if events else None

    def grow(
        self,
        state: bytes,
        block: bytes | None,
        length: int,
        item_S: NDArray[np.int64],
        time_S: NDArray[np.int64],
        *,
        counted: int,
        tail_bytes: int,
    ) -> Grown | None:
        """A state with new events; None: it must be grown the long way.

        Args:
            state: Whole, or a tail.
            block: What a tail stands on.
            length: Events that the state must cover.
            item_S: Those that the model knows.
            time_S: Their times; they may go back.
            counted: How many there are, those that the model does not know included.
            tail_bytes: A longer tail is sealed; 0: the block may not stay.
        """
        item_S, time_S = np.ascontiguousarray(item_S), np.ascontiguousarray(time_S)
        addresses = item_S.ctypes.data, time_S.ctypes.data
        numbers = len(item_S), counted, tail_bytes
        found = self._compiled.grow(state, block, length, addresses, numbers)
        return None if found is None else Grown(*found)
