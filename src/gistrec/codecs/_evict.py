"""Base of codecs that keep some slots.

Shapes: M slots, H heads.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from gistrec.codecs._codec import SLOTS, Codec
from gistrec.errors import CodecError
from gistrec.state import UserState


@dataclasses.dataclass(frozen=True)
class Evict(Codec):
    """Base of codecs that keep some slots and drop the others, the same ones in every layer.

    One choice per user, not one per layer or head: positions and times are then stored once.
    HSTU has no softmax, so dropped slots shrink the attention sum; its layer norm absorbs a common
    factor, and no rescaling is done.
    """

    keep: int
    """Slots kept."""
    sink: int = 0
    """Of these, how many of the oldest slots are always kept."""
    window: int = 0
    """Of these, how many of the newest slots are always kept."""

    stage = SLOTS
    dial = "keep"

    def __post_init__(self) -> None:
        if self.sink < 0 or self.window < 0 or self.keep < self._least():
            raise CodecError(
                f"{self}: sink and window must be at least 0, and keep at least {self._least()} "
                "(the sinks, the window and one slot beyond the sinks)"
            )

    def _least(self) -> int:
        """The smallest `keep` with which new events still find a place."""
        return self.sink + max(self.window, 1)

    @property
    def dial_values(self) -> Sequence[int]:
        """From the smallest `keep` with these sinks and window on."""
        return range(self._least(), 1 << 16)

    @abstractmethod
    def importance(self, state: UserState, layer: int) -> Tensor:
        """Score of every slot in a layer, higher stays: score_HM (or (1, M))."""

    def encode(self, state: UserState) -> UserState:
        """Keep the sinks, the window and the most important of the rest."""
        self.require(state)
        slots = state.num_slots
        if slots <= self.keep:
            return state.select(torch.arange(slots))
        layers = state.layers() or [0]
        score_M = torch.stack([self.importance(state, n).float().mean(0) for n in layers]).mean(0)
        score_M[: self.sink] = torch.inf
        score_M[slots - self.window :] = torch.inf
        # of equally important slots the newest stay
        best = torch.argsort(score_M.flip(0), descending=True, stable=True)[: self.keep]
        return state.select((slots - 1 - best).sort().values)

    def decode(self, state: UserState) -> UserState:
        """The state as it is: what was evicted is gone."""
        return state
