"""Memories: what a layer writes for an event, and what a query reads. Trained with the backbone.

Shapes: B users, S events, Q queries, M held slots, T = M + S slots in all, H heads, K head width,
D width. One file per memory; a file's name is its spec name.

Write a new one by subclassing `Memory` and giving
    `write` and `keys_values`   what an event leaves, and the keys and values read from it; or
    `attend`                    both at once, where a query does not read rows of events
    `visible`, `reach`          if it reads some slots only

A spec names one memory for all layers, or one per layer, lowest first: `full() | shared()`.

Law (shipped as `gistrec.testing.MemoryTests`): attending to a and then to b holds and reads the
same as attending to a + b.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from gistrec import registry
from gistrec.errors import ConfigError
from gistrec.registry import Spec

Held = dict[str, Tensor]
"""What a layer keeps of a batch of users, by name: rows of slots, (B, ..., M, width) or indices
(B, M); or, named `fixed.<what>`, (B, ...) tensors whose size does not depend on the history."""


@dataclasses.dataclass(frozen=True)
class Size:
    """What a layer is made for."""

    width: int
    num_heads: int
    num_items: int
    silu: bool
    """Whether keys and values pass SiLU (HSTU) or stay linear (SASRec)."""

    @property
    def head_dim(self) -> int:
        """K."""
        return self.width // self.num_heads


@dataclasses.dataclass
class Context:
    """Where the queries of a step stand; B may be 1 where all users are alike.

    Queries are the S new events, then (if the backbone has registers) further ones of the same
    events: query s + r * S belongs to event s.
    """

    query_BQ: Tensor
    """Position of each query's event in the history."""
    slot_BT: Tensor
    """Position of each slot's event."""
    slot_real_BT: Tensor
    """True where there is a slot; the others fill up the batch. T may be 1 if all are real."""
    real_BS: Tensor
    """True where there is a new event; the others fill up the batch, at the end."""
    item_BT: Tensor | None
    """Item of each slot; None if no layer asked for it (`Memory.reads_items`)."""
    below: list[Callable[[], tuple[Tensor, Tensor, Tensor | None]]] = dataclasses.field(
        default_factory=list
    )
    """Keys, values and where they are visible, as the layers below read them, lowest first.

    A call may decode, so call once; it raises ConfigError if that layer reads no rows of events.
    """

    @property
    def num_events(self) -> int:
        """S."""
        return self.real_BS.shape[1]

    @cached_property
    def visible_BQT(self) -> Tensor:
        """True where a query may see a slot: a real one, and not after it."""
        return (self.query_BQ[:, :, None] >= self.slot_BT[:, None]) & self.slot_real_BT[:, None]


class Reader(ABC):
    """How a layer turns queries, keys and values into outputs; made by the layer for each step."""

    context: Context

    @abstractmethod
    def read(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """Outputs (B, H, Q, V) of queries over slots, with the layer's biases.

        Args:
            q_BHQK: Queries.
            k_BHTK: Keys, with H heads or one; K may differ from the layer's head width.
            v_BHTV: Values, with H heads or one.
            visible: Which of the slots that a query may see it does see, broadcast to (B, H, Q, T);
                None: all.
        """

    @abstractmethod
    def weigh(self, score: Tensor, visible: Tensor | None = None) -> Tensor:
        """Weights from scores q k over the last axis, without biases: for what is no event.

        Args:
            score: Dot products, not scaled.
            visible: False where the weight must be 0, broadcast to `score`.
        """


class Memory(nn.Module, ABC):
    """One layer's trained write and read.

    A memory owns the key and value projections. What `write` returns is all that the state keeps
    of an event in this layer: (B, ..., S, width) tensors with slots on axis -2, or (B, S) indices.
    """

    reads_items = False
    """Whether `keys_values` needs the slots' items."""
    suffix = 0
    """Further queries per event that the memory needs (registers)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.activation: nn.Module = nn.SiLU() if size.silu else nn.Identity()

    def rows(self) -> tuple[int, nn.Linear] | None:
        """Of a memory that does nothing but keep whole rows and read them all.

        How many heads of keys and values it keeps, as `k` and `v`, and what makes them, keys first
        (`gistrec.kernels.step` then reads them in place); None: it does more.
        """
        return None

    @abstractmethod
    def write(self, x_BSD: Tensor) -> Held:
        """What S events leave behind, by name."""

    @abstractmethod
    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        """The keys and values that a query reads: (k_BHTK, v_BHTK), or one head for all.

        Raises:
            ConfigError: the memory keeps no rows of events.
        """

    def visible(self, q_BHQK: Tensor, k_BHTK: Tensor, context: Context) -> Tensor | None:
        """Where a query may see a slot, broadcast to (B, H, Q, T); None: wherever it could."""
        return None

    def reach(self, position_M: Tensor, following: int) -> Tensor:
        """Which slots a query at position `following` or later may still read, (M,) bool.

        What no layer reaches is dropped from the state; nothing dropped may come into reach again.
        """
        return torch.ones(len(position_M), dtype=torch.bool)

    def attend(
        self, x_BQD: Tensor, q_BHQK: Tensor, held: Held | None, reader: Reader
    ) -> tuple[Tensor, Held]:
        """Write the new events and read for the queries.

        Args:
            x_BQD: The layer's normed inputs; the first S are the events, which are written.
            q_BHQK: Queries of all inputs.
            held: What is held of the events before; None: nothing, as in training.
            reader: How to read.

        Returns:
            Outputs (B, H, Q, K), and what is held afterwards.
        """
        context = reader.context
        held = self.append(held, x_BQD[:, : context.num_events])
        k_BHTK, v_BHTK = self.keys_values(held, context)
        visible = self.visible(q_BHQK, k_BHTK, context)
        context.below.append(lambda: (k_BHTK, v_BHTK, visible))
        return reader.read(q_BHQK, k_BHTK, v_BHTK, visible), held

    def append(self, held: Held | None, x_BSD: Tensor) -> Held:
        """Held rows followed by those of S new events."""
        new = self.write(x_BSD)
        if held is None:
            return new
        return {n: torch.cat([held[n], t], dim=slot_axis(t)) for n, t in new.items()}

    def empty(self) -> Held:
        """What is held before the first event, for one user."""
        some = next(self.parameters(), torch.zeros(0))
        return self.write(torch.zeros(1, 0, self.size.width, device=some.device))

    def penalty(self, held: Mapping[str, Tensor], mask_BS: Tensor) -> Tensor:
        """A training loss of the memory's own, a scalar, from what `write` returned in training.

        Args:
            held: What `write` returned; in training it may hold more than the state keeps.
            mask_BS: True where there is an event.
        """
        return torch.zeros(())


COMPONENT_BASES = (Memory,)


def each_layer(spec: str, num_layers: int) -> list[Spec]:
    """The memory of each layer, lowest first, from a spec string.

    Raises:
        ConfigError: it names neither one memory nor one per layer.
    """
    parts = registry.parse_spec(spec)
    if len(parts) not in (1, num_layers):
        raise ConfigError(
            f"{num_layers} layers take one memory for all or one each, lowest first; {spec!r} "
            f"names {len(parts)}"
        )
    return parts if len(parts) == num_layers else parts * num_layers


def build(spec: Spec | str, size: Size) -> Memory:
    """Make a memory of one layer.

    Raises:
        ConfigError: unknown name or option, or more than one part.
    """
    part = spec if isinstance(spec, Spec) else each_layer(spec, 1)[0]
    memory: Memory = registry.build("memories", part, size=size)
    return memory


def heads(x_BSD: Tensor, num_heads: int) -> Tensor:
    """Split the width into heads: (B, H, S, K)."""
    x_BHSK: Tensor = x_BSD.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return x_BHSK


def slot_axis(tensor: Tensor) -> int:
    """The slot axis of a batched row tensor: -1 for (B, S) indices, else -2."""
    return -1 if tensor.ndim == 2 else -2
