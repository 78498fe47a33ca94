import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.codecs import parse
from gistrec.codecs.intactkv import IntactKV
from gistrec.errors import CodecError
from gistrec.state import UserState, equal, slot_axis
from gistrec.testing.codecs import CodecTests, append_slot, first_slots, relative_error
from gistrec.testing.data import sample_state

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROW = st.lists(FINITE, min_size=3, max_size=3)
CODECS = st.builds(IntactKV, pivots=st.integers(1, 5), bits=st.sampled_from([4, 8]))


class TestIntactKV(CodecTests):
    codec = IntactKV()
    max_error = 0.06

    def test_appending_leaves_the_codes_of_older_slots(self) -> None:
        """The same law; parts hold either the pivots or the others, so slots can't be selected."""
        whole = sample_state(51)
        held = self.codec.encode(first_slots(whole, 0))
        for place in range(50):
            before = held
            held = self.codec.encode(append_slot(self.codec.decode(before), whole, place))
            for name, old in before.slots():
                axis = slot_axis(name, old)
                assert torch.equal(held.tensors[name].narrow(axis, 0, old.shape[axis]), old)

    def test_slots_by_hand(self) -> None:
        x = torch.tensor([[[1.5, -0.1], [-2, 13], [127, 127]]])
        encoded = IntactKV(pivots=1).encode(UserState({"k.0": x}, 3))
        parts = {name: tensor.tolist() for name, tensor in encoded.tensors.items()}
        assert parts["k.0.codes"] == [[[0 + 15 * 16], [15 + 15 * 16]]]
        assert parts["k.0.scale"] == [[[1], [1]]]
        assert parts["k.0.zero"] == [[[-2], [112]]]
        decoded = IntactKV(pivots=1).decode(encoded).tensors["k.0"]
        assert torch.equal(decoded[:, 1:], x[:, 1:])
        assert torch.equal(decoded[:, :1], x[:, :1].bfloat16().float())

    @pytest.mark.parametrize(("bits", "most"), [(4, 0.06), (8, 0.005)])
    def test_pivots_are_far_more_exact_than_the_others(self, bits: int, most: float) -> None:
        codec, state = IntactKV(pivots=9, bits=bits), sample_state(64)
        decoded = codec.decode(codec.encode(state))
        assert relative_error(first_slots(decoded, 9), state) < 0.002
        assert 0.002 < relative_error(decoded, state) < most

    @settings(deadline=None)
    @given(codec=CODECS, rows=st.lists(ROW, min_size=1, max_size=8))
    def test_any_finite_numbers(self, codec: IntactKV, rows: list[list[float]]) -> None:
        x = torch.tensor(rows)[None]
        encoded = codec.encode(UserState({"k.0": x, "fixed.v.0": x}, len(rows)))
        decoded = codec.decode(encoded)
        assert equal(codec.encode(decoded), encoded)
        assert all(bool(t.isfinite().all()) for t in decoded.tensors.values())
        assert encoded.tensors["fixed.v.0.pivot"].numel() == 0
        others = x[:, codec.pivots :]
        if others.numel() and others.abs().max() < 2.0**121:  # larger spans are cut off
            wrong = (decoded.tensors["k.0"][:, codec.pivots :] - others).abs()
            assert (wrong <= 0.56 * encoded.tensors["k.0.scale"].float()).all()

    @settings(deadline=None)
    @given(codec=CODECS, seed=st.integers(0, 2**32), offset=st.floats(-300, 300))
    def test_any_offset(self, codec: IntactKV, seed: int, offset: float) -> None:
        x = torch.randn(2, 23, 5, generator=torch.Generator().manual_seed(seed)) + offset
        x[:, 7] = offset
        encoded = codec.encode(UserState({"k.0": x}, 23))
        assert equal(codec.encode(codec.decode(encoded)), encoded)

    def test_sinks_in_front_stay_pivots(self) -> None:
        codec = parse("recent(keep=12, sink=4) | intactkv()")
        whole = sample_state(41)
        held = codec.encode(first_slots(whole, 20))
        first = held.tensors["k.0.pivot"]
        for place in range(20, 40):
            held = codec.encode(append_slot(codec.decode(held), whole, place))
        assert torch.equal(held.tensors["k.0.pivot"], first)

    @pytest.mark.parametrize("options", [{"pivots": 0}, {"bits": 2}])
    def test_wrong_options_are_an_error(self, options: dict[str, int]) -> None:
        with pytest.raises(CodecError, match="pivots must be at least 1 and bits 4 or 8"):
            IntactKV(**options)
