import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.codecs import parse
from gistrec.codecs.lowrank import LowRank
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import REFERENCE_LENGTH, LearnedTests, relative_error, samples
from gistrec.testing.data import sample_state


class TestLowRank(LearnedTests):
    codec = LowRank(rank=6)
    max_error = 0.2

    @settings(deadline=None)
    @given(seed=st.integers(0, 2**32), exponent=st.integers(-20, 20), rank=st.integers(1, 16))
    def test_any_basis_and_scale(self, seed: int, exponent: int, rank: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        basis, _ = torch.linalg.qr(torch.randn(16, rank, generator=rng))
        codec = LowRank(rank=rank).with_tables({"k.0.basis": basis.T.reshape(rank, 2, 8)})
        x = torch.randn(2, 500, 8, generator=rng) * 10.0**exponent
        encoded = codec.encode(UserState({"k.0": x}, 500))
        assert equal(codec.encode(codec.decode(encoded)), encoded)

    @pytest.mark.parametrize("precision", ["bf16()", "int8()"])
    def test_precision_codecs_behind_it_stay_fixed(self, precision: str) -> None:
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(1, 50_000, 16, generator=rng) * 10 ** torch.linspace(0, -7, 16)
        state = UserState({"k.0": x}, 50_000)
        codec = parse(f"lowrank(rank=16) | {precision}").fit([state])
        encoded = codec.encode(state)
        assert equal(codec.encode(codec.decode(encoded)), encoded)

    def test_full_rank_loses_next_to_nothing(self) -> None:
        codec = LowRank(rank=16).fit(samples())
        state = sample_state(REFERENCE_LENGTH)
        assert relative_error(codec.decode(codec.encode(state)), state) < 2**-16

    def test_rank_must_be_positive(self) -> None:
        with pytest.raises(CodecError, match="rank"):
            LowRank(rank=0)
