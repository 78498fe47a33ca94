import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gistrec import kernels
from gistrec.kernels import partition

WAYS = [
    partition._eager,
    pytest.param(
        partition._native,
        marks=pytest.mark.skipif(not kernels.available("native"), reason="no compiled core"),
    ),
]


def reference(h: Tensor, table: Tensor, weight: Tensor, bias: Tensor | None, extra: Tensor | None):
    """The plain formula and its gradients, in float64."""
    leaves = [
        None if t is None else t.double().requires_grad_() for t in (h, table, weight, bias, extra)
    ]
    h, table, weight, bias, extra = leaves
    logit = h @ table.T if bias is None else h @ table.T + bias
    log_sum = logit.logsumexp(1)
    if extra is not None:
        log_sum = torch.logaddexp(log_sum, extra)
    total = (weight * log_sum).sum()
    total.backward()
    return total.detach(), *(None if t is None else t.grad for t in (h, table, bias, extra))


@pytest.mark.parametrize("compute", WAYS)
@given(
    queries=st.integers(1, 40),
    candidates=st.integers(1, 200),
    width=st.integers(1, 40),
    scale=st.sampled_from([1.0, 20.0, 100.0]),
    bias=st.booleans(),
    extra=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_the_formula(compute, queries, candidates, width, scale, bias, extra, seed):
    rng = torch.Generator().manual_seed(seed)
    given_tensors = (
        F.normalize(torch.randn(queries, width, generator=rng), dim=-1) * scale,
        F.normalize(torch.randn(candidates, width, generator=rng), dim=-1),
        torch.rand(queries, generator=rng),
        3 * torch.randn(candidates, generator=rng) if bias else None,
        scale * torch.randn(queries, generator=rng) if extra else None,
    )
    total, gradients = compute(*given_tensors)
    for found, wanted in zip((total, *gradients), reference(*given_tensors), strict=True):
        if wanted is None:
            assert found is None
        else:
            # a logit is known to its size times 1e-7 only, its exponential to as much of itself
            error = 1e-5 * max(scale, 2)
            torch.testing.assert_close(found.double(), wanted, atol=error, rtol=error)


@pytest.mark.parametrize("compute", WAYS)
def test_something_far_more_likely_than_all_candidates_leaves_them_no_gradient(compute):
    one = torch.ones(1)
    total, (grad_h, grad_table, _, grad_extra) = compute(
        torch.ones(1, 4), torch.ones(3, 4), one, None, 500 * one
    )
    assert total == 500
    assert not grad_h.any()
    assert not grad_table.any()
    assert grad_extra == 1


def test_gradients_are_scaled_by_what_comes_from_above():
    h, table = torch.randn(5, 8, requires_grad=True), torch.randn(9, 8, requires_grad=True)
    weight = torch.rand(5)
    (3 * partition.log_partition(h, table, weight, None, None)).backward()
    _, grad_h, grad_table, _, _ = reference(h.detach(), table.detach(), weight, None, None)
    torch.testing.assert_close(h.grad.double(), 3 * grad_h, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(table.grad.double(), 3 * grad_table, atol=1e-5, rtol=1e-4)


def test_a_diverged_model_is_not_hidden():
    total, _ = partition._eager(
        torch.full((2, 4), torch.nan), torch.ones(3, 4), torch.ones(2), None, None
    )
    assert total.isnan()
    if kernels.available("native"):
        total, _ = partition._native(
            torch.full((2, 4), torch.nan), torch.ones(3, 4), torch.ones(2), None, None
        )
        assert total.isnan()


@pytest.mark.skipif(not kernels.available("native"), reason="no compiled core")
@pytest.mark.parametrize(("queries", "candidates", "width"), [(130, 801, 64), (37, 333, 23)])
def test_rounded_factors_change_little(monkeypatch, queries, candidates, width):
    monkeypatch.setattr(partition, "_LARGE", 0)
    rng = torch.Generator().manual_seed(0)
    h = 20 * F.normalize(torch.randn(queries, width, generator=rng), dim=-1)
    table = F.normalize(torch.randn(candidates, width, generator=rng), dim=-1)
    weight, bias = torch.rand(queries, generator=rng), torch.randn(candidates, generator=rng)
    extra = 10 + torch.randn(queries, generator=rng)
    total, gradients = partition._native(h, table, weight, bias, extra)
    wanted, *wanted_gradients = reference(h, table, weight, bias, extra)
    torch.testing.assert_close(total.double(), wanted, rtol=1e-3, atol=0)
    for found, exact in zip(gradients, wanted_gradients, strict=True):
        assert (found - exact).norm() < 0.01 * exact.norm()
