"""Memories: what a layer writes for an event, and what a query reads. Trained with the backbone.

Shapes: B users, S events, M slots, H heads, K head width, D width.
One file per memory; a file's name is its spec name. Subclass `Memory`.

Law (shipped as `gistrec.testing.MemoryTests`): writing a then appending b holds the same rows as
writing a + b.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gistrec import registry
from gistrec.errors import ConfigError


class Memory(nn.Module, ABC):
    """One layer's trained write and read.

    A memory owns the key and value projections. What `write` returns is all that the state keeps
    of an event in this layer: (B, ..., S, width) tensors with slots on axis -2, or (B, S) indices.
    """

    def __init__(self, *, width: int, num_heads: int, silu: bool) -> None:
        super().__init__()
        self.width = width
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.activation: nn.Module = nn.SiLU() if silu else nn.Identity()

    @abstractmethod
    def write(self, x_BSD: Tensor) -> dict[str, Tensor]:
        """What S events leave behind, by name."""

    @abstractmethod
    def keys_values(self, held: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The keys and values that a query reads: (k_BHMK, v_BHMK)."""

    def append(self, held: Mapping[str, Tensor], x_BSD: Tensor) -> dict[str, Tensor]:
        """Held rows followed by those of S new events."""
        new = self.write(x_BSD)
        return {n: torch.cat([held[n], t], dim=slot_axis(t)) for n, t in new.items()}

    def penalty(self, held: Mapping[str, Tensor], mask_BS: Tensor) -> Tensor:
        """A training loss of the memory's own, a scalar, from what `write` returned in training.

        Args:
            held: What `write` returned; in training it may hold more than the state keeps.
            mask_BS: True where there is an event.
        """
        return torch.zeros(())


COMPONENT_BASES = (Memory,)


def build(spec: str, *, width: int, num_heads: int, silu: bool) -> Memory:
    """Make a memory from its spec string.

    Raises:
        ConfigError: unknown name or option, or more than one part.
    """
    parts = registry.parse_spec(spec)
    if len(parts) != 1:
        raise ConfigError(f"a layer has one memory, given {spec!r}")
    memory: Memory = registry.build(
        "memories", parts[0], width=width, num_heads=num_heads, silu=silu
    )
    return memory


def heads(x_BSD: Tensor, num_heads: int) -> Tensor:
    """Split the width into heads: (B, H, S, K)."""
    x_BHSK: Tensor = x_BSD.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return x_BHSK


def slot_axis(tensor: Tensor) -> int:
    """The slot axis of a batched row tensor: -1 for (B, S) indices, else -2."""
    return -1 if tensor.ndim == 2 else -2
