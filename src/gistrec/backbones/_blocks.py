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
from gistrec.kernels.partition import log_partition
from gistrec.kernels.scan import Scan

POSITION_BUCKETS = 112
TIME_BUCKETS = 65
_EXACT = 64
_LAST = 5
"""So many buckets stand for what is farther: an octave. The very last ones saw few pairs."""
_ABSENT = -1e4
"""Logarithm of what is not there."""


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


@cache
def first_seconds() -> Tensor:
    """The least seconds of every time bucket that there is: (64,) int32, as `time_bucket` says."""
    around = [math.exp(0.301 * n) for n in range(TIME_BUCKETS - 1)]
    near = [torch.arange(int(x * 0.999995) - 1, int(x * 1.000005) + 3) for x in around]
    found = [s[time_bucket(s) >= n][0] for n, s in enumerate(near)]
    return torch.stack(found).clamp(min=1).int()


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


def _looked_up(table_HN: Tensor, bucket: Tensor) -> Tensor:
    found: Tensor = _Lookup.apply(table_HN, bucket)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
    return found


class RelativeBias(nn.Module):
    """A learned number per head and bucket."""

    def __init__(self, num_heads: int, buckets: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(num_heads, buckets))

    @torch.no_grad()
    def extend(self) -> None:
        """Give the buckets beyond the farthest that was trained the median of the last ones.

        No pair of a training window is farther apart than the window, so that they still are 0: in
        a history that is longer, attention to all that is older would be of a kind never trained.
        """
        trained = self.table.abs().amax(0).nonzero()[:, 0]
        if len(trained):
            last = trained[-_LAST:]
            self.table[:, int(last[-1]) + 1 :] = self.table[:, last].median(1, keepdim=True).values

    def forward(self, bucket_BST: Tensor) -> Tensor:
        """(B, H, S, T)."""
        return _looked_up(self.table, bucket_BST).transpose(0, 1)

    def of(self, bucket: Tensor) -> Tensor:
        """(H, ...) of any buckets."""
        return _looked_up(self.table, bucket)


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
        each = (self._PACE * self.age.table).exp()
        weight_QT: Tensor = _looked_up(each, time_bucket(elapsed_QT))[0] * visible_QT
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
        inclination_C, prior_C = self.inclination[chosen], prior_V[chosen]
        count_QC = torch.zeros_like(score_QC).scatter_add(1, column_QT, weight_QT)
        return self.both(score_QC, count_QC, inclination_C, prior_C)

    def both(self, score: Tensor, count: Tensor, inclination: Tensor, prior: Tensor) -> Tensor:
        """Scores from both ways, from the items' own terms."""
        again = self.again(score, count, inclination, prior)
        return torch.logaddexp(score + self.new_bias(prior), again)

    def new_bias(self, prior: Tensor) -> Tensor:
        """What is added to the scores of items as new ones, from their prior."""
        return self._PACE * self.weights[4] * prior

    def again(self, score: Tensor, count: Tensor, inclination: Tensor, prior: Tensor) -> Tensor:
        """Scores of items as bought before, from their own terms: all of one shape."""
        start, counted, own_prior, cosine, _ = self._PACE * self.weights
        own = start + self._PACE * inclination + own_prior * prior
        again = counted * count.clamp(min=1e-9).log() + cosine * score + own
        absent: Tensor = again.masked_fill(count <= 0, _ABSENT)
        return absent

    def of_events(
        self, score_QT: Tensor, weight_QT: Tensor, batch: Batch, prior_V: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`again` of the items in each query's own history, once each, and of the wanted pairs.

        The others have none, so a loss needs no (Q, C) matrix of counts.

        Args:
            score_QT: Cosine over temperature with the item of each event of the query's user.
            weight_QT: What each event counts.
            batch: Its queries and pairs.
            prior_V: Logarithm of the items' popularity.

        Returns:
            (Q, T), absent but at an item's first event of the user; and (P,).
        """
        row, item_BT, num_items = batch.query_row_Q, batch.item_BS, len(prior_V)
        base_B1 = torch.arange(len(item_BT), device=row.device)[:, None] * (num_items + 1)
        key_U, which_BT = (base_B1 + item_BT).unique(return_inverse=True)
        span_T = torch.arange(item_BT.shape[1], device=row.device)
        first_U = torch.full_like(key_U, len(span_T))
        first_U.scatter_reduce_(0, which_BT.flatten(), span_T.repeat(len(item_BT)), "amin")
        count_QT = torch.zeros_like(weight_QT).scatter_add(1, first_U[which_BT][row], weight_QT)
        known_BT = item_BT.clamp(max=num_items - 1)
        inclination_QT, prior_QT = self.inclination[known_BT][row], prior_V[known_BT][row]
        again_QT = self.again(score_QT, count_QT, inclination_QT, prior_QT)
        key_P = base_B1[row[batch.pair_query_P], 0] + batch.pair_item_P
        place_P = torch.searchsorted(key_U, key_P).clamp(max=len(key_U) - 1)
        again_P = again_QT[batch.pair_query_P, first_U[place_P]]
        return again_QT, again_P.masked_fill(key_U[place_P] != key_P, _ABSENT)


def _each_with_its_rows(h_QD: Tensor, row_Q: Tensor, x_BTD: Tensor) -> Tensor:
    """Dot products of each query with all of its row: (Q, T). Queries are ordered by row."""
    count_B = torch.bincount(row_Q, minlength=len(x_BTD))
    rank_Q = torch.arange(len(row_Q), device=row_Q.device) - (count_B.cumsum(0) - count_B)[row_Q]
    h_BND = h_QD.new_zeros(len(x_BTD), int(count_B.max()), h_QD.shape[1])
    h_BND = h_BND.index_put((row_Q, rank_Q), h_QD)
    return (h_BND @ x_BTD.mT)[row_Q, rank_Q]


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
        self._scan: tuple[list[tuple[int, int]], Scan] | None = None
        self.prior: Tensor
        self.register_buffer("prior", torch.zeros(num_items))

    def embed(self, item: Tensor) -> Tensor:
        """Input vectors, scaled to about 0.16 * sqrt(width / 64) per component at the start."""
        x: Tensor = self.table(item) * math.sqrt(self.table.embedding_dim)
        return x

    def score(self, h_QD: Tensor, item_C: Tensor | None = None) -> Tensor:
        """Cosine over temperature with all items, or some: (Q, C)."""
        table = self._items() if item_C is None else F.normalize(self.table(item_C), dim=-1)
        return self.direction(h_QD) @ table.T

    def score_pairs(self, h_QD: Tensor, query_P: Tensor, item_P: Tensor) -> Tensor:
        """Cosine over temperature of pairs of a query and an item: (P,)."""
        return (self.direction(h_QD)[query_P] * self._items()[item_P]).sum(-1)

    def _items(self) -> Tensor:
        """All item vectors at length 1: (V, D). Kept between requests while no weight changes."""
        weight = self.table.weight
        if self.training:
            return F.normalize(weight[:-1], dim=-1)
        written = weight.data_ptr(), weight._version
        if self._kept is None or self._kept[0] != written:
            self._kept = written, F.normalize(weight.detach()[:-1], dim=-1)
        return self._kept[1]

    def direction(self, h_QD: Tensor) -> Tensor:
        """Queries at length 1 over the temperature: products with item vectors are scores."""
        return F.normalize(h_QD, dim=-1) / self.temperature

    def scan(self) -> Scan:
        """The catalogue, to be scanned by `direction`; with repeats, scores of items as new ones.

        Kept between requests while no weight changes.
        """
        biased = () if self.repeats is None else (self.repeats.weights, self.prior)
        written = [(t.data_ptr(), t._version) for t in (self.table.weight, *biased)]
        if self._scan is None or self._scan[0] != written:
            items_VD, bias_V = self.vectors()
            self._scan = written, Scan(items_VD.numpy(), bias_V.numpy() if biased else None)
        return self._scan[1]

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Items as new ones: vectors of length 1, (V, D), and what is added to products, (V,)."""
        bias_V = torch.zeros_like(self.prior)
        return self._items(), bias_V if self.repeats is None else self.repeats.new_bias(self.prior)

    def loss(
        self, h_BSD: Tensor, batch: Batch, at_BS: Tensor, rng: torch.Generator | None
    ) -> Tensor:
        """Softmax cross-entropy of the batch's pairs over the catalogue, or an estimate of it.

        With `negatives` the candidates are all items of the batch and that many others, drawn
        uniformly and weighted so that the partition sum is unbiased.
        """
        row, position = batch.query_row_Q, batch.query_position_Q
        h_QD = self.direction(h_BSD[row, position])
        item_C, bias_C, column_V = self._candidates(batch, rng)
        table_CD = self._items() if item_C is None else F.normalize(self.table(item_C), dim=-1)
        pair_h_PD = h_QD
        if len(row) != len(batch.pair_item_P):  # else next-item pairs: every query has its own
            pair_h_PD = F.embedding(batch.pair_query_P, h_QD)
        wanted_P = (pair_h_PD * F.embedding(column_V[batch.pair_item_P], table_CD)).sum(-1)
        extra_Q = None
        if self.repeats is not None:
            item_BTD = F.embedding(column_V[batch.item_BS], table_CD)
            span = torch.arange(batch.item_BS.shape[1], device=row.device)
            visible_QT = (span <= position[:, None]) & (batch.item_BS < self.num_items)[row]
            elapsed_QT = at_BS[row, position][:, None] - batch.time_BS[row]
            again_QT, again_P = self.repeats.of_events(
                _each_with_its_rows(h_QD, row, item_BTD),
                self.repeats.weight(elapsed_QT, visible_QT),
                batch,
                self.prior,
            )
            new_V = self.repeats.new_bias(self.prior)
            wanted_P = torch.logaddexp(wanted_P + new_V[batch.pair_item_P], again_P)
            extra_Q = again_QT.logsumexp(-1)
            new_C = new_V if item_C is None else new_V[item_C]
            bias_C = new_C if bias_C is None else new_C + bias_C
        pairs_Q = torch.bincount(batch.pair_query_P, minlength=len(row)).to(h_QD.dtype)
        weight_Q = pairs_Q / len(batch.pair_item_P)
        return log_partition(h_QD, table_CD, weight_Q, bias_C, extra_Q) - wanted_P.mean()

    def _candidates(
        self, batch: Batch, rng: torch.Generator | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Candidate items (None: all), their log weights, and the candidate that each item is."""
        device, count = batch.item_BS.device, self.num_items
        if not self.negatives:
            return None, None, torch.arange(count + 1, device=device).clamp(max=count - 1)
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
