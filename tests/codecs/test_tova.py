import torch

from gistrec.codecs.tova import Tova
from gistrec.state import UserState
from gistrec.testing.codecs import CodecTests
from gistrec.testing.data import sample_state, with_hint


class TestTova(CodecTests):
    codec = Tova(keep=16)
    max_error = 0

    @classmethod
    def sample(cls, length: int, *, seed: int = 0) -> UserState:
        return with_hint(sample_state(length, seed=seed), "last")

    def test_what_the_newest_query_attends_to_stays(self) -> None:
        state = sample_state(31)
        last = torch.linspace(1, 0, 30)
        last[3] = 9.0
        kept = Tova(keep=4).encode(state.replace({**state.tensors, "hint.last": last}))
        assert kept.tensors["pos"].tolist() == [0, 1, 3, 29]
