"""Keep the oldest `sink` slots, the newest, and a random choice of the rest: the control.

    importance of slot j = hash(seed, time_j, position_j)

A slot's hash never changes, so the choice at every append is the one that a single pass over the
whole history makes: a sample without replacement in which every slot is equally likely.

Level: token eviction
Source: Cohen and Kaplan 2007, "Summarizing data using bottom-k sketches", PODC; reservoir sampling
as in Vitter 1985, "Random sampling with a reservoir", ACM TOMS 11(1), has the same distribution.
The hash is the finisher of SplitMix64: Steele, Lea, Flood 2014, OOPSLA.
Differs: the k largest hashes are kept, not the smallest; 20 bits of a hash count, and of equal
ones the newer slot stays. Without `time` in the state all users keep the same positions.
Cost: a kept slot is unchanged and gains its position; time O(M log M).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gistrec.codecs import Evict
from gistrec.errors import CodecError
from gistrec.state import UserState, positions

BITS = 20
"""So few that fp32 sums of equal scores over up to 16 layers are exact in whatever order."""
_U64 = np.uint64
_STEP = _U64(0x9E3779B97F4A7C15)  # odd, so that its multiples are all different modulo 2^64


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U64(27))) * _U64(0x94D049BB133111EB)
    return x ^ (x >> _U64(31))


@dataclass(frozen=True)
class Random(Evict):
    """What any other choice of slots has to beat."""

    sink: int = 4
    """Of the kept slots, how many are the oldest of the history."""
    seed: int = 0
    """Another seed is another choice; 0 to 2^32 - 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.seed < 1 << 32:
            raise CodecError(f"{self}: seed must be 0 to 2^32 - 1")

    def importance(self, state: UserState, layer: int) -> Tensor:
        """A hash of what stays with a slot, the same in every layer: (1, M)."""
        pos_M = positions(state)
        time_M = state.tensors.get("time", torch.zeros_like(pos_M))
        hash_M = np.full(len(pos_M), self.seed, _U64)
        for fact_M in (time_M, pos_M):
            hash_M = _mix(hash_M * _STEP + fact_M.long().numpy().view(_U64))
        return torch.from_numpy((hash_M >> _U64(64 - BITS)).astype(np.float32))[None]
