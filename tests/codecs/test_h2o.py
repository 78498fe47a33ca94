import pytest
import torch

from gistrec import backbones, codecs
from gistrec.codecs.h2o import H2O
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.backbones import random_history
from gistrec.testing.codecs import CodecTests
from gistrec.testing.data import sample_state, with_hint


class TestH2O(CodecTests):
    codec = H2O(keep=16, sink=2)
    max_error = 0

    @classmethod
    def sample(cls, length: int, *, seed: int = 0) -> UserState:
        return with_hint(sample_state(length, seed=seed), "total")

    def test_heavy_hitters_and_the_newest_stay(self) -> None:
        state = sample_state(31)
        total = torch.zeros(30)
        total[[7, 9, 20]] = torch.tensor([2.0, 8.0, 4.0])
        state = state.replace({**state.tensors, "hint.total": total})
        kept = H2O(keep=4, share=0.5).encode(state)
        assert kept.tensors["pos"].tolist() == [9, 20, 28, 29]
        assert H2O(keep=4).decode(kept).tensors["hint.total"].tolist() == [8, 4, 0, 0]

    def test_additions_of_a_thousandth_count(self) -> None:
        state, codec = sample_state(9), H2O(keep=8)
        state = state.replace({**state.tensors, "hint.total": torch.full((8,), 100.0)})
        for _ in range(100):
            state = codec.decode(codec.encode(state))
            more = state.tensors["hint.total"] + 0.1
            state = state.replace({**state.tensors, "hint.total": more})
        assert more[0].item() == pytest.approx(110, rel=0.01)

    def test_a_state_without_attention_is_an_error(self) -> None:
        state = sample_state(9)
        tensors = {n: t for n, t in state.tensors.items() if not n.startswith("hint.")}
        with pytest.raises(CodecError, match="needs total in the state"):
            H2O(keep=4).encode(state.replace(tensors))

    @pytest.mark.parametrize("options", [{"share": 1.5}, {"share": -0.1}, {"keep": 2, "sink": 2}])
    def test_wrong_options(self, options: dict[str, float]) -> None:
        with pytest.raises(CodecError, match=r"share|keep"):
            H2O(**{"keep": 8, **options})


@pytest.mark.parametrize("spec", ["hstu(width=16)", "sasrec(width=16)"])
def test_one_event_at_a_time_counts_like_prefill(spec: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = backbones.build(spec, num_items=30).eval()
    whole = random_history(40)
    states = [net.empty(hints=True)]
    for n in range(40):
        states = net.append(states, [whole[n : n + 1]])
    chain = codecs.parse("h2o(keep=12)")
    online, offline = chain.encode(states[0]), chain.encode(net.prefill([whole], hints=True)[0])
    assert torch.equal(online.tensors["pos"], offline.tensors["pos"])
    assert (online.tensors["total"] - offline.tensors["total"]).abs().max() <= 1
    assert not any(name.startswith("hint.") for name in online.tensors)
    assert not equal(online, chain.encode(net.prefill([random_history(40, seed=1)], hints=True)[0]))
