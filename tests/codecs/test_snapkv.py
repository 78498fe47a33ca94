import pytest
import torch

from gistrec.codecs.snapkv import SnapKV
from gistrec.errors import CodecError
from gistrec.state import UserState
from gistrec.testing.codecs import CodecTests
from gistrec.testing.data import sample_state, with_hint


class TestSnapKV(CodecTests):
    codec = SnapKV(keep=16, sink=2)
    max_error = 0

    @classmethod
    def sample(cls, length: int, *, seed: int = 0) -> UserState:
        return with_hint(sample_state(length, seed=seed), "recent")

    def test_neighbours_of_an_attended_slot_stay_with_it(self) -> None:
        state = sample_state(31)
        recent = torch.zeros(30)
        recent[[4, 14]] = torch.tensor([1.0, 6.0])
        state = state.replace({**state.tensors, "hint.recent": recent})
        kept = SnapKV(keep=4, share=0.0, pool=3).encode(state)
        assert kept.tensors["pos"].tolist() == [13, 14, 15, 29]
        alone = SnapKV(keep=3, share=0.0, pool=1).encode(state)
        assert alone.tensors["pos"].tolist() == [4, 14, 29]

    def test_pooling_does_not_favour_the_middle(self) -> None:
        state = sample_state(11)
        state = state.replace({**state.tensors, "hint.recent": torch.ones(10)})
        score = SnapKV(keep=4, pool=5).importance(state, 0)
        torch.testing.assert_close(score, torch.ones(1, 10))

    @pytest.mark.parametrize("pool", [0, 2, -1])
    def test_an_even_pool_is_an_error(self, pool: int) -> None:
        with pytest.raises(CodecError, match="odd"):
            SnapKV(keep=8, pool=pool)
