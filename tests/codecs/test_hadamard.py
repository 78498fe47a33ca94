import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.codecs import parse
from gistrec.codecs.hadamard import Hadamard
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import CodecTests, odd_numbers, relative_error
from gistrec.testing.data import sample_state

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def keys(x: torch.Tensor) -> UserState:
    return UserState({"k.0": x}, x.shape[-2])


class TestHadamard(CodecTests):
    codec = Hadamard()
    max_error = 2**-20

    def test_encoded_state_is_smaller(self) -> None:
        """Alone it keeps the bytes; what it is for is less error at the same bytes behind it."""
        state = keys(torch.randn(2, 200, 32, generator=torch.Generator().manual_seed(0)))
        state.tensors["k.0"][..., 3] *= 20  # an outlier channel
        rotated, plain = parse("hadamard() | int8()"), parse("int8()")
        encoded = rotated.encode(state)
        assert self.codec.encode(state).nbytes == state.nbytes
        assert encoded.nbytes == plain.encode(state).nbytes < state.nbytes / 3
        error = relative_error(rotated.decode(encoded), state)
        assert error < relative_error(plain.decode(plain.encode(state)), state) / 1.5

    def test_by_hand(self) -> None:
        state = keys(torch.tensor([[[1.0, 2, 3, 4, 5, 6, 7]]]))  # blocks of 4, 2 and 1
        codec = Hadamard(signs=0)
        encoded = codec.encode(state)
        expected = [[[5.0, -1, -2, 0, 11, -1, 7]]]  # half of the first block's sums, (10, -2, ...)
        assert encoded.tensors["k.0.rotated"].tolist() == expected
        assert equal(codec.decode(encoded), state)

    def test_signs_spread_a_row_of_equal_numbers(self) -> None:
        state = keys(torch.ones(1, 1, 32))
        alike = Hadamard(signs=0).encode(state).tensors["k.0.rotated"]
        assert alike.count_nonzero() == 1
        patterns = [Hadamard(signs=n).encode(state).tensors["k.0.rotated"] for n in range(1, 4)]
        assert all(y.abs().max() < alike.max() / 1.5 for y in patterns)
        assert not torch.equal(patterns[0], patterns[1])

    @settings(deadline=None)
    @given(st.lists(FINITE, min_size=1, max_size=70), st.integers(0, 3))
    def test_any_finite_row_stays_fixed(self, row: list[float], signs: int) -> None:
        codec = Hadamard(signs=signs)
        encoded = codec.encode(keys(torch.tensor(row)[None, None]))
        assert equal(codec.encode(codec.decode(encoded)), encoded)

    @pytest.mark.parametrize("width", [1, 6, 32, 64, 100, 300])
    @pytest.mark.parametrize("precision", ["bf16()", "int8()", "int4()", "kivi(bits=2)", "trits()"])
    def test_precision_codecs_behind_it_stay_fixed(self, precision: str, width: int) -> None:
        rng = torch.Generator().manual_seed(width)
        x = torch.randn(1, 3000, width, generator=rng) * 10 ** torch.linspace(0, -7, width)
        x *= 10 ** torch.linspace(-38, 36, 3000)[:, None]
        codec = parse(f"hadamard() | {precision}")
        for state in (keys(x), sample_state(64), odd_numbers()):
            encoded = codec.encode(state)
            assert equal(codec.encode(codec.decode(encoded)), encoded)

    def test_it_can_follow_lowrank(self) -> None:
        state = sample_state(90)
        codec = parse("lowrank(rank=6) | hadamard() | int8()").fit([sample_state(64)])
        encoded = codec.encode(state)
        assert equal(codec.encode(codec.decode(encoded)), encoded)

    def test_signs_must_not_be_negative(self) -> None:
        with pytest.raises(CodecError, match="signs"):
            Hadamard(signs=-1)
