from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gistrec import backbones
from gistrec.backbones._layer import Step
from gistrec.dataset import History
from gistrec.errors import ConfigError
from gistrec.testing.backbones import (
    NUM_ITEMS,
    BackboneTests,
    GoldenBackboneTests,
    close,
    random_history,
)


class TestSSM(GoldenBackboneTests):
    spec = "ssm(width=16)"
    golden = Path(__file__).parents[1] / "golden" / "backbones" / "ssm.losses.txt"


class TestOneState(BackboneTests):
    spec = "ssm(width=16, states=1, slowest=100.0)"


class TestRepeats(BackboneTests):
    spec = "ssm(width=16, repeats=True, negatives=8)"


def test_chunks_equal_the_recurrence_event_by_event():
    torch.manual_seed(0)
    layer = backbones.build("ssm(width=6, states=3)", num_items=5).layers[0].eval()
    x_BSD, span = torch.randn(2, 70, 6), torch.arange(70)
    real_BS = span < torch.tensor([[70], [41]])
    step = Step(span[None], span[None], torch.ones(1, 1, dtype=torch.bool), real_BS, None)
    y_BSD, held = layer.mix(x_BSD, layer.empty() | {"fixed.z": torch.zeros(2, 6, 6)}, step)
    rate = layer.log_rate.exp()
    a_DN = (torch.complex(-rate, rate * layer.turn)).exp()
    gain_DN = (1 - a_DN.abs().square()).sqrt()
    for user, length in ((0, 70), (1, 41)):
        z_DN = torch.zeros(6, 3, dtype=torch.complex64)
        for t in range(length):
            z_DN = a_DN * z_DN + gain_DN * x_BSD[user, t, :, None]
            y_D = (torch.view_as_complex(layer.read) * z_DN).real.sum(-1)
            y_D = y_D + layer.through * x_BSD[user, t]
            out_D = F.glu(layer.out(F.gelu(y_D)), dim=-1)
            torch.testing.assert_close(y_BSD[user, t], out_D, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            held["fixed.z"][user], torch.view_as_real(z_DN).flatten(-2), atol=1e-5, rtol=1e-4
        )


def test_how_long_an_event_is_remembered_follows_from_the_slowest_time_scale():
    whole = random_history(1200)
    other = History(whole.item_index.copy(), whole.timestamp)
    other.item_index[0] = (other.item_index[0] + 1) % NUM_ITEMS
    for slowest, remembered in ((4096.0, True), (2.0, False)):
        torch.manual_seed(0)
        net = backbones.build(f"ssm(width=16, slowest={slowest})", num_items=NUM_ITEMS)
        one, two = (s.tensors["fixed.z.0"] for s in net.prefill([whole, other]))
        assert bool(((one - two).abs() > 1e-3).any()) == remembered


def test_very_fast_decays_stay_in_range():
    net = backbones.build("ssm(width=16)", num_items=NUM_ITEMS)
    for layer in net.layers:
        layer.log_rate.data.fill_(20.0)
    whole = random_history(600)
    parts = net.append(net.prefill([whole[:301]]), [whole[301:]])
    close(parts[0], net.prefill([whole])[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [("states=0", "takes 1 or more per channel, given 0"), ("slowest=1.0", "takes 2 events or")],
)
def test_options_out_of_range_are_named(options: str, said: str):
    with pytest.raises(ConfigError, match=said):
        backbones.build(f"ssm({options})", num_items=5)
