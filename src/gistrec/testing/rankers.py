"""The laws of rankers, as a test class.

class TestMine(RankerTests):
    spec = "mine(width=16)"
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from gistrec import backbones, codecs
from gistrec.backbones import Backbone
from gistrec.dataset import History
from gistrec.errors import ConfigError
from gistrec.events import Events
from gistrec.impressions import Impressions, gather
from gistrec.testing.backbones import NUM_ITEMS, StateTests, random_history


def acted_history(length: int, *, seed: int = 0) -> History:
    """Random events with actions 0 and 1."""
    whole = random_history(length, seed=seed)
    action = np.random.default_rng([7, seed, length]).integers(0, 2, length)
    return History(whole.item_index, whole.timestamp, action)


def taste_impressions(
    *, users: int = 30, length: int = 40, items: int = 24, labels: int = 1
) -> Impressions:
    """Users who like the items of one of three kinds, so that the history tells every label."""
    rng = np.random.default_rng(0)
    rows = users * length
    user = np.repeat(np.arange(users), length)
    item = rng.integers(items, size=rows)
    liked = (item % 3 == user % 3).astype(np.float64)
    time = 1_600_000_000 + np.tile(np.arange(length), users) * 3600 + user
    action = liked.astype(np.int64)
    given = {f"label_{t}": np.where(item % 2 == 0, liked, 1 - liked) for t in range(1, labels)}
    return gather(
        Events(user, item, time, action),
        {"liked": liked} | given,
        shown=np.ones(rows, bool),
        happened=np.ones(rows, bool),
        context={"hour": np.tile(np.arange(length) % 24, users)},
        features={n: (n % 3, 5) for n in range(items)},
    )


def build(spec: str, *, num_items: int = NUM_ITEMS) -> Backbone:
    """A ranker with weights large enough for every part to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = backbones.build(spec, num_items=num_items)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    net.eval().finish()
    return net


class RankerTests(StateTests):
    """The laws of a ranker: those of states, that training and serving agree, that it learns."""

    @pytest.fixture(scope="class")
    @classmethod
    def backbone(cls) -> Backbone:
        """With weights large enough for every part to matter."""
        return build(cls.spec)

    def test_a_user_without_events_gets_popular_items(self, backbone: Backbone) -> None:
        """A ranker has no list for everybody; it answers, with numbers."""
        assert bool(backbone.score([backbone.empty()]).isfinite().all())

    def test_products_of_vectors_are_scores(self, backbone: Backbone) -> None:
        """A ranker's candidates meet the history before they are scored: they have no vectors."""
        with pytest.raises(ConfigError, match="has no item vectors"):
            backbone.item_vectors()

    def test_actions_are_told_apart(self, backbone: Backbone) -> None:
        history = acted_history(12)
        assert history.action is not None
        other = History(history.item_index, history.timestamp, 1 - history.action)
        a, b = backbone.prefill([history, other])
        assert not torch.allclose(backbone.score([a]), backbone.score([b]))

    def test_training_and_serving_give_the_same_logits(self) -> None:
        shown = taste_impressions()
        net = build(f"{self.spec[:-1]}, item_features=2)", num_items=shown.num_items)
        net.set_features(torch.from_numpy(shown.feature_VF))
        net.finish()
        numbers = np.arange(0, len(shown), 7)
        for batch in shown.batches(batch_tokens=600, max_len=64, numbers=numbers):
            in_training = net.logits_of(batch)  # type: ignore[operator]  # of rankers
            for b, column in (batch.number_BN >= 0).nonzero().tolist():
                n = int(batch.number_BN[b, column])
                (state,) = net.prefill([shown.history(n)])
                served = net.predict(  # type: ignore[operator]  # of rankers
                    state,
                    torch.tensor([shown.item_index[n]]),
                    at=int(shown.timestamp[n]),
                    context=torch.from_numpy(shown.context_NC[n]),
                )
                torch.testing.assert_close(served[0], in_training[b, column], atol=1e-3, rtol=1e-3)

    def test_context_changes_the_answer(self, backbone: Backbone) -> None:
        (state,) = backbone.prefill([acted_history(5)])
        some = torch.arange(3)
        plain = backbone.predict(state, some)  # type: ignore[operator]  # of rankers
        told = backbone.predict(state, some, context=torch.tensor([3]))  # type: ignore[operator]
        unknown = backbone.predict(state, some, context=torch.tensor([-1]))  # type: ignore[operator]
        assert not torch.allclose(plain, told)
        torch.testing.assert_close(plain, unknown)

    def test_unknown_candidates_are_their_features(self, backbone: Backbone) -> None:
        (state,) = backbone.prefill([acted_history(5)])
        item = torch.tensor([3, NUM_ITEMS, NUM_ITEMS, NUM_ITEMS])
        rows = torch.tensor([[7, 8], [-1, -1], [7, 8], [7, -1]])
        score = backbone.predict(state, item, features=rows)[:, 0]  # type: ignore[operator]
        plain = backbone.predict(state, item[:1])[:, 0]  # type: ignore[operator]  # of rankers
        torch.testing.assert_close(score[:1], plain)  # a known item keeps its own
        assert len(score[1:].unique()) == 3
        without = backbone.predict(state, item)[:, 0]  # type: ignore[operator]  # of rankers
        torch.testing.assert_close(without[1:], score[1].expand(3))

    def test_states_pass_through_codecs(self, backbone: Backbone) -> None:
        (state,) = backbone.prefill([acted_history(40)], hints=True)
        score = backbone.score([state])
        for spec in ("bf16()", "recent(keep=39, sink=0) | bf16()"):
            chain = codecs.parse(spec)
            decoded = chain.decode(chain.encode(state))
            assert (backbone.score([decoded]) - score).abs().mean() < 0.2 * score.abs().mean()

    def test_training_learns_the_tastes(self) -> None:
        shown = taste_impressions()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            losses = train_losses(f"{self.spec[:-1]}, item_features=2)", shown, steps=100)
        assert np.mean(losses[-10:]) < 0.6 * losses[0]


class GoldenRankerTests(RankerTests):
    """Those, and that training goes as it did when it was first written."""

    golden: ClassVar[Path]
    """Text file of ten training losses, written once by `make golden`."""

    def test_the_first_losses_are_the_golden_ones(self) -> None:
        losses = golden_losses(self.spec)
        golden = [float(line.split()[1]) for line in self.golden.read_text().splitlines()]
        # another CPU's matrix kernels differ in the last digits
        np.testing.assert_allclose(losses, golden, rtol=2e-3)


def golden_losses(spec: str) -> list[float]:
    """Losses of the first ten steps on `taste_impressions`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return train_losses(f"{spec[:-1]}, item_features=2)", taste_impressions(), steps=10)


def train_losses(spec: str, shown: Impressions, *, steps: int) -> list[float]:
    """Losses of the first steps."""
    net = backbones.build(spec, num_items=shown.num_items)
    net.set_features(torch.from_numpy(shown.feature_VF))
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    losses: list[float] = []
    while len(losses) < steps:
        for batch in shown.batches(batch_tokens=400, max_len=32, rng=rng):
            loss = net.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses[:steps]
