import pytest
import torch

from gistrec import backbones, memories
from gistrec.errors import ConfigError
from gistrec.memories import Size
from gistrec.testing.backbones import StateTests
from gistrec.testing.memories import NUM_ITEMS, MemoryTests

SIZE = Size(width=16, num_heads=2, num_items=NUM_ITEMS, silu=True)


class TestControlPool(MemoryTests):
    spec = "control(pool=6)"


class TestControlGate(MemoryTests):
    spec = "control(gate=3)"


class TestControlHidden(MemoryTests):
    spec = "control(hidden=5)"


class TestHSTU(StateTests):
    spec = "hstu(width=16, dropout=0.0, memory='control(pool=4, gate=2, hidden=3)')"


def count(spec: str) -> int:
    return sum(p.numel() for p in memories.build(spec, SIZE).parameters())


def test_it_adds_the_parameters_that_its_docstring_says():
    full = count("full()")
    assert count("control(hidden=5)") - full == 3 * 16 * 5 + 5 + 32
    assert count("control(gate=3)") - full == (NUM_ITEMS + 1) * 3 + 2 * 16 * 3
    assert count("control(pool=6)") - full == 2 * 6 * (16 + 16) + 2 * 6


def test_what_is_kept_is_not_smaller_than_the_full_memory_s():
    sizes = [
        backbones.build(f"hstu(width=16, memory='{memory}')", num_items=9).state_bytes(50)
        for memory in ("full()", "control(pool=6)", "control(gate=3)")
    ]
    assert sizes[1] == sizes[0]
    assert sizes[2] == sizes[0] + 49 * 8  # the gate needs the items


def test_the_gate_is_open_at_first():
    memory = memories.build("control(gate=3)", SIZE).eval()
    torch.nn.init.zeros_(memory.gate.weight)
    held = memory.write(torch.randn(1, 4, 16))
    context = type("Items", (), {"item_BT": torch.arange(4)[None]})
    k, v = memory.keys_values(held, context)
    assert torch.equal(k, held["k"])
    assert torch.equal(v, held["v"])


@pytest.mark.parametrize("options", ["", "pool=0", "gate=-1", "pool=3, hidden=-1"])
def test_nothing_to_add_is_refused(options):
    with pytest.raises(ConfigError, match="positive pool, gate or hidden"):
        memories.build(f"control({options})", SIZE)
