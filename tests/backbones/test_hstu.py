from pathlib import Path

import pytest
import torch

from gistrec import backbones
from gistrec.errors import ConfigError
from gistrec.testing.backbones import NUM_ITEMS, BackboneTests, GoldenBackboneTests, random_history

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones"


class TestHSTU(GoldenBackboneTests):
    spec = "hstu(width=16)"
    golden = GOLDEN / "hstu.losses.txt"


class TestOwnTime(BackboneTests):
    spec = "hstu(width=16, request_time=False)"


class TestRepeats(BackboneTests):
    spec = "hstu(width=16, repeats=True, negatives=8)"


class TestCollectiveMemory(BackboneTests):
    spec = "hstu(width=16, memory='collective(own=4, pool=8)')"


def test_the_request_time_changes_scores_only_where_it_is_used():
    history = random_history(20)
    now = int(history.timestamp[-1])
    for used in (True, False):
        torch.manual_seed(0)
        net = backbones.build(f"hstu(width=16, request_time={used})", num_items=NUM_ITEMS)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        state = net.prefill([history])
        soon, late = net.score(state, at=[now]), net.score(state, at=[now + 10_000_000])
        assert torch.equal(soon, late) != used


def test_repeats_raise_items_of_the_history_and_only_those():
    net = backbones.build("hstu(width=16, repeats=True)", num_items=NUM_ITEMS)
    history = random_history(6)
    state = net.prefill([history])
    with_repeats = net.score(state)[0]
    net.head.repeats.weights.data[0] = -100.0
    gain = with_repeats - net.score(state)[0]
    assert set(torch.nonzero(gain > 1e-3)[:, 0].tolist()) == set(history.item_index.tolist())


def test_the_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(ConfigError, match="width 10 is not a multiple of num_heads 4"):
        backbones.build("hstu(width=10, num_heads=4)", num_items=5)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        backbones.build("hstu(widht=10)", num_items=5)
