"""The compiled attention against the formula in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gistrec import kernels
from gistrec.backbones._blocks import first_seconds, time_bucket
from gistrec.kernels import attention
from gistrec.kernels.attention import Places

pytestmark = pytest.mark.skipif(not kernels.native(), reason="the compiled core is not chosen")

MASKS = {"none": None, "user": (1, 0), "head": (0, 1), "both": (1, 1), "all alike": (0, 0)}


def reference(q, k, v, near, far, *, places, bucket, visible, softmax, scale, after) -> Tensor:
    distance = places.query_BQ[:, :, None] - places.slot_BT[:, None]
    seen = ((distance >= 0) & places.real_BT[:, None])[:, None]
    if visible is not None:
        seen = seen & visible
    score = scale * q @ k.mT + near[:, distance.clamp(min=0).long()].transpose(0, 1)
    if far is not None:
        score = score + far[:, bucket.long()].transpose(0, 1)
    if not softmax:
        return after * (torch.nn.functional.silu(score) * seen) @ v
    return score.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0) @ v


@st.composite
def problems(draw):
    rng = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    users, num_heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    new, held = draw(st.sampled_from([1, 2, 7, 31, 33, 70])), draw(st.sampled_from([0, 1, 20, 130]))
    slots, queries = held + new, new * draw(st.integers(1, 2))
    alike = 1 if draw(st.booleans()) else users
    gaps = torch.randint(1, 1 + draw(st.sampled_from([1, 4])), (alike, slots), generator=rng)
    slot_BT = gaps.cumsum(1) - 1
    query_BQ = slot_BT[:, held:].repeat(1, queries // new)
    real_BT = torch.rand(users, slots, generator=rng) < draw(st.sampled_from([0.5, 1.0]))
    if draw(st.booleans()):
        real_BT = torch.ones(1, 1, dtype=torch.bool)
    distances = int(query_BQ.max() - slot_BT.min()) + 1

    def rows(heads: int, size: int, width: int) -> Tensor:
        out = torch.randn(users, size, heads, width + 3, generator=rng)
        return out[..., :width].transpose(1, 2)

    k_width, v_width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    tensors = [
        rows(num_heads, queries, k_width),
        rows(draw(st.sampled_from([1, num_heads])), slots, k_width),
        rows(draw(st.sampled_from([1, num_heads])), slots, v_width),
        torch.randn(num_heads, distances, generator=rng),
    ]
    bucket = None
    if draw(st.booleans()):
        tensors.append(torch.randn(num_heads, 65, generator=rng))
        bucket = torch.randint(0, 64, (users, queries, slots), generator=rng).to(torch.uint8)
    else:
        tensors.append(None)
    own = MASKS[draw(st.sampled_from(sorted(MASKS)))]
    visible = None
    if own is not None:
        shape = (users if own[0] else 1, num_heads if own[1] else 1, queries, slots)
        visible = torch.rand(shape, generator=rng) < 0.3
    softmax = draw(st.booleans())
    options = {
        "places": Places(query_BQ.int(), slot_BT.int(), real_BT, distances),
        "bucket": bucket,
        "visible": visible,
        "softmax": softmax,
        "scale": draw(st.sampled_from([1.0, 0.25])),
        "after": 1.0 if softmax else 0.5,
    }
    return tensors, options


@settings(max_examples=150, deadline=None)
@given(problems())
def test_outputs_and_gradients_equal_the_formula(problem):
    tensors, options = problem
    wide = [None if t is None else t.double().requires_grad_() for t in tensors]
    wanted = reference(*wide, **options)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    leaves = [t for t in wide if t is not None]
    wanted_gradients = torch.autograd.grad(wanted, leaves, upstream.double())

    narrow = [None if t is None else t.detach().requires_grad_() for t in tensors]
    q, k, v, near, far = narrow
    found = attention.attend(
        q,
        k,
        v,
        options["places"],
        near,
        far_HN=far,
        bucket_BQT=options["bucket"],
        visible=options["visible"],
        **{name: options[name] for name in ("softmax", "scale", "after")},
    )
    torch.testing.assert_close(found.double(), wanted, atol=2e-5, rtol=1e-5)
    gradients = torch.autograd.grad(found, [t for t in narrow if t is not None], upstream)
    for a, b in zip(gradients, wanted_gradients, strict=True):
        size = max(1.0, float(b.abs().max()))
        torch.testing.assert_close(a.double(), b, atol=2e-5 * size, rtol=1e-5)


def test_scores_of_any_size_are_finite():
    for softmax in (False, True):
        q = torch.full((1, 1, 3, 4), 300.0, requires_grad=True)
        k = torch.tensor([1.0, -1.0, 0.0]).view(1, 1, 3, 1).expand(1, 1, 3, 4)
        places = Places(*[torch.arange(3, dtype=torch.int32)[None]] * 2, torch.ones(1, 1) > 0, 3)
        y = attention.attend(
            q, k, torch.ones(1, 1, 3, 2), places, torch.zeros(1, 3), softmax=softmax
        )
        y.sum().backward()
        wanted = torch.ones(3) if softmax else torch.full((3,), 1200.0)
        torch.testing.assert_close(y[0, 0, :, 0], wanted)
        assert q.grad.isfinite().all()


@given(st.lists(st.integers(-(10**9), 3 * 10**9), min_size=1, max_size=50))
def test_time_buckets_equal_the_eager_ones(elapsed):
    time = torch.tensor([elapsed])
    at = torch.tensor([[5, 10**10]])
    found = attention.time_buckets(at, at[:, :1] - time, first_seconds())
    eager = time_bucket(at[:, :, None] - (at[:, :1] - time)[:, None])
    assert torch.equal(found.int(), eager)


def test_time_buckets_change_where_the_eager_ones_do():
    first = first_seconds().long()
    near = (first[:, None] + torch.arange(-40, 41)).flatten()
    found = attention.time_buckets(torch.zeros(1, 1).long(), -near[None], first_seconds())
    assert torch.equal(found[0, 0].int(), time_bucket(near))
