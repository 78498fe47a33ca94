from pathlib import Path

import pytest
import torch

from gistrec import backbones
from gistrec.errors import ConfigError
from gistrec.testing.backbones import close
from gistrec.testing.rankers import GoldenRankerTests, RankerTests, acted_history, build

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones"


class TestSDIM(GoldenRankerTests):
    spec = "sdim(width=16)"
    golden = GOLDEN / "sdim.losses.txt"


class TestManyBuckets(RankerTests):
    spec = "sdim(width=16, rounds=2, bits=6)"


def test_the_state_is_a_sum_so_the_order_of_events_does_not_show():
    net = build("sdim(width=16)")
    whole = acted_history(20)
    a, b = net.prefill([whole, whole[::-1]])
    close(a, b)
    assert a.nbytes == net.prefill([acted_history(400)])[0].nbytes


def test_a_candidate_reads_its_own_buckets():
    net = build("sdim(width=16, rounds=2, bits=2)")
    (state,) = net.prefill([acted_history(20)])
    x = net.candidates(torch.tensor([3]))
    y, _ = net.read_state(state, x, None)
    for bucket in range(8):
        sums = state.tensors["fixed.sum.0"].clone()
        sums[bucket] = torch.arange(16)
        changed, _ = net.read_state(state.replace({"fixed.sum.0": sums}), x, None)
        assert torch.allclose(y, changed) == (bucket not in net.hashes(x)[0])


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match="takes 1 to 12, given 13"):
        backbones.build("sdim(bits=13)", num_items=5)
