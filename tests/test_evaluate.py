"""The task's rules, and evaluation of a model whose right answers are known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gistrec.backbones import Backbone
from gistrec.dataset import Batch, Dataset, History
from gistrec.evaluate import Task, evaluate
from gistrec.events import Events
from gistrec.state import UserState
from gistrec.testing.data import stride_dataset


class LastItem(Backbone):
    """Scores the item that is `step` after the newest one best; later requests score lower."""

    def __init__(self, num_items: int, step: int) -> None:
        super().__init__(num_items)
        self.step = step
        self.asked: list[int | None] = []

    def loss(self, batch: Batch, *, rng: torch.Generator | None = None) -> Tensor:
        raise NotImplementedError

    def empty(self, *, hints: bool = False) -> UserState:
        return UserState({"tail.item": torch.zeros(0, dtype=torch.int64)}, 0)

    def append(self, states: Sequence[UserState], events: Sequence[History]) -> list[UserState]:
        assert not self.training
        return [
            UserState({"tail.item": torch.from_numpy(e.item_index[-1:])}, s.length + len(e))
            for s, e in zip(states, events, strict=True)
        ]

    def score(
        self,
        states: Sequence[UserState],
        item_index: Tensor | None = None,
        *,
        at: Sequence[int | None] | None = None,
    ) -> Tensor:
        self.asked += list(at or [])
        newest = torch.cat([s.tensors["tail.item"] for s in states])
        away = (torch.arange(self.num_items) - newest[:, None] - self.step) % self.num_items
        return -away.float()

    def state_bytes(self, num_events: int) -> int:
        return 8


def stride_two(**options: Any) -> Dataset:
    """Users who all step by two items, so that step 2 is right for each of them."""
    user, step = np.divmod(np.arange(300), 10)
    item = (user + 2 * step) % 50
    return Dataset.from_events(Events(user, item, 1000 + 60 * step), **options)


def test_a_model_that_knows_the_step_is_always_right() -> None:
    dataset = stride_two()
    right = LastItem(dataset.num_items, step=2)
    got = evaluate(right, dataset, dataset.split(), scheme="leave_last_out")
    assert got["ndcg_10"].tolist() == [1.0] * 30
    # the request is made at the target's own time
    assert set(right.asked) == {1000 + 60 * 9}


def test_a_known_offset_has_a_known_rank() -> None:
    dataset = stride_two()
    got = evaluate(
        LastItem(dataset.num_items, step=0), dataset, dataset.split(), scheme="last_basket"
    )
    # nothing is filtered: the newest item is first, the target stands two places behind it
    assert np.allclose(got["ndcg_10"], 1 / np.log2(4))
    got = evaluate(
        LastItem(dataset.num_items, step=0), dataset, dataset.split(), scheme="leave_last_out"
    )
    # the newest item was seen and is filtered: one place better
    assert np.allclose(got["ndcg_10"], 1 / np.log2(3))


def test_training_mode_is_given_back() -> None:
    dataset = stride_two()
    model = LastItem(dataset.num_items, step=2).train()
    evaluate(model, dataset, dataset.split(), scheme="last_basket")
    assert model.training


def test_baskets_are_predicted_whole() -> None:
    user = np.repeat([7, 8], 5)
    item = np.array([0, 1, 2, 3, 4, 4, 3, 2, 1, 0])
    time = np.array([10, 20, 20, 30, 30, 1, 2, 3, 4, 4])
    task = Task.of(Dataset.from_events(Events(user, item, time)), "last_basket")
    assert [task.targets(n).tolist() for n in range(2)] == [[3, 4], [1, 0]]
    assert task.request_times.tolist() == [30, 4]
    assert task.lengths.tolist() == [3, 3]
    assert not task.filter_seen


def test_a_sample_is_the_same_every_time_and_keeps_its_targets() -> None:
    dataset = stride_dataset(users=50)
    whole, sample = Task.of(dataset), Task.of(dataset, users=20)
    assert len(sample) == 20
    assert sample.split.user.tolist() == Task.of(dataset, users=20).split.user.tolist()
    place = whole.split.user.tolist().index(sample.split.user[3])
    assert sample.targets(3).tolist() == whole.targets(place).tolist()
    assert len(Task.of(dataset, users=80)) == 50


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_batches_hold_every_user_once_within_the_bound(batch_tokens: int) -> None:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(30), rng.integers(5, 40, 30))
    task = Task.of(Dataset.from_events(Events(user, user % 7, np.arange(len(user)))))
    batches = list(task.batches(batch_tokens=batch_tokens, batch_users=8))
    assert sorted(np.concatenate(batches).tolist()) == list(range(30))
    for users in batches:
        assert len(users) <= 8
        assert len(users) == 1 or len(users) * task.lengths[users].max() <= batch_tokens
