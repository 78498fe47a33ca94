"""The laws of memories, as a test class.

class TestMine(MemoryTests):
    spec = "mine()"
"""

from typing import ClassVar

import pytest
import torch

from gistrec import memories
from gistrec.memories import Memory


class MemoryTests:
    """Subclass it and name a spec."""

    spec: ClassVar[str]

    @pytest.fixture(params=[True, False], ids=["silu", "linear"])
    def memory(self, request: pytest.FixtureRequest) -> Memory:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return memories.build(self.spec, width=16, num_heads=2, silu=request.param).eval()

    @pytest.mark.parametrize("cut", [0, 1, 4, 9])
    def test_append_holds_the_rows_of_one_write(self, memory: Memory, cut: int) -> None:
        x_BSD = torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(1))
        held = memory.append(memory.write(x_BSD[:, :cut]), x_BSD[:, cut:])
        whole = memory.write(x_BSD)
        assert held.keys() == whole.keys()
        for name, rows in whole.items():
            torch.testing.assert_close(held[name], rows)

    def test_keys_and_values_have_the_backbone_s_shape(self, memory: Memory) -> None:
        k, v = memory.keys_values(memory.write(torch.randn(3, 5, 16)))
        assert k.shape == v.shape == (3, 2, 5, 8)

    def test_every_parameter_is_trained(self, memory: Memory) -> None:
        memory.train()
        held = memory.write(torch.randn(4, 6, 16))
        k, v = memory.keys_values(held)
        loss = (k.square().sum() + v.square().sum()) + memory.penalty(held, torch.ones(4, 6) > 0)
        loss.backward()
        unused = [n for n, p in memory.named_parameters() if p.grad is None or not p.grad.any()]
        assert not unused
