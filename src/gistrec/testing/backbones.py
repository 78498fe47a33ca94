"""The laws of backbones, as a test class.

A new backbone's test is four lines:

    class TestMine(BackboneTests):
        spec = "mine(width=16)"
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from gistrec import backbones
from gistrec.backbones import Backbone
from gistrec.dataset import History
from gistrec.state import UserState
from gistrec.testing.data import stride_dataset

NUM_ITEMS = 30


def random_history(length: int, *, seed: int = 0) -> History:
    """Random items; gaps of 0 seconds to a day, ties among them."""
    rng = np.random.default_rng([seed, length])
    gaps = rng.integers(0, 86_400, length) * rng.integers(0, 2, length)
    return History(rng.integers(0, NUM_ITEMS, length), 1_600_000_000 + gaps.cumsum())


def close(a: UserState, b: UserState) -> None:
    """Assert that two states are equal up to rounding."""
    assert a.length == b.length
    assert a.model == b.model
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        torch.testing.assert_close(tensor, b.tensors[name], atol=2e-5, rtol=2e-4, msg=name)


class StateTests:
    """The laws of a backbone's states: subclass it and name a spec."""

    spec: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def backbone(cls) -> Backbone:
        """With weights large enough for every part to matter."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = backbones.build(cls.spec, num_items=NUM_ITEMS)
            for parameter in net.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
        net.set_popularity(torch.arange(NUM_ITEMS).float())
        return net.eval()

    @pytest.mark.parametrize("first", [0, 1, 2, 17])
    def test_append_in_two_parts_equals_append_at_once(
        self, backbone: Backbone, first: int
    ) -> None:
        for second in (0, 1, 2, 23):
            whole = random_history(first + second, seed=second)
            at_once = backbone.append([backbone.empty()], [whole])
            parts = backbone.append([backbone.empty()], [whole[:first]])
            close(backbone.append(parts, [whole[first:]])[0], at_once[0])

    def test_one_event_at_a_time_scores_like_prefill(self, backbone: Backbone) -> None:
        whole = random_history(30)
        states = [backbone.empty()]
        for n in range(len(whole)):
            states = backbone.append(states, [whole[n : n + 1]])
        at = [int(whole.timestamp[-1]) + 3600]
        prefilled = backbone.prefill([whole])
        torch.testing.assert_close(
            backbone.score(states, at=at), backbone.score(prefilled, at=at), atol=1e-3, rtol=1e-4
        )

    def test_chunks_of_a_long_history_do_not_show(self, backbone: Backbone) -> None:
        whole = random_history(600)
        parts = backbone.append([backbone.empty()], [whole[:100]])
        close(backbone.append(parts, [whole[100:]])[0], backbone.prefill([whole])[0])

    def test_a_batch_equals_one_by_one(self, backbone: Backbone) -> None:
        histories = [random_history(n, seed=n) for n in (7, 0, 23, 1, 2, 40)]
        together = backbone.prefill(histories)
        alone = [backbone.prefill([h])[0] for h in histories]
        for a, b in zip(together, alone, strict=True):
            close(a, b)
        at = [1_700_000_000] * len(histories)
        scores = backbone.score(together, at=at)
        for n, state in enumerate(alone):
            torch.testing.assert_close(
                scores[n : n + 1], backbone.score([state], at=at[:1]), atol=1e-3, rtol=1e-4
            )

    def test_the_input_state_is_not_changed(self, backbone: Backbone) -> None:
        state = backbone.prefill([random_history(9)])[0]
        before = {n: t.clone() for n, t in state.tensors.items()}
        backbone.append([state], [random_history(3)])
        backbone.score([state])
        assert all(torch.equal(before[n], t) for n, t in state.tensors.items())

    def test_some_candidates_score_as_in_the_whole_catalogue(self, backbone: Backbone) -> None:
        states = backbone.prefill([random_history(12), random_history(0)])
        some = torch.tensor([3, 29, 0, 3])
        at = [1_700_000_000, None]
        torch.testing.assert_close(
            backbone.score(states, some, at=at), backbone.score(states, at=at)[:, some]
        )

    def test_the_best_of_the_catalogue_are_those_of_the_highest_scores(
        self, backbone: Backbone
    ) -> None:
        histories = [random_history(n, seed=n) for n in (12, 0, 40, 1)]
        states = backbone.prefill(histories)
        at = [1_700_000_000, None, None, 1_700_000_000]
        for exclude in (None, [h.item_index for h in histories]):
            score_BV = backbone.score(states, at=at)
            for row, items in enumerate(exclude or ()):
                score_BV[row, torch.from_numpy(items)] = -torch.inf
            for k in (1, 7, NUM_ITEMS + 1):
                found = backbone.top_k(states, k, exclude=exclude, at=at)
                for row, best in zip(score_BV, found, strict=True):
                    order = row.argsort(descending=True, stable=True)[:k]
                    order = order[row[order] > -torch.inf]
                    assert best.item_index.tolist() == order.tolist()
                    np.testing.assert_allclose(best.score, row[order], atol=1e-3, rtol=1e-4)

    def test_products_of_vectors_are_scores(self, backbone: Backbone) -> None:
        states = backbone.prefill([random_history(n, seed=n) for n in (12, 0, 25, 1)])
        at = [1_700_000_000, None, None, 1_700_000_000]
        item_VD, bias_V = backbone.item_vectors()
        user_BD = backbone.user_vectors(states, at=at)
        assert not user_BD[1].any()
        product_BV = user_BD @ item_VD.T + bias_V
        score_BV = backbone.score(states, at=at)
        new_BV = torch.ones_like(score_BV, dtype=torch.bool)
        if backbone.spec.options.get("repeats"):  # one's own items are counted as well
            for row, state in enumerate(states):
                new_BV[row, state.tensors["item"]] = False
                new_BV[row, state.tensors["tail.item"]] = False
        new_BV[1] = False  # popularity
        torch.testing.assert_close(product_BV[new_BV], score_BV[new_BV], atol=1e-3, rtol=1e-4)

    def test_a_user_without_events_gets_popular_items(self, backbone: Backbone) -> None:
        assert backbone.score([backbone.empty()])[0].argmax() == NUM_ITEMS - 1

    def test_state_bytes_is_what_a_state_takes(self, backbone: Backbone) -> None:
        for length in (0, 1, 2, 50):
            state = backbone.prefill([random_history(length)])[0]
            assert backbone.state_bytes(length) == state.nbytes


class BackboneTests(StateTests):
    """The laws of a backbone: those of its states, and that it learns."""

    def test_training_learns_the_strides(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            losses = train_losses(self.spec, steps=60)
        assert losses[-1] < 0.6 * losses[0]


class GoldenBackboneTests(BackboneTests):
    """Those, and that training goes as it did when it was first written."""

    golden: ClassVar[Path]
    """Text file of ten training losses, written once by `make golden`."""

    def test_the_first_losses_are_the_golden_ones(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            losses = train_losses(self.spec, steps=10)
        golden = [float(line.split()[1]) for line in self.golden.read_text().splitlines()]
        # another CPU's matrix kernels differ in the last digits
        np.testing.assert_allclose(losses, golden, rtol=2e-3)


def train_losses(spec: str, *, steps: int) -> list[float]:
    """Losses of the first steps on the stride data."""
    dataset = stride_dataset()
    net = backbones.build(spec, num_items=dataset.num_items).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    rng, draw = np.random.default_rng(0), torch.Generator().manual_seed(0)
    losses: list[float] = []
    while len(losses) < steps:
        for batch in dataset.batches(batch_tokens=480, max_len=32, rng=rng):
            loss = net.loss(batch, rng=draw)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses[:steps]
