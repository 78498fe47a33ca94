from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gistrec import backbones, memories
from gistrec.backbones._layer import Step
from gistrec.dataset import History
from gistrec.errors import ConfigError
from gistrec.testing.backbones import NUM_ITEMS, BackboneTests, GoldenBackboneTests, random_history


class TestLinear(GoldenBackboneTests):
    spec = "linear(width=16)"
    golden = Path(__file__).parents[1] / "golden" / "backbones" / "linear.losses.txt"


class TestPlain(BackboneTests):
    spec = "linear(width=16, decay=False)"


class TestRepeats(BackboneTests):
    spec = "linear(width=16, repeats=True, negatives=8)"


@pytest.mark.parametrize("decay", [True, False])
def test_a_query_reads_the_mean_value_of_all_events_before_it(decay: bool):
    torch.manual_seed(0)
    layer = backbones.build(f"linear(width=16, decay={decay})", num_items=5).layers[0].eval()
    x_BSD, span = torch.randn(1, 150, 16), torch.arange(150)
    lag_SS = span[:, None] - span
    step = Step(
        span[None],
        span[None],
        torch.ones(1, 1, dtype=torch.bool),
        torch.ones(1, 150, dtype=torch.bool),
        None,
    )
    q, k, v = (memories.heads(p, 2) for p in layer.project(x_BSD).chunk(3, dim=-1))
    forgotten = torch.tensor([1 / 4, 1 / 256])[:, None, None] * lag_SS if decay else 0 * lag_SS
    weight = (F.elu(q) + 1) @ (F.elu(k) + 1).transpose(-1, -2) * (-forgotten).exp()
    weight = weight.tril()
    mean_BHSK = weight @ v / weight.sum(-1, keepdim=True)
    y_BSD, _ = layer.mix(x_BSD, layer.empty(), step)
    torch.testing.assert_close(
        y_BSD, layer.out(mean_BHSK.transpose(1, 2).flatten(2)), atol=1e-5, rtol=1e-4
    )


def test_order_counts_only_with_a_decay():
    history = random_history(40)
    turned = History(
        np.append(history.item_index[-2::-1], history.item_index[-1]), history.timestamp
    )
    for decay in (True, False):
        net = backbones.build(f"linear(width=16, num_layers=1, decay={decay})", num_items=NUM_ITEMS)
        one, other = net.prefill([history, turned])
        same = torch.allclose(one.tensors["fixed.sum.0"], other.tensors["fixed.sum.0"], rtol=1e-4)
        assert same != decay


def test_the_state_does_not_grow():
    net = backbones.build("linear(width=16)", num_items=NUM_ITEMS)
    assert net.state_bytes(10) == net.state_bytes(100_000)
    assert net.prefill([random_history(300)])[0].num_slots == 0


def test_the_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(ConfigError, match="width 10 is not a multiple of num_heads 4"):
        backbones.build("linear(width=10, num_heads=4)", num_items=5)
