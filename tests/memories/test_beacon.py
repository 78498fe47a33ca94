import pytest
import torch

from gistrec import backbones, memories
from gistrec.errors import ConfigError
from gistrec.memories import Size
from gistrec.testing.backbones import NUM_ITEMS, StateTests, random_history
from gistrec.testing.memories import MemoryTests, attend

SIZE = Size(width=16, num_heads=2, num_items=30, silu=False)
MEMORY = "beacon(chunk=5)"


class TestBeacon(MemoryTests):
    spec = "beacon(chunk=4)"


class TestHSTUBeacon(StateTests):
    spec = f"hstu(width=16, dropout=0.0, memory={MEMORY!r})"


class TestSASRecBeacon(StateTests):
    spec = f"sasrec(width=16, dropout=0.0, memory={MEMORY!r})"


class TestBelowAFullLayer(StateTests):
    """Raw rows of finished chunks stay, as the other layer reads its own of these events."""

    spec = "hstu(width=16, dropout=0.0, memory='beacon(chunk=3) | full()')"


def test_a_beacon_is_its_own_projection_plus_the_weighted_mean_of_its_chunk():
    memory = memories.build("beacon(chunk=3)", SIZE).eval()
    x_BSD = torch.randn(1, 7, 16)
    _, held = attend(memory, x_BSD)
    raw = memory.write(x_BSD)
    own_HD = memory.beacon(x_BSD[0, 5])[:16].unflatten(0, (2, 8))
    for head in range(2):
        rows = raw["k"][0, head, 3:6]
        share = (rows @ memory.pool[head, 0] / 8**0.5).softmax(0)
        torch.testing.assert_close(held["k"][0, head, 5], own_HD[head] + share @ rows)
    for place in (0, 1, 3, 4, 6):
        torch.testing.assert_close(held["v"][0, :, place], raw["v"][0, :, place])


def test_a_finished_chunk_shows_through_its_beacon_only():
    memory = memories.build("beacon(chunk=3)", SIZE).eval()
    x_BSD = torch.randn(1, 7, 16)
    _, held = attend(memory, x_BSD[:, :6])
    assert memory.reach(torch.arange(6), 6).tolist() == [False, False, True] * 2
    lost = {n: rows.clone() for n, rows in held.items()}
    for rows in lost.values():
        rows[:, :, [0, 1, 3, 4]] = 1e3
    after, _ = attend(memory, x_BSD[:, 6:], lost, first=6)
    torch.testing.assert_close(after, attend(memory, x_BSD)[0][:, :, 6:])


def test_a_long_history_leaves_beacons_and_the_unfinished_chunk():
    net = backbones.build(f"hstu(width=16, memory={MEMORY!r})", num_items=NUM_ITEMS)
    state = net.prefill([random_history(19)])[0]
    assert state.tensors["pos"].tolist() == [4, 9, 14, 15, 16, 17]


def test_users_in_different_places_of_a_chunk_are_appended_to_together():
    torch.manual_seed(0)
    net = backbones.build(f"hstu(width=16, memory={MEMORY!r})", num_items=NUM_ITEMS).eval()
    first = [random_history(n, seed=n) for n in (3, 11, 0, 26, 5)]
    more = [random_history(n, seed=90 + n) for n in (9, 1, 13, 4, 2)]
    together = net.append(net.prefill(first), more)
    for before, new, state in zip(first, more, together, strict=True):
        alone = net.append(net.prefill([before]), [new])[0]
        assert alone.tensors.keys() == state.tensors.keys()
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(state.tensors[name], tensor)


def test_a_chunk_of_one_event_is_refused():
    with pytest.raises(ConfigError, match=r"chunk=\.\.\."):
        memories.build("beacon(chunk=1)", SIZE)
