"""How good a ranking is: HR, NDCG and Recall at k over the whole catalogue, per user.

Shapes: B users, V items, N values.

Ranking is a stable sort by score, descending: among equal scores the item with the lower index
stands first. It is exact, so that a result never depends on a sort's mood.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gistrec.errors import ConfigError, DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def top_k(score_BV: Tensor, k: int = 10) -> Ints:
    """The k best items of each row, best first: (B, min(k, V)) item indices.

    >>> top_k(torch.tensor([[0.5, 2.0, 0.5, 2.0]]), k=3).tolist()
    [[1, 3, 0]]

    Raises:
        ConfigError: k is below 1. DataError: a score is not a number.
    """
    if k < 1:
        raise ConfigError(f"k is the length of a recommended list, at least 1; given {k}")
    k, more = min(k, score_BV.shape[1]), min(k + 1, score_BV.shape[1])
    value_BK, index_BK = score_BV.topk(more)
    if (bad := value_BK.isnan().any(1)).any():  # topk puts NaN first, so none is missed
        raise DataError(
            f"{int(bad.sum())} of {len(bad)} users have NaN among their scores: the model or its "
            "state is broken (a diverged training, or a codec that overflows); train again"
        )
    last_B1, index_BK = value_BK[:, k - 1 : k], index_BK[:, :k]
    # where the next item ties with the k-th, topk took any of the tied ones
    crowded = value_BK[:, -1] == last_B1[:, 0] if more > k else torch.zeros(0)
    for row in crowded.nonzero()[:, 0].tolist():
        above = (score_BV[row] > last_B1[row]).nonzero()[:, 0]
        tied = (score_BV[row] == last_B1[row]).nonzero()[: k - len(above), 0]
        index_BK[row] = torch.cat([above, tied])
    index_BK = index_BK.sort(1).values
    order = score_BV.gather(1, index_BK).argsort(dim=1, descending=True, stable=True)
    return index_BK.gather(1, order).numpy()


def per_user(score_BV: Tensor, targets: Sequence[ArrayLike], k: int = 10) -> dict[str, Floats]:
    """Each user's `hr_k`, `ndcg_k` and `recall_k`: name -> (B,).

    HR is 1 if any target is in the top k, Recall the share of the targets that is, NDCG divides by
    the best that min(k, targets) items could reach. With one target these are the usual
    leave-last-out metrics (Recall equals HR).

    Args:
        score_BV: Scores of the whole catalogue; -inf for items that are filtered out.
        targets: Each user's item indices to be predicted; duplicates count once.
        k: Length of the recommended list.

    Raises:
        DataError: a score is NaN, or a user has no target or one outside the catalogue.
    """
    return per_user_of_lists(top_k(score_BV, k), targets, k, num_items=score_BV.shape[1])


def per_user_of_lists(
    list_BK: Ints, targets: Sequence[ArrayLike], k: int = 10, *, num_items: int
) -> dict[str, Floats]:
    """`per_user` from lists that `top_k` made."""
    owned = [np.unique(np.asarray(t, np.int64)) for t in targets]
    count_B = np.array([len(t) for t in owned], np.int64)
    if len(owned) != len(list_BK) or not count_B.all():
        raise DataError(
            f"{len(list_BK)} users were scored and {int((count_B > 0).sum())} of them have "
            "targets: give every scored user at least one"
        )
    target = np.concatenate([*owned, np.zeros(0, np.int64)])
    if target.size and not 0 <= target.min() <= target.max() < num_items:
        raise DataError(
            f"targets are item indices 0 to {num_items - 1}, given {target.min()} to {target.max()}"
        )
    start_B = np.arange(len(list_BK)) * num_items  # so that one user's items are not another's
    hit_BK = np.isin(start_B[:, None] + list_BK, np.repeat(start_B, count_B) + target)
    gain_K = 1 / np.log2(np.arange(2, k + 2, dtype=np.float64))
    ideal_B = np.cumsum(gain_K)[np.minimum(count_B, k) - 1]
    return {
        f"hr_{k}": hit_BK.any(1).astype(np.float64),
        f"ndcg_{k}": hit_BK @ gain_K[: list_BK.shape[1]] / ideal_B,
        f"recall_{k}": hit_BK.sum(1) / count_B,
    }


def overlap(list_a_BK: Ints, list_b_BK: Ints) -> Floats:
    """Share of items that two lists have in common, order aside: (B,), 0..1."""
    shared: Floats = (list_a_BK[:, :, None] == list_b_BK[:, None, :]).any(2).mean(1)
    return shared


def auc(score_N: ArrayLike, label_N: ArrayLike) -> float:
    """Chance that a positive stands above a negative, ties half: nan if there is but one kind.

    >>> auc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1])
    0.875
    """
    score, label = np.asarray(score_N, np.float64), np.asarray(label_N, bool)
    positives, negatives = int(label.sum()), int((~label).sum())
    if not positives or not negatives:
        return float("nan")
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]  # of a tie, the mean
    above = rank[label].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def log_loss(logit_N: ArrayLike, label_N: ArrayLike) -> Floats:
    """Binary cross-entropy of each logit, in nats: (N,)."""
    logit, label = np.asarray(logit_N, np.float64), np.asarray(label_N, np.float64)
    loss: Floats = np.logaddexp(0, logit) - label * logit
    return loss


def interval(values: ArrayLike, *, seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over users: (low, high); (nan, nan) of nothing."""
    value_N = np.asarray(values, np.float64)
    if not value_N.size:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = [value_N[rng.integers(value_N.size, size=value_N.size)].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def ratio_interval(
    values: ArrayLike, base: ArrayLike, *, seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """95 % bootstrap interval of mean(values) / mean(base) over the same users: (low, high).

    Users are drawn for both at once, so what makes a user easy or hard cancels out. (nan, nan) of
    nothing, or where the base is 0.
    """
    value_N, base_N = np.asarray(values, np.float64), np.asarray(base, np.float64)
    if not base_N.any():
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(base_N.size, size=base_N.size) for _ in range(draws))
    means = np.array([(value_N[n].mean(), base_N[n].mean()) for n in drawn])
    means = means[means[:, 1] > 0]
    low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
    return float(low), float(high)


def by_length(
    values: ArrayLike, lengths: ArrayLike, edges: Sequence[int] = (50, 200, 1000)
) -> dict[str, dict[str, float]]:
    """Mean by history length: `{"<50": {"mean": .., "users": ..}, "50-199": .., ">=1000": ..}`.

    Ranges without users are left out.
    """
    value_N = np.asarray(values, np.float64)
    group_N = np.searchsorted(edges, np.asarray(lengths), side="right")
    names = [f"<{edges[0]}"]
    names += [f"{low}-{high - 1}" for low, high in pairwise(edges)]
    names.append(f">={edges[-1]}")
    return {
        name: {"mean": float(value_N[group_N == n].mean()), "users": int((group_N == n).sum())}
        for n, name in enumerate(names)
        if (group_N == n).any()
    }
