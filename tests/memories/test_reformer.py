import pytest
import torch

from gistrec import memories
from gistrec.errors import ConfigError
from gistrec.memories import Context, Size
from gistrec.testing.backbones import StateTests
from gistrec.testing.memories import MemoryTests

SIZE = Size(width=16, num_heads=2, num_items=30, silu=False)
MEMORY = "reformer(bits=2, rounds=2)"


class TestReformer(MemoryTests):
    spec = MEMORY


class TestHSTUReformer(StateTests):
    spec = f"hstu(width=16, dropout=0.0, memory={MEMORY!r})"


class TestSASRecReformer(StateTests):
    spec = f"sasrec(width=16, dropout=0.0, memory={MEMORY!r})"


def seen(memory, q_BHQK, k_BHTK):
    position = torch.arange(q_BHQK.shape[2])[None]
    context = Context(
        position, position, torch.ones(1, 1) > 0, torch.ones(position.shape) > 0, None
    )
    return memory.visible(q_BHQK, k_BHTK, context)


def test_a_query_sees_keys_of_its_direction_and_its_own_event():
    memory = memories.build("reformer(bits=6, rounds=1)", SIZE)
    same = torch.randn(1, 2, 1, 8).expand(-1, -1, 6, -1)
    assert torch.equal(seen(memory, 3 * same, same)[0, 0], torch.ones(6, 6).tril() > 0)
    # the opposite of a key is on the other side of every plane
    assert torch.equal(seen(memory, -same, same)[0, 1], torch.eye(6) > 0)


def test_more_rounds_find_more_and_more_bits_fewer():
    torch.manual_seed(0)
    q_BHQK, k_BHTK = torch.randn(2, 1, 2, 200, 8)

    def found(bits, rounds):
        memory = memories.build(f"reformer(bits={bits}, rounds={rounds})", SIZE)
        return int(seen(memory, q_BHQK, k_BHTK).sum())

    assert found(2, 1) < found(2, 4)
    assert found(6, 2) < found(2, 2)


def test_what_all_numbers_share_does_not_choose_the_bucket():
    memory = memories.build("reformer(bits=8, rounds=2)", SIZE)
    x_BHTK = torch.randn(1, 2, 50, 8, generator=torch.Generator().manual_seed(0))
    for here, there in zip(memory.buckets(x_BHTK), memory.buckets(x_BHTK + 5), strict=True):
        assert torch.equal(here, there)


@pytest.mark.parametrize("options", ["bits=0", "bits=17", "rounds=0"])
def test_impossible_hashes_are_refused(options):
    with pytest.raises(ConfigError, match=options.split("=")[0]):
        memories.build(f"reformer({options})", SIZE)
