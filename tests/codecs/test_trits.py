import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.codecs.trits import Trits
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import (
    LENGTHS,
    REFERENCE_LENGTH,
    CodecTests,
    odd_numbers,
    relative_error,
)
from gistrec.testing.data import sample_state
from gistrec.wire import manifest_of, pack, unpack

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
FEW = st.sampled_from([0.0, 1.0, -1.0, 0.5, 1 / 3, 1e-30, -3e38, 255.0])


def keys(x: torch.Tensor) -> UserState:
    return UserState({"k.0": x}, x.shape[-2])


class TestTrits(CodecTests):
    codec = Trits()
    max_error = 0.15

    @settings(deadline=None)
    @given(
        row=st.lists(FINITE, min_size=1, max_size=12) | st.lists(FEW, min_size=1, max_size=12),
        planes=st.integers(1, 3),
        group=st.integers(1, 8),
    )
    def test_any_finite_row(self, row: list[float], planes: int, group: int) -> None:
        codec = Trits(planes=planes, group=group)
        encoded = codec.encode(keys(torch.tensor(row)[None, None]))
        decoded = codec.decode(encoded)
        assert decoded.tensors["k.0"].isfinite().all()
        assert equal(codec.encode(decoded), encoded)

    @settings(deadline=None)
    @given(
        trits=st.lists(st.tuples(*[st.integers(-1, 1)] * 2), min_size=1, max_size=9),
        scale=st.integers(128, 255),
        exponent=st.integers(-130, 110),
    )
    def test_rows_of_its_own_form_are_kept(
        self, trits: list[tuple[int, int]], scale: int, exponent: int
    ) -> None:
        sums = [24 * first + 8 * second for first, second in trits]
        x = torch.tensor([32, *sums]).double() * scale * 2.0**exponent
        state = keys(x.float()[None, None])
        assert equal(self.codec.decode(self.codec.encode(state)), state)

    def test_by_hand(self) -> None:
        state = keys(torch.tensor([[[3.0, -3, 0, 0, 0, 3, -3]]]))
        encoded = Trits(planes=1).encode(state)
        # digits (2, 0, 1, 1, 1) and (2, 0) in base 3, lowest first
        assert encoded.tensors["k.0.trits"].tolist() == [[[2 + 9 + 27 + 81, 2]]]
        assert encoded.tensors["k.0.scale"].tolist() == [[3.0]]
        assert encoded.nbytes == 4
        assert equal(Trits(planes=1).decode(encoded), state)

    def test_a_plane_is_a_byte_per_five_numbers(self) -> None:
        x = torch.randn(2, 10, 32)
        sizes = [Trits(planes=planes).encode(keys(x)).nbytes / 10 for planes in (1, 2, 3)]
        assert sizes == [13 + 2, 26 + 3, 39 + 3]

    def test_its_empty_part_survives_the_wire_format(self) -> None:
        states = [self.codec.encode(sample_state(length)) for length in LENGTHS]
        manifest = manifest_of(states, model=states[0].model, codec=str(self.codec), tables={})
        for state in states:
            assert equal(unpack(pack(state, manifest), manifest), state)

    def test_more_planes_err_less(self) -> None:
        state = sample_state(REFERENCE_LENGTH)
        codecs = [Trits(planes=planes) for planes in (1, 2, 3)]
        errors = [relative_error(codec.decode(codec.encode(state)), state) for codec in codecs]
        assert errors[0] > 2 * errors[1] > 4 * errors[2]

    @pytest.mark.parametrize("planes", [1, 2, 3])
    def test_codes_do_not_depend_on_other_slots(self, planes: int) -> None:
        state = odd_numbers().select(torch.arange(0, REFERENCE_LENGTH - 1, 7))
        codec = Trits(planes=planes, group=5)
        together = codec.encode(state)
        for slot in range(state.num_slots):
            index = torch.tensor([slot])
            assert equal(codec.encode(state.select(index)), together.select(index))

    def test_tensors_without_heads(self) -> None:
        state = UserState({"latent.0": torch.randn(9, 6)}, 9)
        assert self.codec.decode(self.codec.encode(state)).tensors["latent.0"].shape == (9, 6)

    @pytest.mark.parametrize("options", [{"planes": 0}, {"planes": 4}, {"group": 0}])
    def test_options(self, options: dict[str, int]) -> None:
        with pytest.raises(CodecError, match="planes must be 1 to 3 and group 1 to 1024"):
            Trits(**options)
