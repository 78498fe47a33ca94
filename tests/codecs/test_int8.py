import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.codecs.int8 import Int8
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import CodecTests

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


class TestInt8(CodecTests):
    codec = Int8()
    max_error = 0.005

    @settings(deadline=None)
    @given(st.lists(FINITE, min_size=1, max_size=8))
    def test_any_finite_row(self, row: list[float]) -> None:
        x = torch.tensor(row)
        encoded = self.codec.encode(UserState({"k.0": x[None, None]}, 1))
        decoded = self.codec.decode(encoded)
        scale = encoded.tensors["k.0.scale"].float()
        assert equal(self.codec.encode(decoded), encoded)
        within = x.abs() < 127 * 2.0**121  # larger numbers are cut off
        assert ((decoded.tensors["k.0"][0, 0] - x).abs() <= scale / 2)[0, 0][within].all()
        if x.abs().max() >= 127 * 2.0**-126:
            assert encoded.tensors["k.0.q"].abs().max() == 127

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_numbers_that_are_not_finite_are_an_error(self, bad: float) -> None:
        with pytest.raises(CodecError, match=r"k\.0.*infinite or NaN"):
            self.codec.encode(UserState({"k.0": torch.tensor([[[1.0, bad]]])}, 1))
