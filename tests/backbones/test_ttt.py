from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gistrec import backbones
from gistrec.backbones import Backbone
from gistrec.dataset import History
from gistrec.errors import ConfigError
from gistrec.testing.backbones import (
    NUM_ITEMS,
    BackboneTests,
    GoldenBackboneTests,
    close,
    random_history,
)

EVENTS = 8


class TestTTT(GoldenBackboneTests):
    spec = "ttt(width=16)"
    golden = Path(__file__).parents[1] / "golden" / "backbones" / "ttt.losses.txt"


class TestEveryEvent(BackboneTests):
    spec = "ttt(width=16, num_heads=1, mini_batch=1, rate=0.5)"


class TestRepeats(BackboneTests):
    spec = "ttt(width=16, repeats=True, negatives=8)"


@pytest.fixture
def net() -> Backbone:
    """One layer and head, weights that all matter."""
    torch.manual_seed(0)
    net = backbones.build(
        f"ttt(width=8, num_layers=1, num_heads=1, mini_batch={EVENTS})", num_items=NUM_ITEMS
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def inner_gradients(net: Backbone, history: History) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the inner loss at the layer's initial weights, by autograd; rates as the layer's."""
    layer = net.layers[0]
    x_SD = layer.norm_in(net.head.embed(torch.from_numpy(history.item_index)))
    _, k, v = layer.project(x_SD).detach().chunk(3, dim=-1)
    angle = torch.arange(len(history))[:, None] * 1000.0 ** -(torch.arange(4) / 4)
    turned = torch.view_as_complex(torch.stack(k.chunk(2, dim=-1), dim=-1)) * torch.polar(
        torch.ones_like(angle), angle
    )
    k = torch.cat([turned.real, turned.imag], dim=-1)
    weight, bias = (t[0].detach().requires_grad_() for t in (layer.weight, layer.bias))
    scale, shift = layer.inner_scale[0, 0], layer.inner_shift[0, 0]
    z = F.layer_norm(k @ weight + bias, (8,), scale, shift, 1e-5)
    loss_S = 0.5 * (z - (v - k)).square().sum(-1)
    (loss_S * layer.rate(x_SD).sigmoid()[:, 0].detach() / 8).sum().backward()
    return weight.grad, bias.grad


def test_an_unfinished_mini_batch_sums_the_gradients_of_the_inner_loss(net: Backbone):
    history = random_history(6)
    state = net.prefill([history])[0].tensors  # the newest event is not absorbed yet
    by_weight, by_bias = inner_gradients(net, history[:5])
    torch.testing.assert_close(state["fixed.weight_sum.0"][0], by_weight)
    torch.testing.assert_close(state["fixed.bias_sum.0"][0], by_bias)
    assert state["fixed.weight.0"].equal(net.layers[0].weight)


def test_a_full_mini_batch_moves_the_weights(net: Backbone):
    history = random_history(EVENTS + 1)
    state, layer = net.prefill([history])[0].tensors, net.layers[0]
    by_weight, by_bias = inner_gradients(net, history[:EVENTS])
    share = (1 / EVENTS + layer.share[-1]).clamp(min=0)
    torch.testing.assert_close(state["fixed.weight.0"], layer.weight - share * by_weight)
    torch.testing.assert_close(state["fixed.bias.0"], layer.bias - share * by_bias)
    assert not state["fixed.weight_sum.0"].any()
    assert not state["fixed.bias_sum.0"].any()


def test_users_at_different_places_of_a_mini_batch_are_served_together(net: Backbone):
    histories = [random_history(n, seed=n) for n in (3, 8, 9, 21, 0)]
    news = [random_history(n, seed=40 + n) for n in (30, 1, 8, 2, 5)]
    together = net.append(net.prefill(histories), news)
    for history, new, state in zip(histories, news, together, strict=True):
        close(net.append(net.prefill([history]), [new])[0], state)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("width=6, num_heads=2", "width 6 is not a multiple of 2 [*] num_heads 4"),
        ("mini_batch=0", "mini_batch of 1 or more events"),
        ("rate=0.0", "a rate above 0"),
    ],
)
def test_options_out_of_range_are_named(options: str, said: str):
    with pytest.raises(ConfigError, match=said):
        backbones.build(f"ttt({options})", num_items=5)
