import pytest
import torch

from gistrec import backbones, memories
from gistrec.errors import ConfigError
from gistrec.memories import Size
from gistrec.testing.backbones import StateTests
from gistrec.testing.memories import MemoryTests, attend

SIZE = Size(width=16, num_heads=4, num_items=30, silu=False)


class TestOneGroup(MemoryTests):
    spec = "gqa(groups=1)"


class TestOneGroupPerHead(MemoryTests):
    spec = "gqa(groups=2)"


class TestHSTUGQA(StateTests):
    spec = "hstu(width=16, num_layers=2, num_heads=4, dropout=0.0, memory='gqa(groups=2)')"


class TestSASRecGQA(StateTests):
    spec = "sasrec(width=16, num_layers=2, num_heads=4, dropout=0.0, memory='gqa(groups=2)')"


def test_an_event_leaves_a_key_and_a_value_per_group():
    held = memories.build("gqa(groups=2)", SIZE).write(torch.randn(3, 5, 16))
    assert {n: tuple(t.shape) for n, t in held.items()} == {"k": (3, 2, 5, 4), "v": (3, 2, 5, 4)}


def test_neighbouring_heads_form_a_group():
    memory = memories.build("gqa(groups=2)", SIZE)
    held = memory.write(torch.randn(3, 5, 16))
    for rows, kept in zip(memory.keys_values(held, None), (held["k"], held["v"]), strict=True):
        assert rows.shape == (3, 4, 5, 4)
        for head, group in enumerate((0, 0, 1, 1)):
            assert torch.equal(rows[:, head], kept[:, group])


@pytest.mark.parametrize(("groups", "same"), [(1, "mqa()"), (4, "full()")])
def test_its_ends_are_the_neighbouring_memories(groups: int, same: str):
    grouped, other = memories.build(f"gqa(groups={groups})", SIZE), memories.build(same, SIZE)
    other.load_state_dict(grouped.state_dict())
    x_BSD = torch.randn(2, 6, 16)
    torch.testing.assert_close(attend(grouped, x_BSD)[0], attend(other, x_BSD)[0])


@pytest.mark.parametrize("groups", [-2, 0, 3, 8])
def test_groups_must_divide_the_heads(groups: int):
    spec = f"hstu(width=16, num_heads=4, memory='gqa(groups={groups})')"
    with pytest.raises(ConfigError, match=rf"4 heads, given {groups}; allowed: 1, 2, 4"):
        backbones.build(spec, num_items=5)
