import pytest
import torch

from gistrec.codecs.recent import Recent
from gistrec.errors import CodecError
from gistrec.testing.codecs import CodecTests
from gistrec.testing.data import sample_state


class TestRecent(CodecTests):
    codec = Recent(keep=16)
    max_error = 0

    @pytest.mark.parametrize("sink", [0, 2])
    def test_oldest_and_newest_stay(self, sink: int) -> None:
        state = sample_state(31)
        kept = Recent(keep=5, sink=sink).encode(state)
        expected = [*range(sink), *range(30 - 5 + sink, 30)]
        assert kept.tensors["pos"].tolist() == expected
        assert torch.equal(kept.tensors["v.1"], state.tensors["v.1"][:, expected])

    @pytest.mark.parametrize("options", [{"keep": 0}, {"keep": 4}, {"keep": 4, "sink": -1}])
    def test_no_place_for_new_events_is_an_error(self, options: dict[str, int]) -> None:
        with pytest.raises(CodecError, match="keep"):
            Recent(**options)
