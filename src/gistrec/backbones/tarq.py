"""TARQ: target attention once per codeword, then look-ups per candidate, for thousands of them.

    x_i ~ sum_l C_l[z_il]                                  residual codes of a candidate's vector
    T_l[c] = attention of query C_l[c] over the history    once per codeword and request
    logit_i = sum_l f_l([C_l[c] ; T_l[c] ; T_l[c] * C_l[c] ; u])_{c = z_il} + g(x_i) + <W u, x_i>
    u = [context ; mean of the history ; log(1 + events)]  the same for all candidates

f is a small network that is run once per codeword, g one whose value is kept per item, so that a
candidate costs `levels` look-ups and one dot product.

Level: architecture
Source: TARQ, arXiv 2509.16931 (residual-quantised target attention in pre-ranking, distilled from
a target-attention teacher, codebooks kept aligned).
Differs: written from the idea, since its code and its loss are not published. Codes follow the
item vectors during training (nearest codeword, level by level); codewords are moved to what they
stand for and vectors towards their codewords (the usual two squared errors), and codewords that
nobody uses begin anew from vectors that are badly met. What quantising loses of a candidate is
made up for by g and the dot product, which see the vector itself. The teacher is any ranker:
`gistrec.ranking.taught` gives impressions its answers.
Cost: levels * codes attentions per request, however many candidates; `levels` bytes per item.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.backbones._target import TargetAttention
from gistrec.errors import ConfigError
from gistrec.impressions import ImpressionBatch
from gistrec.state import UserState


class TARQ(TargetAttention):
    """Pre-ranking through residual codes.

    Args:
        num_items: V, from the data.
        levels: Codewords of an item, one of each codebook.
        codes: Codewords of a codebook, 2 to 256.
        commitment: Weight of the loss that holds vectors near their codewords.
        width: D.
        num_heads: H; divides the width.
        memory: Spec of what events write and codewords read.
        labels: How many labels there are to predict.
        item_features: Most feature rows that an item has; training sets it.
        dropout: Share of units dropped in training.
    """

    code_VL: Tensor
    own_VT: Tensor
    vector_VD: Tensor
    used_LC: Tensor

    def __init__(
        self,
        num_items: int,
        *,
        levels: int = 2,
        codes: int = 32,
        commitment: float = 0.25,
        width: int = 32,
        num_heads: int = 2,
        memory: str = "full()",
        labels: int = 1,
        item_features: int = 0,
        dropout: float = 0.1,
    ) -> None:
        if levels < 1 or not 2 <= codes <= 256:
            raise ConfigError(
                f"tarq takes at least one level and 2 to 256 codes, given {levels} and {codes}"
            )
        super().__init__(
            num_items,
            width=width,
            num_heads=num_heads,
            memory=memory,
            labels=labels,
            item_features=item_features,
            dropout=dropout,
        )
        self.commitment = commitment
        self.codebook = nn.Parameter(torch.randn(levels, codes, width) * 0.3 * width**-0.5)
        self.hidden = nn.Sequential(nn.Linear(5 * width + 1, width), nn.SiLU(), nn.Dropout(dropout))
        self.out = nn.Linear(width, labels)
        self.own = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, labels))
        self.user = nn.Linear(2 * width + 1, labels * width)
        # what `finish` computes once for all items
        self.register_buffer("code_VL", torch.zeros(num_items, levels, dtype=torch.uint8))
        self.register_buffer("own_VT", torch.zeros(num_items, labels))
        self.register_buffer("vector_VD", torch.zeros(num_items, width))
        self.register_buffer("used_LC", torch.zeros(levels, codes), persistent=False)
        self._distance: Tensor | None = None

    def codes_of(self, x: Tensor) -> Tensor:
        """Nearest codewords of vectors, level by level: (..., levels)."""
        left, found = x, []
        for book_CD in self.codebook:
            # |x - c|^2 without what is the same for all codewords
            distance = book_CD.square().sum(-1) - 2 * left @ book_CD.T
            found.append(distance.argmin(-1))
            left = left - book_CD[found[-1]]
        return torch.stack(found, -1)

    def logits_of(self, batch: ImpressionBatch) -> Tensor:
        """Of a batch's impressions, each from the attention of its own codewords: (B, N, T)."""
        x_BSD, x_BND = self.inputs(batch)
        with torch.no_grad():
            code_BNL = self.codes_of(x_BND)
        words = [F.embedding(code_BNL[..., n], book) for n, book in enumerate(self.codebook)]
        levels = len(words)  # codewords of all levels ask at once, behind each other
        asked = dataclasses.replace(batch, position_BN=batch.position_BN.repeat(1, levels))
        y_BND, m_BND = self.read(asked, x_BSD, torch.cat(words, 1))
        m_BND, c_BND = m_BND[:, : x_BND.shape[1]], self._sum(batch.context_BNC)
        logits = torch.stack(
            [
                self._logits(word, y, c_BND, m_BND, batch.length_BN)
                for word, y in zip(words, y_BND.chunk(levels, 1), strict=True)
            ]
        ).sum(0)
        real = batch.number_BN >= 0
        self._distance = self._apart(x_BND[real], torch.stack(words).sum(0)[real])
        if self.training:
            self._renew(x_BND[real], code_BNL[real])
        user = self.user(torch.cat([c_BND, m_BND, _known(batch.length_BN)], -1))
        match = (user.unflatten(-1, (self.labels, -1)) * x_BND[..., None, :]).sum(-1)
        total: Tensor = logits + self.own(x_BND) + match
        return total

    def penalty(self, batch: ImpressionBatch) -> Tensor:
        """Of the memory, and of the distance between vectors and codewords."""
        apart = torch.zeros(()) if self._distance is None else self._distance
        return super().penalty(batch) + apart

    @torch.no_grad()
    def finish(self) -> None:
        """Codes and own values of all items."""
        x_VD = self.candidates(torch.arange(self.num_items))
        self.vector_VD.copy_(x_VD)
        self.code_VL.copy_(self.codes_of(x_VD))
        self.own_VT.copy_(self.own(x_VD))

    @torch.no_grad()
    def predict(
        self,
        state: UserState,
        item_index: Tensor,
        *,
        at: int | None = None,
        context: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Logits of candidates, (N, T), from tables of codewords.

        A context of each candidate's own would need tables of its own: requests are grouped by it.
        Candidates that the model does not know are given codes by their features.
        """
        if self.training:
            self.eval()
        given_NF = torch.full((len(item_index), 0), -1) if features is None else features
        rows = torch.zeros(0, dtype=torch.long) if context is None else context
        if rows.ndim == 2 and len(rows) != 1:
            kinds, group_N = rows.unique(dim=0, return_inverse=True)
            out = torch.empty(len(item_index), self.labels)
            for n, kind in enumerate(kinds):
                mine = group_N == n
                own = given_NF[mine]
                out[mine] = self.predict(state, item_index[mine], at=at, context=kind, features=own)
            return out
        device = self.codebook.device
        words_ND = self.codebook.flatten(0, 1)
        y_ND, m_D = self.read_state(state, words_ND, at)
        c_D = self._sum(rows.reshape(-1).to(device))
        count = len(words_ND)
        length_N = torch.full((count,), state.length, device=device)
        c_ND, m_ND = c_D.expand(count, -1), m_D.expand(count, -1)
        table_NT = self._logits(words_ND, y_ND, c_ND, m_ND, length_N)
        table_LCT = table_NT.unflatten(0, self.codebook.shape[:2])
        item_index = item_index.to(device)
        is_new_N = item_index >= self.num_items
        place_N = item_index.clamp(max=self.num_items - 1)
        code_NL, own_NT = self.code_VL[place_N].long(), self.own_VT[place_N]
        vector_ND = self.vector_VD[place_N]
        if is_new_N.any():
            x_ND = self._sum(given_NF.to(device)[is_new_N])
            code_NL[is_new_N], own_NT[is_new_N] = self.codes_of(x_ND).long(), self.own(x_ND)
            vector_ND[is_new_N] = x_ND
        user = self.user(torch.cat([c_D, m_D, _known(length_N[:1])[0]]))
        match_NT = vector_ND @ user.view(self.labels, -1).T
        logits_NT = own_NT + match_NT
        for level, table_CT in enumerate(table_LCT):
            logits_NT = logits_NT + table_CT[code_NL[:, level]]
        found: Tensor = logits_NT.cpu()
        return found

    # ---- internals ----

    def _apart(self, x_ND: Tensor, words_ND: Tensor) -> Tensor:
        to_words = (words_ND - x_ND.detach()).square().sum(-1).mean()
        to_vectors = (x_ND - words_ND.detach()).square().sum(-1).mean()
        return to_words + self.commitment * to_vectors

    @torch.no_grad()
    def _renew(self, x_ND: Tensor, code_NL: Tensor) -> None:
        """Keep account of who uses which codeword, and begin those anew that nobody does."""
        left_ND = x_ND
        for level, book_CD in enumerate(self.codebook):
            used_C = torch.bincount(code_NL[:, level], minlength=len(book_CD)).float()
            self.used_LC[level].mul_(0.99).add_(used_C, alpha=0.01)
            idle = (self.used_LC[level] < 1e-3 * self.used_LC[level].mean()).nonzero()[:, 0]
            if len(idle) and len(left_ND):
                book_CD[idle] = left_ND[_worst(left_ND - book_CD[code_NL[:, level]], len(idle))]
                self.used_LC[level, idle] = self.used_LC[level].mean()
            left_ND = left_ND - book_CD[code_NL[:, level]]


def _worst(left_ND: Tensor, count: int) -> Tensor:
    """Which vectors their codewords meet worst, `count` of them, repeated if there are fewer."""
    order = left_ND.square().sum(-1).argsort(descending=True, stable=True)
    return order[torch.arange(count) % len(order)]


def _known(length: Tensor) -> Tensor:
    return (1 + length.float()).log()[..., None] / 10
