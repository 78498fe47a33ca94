"""Keep the slots whose keys are shortest, or longest.

    importance of slot j = -mean over layers and heads of log |k_j|        (largest: +)

Level: token eviction
Source: Devoto et al. 2024, "A Simple and Effective L2 Norm-Based Strategy for KV Cache
Compression", arXiv 2406.11430: in language models short keys get much attention.
Differs: one choice for all layers and heads, where the paper chooses in each and leaves its first
layers whole; hence the logarithm, so that heads with long keys do not outvote the others. `largest`
turns the order round, as HSTU has no softmax and its keys passed a SiLU: which end matters there is
a question to measure.
Cost: a kept slot is unchanged and gains its position; time O(M * width) per layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gistrec.codecs import Evict
from gistrec.state import UserState

SHORTEST = torch.finfo(torch.float32).tiny
"""Keys of zeros count as this long, so that a score is finite and sinks and window go first."""


@dataclass(frozen=True)
class KeyNorm(Evict):
    """Eviction that needs no queries: a slot's score is final when it is written."""

    largest: bool = False
    """Keep the longest keys instead of the shortest."""

    needs = frozenset({"k"})

    def importance(self, state: UserState, layer: int) -> Tensor:
        """Minus (or plus) the logarithm of the keys' norms, (H, M); 0 in a layer without keys."""
        k_HMK = state.tensors.get(f"k.{layer}")
        if k_HMK is None:
            return torch.zeros(1, state.num_slots)
        norm_HM = k_HMK.double().norm(dim=-1).reshape(-1, state.num_slots)
        log_HM: Tensor = norm_HM.clamp(min=SHORTEST).log()
        return log_HM if self.largest else -log_HM
