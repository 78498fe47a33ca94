import pytest
import torch

from gistrec import backbones, memories
from gistrec.errors import ConfigError
from gistrec.memories import Memory, Size
from gistrec.memories.mla import MLA
from gistrec.testing.backbones import NUM_ITEMS, StateTests, close, random_history
from gistrec.testing.memories import MemoryTests, attend


class TestMLA(MemoryTests):
    spec = "mla(rank=4)"

    def test_an_event_leaves_a_latent_of_length_one_on_average(self, memory: Memory) -> None:
        held = memory.write(torch.randn(3, 5, 16))
        assert {n: tuple(t.shape) for n, t in held.items()} == {"c": (3, 1, 5, 4)}
        torch.testing.assert_close(
            held["c"].square().mean(-1), torch.ones(3, 1, 5), atol=1e-3, rtol=0
        )

    def test_reading_latents_equals_reading_decoded_keys_and_values(
        self, memory: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x_BSD = torch.randn(3, 9, 16)
        absorbed, _ = attend(memory, x_BSD)
        monkeypatch.setattr(MLA, "attend", Memory.attend)
        torch.testing.assert_close(absorbed, attend(memory, x_BSD)[0])


class TestHSTUMLA(StateTests):
    spec = "hstu(width=16, num_layers=2, num_heads=2, dropout=0.0, memory='mla(rank=4)')"


class TestSASRecMLA(StateTests):
    spec = "sasrec(width=16, num_layers=2, num_heads=2, dropout=0.0, memory='mla(rank=12)')"


@pytest.mark.parametrize("name", ["hstu", "sasrec"])
@pytest.mark.parametrize("rank", [3, 16])
def test_a_backbone_scores_alike_absorbed_and_decoded(
    name: str, rank: int, monkeypatch: pytest.MonkeyPatch
):
    net = backbones.build(f"{name}(width=16, memory='mla(rank={rank})')", num_items=NUM_ITEMS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    history = random_history(50)
    absorbed = net.prefill([history])
    scores = net.score(absorbed)
    monkeypatch.setattr(MLA, "attend", Memory.attend)
    close(net.prefill([history])[0], absorbed[0])
    torch.testing.assert_close(net.score(absorbed), scores, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("rank", [-1, 0, 1, 17])
def test_impossible_ranks_are_refused(rank: int):
    size = Size(width=16, num_heads=2, num_items=30, silu=False)
    with pytest.raises(ConfigError, match=rf"rank=\.\.\..* to 16 .*given {rank}"):
        memories.build(f"mla(rank={rank})", size)
