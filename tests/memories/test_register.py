import pytest
import torch

from gistrec import backbones, memories
from gistrec.errors import ConfigError
from gistrec.memories import Size
from gistrec.testing.backbones import NUM_ITEMS, StateTests, random_history
from gistrec.testing.memories import MemoryTests, attend

SIZE = Size(width=16, num_heads=2, num_items=NUM_ITEMS, silu=False)
TWO = "hstu(width=16, num_layers=2, num_heads=2, dropout=0.0, memory='full() | register()')"
FOUR = "sasrec(width=16, num_layers=4, memory='full() | full() | register() | register(suffix=2)')"


class TestRegister(MemoryTests):
    spec = "register()"


class TestManyRegisters(MemoryTests):
    spec = "register(prefix=2, suffix=3)"


class TestHSTURegister(StateTests):
    spec = TWO


class TestSASRecRegister(StateTests):
    spec = "sasrec(width=16, num_layers=2, num_heads=2, dropout=0.0, memory='full() | register()')"


class TestHalfOfFourLayers(StateTests):
    spec = FOUR


def test_only_the_lower_layers_are_stored():
    state = backbones.build(FOUR, num_items=NUM_ITEMS).prefill([random_history(9)])[0]
    assert state.layers() == [0, 1]
    lower = backbones.build("sasrec(width=16, num_layers=2)", num_items=NUM_ITEMS)
    assert lower.state_bytes(9) == state.nbytes


def test_a_token_reads_the_prefix_its_event_and_its_event_s_registers():
    memory = memories.build("register(prefix=2, suffix=2)", SIZE).eval()
    torch.nn.init.normal_(memory.kind_HC)
    x_BSD = torch.randn(1, 3, 16)
    y_BHQK, held = attend(memory, x_BSD)
    assert held == {}
    for s in range(3):
        tokens = torch.stack([x_BSD[0, s], 0.5 * x_BSD[0, s], 0.5 * x_BSD[0, s]])
        own_2HRK = memory.project(tokens).unflatten(1, (2, 2, 8)).permute(1, 2, 0, 3)
        key, value = torch.cat([memory.prefix_2HPK, own_2HRK], dim=2)
        query = tokens.flip(1).unflatten(1, (2, 8)).transpose(0, 1)
        kind = memory.kind_HC[:, None, [0, 0, 1, 2, 2]]
        read = (query @ key.transpose(1, 2) + kind).softmax(-1) @ value
        torch.testing.assert_close(y_BHQK[0, :, s::3], read)


def test_a_kind_s_number_makes_its_registers_heavier():
    memory = memories.build("register()", SIZE).eval()
    x_BSD = torch.randn(1, 1, 16)
    with torch.no_grad():
        memory.kind_HC[:] = torch.tensor([200.0, 0, 0])
    y_BHQK, _ = attend(memory, x_BSD)
    torch.testing.assert_close(y_BHQK[0, :, 0], memory.prefix_2HPK[1, :, 0])


def test_suffix_registers_are_read_but_write_nothing():
    net = backbones.build(TWO, num_items=NUM_ITEMS).eval()
    before = net.prefill([random_history(12)])
    score = net.score(before)
    with torch.no_grad():
        net.registers.mul_(-3)
    after = net.prefill([random_history(12)])
    assert all(torch.equal(t, after[0].tensors[n]) for n, t in before[0].tensors.items())
    assert not torch.allclose(net.score(before), score)


@pytest.mark.parametrize("options", ["prefix=-1", "suffix=65"])
def test_impossible_numbers_are_refused(options: str):
    with pytest.raises(ConfigError, match=options.split("=")[0]):
        memories.build(f"register({options})", SIZE)


def test_no_layer_can_share_rows_that_are_not_there():
    memory = memories.build("register()", SIZE)
    with pytest.raises(ConfigError, match="keeps no rows"):
        memory.keys_values({}, None)
