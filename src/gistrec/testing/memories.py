"""The laws of memories, as a test class.

class TestMine(MemoryTests):
    spec = "mine()"
"""

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from gistrec import memories
from gistrec.memories import Context, Held, Memory, Reader, Size

NUM_ITEMS = 30


class PlainReader(Reader):
    """Softmax attention without biases."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def read(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """Means of the values."""
        seen = self.context.visible_BQT[:, None] if visible is None else visible
        return self.weigh(q_BHQK @ k_BHTK.transpose(-1, -2), seen) @ v_BHTV

    def weigh(self, score: Tensor, visible: Tensor | None = None) -> Tensor:
        """Softmax."""
        hidden = score if visible is None else score.masked_fill(~visible, -1e9)
        return hidden.softmax(-1)


def sample_items(users: int, events: int) -> Tensor:
    """Items of some users, always the same: (B, S)."""
    return torch.randint(0, NUM_ITEMS, (users, events), generator=torch.Generator().manual_seed(2))


def attend(
    memory: Memory, x_BSD: Tensor, held: Held | None = None, *, first: int = 0
) -> tuple[Tensor, Held]:
    """Let new events at positions `first`, ... write and read behind what is held.

    Queries are made of the inputs; a memory's further queries (registers) too.
    """
    users, events, _ = x_BSD.shape
    position = torch.arange(first + events)
    new = position[first:].repeat(1 + memory.suffix)[None]
    context = Context(
        new,
        position[None],
        torch.ones(1, 1, dtype=torch.bool),
        torch.ones(users, events, dtype=torch.bool),
        sample_items(users, 40)[:, : first + events] if memory.reads_items else None,
    )
    x_BQD = torch.cat([x_BSD, *[0.5 * x_BSD] * memory.suffix], dim=1)
    q_BHQK = memories.heads(x_BQD.flip(-1), memory.size.num_heads)
    return memory.attend(x_BQD, q_BHQK, held, PlainReader(context))


class MemoryTests:
    """Subclass it and name a spec."""

    spec: ClassVar[str]

    @pytest.fixture(params=[True, False], ids=["silu", "linear"])
    def memory(self, request: pytest.FixtureRequest) -> Memory:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            size = Size(width=16, num_heads=2, num_items=NUM_ITEMS, silu=request.param)
            return memories.build(self.spec, size).eval()

    @pytest.mark.parametrize("cut", [0, 1, 4, 9])
    def test_attending_in_two_parts_equals_attending_at_once(
        self, memory: Memory, cut: int
    ) -> None:
        x_BSD = torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(1))
        y_BHSK, whole = attend(memory, x_BSD)
        before, held = attend(
            memory,
            x_BSD[:, :cut],
            {n: t.expand(3, *t.shape[1:]) for n, t in memory.empty().items()},
        )
        after, held = attend(memory, x_BSD[:, cut:], held, first=cut)
        assert held.keys() == whole.keys()
        for name, rows in whole.items():
            torch.testing.assert_close(held[name], rows)
        both = torch.cat([before[:, :, :cut], after[:, :, : 9 - cut]], dim=2)
        torch.testing.assert_close(both, y_BHSK[:, :, :9])

    def test_outputs_have_the_backbone_s_shape(self, memory: Memory) -> None:
        y_BHQK, _ = attend(memory, torch.randn(3, 5, 16))
        assert y_BHQK.shape == (3, 2, 5 * (1 + memory.suffix), 8)

    def test_later_events_do_not_show(self, memory: Memory) -> None:
        x_BSD = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(1))
        y_BHQK, _ = attend(memory, x_BSD)
        other, _ = attend(memory, torch.cat([x_BSD[:, :4], 3 * x_BSD[:, 4:]], dim=1))
        torch.testing.assert_close(other[:, :, :4], y_BHQK[:, :, :4])

    def test_what_is_out_of_reach_is_not_read(self, memory: Memory) -> None:
        position = torch.arange(40)
        reached = torch.ones(40, dtype=torch.bool)
        for following in range(41):
            now = memory.reach(position[:following], following)
            assert not (now & ~reached[:following]).any(), "a slot came into reach again"
            reached[:following] = now

    def test_every_parameter_is_trained(self, memory: Memory) -> None:
        memory.train()
        y_BHQK, held = attend(memory, torch.randn(4, 6, 16))
        loss = y_BHQK.square().sum() + memory.penalty(held, torch.ones(4, 6) > 0)
        loss.backward()
        unused = [n for n, p in memory.named_parameters() if p.grad is None or not p.grad.any()]
        assert not unused
