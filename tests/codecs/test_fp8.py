import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.codecs import parse
from gistrec.codecs.fp8 import FP8
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import CodecTests

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


class TestFP8(CodecTests):
    codec = FP8()
    max_error = 0.03

    def test_a_row_by_hand(self) -> None:
        x = torch.tensor([[[300.0, -9.9, 0.3, 0.0], [464.0, 1, 1, 1], [466.0, 1, 1, 1]]])
        encoded = self.codec.encode(UserState({"k.0": x}, 3))
        assert encoded.tensors["k.0.scale"].flatten().tolist() == [0, 0, 1]
        decoded = self.codec.decode(encoded).tensors["k.0"][0]
        # e4m3 has 288, 320; 9, 10; 0.28125, 0.3125; and 480 only as twice 240
        assert decoded[0].tolist() == [288, -10, 0.3125, 0]
        assert decoded[1:, 0].tolist() == [448, 480]

    @settings(deadline=None)
    @given(st.lists(FINITE, min_size=1, max_size=8))
    def test_any_finite_row(self, row: list[float]) -> None:
        x = torch.tensor(row)
        encoded = self.codec.encode(UserState({"k.0": x[None, None]}, 1))
        decoded = self.codec.decode(encoded)
        assert equal(self.codec.encode(decoded), encoded)
        scale = 2.0 ** encoded.tensors["k.0.scale"].double()
        wrong = (decoded.tensors["k.0"] - x).abs().double()
        within = x.abs() <= 240 * 2.0**120  # larger numbers are cut off
        assert (wrong <= torch.maximum(x.abs() / 16, scale * 2**-9))[0, 0][within].all()

    def test_behind_lowrank_it_stays_fixed(self) -> None:
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(1, 5000, 16, generator=rng) * 10 ** torch.linspace(0, -7, 16)
        state = UserState({"k.0": x}, 5000)
        codec = parse("lowrank(rank=16) | fp8()").fit([state])
        encoded = codec.encode(state)
        assert equal(codec.encode(codec.decode(encoded)), encoded)

    def test_numbers_that_are_not_finite_are_an_error(self) -> None:
        with pytest.raises(CodecError, match=r"k\.0.*infinite or NaN"):
            self.codec.encode(UserState({"k.0": torch.tensor([[[1.0, torch.nan]]])}, 1))
