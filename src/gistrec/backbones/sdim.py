"""SDIM: the history is summed up in hash buckets; a candidate reads the buckets it falls into.

    h_r(i)  = signs of (x_i R_r), `bits` of them        r = 1..rounds, R fixed, from a fixed seed
    S_r[c] += W_v x_e                                   for an event whose item has h_r = c
    y_i     = W_o mean_r S_r[h_r(i)] / |S_r[h_r(i)]|

Level: architecture
Source: Cao et al. 2022, "Sampling Is All You Need on Modeling Long-Term User Behaviors for CTR
Prediction", arXiv 2205.10249, section 4.2.
Differs: the sums themselves are the state, so that its size does not depend on the history and an
append adds to them; the paper keeps the sequence beside them. Events are hashed by their item
alone, so that what a user did with an item does not move it away from the candidate it is. Public
versions hash with planes drawn anew when a model is built, so that a reloaded model may find other
buckets; here the planes are a function of the width. No softmax, no short branch.
Cost: rounds * 2**bits * width numbers per user, whatever the history; a look-up per candidate and
round.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.backbones._ranker import Ranker, event_tensors, mean_until
from gistrec.dataset import History
from gistrec.errors import ConfigError
from gistrec.impressions import ImpressionBatch
from gistrec.state import UserState

_SEED = 2205


class SDIM(Ranker):
    """Sums of the history by hash.

    Args:
        num_items: V, from the data.
        rounds: Hashes of an item.
        bits: Of a hash: 2**bits buckets each.
        width: D.
        labels: How many labels there are to predict.
        item_features: Most feature rows that an item has; training sets it.
        dropout: Share of units dropped in training.
    """

    plane_DP: Tensor

    def __init__(
        self,
        num_items: int,
        *,
        rounds: int = 8,
        bits: int = 3,
        width: int = 32,
        labels: int = 1,
        item_features: int = 0,
        dropout: float = 0.1,
    ) -> None:
        for name, given in ("rounds", rounds), ("bits", bits):
            if not 1 <= given <= 12:
                raise ConfigError(f"sdim({name}=...) takes 1 to 12, given {given}")
        super().__init__(
            num_items, width=width, labels=labels, item_features=item_features, dropout=dropout
        )
        self.rounds, self.buckets = rounds, 2**bits
        rng = torch.Generator().manual_seed(_SEED)
        plane = torch.randn(width, rounds * bits, generator=rng)
        self.register_buffer("plane_DP", plane, persistent=False)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)

    @torch.no_grad()
    def hashes(self, x: Tensor) -> Tensor:
        """Buckets of items' vectors, (..., rounds); those of round r begin at r * buckets."""
        bit = (x @ self.plane_DP > 0).unflatten(-1, (self.rounds, -1))
        place = 2 ** torch.arange(bit.shape[-1], device=bit.device)
        start = torch.arange(self.rounds, device=bit.device) * self.buckets
        bucket: Tensor = (bit * place).sum(-1) + start
        return bucket

    def read(self, batch: ImpressionBatch, x_BSD: Tensor, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        """By sums over each impression's part of its stretch; the mean value of that part."""
        real_BS = batch.item_BS < self.num_items
        v_BSD = self.value(x_BSD) * real_BS[..., None]
        slot_S = torch.arange(real_BS.shape[1], device=real_BS.device)
        seen_BNS = batch.position_BN[..., None] >= slot_S
        with torch.no_grad():  # of vectors of which nothing is dropped
            vectors = self.candidates(batch.item_BS), self.candidates(batch.item_BN)
        event_BSr, candidate_BNr = (self.hashes(x) for x in vectors)
        sums = [
            ((mine_BN[..., None] == theirs_BS[:, None]) & seen_BNS).to(v_BSD.dtype) @ v_BSD
            for mine_BN, theirs_BS in zip(
                candidate_BNr.unbind(-1), event_BSr.unbind(-1), strict=True
            )
        ]
        return self._found(torch.stack(sums, -2)), mean_until(v_BSD, batch.position_BN)

    def read_state(
        self, state: UserState, x_ND: Tensor, at: int | None, item_N: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """By the sums of its buckets; the mean value."""
        sum_CD = state.tensors["fixed.sum.0"].to(x_ND.device, x_ND.dtype)
        whole_D = sum_CD[: self.buckets].sum(0)  # every round has all events
        return self._found(sum_CD[self.hashes(x_ND)]), whole_D / max(state.length, 1)

    def _found(self, sum_rD: Tensor) -> Tensor:
        found: Tensor = self.project(F.normalize(sum_rD, dim=-1).mean(-2))
        return found

    # ---- states ----

    @torch.no_grad()
    def empty(self, *, hints: bool = False) -> UserState:
        """Sums of nothing."""
        if self.training:
            self.eval()
        sum_CD = torch.zeros(self.rounds * self.buckets, self.width)
        return UserState({"fixed.sum.0": sum_CD}, 0, self.fingerprint())

    @torch.no_grad()
    def append(self, states: Sequence[UserState], events: Sequence[History]) -> list[UserState]:
        """Each state with its new events added to the sums."""
        if self.training:
            self.eval()
        out = []
        for state, new in zip(states, events, strict=True):
            item_S, action_S, _ = (t.to(self.item.weight.device) for t in event_tensors(new))
            x_SD = self.candidates(item_S)
            v_SD, place_SR = self.value(self.acted(x_SD, action_S)).cpu(), self.hashes(x_SD).cpu()
            sum_CD = state.tensors["fixed.sum.0"].clone()
            sum_CD.index_add_(0, place_SR.flatten(), v_SD.repeat_interleave(self.rounds, 0))
            length = state.length + len(new)
            out.append(state.replace({**state.tensors, "fixed.sum.0": sum_CD}, length=length))
        return out

    def state_bytes(self, num_events: int) -> int:
        """Bytes of the uncompressed state, after any number of events."""
        return self.empty().nbytes
