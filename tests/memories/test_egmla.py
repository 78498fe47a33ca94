import dataclasses

import pytest
import torch

from gistrec import backbones, memories
from gistrec.errors import ConfigError
from gistrec.memories import Context, Memory, Size
from gistrec.testing.backbones import NUM_ITEMS, StateTests, random_history
from gistrec.testing.memories import MemoryTests

SIZE = Size(width=16, num_heads=2, num_items=30, silu=False)


def context(item_BT: torch.Tensor | None) -> Context:
    nothing = torch.zeros(1, 0)
    return Context(nothing, nothing, nothing, nothing, item_BT)


class TestEGMLA(MemoryTests):
    spec = "egmla(rank=4, gate=3)"

    def test_an_event_leaves_a_latent(self, memory: Memory) -> None:
        held = memory.write(torch.randn(3, 5, 16))
        assert {n: tuple(t.shape) for n, t in held.items()} == {"c": (3, 1, 5, 4)}


class TestHSTUEGMLA(StateTests):
    spec = "hstu(width=16, num_layers=2, num_heads=2, dropout=0.0, memory='egmla(rank=4, gate=3)')"


class TestSASRecEGMLA(StateTests):
    spec = (
        "sasrec(width=16, num_layers=2, num_heads=2, dropout=0.0, memory='egmla(rank=4, gate=3)')"
    )


def test_the_same_latent_is_another_key_for_another_item():
    memory = memories.build("egmla(rank=4)", SIZE)
    held = {"c": torch.randn(1, 1, 1, 4).expand(1, 1, 3, 4)}
    for rows in memory.keys_values(held, context(torch.tensor([[7, 9, 7]]))):
        torch.testing.assert_close(rows[:, :, 0], rows[:, :, 2])
        assert not torch.allclose(rows[:, :, 0], rows[:, :, 1])


def test_an_ungated_latent_is_the_norm_of_a_linear_map():
    memory = memories.build("egmla(rank=4)", SIZE)
    held = memory.write(torch.randn(1, 5, 16))
    # the row that fills up a batch is 0 and stays it, so its gate is 1
    k_BHTK, v_BHTK = memory.keys_values(held, context(torch.full((1, 5), 30)))
    both = torch.cat([k_BHTK, v_BHTK], dim=1).transpose(1, 2).flatten(2)
    expected = memory.up(held["c"][:, 0])
    expected = expected - expected.mean(-1, keepdim=True)
    expected = expected / (expected.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(both, expected)


def test_a_gate_starts_near_one():
    memory = memories.build("egmla(rank=4)", dataclasses.replace(SIZE, num_items=1000))
    assert memory.gate(memory.table.weight * 4).abs().max() < 0.5


def test_layers_share_the_items_that_a_state_keeps():
    net = backbones.build("sasrec(width=16, memory='egmla(rank=4)')", num_items=NUM_ITEMS)
    state = net.prefill([random_history(10)])[0]
    shapes = {n: tuple(t.shape) for n, t in state.slots() if not n.startswith("hint.")}
    assert shapes == {"item": (9,), "c.0": (1, 9, 4), "c.1": (1, 9, 4)}


def test_a_backbone_that_gives_no_items_is_told_so():
    memory = memories.build("egmla(rank=4)", SIZE)
    with pytest.raises(ConfigError, match="egmla reads items"):
        memory.keys_values(memory.empty(), context(None))


@pytest.mark.parametrize("option", ["rank=1", "rank=17", "gate=0", "gate=33"])
def test_impossible_sizes_are_refused(option: str):
    name, given = option.split("=")
    with pytest.raises(ConfigError, match=rf"{name}=\.\.\..*given {given}"):
        memories.build(f"egmla({option})", SIZE)
