import torch

from gistrec import backbones, memories
from gistrec.memories import Memory, Size
from gistrec.testing.backbones import NUM_ITEMS, StateTests
from gistrec.testing.memories import MemoryTests, attend


class TestMQA(MemoryTests):
    spec = "mqa()"

    def test_an_event_leaves_one_key_and_one_value(self, memory: Memory) -> None:
        held = memory.write(torch.randn(3, 5, 16))
        assert {n: tuple(t.shape) for n, t in held.items()} == {
            "k": (3, 1, 5, 8),
            "v": (3, 1, 5, 8),
        }


class TestHSTUMQA(StateTests):
    spec = "hstu(width=16, num_layers=2, num_heads=4, dropout=0.0, memory='mqa()')"


class TestSASRecMQA(StateTests):
    spec = "sasrec(width=16, num_layers=2, num_heads=4, dropout=0.0, memory='mqa()')"


def test_it_is_full_attention_whose_heads_have_the_same_weights():
    size = Size(width=16, num_heads=4, num_items=30, silu=True)
    one, full = memories.build("mqa()", size), memories.build("full()", size)
    for name, weight in full.project.named_parameters():
        k, v = one.project.get_parameter(name).detach().chunk(2)
        each = (4, *[1] * (k.ndim - 1))
        weight.data = torch.cat([k.repeat(each), v.repeat(each)])
    x_BSD = torch.randn(2, 6, 16)
    torch.testing.assert_close(attend(one, x_BSD)[0], attend(full, x_BSD)[0])


def test_a_state_s_rows_are_a_fourth_with_four_heads():
    sizes = []
    for memory in ("full()", "mqa()"):
        net = backbones.build(
            f"sasrec(width=16, num_heads=4, memory='{memory}')", num_items=NUM_ITEMS
        )
        sizes.append(net.state_bytes(100) - net.state_bytes(1))
    assert sizes[0] == 4 * sizes[1] == 2 * 2 * 16 * 4 * 99
