"""Trivial baselines: recommenders that only count. A model that loses to one of them is a bug.

Shapes: B users, V items, R events, E distinct transitions.

Each is made from a dataset and a split of all its users, counts what happened before the targets,
and gives a function from histories to scores. Popularity breaks ties and fills the list.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gistrec.dataset import Dataset, History, Split

Scorer = Callable[[Sequence[History]], Tensor]
"""Histories -> score_BV (fp32)."""


def popularity(dataset: Dataset, split: Split) -> Scorer:
    """The items that occur most often."""
    score_V = _popularity(dataset, split)
    return lambda histories: torch.from_numpy(np.tile(score_V, (len(histories), 1)))


def own_frequent(dataset: Dataset, split: Split) -> Scorer:
    """The user's own most frequent items; where counts tie, the one met more recently."""
    score_V = _popularity(dataset, split)

    def score(histories: Sequence[History]) -> Tensor:
        out_BV = np.tile(score_V, (len(histories), 1))
        for row, history in enumerate(histories):
            # reversed, because `unique` tells where an item occurs first
            item, place, count = np.unique(
                history.item_index[::-1], return_index=True, return_counts=True
            )
            newest = history.timestamp[::-1][place]
            order = np.lexsort((score_V[item], newest, count))
            out_BV[row, item[order]] = np.arange(1, len(item) + 1)
        return torch.from_numpy(out_BV)

    return score


def last_transition(dataset: Dataset, split: Split) -> Scorer:
    """The items that most often came right after the user's last one."""
    return _transitions(dataset, split, reach=1)


def recent_transitions(dataset: Dataset, split: Split) -> Scorer:
    """What often came right after the last 10 items, the j-th newest weighing 1/j.

    A count of "b after a" is divided by the square root of a's count. Of the weightings tried
    (geometric and 1/j; counts, shares and their geometric mean) none was better on ml-1m.
    """
    return _transitions(dataset, split, reach=10)


BASELINES: dict[str, Callable[[Dataset, Split], Scorer]] = {
    f.__name__: f for f in (popularity, own_frequent, last_transition, recent_transitions)
}
"""All of them, by the name that stands in result rows."""


def _known(dataset: Dataset, split: Split) -> NDArray[np.bool_]:
    """Which rows lie before their user's target, (R,)."""
    step = np.zeros(len(dataset.item_index) + 1, np.int64)
    step[split.history_start] += 1
    step[split.target_start] -= 1  # never another user's start: a target has at least one row
    known_R: NDArray[np.bool_] = step[:-1].cumsum() > 0
    return known_R


def _popularity(dataset: Dataset, split: Split) -> NDArray[np.float32]:
    """Occurrences of every item, scaled to 0..1 (1 excluded), (V,)."""
    known = dataset.item_index[_known(dataset, split)]
    count_V = np.bincount(known, minlength=dataset.num_items)
    share_V: NDArray[np.float32] = (count_V / (count_V.max() + 1)).astype(np.float32)
    return share_V


def _transitions(dataset: Dataset, split: Split, *, reach: int) -> Scorer:
    num_items = dataset.num_items
    known_R = _known(dataset, split)
    pair = known_R[1:] & known_R[:-1]
    pair[dataset.offsets[1:-1] - 1] = False  # from one user's last event to the next one's first
    before, after = dataset.item_index[:-1][pair], dataset.item_index[1:][pair]
    key_E, count_E = np.unique(before * num_items + after, return_counts=True)
    source_E, next_E = np.divmod(key_E, num_items)
    weight_E = (count_E / np.sqrt(np.bincount(before, minlength=num_items)[source_E])).astype(
        np.float32
    )
    first = np.searchsorted(key_E, np.arange(num_items + 1) * num_items)
    # below any weight, so that it only orders what transitions leave tied
    tie_V = _popularity(dataset, split) * np.float32(1e-3)

    def score(histories: Sequence[History]) -> Tensor:
        out_BV = np.tile(tie_V, (len(histories), 1))
        for row, history in enumerate(histories):
            for age, item in enumerate(history.item_index[: -reach - 1 : -1].tolist(), start=1):
                part = slice(first[item], first[item + 1])
                out_BV[row, next_E[part]] += weight_E[part] / np.float32(age)
        return torch.from_numpy(out_BV)

    return score
