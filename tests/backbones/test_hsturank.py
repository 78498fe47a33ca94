from pathlib import Path

import pytest
import torch

from gistrec import backbones
from gistrec.errors import ConfigError
from gistrec.testing.rankers import GoldenRankerTests, RankerTests, acted_history, build

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones"


class TestHSTURank(GoldenRankerTests):
    spec = "hsturank(width=16)"
    golden = GOLDEN / "hsturank.losses.txt"


class TestLatentMemory(RankerTests):
    spec = "hsturank(width=16, memory='mla(rank=4)', lain=True)"


class TestCollectiveMemory(RankerTests):
    spec = "hsturank(width=16, memory='full() | collective(own=4, pool=8)')"


class TestWindow(RankerTests):
    spec = "hsturank(width=16, memory='longformer(window=8)')"


def test_candidates_see_the_history_and_themselves_only():
    net = build("hsturank(width=16)")
    (state,) = net.prefill([acted_history(20)])
    some = torch.tensor([3, 8, 1])
    alone = torch.cat([net.predict(state, item[None]) for item in some])
    torch.testing.assert_close(net.predict(state, some), alone)
    before = net.predict(state, some)
    with torch.no_grad():
        net.layers[1].own.weight.zero_()
    assert not torch.allclose(net.predict(state, some), before)


def test_the_requests_time_counts():
    net = build("hsturank(width=16)")
    history = acted_history(20)
    (state,) = net.prefill([history])
    now, some = int(history.timestamp[-1]), torch.arange(3)
    unknown, later = net.predict(state, some), net.predict(state, some, at=now + 86_400)
    torch.testing.assert_close(unknown, net.predict(state, some, at=now))
    assert not torch.allclose(unknown, later)


def test_micro_batches_do_not_show(monkeypatch):
    net = build("hsturank(width=16, lain=True)")
    (state,) = net.prefill([acted_history(20)])
    whole = net.predict(state, torch.arange(30))
    monkeypatch.setattr("gistrec.backbones.hsturank._MICRO_BATCH", 7)
    torch.testing.assert_close(net.predict(state, torch.arange(30)), whole)


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match="width 10 is not a multiple"):
        backbones.build("hsturank(width=10, num_heads=4)", num_items=5)
    with pytest.raises(ConfigError, match="does not keep rows of events"):
        backbones.build("hsturank(memory='full() | linformer()')", num_items=5)
