from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from gistrec import backbones, memories
from gistrec.errors import ConfigError
from gistrec.memories import Context, Held, Memory, Reader, Size
from gistrec.testing.backbones import (
    NUM_ITEMS,
    StateTests,
    random_history,
    train_losses,
)
from gistrec.testing.memories import MemoryTests, attend


class Stack(Memory):
    """A memory and another above it, seen as one: what the upper one reads."""

    def __init__(self, size: Size, lower: Memory, upper: Memory) -> None:
        super().__init__(size)
        self.lower, self.upper = lower, upper

    def write(self, x_BSD: Tensor) -> Held:
        return self.lower.write(x_BSD)

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        return self.upper.keys_values({}, context)

    def attend(
        self, x_BQD: Tensor, q_BHQK: Tensor, held: Held | None, reader: Reader
    ) -> tuple[Tensor, Held]:
        _, after = self.lower.attend(x_BQD, q_BHQK, held, reader)
        y_BHQK, nothing = self.upper.attend(x_BQD, q_BHQK, None if held is None else {}, reader)
        assert nothing == {}
        return y_BHQK, after


class Newest(Memory):
    """Its queries read their own event and nothing else."""

    def __init__(self, lower: Memory) -> None:
        super().__init__(lower.size)
        self.lower = lower

    def write(self, x_BSD: Tensor) -> Held:
        return self.lower.write(x_BSD)

    def keys_values(self, held: Mapping[str, Tensor], context: Context) -> tuple[Tensor, Tensor]:
        return self.lower.keys_values(held, context)

    def visible(self, q_BHQK: Tensor, k_BHTK: Tensor, context: Context) -> Tensor:
        return (context.query_BQ[:, :, None] == context.slot_BT[:, None])[:, None]


def size_of(silu: bool) -> Size:
    return Size(width=16, num_heads=2, num_items=NUM_ITEMS, silu=silu)


class TestShared(MemoryTests):
    """Alone it has nothing to read: the laws hold for it above another memory."""

    spec = "shared()"
    lower = "full()"

    @pytest.fixture(params=[True, False], ids=["silu", "linear"])
    def memory(self, request: pytest.FixtureRequest) -> Memory:
        size = size_of(request.param)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            lower, upper = memories.build(self.lower, size), memories.build(self.spec, size)
        return Stack(size, lower, upper).eval()

    def test_an_event_leaves_nothing_in_this_layer(self, memory: Memory) -> None:
        assert memory.upper.write(torch.randn(3, 5, 16)) == {} == memory.upper.empty()
        assert not list(memory.upper.parameters())

    def test_the_same_queries_read_the_same_as_below(self, memory: Memory) -> None:
        x_BSD = torch.randn(3, 5, 16)
        torch.testing.assert_close(attend(memory, x_BSD)[0], attend(memory.lower, x_BSD)[0])


class TestSharedLatents(TestShared):
    lower = "mla(rank=4)"


class TestHSTUShared(StateTests):
    spec = "hstu(width=16, num_layers=2, num_heads=2, dropout=0.0, memory='mla(rank=4) | shared()')"


class TestSASRecShared(StateTests):
    spec = "sasrec(width=16, num_layers=2, num_heads=2, dropout=0.0, memory='full() | shared()')"


class TestHSTUSharedTwice(StateTests):
    spec = (
        "hstu(width=16, num_layers=3, num_heads=2, dropout=0.0, "
        "memory='full() | shared() | shared()')"
    )


class TestSASRecHalf(StateTests):
    spec = (
        "sasrec(width=16, num_layers=4, num_heads=2, dropout=0.0, "
        "memory='egmla(rank=4) | mqa() | shared() | shared()')"
    )


def test_a_layer_above_reads_what_the_lowest_wrote():
    size = size_of(silu=True)
    full, shared = memories.build("full()", size), memories.build("shared()", size)
    twice = Stack(size, Stack(size, full, shared), memories.build("shared()", size))
    x_BSD = torch.randn(3, 5, 16)
    torch.testing.assert_close(attend(twice, x_BSD)[0], attend(full, x_BSD)[0])


def test_where_the_layer_below_may_not_look_it_does_not_either():
    size = size_of(silu=False)
    full = memories.build("full()", size)
    stack = Stack(size, Newest(full), memories.build("shared()", size))
    x_BSD = torch.randn(3, 5, 16)
    torch.testing.assert_close(attend(stack, x_BSD)[0], full.write(x_BSD)["v"])


@pytest.mark.parametrize("name", ["hstu", "sasrec"])
def test_a_state_holds_nothing_for_the_layer(name: str):
    net = backbones.build(f"{name}(width=16, memory='full() | shared()')", num_items=NUM_ITEMS)
    state = net.prefill([random_history(10)])[0]
    rows = {n: tuple(t.shape) for n, t in state.tensors.items() if n[:2] in ("k.", "v.")}
    assert rows == {"k.0": (2, 9, 8), "v.0": (2, 9, 8)}
    assert state.layers() == [0]


@pytest.mark.parametrize("memory", ["shared()", "shared() | full()"])
@pytest.mark.parametrize("name", ["hstu", "sasrec"])
def test_the_lowest_layer_has_nothing_to_read(name: str, memory: str):
    spec = f"{name}(width=16, memory='{memory}')"
    with pytest.raises(ConfigError, match=r"memory='full\(\) \| shared\(\)'"):
        train_losses(spec, steps=1)
    net = backbones.build(spec, num_items=NUM_ITEMS)
    with pytest.raises(ConfigError, match=r"memory='full\(\) \| shared\(\)'"):
        net.prefill([random_history(3)])
