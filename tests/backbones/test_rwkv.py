from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec import backbones
from gistrec.backbones._recurrent import decayed_sums
from gistrec.errors import ConfigError
from gistrec.testing.backbones import (
    NUM_ITEMS,
    BackboneTests,
    GoldenBackboneTests,
    close,
    random_history,
)


class TestRWKV(GoldenBackboneTests):
    spec = "rwkv(width=16)"
    golden = Path(__file__).parents[1] / "golden" / "backbones" / "rwkv.losses.txt"


class TestRepeats(BackboneTests):
    spec = "rwkv(width=16, repeats=True, negatives=8)"


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(0, 150), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_chunks_equal_the_recurrence_event_by_event(lengths: list[int], seed: int):
    rng = torch.Generator().manual_seed(seed)
    users, size = len(lengths), max(1, *lengths)
    q, k, v = (
        torch.randn(users, 2, size, width, generator=rng, dtype=torch.float64)
        for width in (4, 4, 3)
    )
    log_decay = -torch.rand(2, 4, generator=rng, dtype=torch.float64)
    bonus = torch.randn(2, 4, generator=rng, dtype=torch.float64)
    before = torch.randn(users, 2, 4, 3, generator=rng, dtype=torch.float64)
    real = torch.arange(size) < torch.tensor(lengths)[:, None]
    options = {"log_decay_HK": log_decay, "bonus_HK": bonus, "sum_BHKV": before}
    y, after = decayed_sums(q, k, v, real, **options)
    for user, length in enumerate(lengths):
        total = before[user]
        for t in range(length):
            outer = k[user, :, t, :, None] * v[user, :, t, None]
            read = q[user, :, t, None] @ (total + bonus[..., None] * outer)
            torch.testing.assert_close(y[user, :, t], read[:, 0])
            total = log_decay.exp()[..., None] * total + outer
        torch.testing.assert_close(after[user], total)


def test_the_shift_mixes_an_event_with_the_one_before():
    shift = backbones.build("rwkv(width=2, num_heads=1)", num_items=5).layers[0].shift_mid
    x_BSD = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [0.0, 0.0]]])
    last_B1D = torch.tensor([[[5.0, 50.0]]])
    real_BS = torch.tensor([[True, True, False]])
    mixed, newest = shift(x_BSD, last_B1D, real_BS)  # shares start at 0 and 1
    assert mixed[0, 0, :2].tolist() == [[5.0, 10.0], [1.0, 20.0]]
    assert newest.tolist() == [[[2.0, 20.0]]]
    assert shift(x_BSD, last_B1D, torch.zeros_like(real_BS))[1].equal(last_B1D)


@pytest.mark.parametrize("log_rate", [-20.0, 20.0])
def test_very_slow_and_very_fast_decays_stay_in_range(log_rate: float):
    torch.manual_seed(0)
    net = backbones.build("rwkv(width=16)", num_items=NUM_ITEMS)
    for layer in net.layers:
        layer.log_rate.data.fill_(log_rate)
    whole = random_history(2000)
    parts = net.append(net.prefill([whole[:901]]), [whole[901:]])
    close(parts[0], net.prefill([whole])[0])


def test_the_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(ConfigError, match="width 10 is not a multiple of num_heads 4"):
        backbones.build("rwkv(width=10, num_heads=4)", num_items=5)
