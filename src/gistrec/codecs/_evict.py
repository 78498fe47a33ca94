"""Base of codecs that keep some slots.

Shapes: M slots, H heads.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from gistrec.codecs._codec import SLOTS, Codec
from gistrec.errors import CodecError
from gistrec.state import UserState


@dataclasses.dataclass(frozen=True)
class Evict(Codec):
    """Base of codecs that keep some slots and drop the others, the same ones in every layer.

    One choice per user, not one per layer or head: positions and times are then stored once.
    HSTU has no softmax, so dropped slots shrink the attention sum. Nothing is rescaled: the layer
    norm behind the sum takes out a common factor.
    """

    keep: int
    """Slots kept."""
    sink: int = 0
    """Of these, how many of the oldest slots are always kept."""
    window: int = 0
    """Of these, how many of the newest slots are always kept."""

    stage = SLOTS
    slotwise = True
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
    def newest(self) -> int:
        """How many of the newest slots are always kept.

        One at least, because its place in the history tells where the next event stands.
        """
        return max(self.window, 1)

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
        score_M[slots - self.newest :] = torch.inf
        # of equally important slots the newest stay
        best = torch.argsort(score_M.flip(0), descending=True, stable=True)[: self.keep]
        return state.select((slots - 1 - best).sort().values)

    def decode(self, state: UserState) -> UserState:
        """The state as it is: what was evicted is gone."""
        return state


SCORE_STEPS = 2048
"""Steps per factor of two in which a score is stored: 0.03 %, so that small additions count."""
NO_SCORE = -(2**15)


@dataclasses.dataclass(frozen=True)
class EvictByAttention(Evict):
    """Base of codecs that keep the slots which queries attended to most.

    The backbone counts the attention of all layers and heads, in absolute value (HSTU's weights may
    be negative), and the count stays with the kept slots.
    """

    window: int = dataclasses.field(default=0, init=False, repr=False)
    # no option: a share of `keep` instead, so that it follows the dial
    share: float = 0.5
    """Share of the kept slots beyond the sinks that are the newest, 0 to 1."""

    score: ClassVar[str]
    """Name of the hint that holds the count."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise CodecError(f"{self}: share must be 0 to 1")

    @property
    def newest(self) -> int:
        """The share of `keep`, one at least."""
        return max(1, round(self.share * (self.keep - self.sink)))

    def importance(self, state: UserState, layer: int) -> Tensor:
        """Attention received, the same for all layers: (1, M)."""
        return state.hint(f"hint.{self.score}")[None]

    def encode(self, state: UserState) -> UserState:
        """The kept slots and their scores, on a logarithmic scale: `score` (M,) int16."""
        kept = dict(super().encode(state).tensors)
        log_M = kept.pop(f"hint.{self.score}").double().log2() * SCORE_STEPS
        kept[self.score] = log_M.round().clamp(NO_SCORE, -NO_SCORE - 1).to(torch.int16)
        return state.replace(kept)

    def decode(self, state: UserState) -> UserState:
        """The scores as a hint again; what was evicted is gone."""
        tensors = dict(state.tensors)
        code_M = tensors.pop(self.score)
        score_M = torch.exp2(code_M.double() / SCORE_STEPS) * (code_M > NO_SCORE)
        return state.replace(tensors | {f"hint.{self.score}": score_M.float()})
