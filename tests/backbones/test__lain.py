import torch

from gistrec.dataset import History
from gistrec.testing.rankers import RankerTests, acted_history, build


class TestTWIN(RankerTests):
    spec = "twin(width=16, keep=20, lain=True)"


class TestLatentMemory(RankerTests):
    spec = "twin(width=16, memory='mla(rank=4)', lain=True)"


def test_keys_do_not_depend_on_the_length():
    net = build("twin(width=16, lain=True)")
    short, long = acted_history(5), acted_history(90)
    both = History(
        *(torch.cat([torch.from_numpy(a) for a in p]).numpy() for p in parts(short, long))
    )
    (few,) = net.prefill([short])
    (many,) = net.append([few], [both[5:]])
    for name in ("k.0", "v.0"):
        torch.testing.assert_close(many.tensors[name][:, :5], few.tensors[name])


def parts(*histories):
    return zip(*((h.item_index, h.timestamp, h.action) for h in histories), strict=True)


def test_the_length_changes_the_answer_and_the_temperature_falls_with_it():
    net = build("twin(width=16, lain=True)")
    (state,) = net.prefill([acted_history(30)])
    older = state.replace(state.tensors, length=900)  # the same slots of a longer history
    x, head = net.candidates(torch.arange(4)), net.lain
    assert not torch.allclose(net.read_state(state, x, None)[0], net.read_state(older, x, None)[0])
    tau = head.temperature(torch.tensor([0, 10, 100, 1000, 10_000]))
    assert bool((tau.diff() < 0).all())
    assert bool((tau > 1).all())


def test_short_histories_are_weighed_more_evenly():
    """The temperature alone: everything else that the length tells is switched off."""
    net = build("twin(width=16, lain=True)")
    for part in (net.lain.sides, net.lain.prompt[-1]):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    q_BHNK = torch.randn(1, 2, 3, 8)
    short, long = (net.lain(q_BHNK, torch.tensor([[n]])) for n in (2, 5000))
    torch.testing.assert_close(long.q_BHNK * net.lain.temperature(torch.tensor(5000)), q_BHNK)
    assert bool((short.q_BHNK.abs() < long.q_BHNK.abs()).all())
    assert not short.side_BHNP.any()


def test_what_the_length_adds_to_keys_is_added_to_scores():
    net = build("twin(width=16, lain=True)")
    told = net.lain(torch.randn(1, 2, 3, 8), torch.tensor([[40]]))
    k_BHTK = torch.randn(1, 2, 5, 8)
    of_shifted = told.q_BHNK @ (k_BHTK + told.shift_BHNK).transpose(-1, -2)
    of_kept = told.q_BHNK @ k_BHTK.transpose(-1, -2) + told.shift_BHN1
    torch.testing.assert_close(of_kept, of_shifted)
