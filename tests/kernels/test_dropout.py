import pytest
import torch

from gistrec import kernels
from gistrec.kernels.dropout import _MANY, Dropout

SIZE = 2 * _MANY

pytestmark = pytest.mark.skipif(not kernels.native(), reason="the compiled core is not chosen")


def dropped(share: float, *, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return Dropout(share)(torch.ones(SIZE)) == 0


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_the_share_is_dropped_and_the_mean_stays(share):
    torch.manual_seed(0)
    y = Dropout(share)(torch.ones(SIZE))
    assert y.unique().tolist() == pytest.approx([0.0, 1 / (1 - share)])
    # five standard deviations: one false alarm in two million
    assert abs(float((y == 0).float().mean()) - share) < 5 * (share * (1 - share) / SIZE) ** 0.5


def test_places_and_calls_are_independent():
    first, second = dropped(0.5), dropped(0.5, seed=1)
    for a, b in [(first, second), *((first[n:], first[:-n]) for n in (1, 2, 8, 16, 64, 256))]:
        agree = float((a == b).float().mean())
        assert abs(agree - 0.5) < 5 * 0.5 / len(a) ** 0.5


def test_a_seed_repeats_itself():
    assert torch.equal(dropped(0.3), dropped(0.3))
    torch.manual_seed(0)
    drop = Dropout(0.3)
    assert not torch.equal(drop(torch.ones(SIZE)), drop(torch.ones(SIZE)))


def test_gradients_are_dropped_where_numbers_were():
    x = torch.randn(3, SIZE, requires_grad=True)
    y = Dropout(0.2)(x.T)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(y.T == 0, 0.0, 1.25))


def test_nothing_is_dropped_outside_of_training():
    x = torch.randn(SIZE)
    assert Dropout(0.2).eval()(x) is x
    assert Dropout(0.0)(x) is x
