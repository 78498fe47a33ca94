"""Keep the oldest `sink` slots and the newest of the rest.

    importance of slot j = j

Level: token eviction
Source: Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", arXiv
2309.17453, section 3.2.
Differs: slots keep their positions in the history, the paper re-numbers them within the cache; the
model is not trained with a sink.
Cost: a kept slot is unchanged and gains its position; time O(M).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gistrec.codecs import Evict
from gistrec.kernels.packed import Coded
from gistrec.state import UserState


@dataclass(frozen=True)
class Recent(Evict):
    """A sliding window over the history; the cheapest eviction and the one to beat."""

    sink: int = 4
    """Of the kept slots, how many are the oldest of the history."""
    window: int = field(default=0, init=False, repr=False)
    # no option: everything but the sinks is the window

    def importance(self, state: UserState, layer: int) -> Tensor:
        """The slot's place, (1, M)."""
        return torch.arange(state.num_slots)[None]

    def encode(self, state: UserState) -> UserState:
        """The same slots that the scores choose, without sorting them."""
        self.require(state)
        slots = state.num_slots
        if slots <= self.keep:
            return state.select(torch.arange(slots))
        newest_M = torch.arange(slots - self.keep + self.sink, slots)
        return state.select(torch.cat([torch.arange(self.sink), newest_M]))

    def coded(self, name: str, rows: Coded) -> Coded:
        """As they are."""
        return rows

    def stays(self) -> tuple[int, int]:
        """The sinks and the newest."""
        return self.sink, self.keep
