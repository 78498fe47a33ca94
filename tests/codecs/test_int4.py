import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.codecs import parse
from gistrec.codecs.int4 import Int4
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import CodecTests

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


class TestInt4(CodecTests):
    codec = Int4()
    max_error = 0.06

    def test_a_row_by_hand(self) -> None:
        x = torch.tensor([[[-2.0, 0, 5.6, 13, 3]]])
        encoded = self.codec.encode(UserState({"k.0": x}, 1))
        parts = {name: tensor.flatten().tolist() for name, tensor in encoded.tensors.items()}
        assert parts == {
            "k.0.pairs": [0 + 2 * 16, 8 + 15 * 16],
            "k.0.odd": [5],
            "k.0.scale": [1],
            "k.0.zero": [-2],
        }
        assert self.codec.decode(encoded).tensors["k.0"].tolist() == [[[-2, 0, 6, 13, 3]]]

    def test_a_row_far_from_zero_is_no_finer_than_int8(self) -> None:
        x = torch.tensor([[[127.0, 126, 126.4, 120]]])
        encoded = self.codec.encode(UserState({"k.0": x}, 1))
        assert encoded.tensors["k.0.scale"].item() == 1
        assert self.codec.decode(encoded).tensors["k.0"].tolist() == [[[127, 126, 126, 120]]]

    @settings(deadline=None)
    @given(row=st.lists(FINITE, min_size=1, max_size=9), group=st.integers(1, 10))
    def test_any_finite_row_and_group(self, row: list[float], group: int) -> None:
        codec, x = Int4(group=group), torch.tensor(row)
        encoded = codec.encode(UserState({"k.0": x[None, None]}, 1))
        decoded = codec.decode(encoded)
        assert equal(codec.encode(decoded), encoded)
        assert decoded.tensors["k.0"].isfinite().all()
        if x.abs().max() < 2.0**123:  # larger spans are cut off
            scale = encoded.tensors["k.0.scale"][0, 0].float().repeat_interleave(group)[: len(row)]
            assert ((decoded.tensors["k.0"][0, 0] - x).abs() <= 0.56 * scale).all()

    @settings(deadline=None)
    @given(seed=st.integers(0, 2**32), offset=st.floats(-300, 300), width=st.integers(1, 40))
    def test_rows_of_any_width_and_offset(self, seed: int, offset: float, width: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        x = torch.randn(2, 50, width, generator=rng) + offset
        encoded = self.codec.encode(UserState({"k.0": x}, 50))
        assert equal(self.codec.encode(self.codec.decode(encoded)), encoded)
        codes = [encoded.tensors[f"k.0.{part}"] for part in ("pairs", "odd")]
        assert sum(part.shape[-1] for part in codes) == -(-width // 2)

    def test_behind_lowrank_it_stays_fixed(self) -> None:
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(1, 5000, 15, generator=rng) * 10 ** torch.linspace(0, -7, 15)
        state = UserState({"k.0": x}, 5000)
        codec = parse("lowrank(rank=15) | int4()").fit([state])
        encoded = codec.encode(state)
        assert equal(codec.encode(codec.decode(encoded)), encoded)

    def test_no_channel_is_an_error(self) -> None:
        with pytest.raises(CodecError, match="group"):
            Int4(group=0)
