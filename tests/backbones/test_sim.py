from pathlib import Path

import pytest
import torch

from gistrec import backbones
from gistrec.errors import ConfigError
from gistrec.testing.rankers import (
    GoldenRankerTests,
    RankerTests,
    acted_history,
    build,
    taste_impressions,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones"


class TestSIM(GoldenRankerTests):
    spec = "sim(width=16)"
    golden = GOLDEN / "sim.losses.txt"


class TestFewEvents(RankerTests):
    spec = "sim(width=16, keep=8)"


class TestHardSearch(RankerTests):
    spec = "sim(width=16, keep=8, hard=True)"


class TestLengthAdaptive(RankerTests):
    spec = "sim(width=16, lain=True)"


def counts(net, state, item):
    """Which slots a candidate attends to."""
    candidate = torch.tensor([item])
    x = net.candidates(candidate)
    y, _ = net.read_state(state, x, None, candidate)
    found = []
    for n in range(state.num_slots):
        values = state.tensors["v.0"].clone()
        values[:, n] += 1
        other = state.replace({**state.tensors, "v.0": values})
        if not torch.allclose(y, net.read_state(other, x, None, candidate)[0]):
            found.append(n)
    return found


def test_the_soft_search_finds_the_best_of_its_own_scores():
    net = build("sim(width=16, keep=4)")
    (state,) = net.prefill([acted_history(30)])
    query = net.search(net.candidates(torch.tensor([3])))
    score = query @ state.tensors["k.0"].transpose(0, 1).flatten(1).T
    assert counts(net, state, 3) == sorted(score[0].topk(4).indices.tolist())


def test_the_hard_search_finds_the_newest_of_the_same_first_feature():
    net = build("sim(width=16, keep=4, hard=True, item_features=2)")
    kinds = torch.arange(30) % 3
    kinds[7] = -1
    net.set_features(torch.stack([kinds, torch.full((30,), 9)], 1))
    history = acted_history(30)
    (state,) = net.prefill([history])
    same = [n for n, item in enumerate(history.item_index) if kinds[item] == 1]
    assert counts(net, state, 4) == same[-4:]
    assert counts(net, state, 7) == [n for n, item in enumerate(history.item_index) if item == 7]


def test_the_search_is_trained_by_its_own_loss():
    shown = taste_impressions()
    net = backbones.build("sim(width=16, keep=4, item_features=2)", num_items=shown.num_items)
    net.set_features(torch.from_numpy(shown.feature_VF))
    batch = next(shown.batches(batch_tokens=400, max_len=32))
    net.train()
    net.logits_of(batch)
    net.penalty(batch).backward()
    assert net.search.weight.grad.abs().sum() > 0
    assert net.query.weight.grad is None


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match="takes 1 and more, given 0"):
        backbones.build("sim(keep=0)", num_items=5)
