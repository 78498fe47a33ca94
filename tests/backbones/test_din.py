from pathlib import Path

import pytest
import torch

from gistrec import backbones
from gistrec.dataset import History
from gistrec.errors import ConfigError
from gistrec.testing.rankers import GoldenRankerTests, RankerTests, acted_history, build

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones"


class TestDIN(GoldenRankerTests):
    spec = "din(width=16)"
    golden = GOLDEN / "din.losses.txt"


class TestTwoHeads(RankerTests):
    spec = "din(width=16, num_heads=2, hidden=3)"


class TestLatentMemory(RankerTests):
    spec = "din(width=16, memory='mla(rank=4)')"


class TestLengthAdaptive(RankerTests):
    spec = "din(width=16, lain=True)"


def test_the_intensity_of_an_interest_is_kept():
    net = build("din(width=16)")
    once = acted_history(1)
    x = net.candidates(torch.tensor([3]))

    def interest(times):
        history = History(*(a.repeat(times) for a in (once.item_index, once.timestamp)))
        (state,) = net.prefill([history])
        return net.read_state(state, x, None)[0] - net.project.bias

    torch.testing.assert_close(interest(9), interest(1) * 9 * 0.2**0.5)


def test_the_unit_is_the_network_of_the_formula():
    net = build("din(width=16)")
    (state,) = net.prefill([acted_history(7)])
    k, v = state.tensors["k.0"][0], state.tensors["v.0"][0]
    x = net.candidates(torch.tensor([4]))
    q = net.query(x)
    inputs = torch.cat([k, q.expand(7, -1), k * q], 1)
    first = net.inputs_3HCK[:, 0].permute(1, 0, 2).flatten(1)  # (C, 3 K)
    hidden = torch.nn.functional.silu(inputs @ first.T + net.bias_HC[0])
    weight = hidden @ net.output_HC[0] + net.output_H[0]
    y = net.project((weight @ v) / 8**0.5)
    torch.testing.assert_close(net.read_state(state, x, None)[0][0], y)


def test_wrong_options_are_told():
    with pytest.raises(ConfigError, match="takes 1 and more, given 0"):
        backbones.build("din(hidden=0)", num_items=5)
