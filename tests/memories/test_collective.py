import pytest
import torch

from gistrec import memories
from gistrec.errors import ConfigError
from gistrec.memories import Size
from gistrec.testing.memories import MemoryTests

SIZE = Size(width=16, num_heads=2, num_items=30, silu=False)


class TestCollective(MemoryTests):
    spec = "collective(own=4, pool=8)"


def test_an_event_leaves_its_own_numbers_and_two_indices():
    memory = memories.build("collective(own=4, pool=8)", SIZE).eval()
    held = memory.write(torch.randn(1, 3, 16))
    assert {n: tuple(t.shape) for n, t in held.items()} == {
        "ku": (1, 2, 3, 2),
        "vu": (1, 2, 3, 2),
        "kp": (1, 3),
        "vp": (1, 3),
    }
    assert held["kp"].dtype == torch.int16


def test_the_rest_of_a_key_is_a_row_of_the_pool():
    memory = memories.build("collective(own=4, pool=8)", SIZE).eval()
    held = memory.write(torch.randn(1, 3, 16))
    key, _ = memory.keys_values(held, None)
    row = memory.pool[0, int(held["kp"][0, 1])]
    torch.testing.assert_close(key[0, :, 1, 2:], row)


def test_an_even_use_of_the_pool_is_not_punished():
    memory = memories.build("collective(own=4, pool=8, peak=0.0, balance=1.0)", SIZE).train()
    even = memory.write(torch.randn(2, 9, 16)) | {"route": torch.zeros(2, 9, 16)}
    assert memory.penalty(even, torch.ones(2, 9) > 0).item() == pytest.approx(0, abs=1e-6)
    lonely = torch.zeros(2, 9, 2, 8)
    lonely[..., 0] = 50.0
    used = even | {"route": lonely.flatten(2)}
    assert memory.penalty(used, torch.ones(2, 9) > 0).item() == pytest.approx(8.0**0 * 2.0794, 1e-3)


@pytest.mark.parametrize("options", ["own=3", "own=16", "own=0", "pool=1", "pool=40000"])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ConfigError, match=options.split("=")[0]):
        memories.build(f"collective({options})", SIZE)
