from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

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
from gistrec.testing.data import stride_dataset

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones"
SMALL = "blossomrec(width=16, num_layers=1, num_heads=4, kv_heads=2, block=3, top=2, window=2)"


class TestBlossomRec(GoldenBackboneTests):
    spec = "blossomrec(width=16)"
    golden = GOLDEN / "blossomrec.losses.txt"


class TestSmallBlocks(BackboneTests):
    spec = "blossomrec(width=16, kv_heads=2, block=3, top=2, window=2, repeats=True, negatives=8)"


def made(spec: str) -> Backbone:
    torch.manual_seed(0)
    net = backbones.build(spec, num_items=NUM_ITEMS)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.eval()


def step_behind(net: Backbone, held: list[int], query: list[int]):
    """The step of events at positions `query` behind slots at positions `held`."""
    slots, at = torch.tensor([held + query]), torch.tensor([query])
    seen = torch.ones(slots.shape, dtype=torch.bool)
    return net._step(at, slots, at, slots, slots, seen, torch.ones(at.shape) > 0)


def read_by(weight_T: Tensor, position: list[int]) -> list[int]:
    return [p for p, w in zip(position, weight_T.tolist(), strict=True) if w > 0]


def test_the_short_path_reads_the_window_and_powers_of_two():
    net = made(SMALL)
    layer = net.layers[0]
    step = step_behind(net, list(range(20)), [20])
    q, k = torch.randn(1, 2, 2, 1, 4), torch.randn(1, 2, 21, 4)
    _, near = layer.weights(q, k, torch.zeros(1, 2, 2, 1, 21), step)
    assert read_by(near[0, 1, 1, 0], list(range(21))) == [4, 12, 16, 18, 19, 20]


def best_blocks(layer, q_K: Tensor, k_TK: Tensor, position: list[int], at: int, g: int):
    """The long path's blocks, one by one: those that are complete and have a slot."""
    size, score = layer.block, {}
    rows = dict(zip(position, k_TK, strict=True))
    for b in {p // size for p in position}:
        if (b + 1) * size - 1 < at:
            window = [rows.get(p, torch.zeros(4)) for p in range((b - 1) * size, (b + 1) * size)]
            key = layer.compress((torch.stack(window) + layer.place_GWK[g]).flatten())
            score[b] = (q_K @ key).item()
    return sorted(score, key=score.__getitem__)[-layer.top :]


@pytest.mark.parametrize("held", [range(30), [0, 1, 2, 3, 4, 14, 16, 17, 18, 19, 20, 21, 29]])
def test_the_long_path_reads_the_best_complete_blocks_and_its_own(held):
    net = made(SMALL)
    layer = net.layers[0]
    held, query = list(held), [30, 31, 32, 33]
    position = held + query
    q, k = torch.randn(1, 2, 2, 4, 4), torch.randn(1, 2, len(position), 4)
    far, _ = layer.weights(q, k, torch.zeros(1), step_behind(net, held, query))
    for g in range(2):
        for n, at in enumerate(query):
            blocks = best_blocks(layer, q[0, g, :, n].mean(0), k[0, g], position, at, g)
            wanted = [p for p in position if p <= at and p // 3 in {*blocks, at // 3}]
            assert read_by(far[0, g, 0, n], position) == wanted


def test_users_with_evicted_slots_in_a_batch_equal_one_by_one():
    net = made("blossomrec(width=16, block=4, top=2)")
    states = net.prefill([random_history(n, seed=n) for n in (60, 25, 41, 3)])
    rng = torch.Generator().manual_seed(0)
    states = [
        s.select((torch.rand(s.num_slots, generator=rng) < 0.5).nonzero()[:, 0]) for s in states
    ]
    more = [random_history(n, seed=9) for n in (3, 30, 1, 12)]
    together = net.append(states, more)
    alone = [net.append([s], [h])[0] for s, h in zip(states, more, strict=True)]
    for a, b in zip(together, alone, strict=True):
        close(a, b)
    scores = torch.cat([net.score([s]) for s in alone])
    torch.testing.assert_close(net.score(together), scores, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("period", [1, 4])
def test_blocks_that_are_all_alike_do_not_depend_on_the_batch_s_shape(period: int):
    """Layer 0 sees items alone, so the blocks of a periodic history score the same."""
    net = made("blossomrec(width=16, block=4, top=2)")
    whole = random_history(150)
    whole = History(whole.item_index[torch.arange(150) % period], whole.timestamp)
    at_once = net.prefill([whole, random_history(170)])[0]
    states = [net.empty()]
    for start in range(0, 150, 7):
        states = net.append(states, [whole[start : start + 7]])
    close(states[0], at_once)


def test_the_compression_is_trained_and_the_loss_is_the_served_one():
    net = made("blossomrec(width=16, block=4, dropout=0.0)")
    dataset = stride_dataset()
    rng = torch.Generator().manual_seed(0)
    batch = next(iter(dataset.batches(batch_tokens=480, max_len=32, rng=np.random.default_rng(0))))
    loss = net.train().loss(batch, rng=rng)
    loss.backward()
    torch.testing.assert_close(net.eval().loss(batch, rng=rng), loss)
    unused = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unused


def test_codecs_are_told_of_attention_after_the_gates():
    net = made(SMALL)
    torch.nn.init.constant_(net.layers[0].gate.bias, -30.0)
    torch.nn.init.zeros_(net.layers[0].gate.weight)
    state = net.prefill([random_history(20)], hints=True)[0]
    assert state.tensors["hint.total"].max() < 1e-9
    torch.nn.init.constant_(net.layers[0].gate.bias, 0.0)  # both gates one half, two paths
    state = net.prefill([random_history(20)], hints=True)[0]
    torch.testing.assert_close(state.tensors["hint.total"].sum(), torch.tensor(19.0))


def test_only_the_key_value_heads_are_held():
    state = made("blossomrec(width=16)").prefill([random_history(6)])[0]
    assert {n: tuple(t.shape) for n, t in state.tensors.items() if n.endswith(".1")} == {
        "k.1": (1, 5, 4),
        "v.1": (1, 5, 4),
    }


@pytest.mark.parametrize(
    "options", ["kv_heads=3", "kv_heads=0", "num_heads=0", "num_heads=3", "block=0", "window=0"]
)
def test_impossible_sizes_are_refused(options: str):
    with pytest.raises(ConfigError, match=f"given .*{options}"):
        backbones.build(f"blossomrec({options})", num_items=5)
