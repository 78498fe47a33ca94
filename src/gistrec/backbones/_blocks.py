"""Parts that backbones share: relative biases and the head that scores items.

Shapes: B users, S queries of a user, T slots a query may see, H heads, D width, V items,
C candidates of a loss, Q queries of a batch.
"""

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.dataset import Batch

POSITION_BUCKETS = 112
TIME_BUCKETS = 65
_EXACT = 64


@cache
def _position_table(device: torch.device) -> Tensor:
    far = (
        torch.arange(_EXACT, 65_536).double().div(_EXACT).log2() * (POSITION_BUCKETS - _EXACT) / 10
    )
    return torch.cat([torch.arange(_EXACT), _EXACT + far.long()]).int().to(device)


def position_bucket(distance: Tensor) -> Tensor:
    """Distance in events -> bucket: exact to 63, then 48 logarithmic buckets up to 65,536."""
    table = _position_table(distance.device)
    return table[distance.clamp(0, len(table) - 1)]


def time_bucket(elapsed: Tensor) -> Tensor:
    """Elapsed seconds -> bucket: 65 logarithmic ones, a factor of 1.35 each, to nine years."""
    return elapsed.float().clamp_(1, 2.3e8).log_().div_(0.301).int()


class _Lookup(torch.autograd.Function):
    """table_HN[:, bucket]; the gradient is a histogram, many times faster than index_put on CPU."""

    @staticmethod
    def forward(ctx: Any, table_HN: Tensor, bucket: Tensor) -> Tensor:
        ctx.save_for_backward(bucket)
        ctx.size = table_HN.shape[1]
        # seven times faster than table_HN[:, bucket] on a CPU
        return table_HN.index_select(1, bucket.reshape(-1)).view(len(table_HN), *bucket.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        flat = ctx.saved_tensors[0].reshape(-1)
        rows = [torch.bincount(flat, g.reshape(-1), minlength=ctx.size) for g in gradient]
        return torch.stack(rows).to(gradient.dtype), None


class RelativeBias(nn.Module):
    """A learned number per head and bucket."""

    def __init__(self, num_heads: int, buckets: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(num_heads, buckets))

    def forward(self, bucket_BST: Tensor) -> Tensor:
        """(B, H, S, T)."""
        found: Tensor = _Lookup.apply(self.table, bucket_BST)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
        return found.transpose(0, 1)


class _CatalogueLoss(torch.autograd.Function):
    """Mean cross-entropy of `wanted_Q` over logits h W^T that are at most `bound`.

    Rows are taken 256 at a time and gradients computed at once, so the (Q, V) matrix, by far the
    largest of a training step, never exists: five times faster than its eager form on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, h_QD: Tensor, table_VD: Tensor, wanted_Q: Tensor, bound: float) -> Tensor:
        grad_h, grad_table = torch.empty_like(h_QD), torch.zeros_like(table_VD)
        total, count = h_QD.new_zeros(()), len(h_QD)
        for rows in torch.arange(count, device=h_QD.device).split(256):
            h_RD, wanted_R1 = h_QD[rows], wanted_Q[rows, None]
            p_RV = (h_RD @ table_VD.T).sub_(bound)
            logit_R1 = p_RV.gather(1, wanted_R1)
            sum_R1 = p_RV.exp_().sum(1, keepdim=True)
            total += (sum_R1.log() - logit_R1).sum()
            p_RV.div_(sum_R1 * count)
            p_RV.scatter_add_(1, wanted_R1, torch.full_like(logit_R1, -1 / count))
            grad_h[rows] = p_RV @ table_VD
            grad_table.addmm_(p_RV.T, h_RD)
        ctx.save_for_backward(grad_h, grad_table)
        return total / count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_h, grad_table = ctx.saved_tensors
        return gradient * grad_h, gradient * grad_table, None, None


class Repeats(nn.Module):
    """Two ways to the next item: something new, by its vector, or something bought before.

        score_i   = log(exp(new_i) + exp(again_i))
        new_i     = cosine_i / temperature + b log(1 + popularity_i)
        again_i   = s + r_i + a log c_i + b' log(1 + popularity_i) + w cosine_i / temperature
        c_i       = sum over the user's events j with item i of exp(g[time bucket of (t - t_j)])

    c is a count with learned forgetting, r each item's own inclination to be bought again; again_i
    is absent for items without an event. Without it a model of dense vectors loses to counting on
    grocery data: 70,000 products do not separate in 64 dimensions as sharply as "this one, last
    week". Popularity needs a weight of its own on each way: it decides among new items, and hardly
    among one's own.
    """

    _PACE = 10.0
    """Parameters are stored divided by this, so that they move faster than weights do."""

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.age = RelativeBias(1, TIME_BUCKETS)
        self.inclination = nn.Parameter(torch.zeros(num_items))
        # s, a, b', w, b: a count that outweighs popularity by far, as counting alone would have it
        self.weights = nn.Parameter(torch.tensor([4.0, 1.0, 0.1, 0.1, 1.0]) / self._PACE)

    def weight(self, elapsed_QT: Tensor, visible_QT: Tensor) -> Tensor:
        """What each event adds to its item's count: (Q, T)."""
        log_weight_QT = self.age(time_bucket(elapsed_QT)[:, None])[:, 0, 0]
        weight_QT: Tensor = (self._PACE * log_weight_QT).exp() * visible_QT
        return weight_QT

    def join(
        self,
        score_QC: Tensor,
        weight_QT: Tensor,
        column_QT: Tensor,
        item_C: Tensor | None,
        prior_V: Tensor,
    ) -> Tensor:
        """Scores of candidates from both ways.

        Args:
            score_QC: Cosine over temperature.
            weight_QT: What each event counts.
            column_QT: The candidate that each event's item is.
            item_C: The candidates' items; None: all.
            prior_V: Logarithm of the items' popularity.
        """
        chosen = slice(None) if item_C is None else item_C
        inclination, prior = self.inclination[chosen], prior_V[chosen]
        start, counted, own_prior, cosine, new_prior = self._PACE * self.weights
        count_QC = torch.zeros_like(score_QC).scatter_add(1, column_QT, weight_QT)
        again_QC = counted * count_QC.clamp(min=1e-9).log() + cosine * score_QC
        again_QC = again_QC + (start + self._PACE * inclination + own_prior * prior)
        again_QC = again_QC.masked_fill(count_QC <= 0, -1e4)
        return torch.logaddexp(score_QC + new_prior * prior, again_QC)


class ItemHead(nn.Module):
    """Item vectors: what goes in, and cosine scores over a temperature out."""

    def __init__(
        self, num_items: int, width: int, *, temperature: float, negatives: int, repeats: bool
    ) -> None:
        super().__init__()
        self.num_items, self.temperature, self.negatives = num_items, temperature, negatives
        self.table = nn.Embedding(num_items + 1, width, padding_idx=num_items)
        nn.init.normal_(self.table.weight, std=0.02)
        with torch.no_grad():
            self.table.weight[num_items] = 0
        self.repeats = Repeats(num_items) if repeats else None
        self._kept: tuple[tuple[int, int], Tensor] | None = None
        self.prior: Tensor
        self.register_buffer("prior", torch.zeros(num_items))

    def embed(self, item: Tensor) -> Tensor:
        """Input vectors, scaled to about 0.16 * sqrt(width / 64) per component at the start."""
        x: Tensor = self.table(item) * math.sqrt(self.table.embedding_dim)
        return x

    def score(self, h_QD: Tensor, item_C: Tensor | None = None) -> Tensor:
        """Cosine over temperature with all items, or some: (Q, C)."""
        table = self._items() if item_C is None else F.normalize(self.table(item_C), dim=-1)
        return self._direction(h_QD) @ table.T

    def _items(self) -> Tensor:
        """All item vectors at length 1: (V, D). Kept between requests while no weight changes."""
        weight = self.table.weight
        if self.training:
            return F.normalize(weight[:-1], dim=-1)
        written = weight.data_ptr(), weight._version
        if self._kept is None or self._kept[0] != written:
            self._kept = written, F.normalize(weight.detach()[:-1], dim=-1)
        return self._kept[1]

    def _direction(self, h_QD: Tensor) -> Tensor:
        return F.normalize(h_QD, dim=-1) / self.temperature

    def loss(
        self, h_BSD: Tensor, batch: Batch, at_BS: Tensor, rng: torch.Generator | None
    ) -> Tensor:
        """Softmax cross-entropy of the batch's pairs over the catalogue, or an estimate of it.

        With `negatives` the candidates are all items of the batch and that many others, drawn
        uniformly and weighted so that the partition sum is unbiased.
        """
        row, position = batch.query_row_Q, batch.query_position_Q
        one_each = len(row) == len(batch.pair_item_P)  # next-item pairs: every query has its own
        if one_each and not self.negatives and self.repeats is None:
            found: Tensor = _CatalogueLoss.apply(  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
                self._direction(h_BSD[row, position]),
                self._items(),
                batch.pair_item_P,
                1 / self.temperature,
            )
            return found
        item_C, log_weight_C, column_V = self._candidates(batch, rng)
        score_QC = self.score(h_BSD[row, position], item_C)
        if self.repeats is not None:
            item_QT = batch.item_BS[row]
            span = torch.arange(item_QT.shape[1], device=item_QT.device)
            visible_QT = (span <= position[:, None]) & (item_QT < self.num_items)
            elapsed_QT = at_BS[row, position][:, None] - batch.time_BS[row]
            weight_QT = self.repeats.weight(elapsed_QT, visible_QT)
            score_QC = self.repeats.join(score_QC, weight_QT, column_V[item_QT], item_C, self.prior)
        wanted_P = score_QC[batch.pair_query_P, column_V[batch.pair_item_P]]
        total_Q = (score_QC if item_C is None else score_QC + log_weight_C).logsumexp(-1)
        return (total_Q[batch.pair_query_P] - wanted_P).mean()

    def _candidates(
        self, batch: Batch, rng: torch.Generator | None
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Candidate items (None: all), their log weights, and the candidate that each item is."""
        device, count = batch.item_BS.device, self.num_items
        if not self.negatives:
            column_V = torch.arange(count + 1, device=device).clamp(max=count - 1)
            return None, torch.zeros(1, device=device), column_V
        here_V = torch.zeros(count + 1, dtype=torch.bool, device=device)
        here_V[batch.item_BS.reshape(-1)] = True
        here_V[batch.pair_item_P] = True
        here_V[count] = False
        inside = here_V.nonzero()[:, 0]
        outside = (~here_V[:count]).nonzero()[:, 0]
        drawn = torch.randperm(len(outside), generator=rng)[: self.negatives].to(device)
        item_C = torch.cat([inside, outside[drawn]])
        log_weight_C = torch.zeros(len(item_C), device=device)
        if len(drawn):
            log_weight_C[len(inside) :] = math.log(len(outside) / len(drawn))
        column_V = torch.zeros(count + 1, dtype=torch.long, device=device)
        column_V[item_C] = torch.arange(len(item_C), device=device)
        return item_C, log_weight_C, column_V
