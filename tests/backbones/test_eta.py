from pathlib import Path

import pytest
import torch

from gistrec import backbones
from gistrec.errors import ConfigError
from gistrec.testing.rankers import GoldenRankerTests, RankerTests, acted_history, build

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones"


class TestETA(GoldenRankerTests):
    spec = "eta(width=16)"
    golden = GOLDEN / "eta.losses.txt"


class TestFewEvents(RankerTests):
    spec = "eta(width=16, keep=8)"


class TestLengthAdaptive(RankerTests):
    spec = "eta(width=16, keep=20, lain=True)"


def test_only_the_events_of_nearest_hashes_count_the_newer_first():
    net = build("eta(width=16, keep=4, num_heads=1, bits=6)")
    (state,) = net.prefill([acted_history(30)])
    x = net.candidates(torch.tensor([3]))
    plane = net.plane(16, x.device)
    equal = ((net.query(x) @ plane > 0) == (state.tensors["k.0"][0] @ plane > 0)).sum(-1)
    order = sorted(range(30), key=lambda n: (int(equal[n]), n))
    assert equal[order[-4]] == equal[order[-5]]  # else the test shows little
    y, _ = net.read_state(state, x, None)
    for n in range(30):
        values = state.tensors["v.0"].clone()
        values[:, n] += 1
        changed, _ = net.read_state(state.replace({**state.tensors, "v.0": values}), x, None)
        assert torch.allclose(y, changed) == (n not in order[-4:])


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match="1 to 64 bits, given 50 and 65"):
        backbones.build("eta(bits=65)", num_items=5)
