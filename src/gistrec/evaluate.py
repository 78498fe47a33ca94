"""A task (whose next events are to be predicted from what) and a model's accuracy on it.

Shapes: U users of a task, B users of a batch, V items.

The rules: the whole catalogue is ranked, a request is made at the target's own time, and items
already seen are filtered out where one event is predicted (`leave_last_out`) and kept where a
basket is (`last_basket`), because baskets repeat.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from gistrec import metrics
from gistrec.backbones import Backbone
from gistrec.dataset import Dataset, History, Ints, Scheme, Split
from gistrec.metrics import Floats


@dataclasses.dataclass(frozen=True)
class Task:
    """Users with their histories, request times and targets."""

    dataset: Dataset
    split: Split
    filter_seen: bool
    """Whether items of the history are kept out of the ranking."""

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        scheme: Scheme = "leave_last_out",
        *,
        holdout: int = 0,
        users: int | None = None,
        seed: int = 0,
    ) -> Self:
        """The task of a split scheme, on all users or on a random sample of them."""
        split = dataset.split(scheme, holdout=holdout)
        if users is not None and users < len(split):
            chosen = np.random.default_rng(seed).choice(len(split), users, replace=False)
            split = split.take(np.sort(chosen))
        return cls(dataset, split, filter_seen=scheme == "leave_last_out")

    def __len__(self) -> int:
        return len(self.split)

    @property
    def lengths(self) -> Ints:
        """Events before the target, (U,)."""
        return self.split.target_start - self.split.history_start

    @property
    def request_times(self) -> Ints:
        """When the recommendation is asked for: the time of the first target event, (U,)."""
        return self.dataset.timestamp[self.split.target_start]

    def history(self, n: int) -> History:
        """The events before the n-th user's target."""
        return self.dataset.rows(self.split.history_start[n], self.split.target_start[n])

    def targets(self, n: int) -> Ints:
        """The items that the n-th user's target holds."""
        return self.dataset.item_index[self.split.target_start[n] : self.split.target_end[n]]

    def take(self, index: Ints) -> "Task":
        """Some of the users."""
        return dataclasses.replace(self, split=self.split.take(index))

    def batches(self, *, batch_tokens: int = 65_536, batch_users: int = 256) -> Iterator[Ints]:
        """User numbers in groups of similar history length, padded size bounded."""
        group: list[int] = []
        for n in np.argsort(-self.lengths, kind="stable").tolist():
            # the first of a group is its longest
            full = group and (len(group) + 1) * int(self.lengths[group[0]]) > batch_tokens
            if full or len(group) == batch_users:
                yield np.array(group)
                group = []
            group.append(n)
        if group:
            yield np.array(group)

    def top_k(self, score_BV: Tensor, users: Sequence[int] | Ints, k: int = 10) -> Ints:
        """The recommended lists of some users, (B, k); overwrites the scores of filtered items."""
        if self.filter_seen:
            for row, n in enumerate(users):
                score_BV[row, torch.from_numpy(self.history(n).item_index)] = -torch.inf
        return metrics.top_k(score_BV, k)

    def lists(self, score: Callable[[Ints], Tensor], k: int = 10) -> Ints:
        """Every user's recommended list, (U, k), from a function of user numbers -> score_BV."""
        out = np.empty((len(self), min(k, self.dataset.num_items)), np.int64)
        for users in self.batches():
            out[users] = self.top_k(score(users), users, k)
        return out

    def per_user(self, lists: Ints, k: int = 10) -> dict[str, Floats]:
        """`hr_k`, `ndcg_k` and `recall_k` of every user's list, name -> (U,)."""
        targets = [self.targets(n) for n in range(len(self))]
        return metrics.per_user_of_lists(lists, targets, k, num_items=self.dataset.num_items)


def evaluate(
    backbone: Backbone, dataset: Dataset, split: Split, *, scheme: Scheme, k: int = 10
) -> dict[str, Floats]:
    """A model's accuracy from whole, uncompressed histories.

    Returns:
        `hr_k`, `ndcg_k` and `recall_k`, each (U,) in the order of the split.
    """
    task = Task(dataset, split, filter_seen=scheme == "leave_last_out")
    was_training = backbone.training
    backbone.eval()

    def score(users: Ints) -> Tensor:
        states = backbone.prefill([task.history(n) for n in users])
        return backbone.score(states, at=task.request_times[users].tolist())

    try:
        with torch.no_grad():
            return task.per_user(task.lists(score, k), k)
    finally:
        backbone.train(was_training)
