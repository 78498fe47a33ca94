"""The compiled step against the layers in PyTorch."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec import backbones, kernels
from gistrec.backbones import Backbone
from gistrec.dataset import History
from gistrec.state import UserState
from gistrec.testing.backbones import NUM_ITEMS, close, random_history

pytestmark = pytest.mark.skipif(not kernels.native(), reason="the compiled core is not in use")

SPECS = [
    "hstu()",
    "hstu(width=128, num_layers=3, request_time=False)",
    "hstu(width=40, num_heads=4, memory='mqa()', repeats=True)",
    "hstu(width=24, num_heads=4, memory='full() | gqa(groups=2)')",
    "hstu(width=6, num_heads=1, num_layers=1)",
    "sasrec()",
    "sasrec(width=24, num_heads=4, memory='gqa(groups=2)', num_layers=3)",
    "sasrec(width=256, memory='mqa()')",
]


@cache
def net(spec: str) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = backbones.build(spec, num_items=NUM_ITEMS)
        for name, parameter in found.named_parameters():
            torch.nn.init.normal_(
                parameter, std=1 if "table" in name else parameter.shape[-1] ** -0.5
            )
    return found.eval()


def both_ways(compute):
    """What the compiled step and PyTorch find."""
    assert kernels.native()
    with pytest.MonkeyPatch.context() as patch:
        found = compute()
        patch.setattr(kernels, "native", lambda: False)
        return found, compute()


def followed(spec: str, state: UserState, new: History) -> tuple[UserState, torch.Tensor]:
    (after,) = net(spec).append([state], [new])
    return after, net(spec).score([after], at=[int(new.timestamp[-1]) + 5000])


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=25)
@given(
    held=st.sampled_from([0, 1, 2, 16, 63, 64, 65, 66, 130, 300]),
    new=st.sampled_from([1, 2, 3, 33, 70, 150]),
    hints=st.booleans(),
    evicted=st.booleans(),
)
def test_equals_the_layers(spec, held, new, hints, evicted):
    whole = random_history(held + new)
    (state,) = net(spec).prefill([whole[:held]], hints=hints)
    if evicted:
        state = state.select(torch.arange(0, state.num_slots, 3))
    (found, score), (wanted, wanted_score) = both_ways(lambda: followed(spec, state, whole[held:]))
    close(found, wanted)
    torch.testing.assert_close(score, wanted_score, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("spec", SPECS[:2])
def test_far_distances_and_times_out_of_order(spec):
    (state,) = net(spec).prefill([random_history(200)])
    rng = np.random.default_rng(0)
    tensors = dict(state.tensors)
    tensors["pos"] = torch.arange(0, 199_000, 1000)
    tensors["time"] = tensors["time"][torch.from_numpy(rng.permutation(199))]
    state = state.replace(tensors)
    new = History(np.arange(3), int(state.tensors["tail.time"][-1]) + np.array([0, 2**33, 2**34]))
    (found, score), (wanted, wanted_score) = both_ways(lambda: followed(spec, state, new))
    close(found, wanted)
    torch.testing.assert_close(score, wanted_score, atol=1e-3, rtol=1e-4)


def test_rows_are_read_as_they_stand():
    """Not in one piece, or of another precision, as codecs may leave them."""
    (state,) = net("hstu()").prefill([random_history(100)])
    before = {n: t for n, t in state.tensors.items() if t.ndim == 3}
    moved = {n: t.transpose(0, 1).contiguous().transpose(0, 1) for n, t in before.items()}
    spread = {n: torch.stack([t, t], -1)[..., 0] for n, t in before.items()}
    half = {n: t.half() for n, t in before.items()}
    score = net("hstu()").score([state])
    for rows, error in ((moved, 0), (spread, 0), (half, 0.02)):
        other = net("hstu()").score([state.replace({**state.tensors, **rows})])
        torch.testing.assert_close(other, score, atol=error, rtol=0)


def test_a_changed_weight_is_noticed():
    changed = backbones.build("hstu()", num_items=NUM_ITEMS).eval()
    states = changed.prefill([random_history(20)])
    first = changed.score(states)
    with torch.no_grad():
        changed.layers[1].out.weight += 0.1
    found, wanted = both_ways(lambda: changed.score(states))
    assert not torch.allclose(first, wanted)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)
    changed.layers[0].norm_in.weight = torch.nn.Parameter(torch.full((64,), 2.0))
    found, wanted = both_ways(lambda: changed.score(states))
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)


def test_what_has_no_compiled_form_is_left_to_pytorch():
    for spec in ("hstu(memory='mla()')", "sasrec(memory='full() | shared()')", "linear()"):
        assert net(spec)._fused.stack() is None
    assert net("hstu()")._fused.stack() is not None
