import pytest
import torch

from gistrec import backbones, memories
from gistrec.errors import ConfigError
from gistrec.memories import Context, Size
from gistrec.testing.backbones import NUM_ITEMS, StateTests, random_history
from gistrec.testing.memories import MemoryTests

SIZE = Size(width=16, num_heads=2, num_items=30, silu=False)
MEMORY = "longformer(window=5, anchors=2)"


class TestLongformer(MemoryTests):
    spec = "longformer(window=3, anchors=2)"


class TestHSTULongformer(StateTests):
    spec = f"hstu(width=16, dropout=0.0, memory={MEMORY!r})"


class TestSASRecLongformer(StateTests):
    spec = f"sasrec(width=16, dropout=0.0, memory={MEMORY!r})"


class TestUnequalWindows(StateTests):
    spec = (
        "hstu(width=16, dropout=0.0, "
        "memory='longformer(window=9, anchors=0) | longformer(window=2)')"
    )


def test_a_query_sees_the_window_and_the_anchors():
    memory = memories.build("longformer(window=2, anchors=1)", SIZE)
    position = torch.arange(5)[None]
    context = Context(position, position, torch.ones(1, 1) > 0, torch.ones(1, 5) > 0, None)
    assert memory.visible(None, None, context)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 1, 1, 0],
        [1, 0, 0, 1, 1],
    ]


def test_a_long_history_leaves_the_window_and_the_anchors():
    net = backbones.build(f"hstu(width=16, memory={MEMORY!r})", num_items=NUM_ITEMS)
    state = net.prefill([random_history(300)])[0]
    # the newest of 300 events is in the tail; its query sees four others and the anchors
    assert state.tensors["pos"].tolist() == [0, 1, 295, 296, 297, 298]
    assert state.tensors["k.1"].shape == (2, 6, 8)


@pytest.mark.parametrize("options", ["window=0", "anchors=-1"])
def test_impossible_numbers_of_events_are_refused(options):
    with pytest.raises(ConfigError, match=options.split("=")[0]):
        memories.build(f"longformer({options})", SIZE)
