from pathlib import Path

import pytest
import torch

from gistrec import backbones
from gistrec.errors import ConfigError, DataError
from gistrec.testing.data import stride_dataset
from gistrec.testing.rankers import GoldenRankerTests, RankerTests, acted_history, build
from gistrec.train import train

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones"


class TestTWIN(GoldenRankerTests):
    spec = "twin(width=16)"
    golden = GOLDEN / "twin.losses.txt"


class TestFewEvents(RankerTests):
    spec = "twin(width=16, keep=4)"


class TestCollectiveMemory(RankerTests):
    spec = "twin(width=16, memory='collective(own=4, pool=8)')"


class TestLatentMemory(RankerTests):
    spec = "twin(width=16, memory='mla(rank=4)')"


class TestWindow(RankerTests):
    spec = "twin(width=16, memory='longformer(window=8)')"


def test_what_is_not_among_the_best_does_not_count():
    net = build("twin(width=16, keep=4, num_heads=1)")
    (state,) = net.prefill([acted_history(30)])
    candidate = torch.tensor([3])
    query = net.query(net.candidates(candidate))
    best = (query @ state.tensors["k.0"][0].T)[0].topk(4).indices
    changed = dict(state.tensors)
    changed["v.0"] = changed["v.0"].clone()
    others = torch.ones(30, dtype=torch.bool)
    others[best] = False
    mean = changed["v.0"].mean(1)
    changed["v.0"][:, others] += torch.randn(int(others.sum()), 16)
    changed["v.0"][:, others] += ((mean - changed["v.0"].mean(1)) * 30 / 26)[:, None]
    torch.testing.assert_close(
        net.score([state.replace(changed)], candidate),
        net.score([state], candidate),
        atol=1e-4,
        rtol=1e-4,
    )


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match="takes 1 and more, given 0"):
        backbones.build("twin(keep=0)", num_items=5)
    with pytest.raises(ConfigError, match="does not keep rows of events"):
        backbones.build("twin(memory='linformer()')", num_items=5)


def test_a_ranker_is_not_trained_on_a_log():
    with pytest.raises(DataError, match="is trained on impressions with labels"):
        train(stride_dataset(), "twin(width=16)", epochs=1)
