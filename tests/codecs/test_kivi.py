import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.codecs import parse
from gistrec.codecs.kivi import KIVI
from gistrec.errors import CodecError
from gistrec.state import UserState, equal, slot_axis
from gistrec.testing.codecs import CodecTests, append_slot, first_slots
from gistrec.testing.data import sample_state

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROW = st.lists(FINITE, min_size=3, max_size=3)
CODECS = st.builds(
    KIVI, bits=st.sampled_from([2, 4]), group=st.integers(1, 5), recent=st.integers(0, 3)
)


class TestKIVI(CodecTests):
    codec = KIVI(group=8, recent=2)
    max_error = 0.3

    def test_appending_leaves_the_codes_of_older_slots(self) -> None:
        """Of slots once quantised; the newest ones are quantised when a group is full."""
        whole = sample_state(51)
        held = self.codec.encode(first_slots(whole, 0))
        for place in range(50):
            before = held
            held = self.codec.encode(append_slot(self.codec.decode(before), whole, place))
            for name, old in before.slots():
                new, gone = held.tensors[name], 0
                if name.endswith(".rest"):
                    codes = f"{name.removesuffix('rest')}codes"
                    gone = len(held.tensors[codes]) - len(before.tensors[codes])
                axis = slot_axis(name, old)
                left = old.shape[axis] - gone
                assert torch.equal(new.narrow(axis, 0, left), old.narrow(axis, gone, left))

    def test_keys_and_values_by_hand(self) -> None:
        x = torch.tensor([[0.0, -3], [1, 0], [2, 6], [3, 3], [9, 9]])
        state = UserState({"k.0": x[None], "v.0": x[None]}, 5)
        encoded = KIVI(group=4).encode(state)
        parts = {name: tensor.tolist() for name, tensor in encoded.tensors.items()}
        assert parts["k.0.codes"] == [[0], [1 + 1 * 4], [2 + 3 * 4], [3 + 2 * 4]]
        assert (parts["k.0.scale"], parts["k.0.zero"]) == ([[1, 3]], [[0, -1]])
        assert parts["k.0.rest"] == [[[9, 9]]]
        assert parts["v.0.scale"][0] == [1]
        assert parts["v.0.codes"][:2] == [[3 + 0 * 4], [3 + 0 * 4]]
        assert parts["v.0.rest"] == [[]]
        decoded = KIVI(group=4).decode(encoded)
        assert torch.equal(decoded.tensors["k.0"], x[None])
        assert decoded.tensors["v.0"][0, 0].tolist() == [0, -3]

    def test_a_large_channel_spoils_values_but_not_keys(self) -> None:
        x = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
        x[..., 0] *= 1000
        codec = KIVI(bits=4)
        decoded = codec.decode(codec.encode(UserState({"k.0": x, "v.0": x}, 64)))
        wrong = {n: (t - x)[..., 1:].norm() / x[..., 1:].norm() for n, t in decoded.tensors.items()}
        assert wrong["k.0"] < 0.1
        assert wrong["v.0"] > 0.9

    @settings(deadline=None)
    @given(codec=CODECS, rows=st.lists(ROW, min_size=1, max_size=11))
    def test_any_finite_numbers(self, codec: KIVI, rows: list[list[float]]) -> None:
        x = torch.tensor(rows)[None]
        encoded = codec.encode(UserState({"k.0": x, "v.0": x, "fixed.v.0": x}, len(rows)))
        decoded = codec.decode(encoded)
        assert equal(codec.encode(decoded), encoded)
        assert all(bool(t.isfinite().all()) for t in decoded.tensors.values())
        assert encoded.tensors["fixed.v.0.rest"].numel() == 0
        scale = encoded.tensors["k.0.scale"].float().repeat_interleave(codec.group, dim=0)
        if x.abs().max() < 2.0**121:  # larger spans are cut off
            wrong = (decoded.tensors["k.0"] - x)[0, : len(scale)].abs()
            assert (wrong <= 0.56 * scale).all()

    @settings(deadline=None)
    @given(codec=CODECS, seed=st.integers(0, 2**32), offset=st.floats(-300, 300))
    def test_any_offset(self, codec: KIVI, seed: int, offset: float) -> None:
        x = torch.randn(2, 23, 5, generator=torch.Generator().manual_seed(seed)) + offset
        x[..., 2] = offset
        encoded = codec.encode(UserState({"k.0": x, "v.0": x}, 23))
        assert equal(codec.encode(codec.decode(encoded)), encoded)

    def test_behind_a_sliding_window_it_stays_fixed_between_appends(self) -> None:
        codec = parse("recent(keep=20, sink=1) | kivi(group=8)")
        whole = sample_state(60)
        held = codec.encode(first_slots(whole, 40))
        for place in range(40, 59):
            held = codec.encode(append_slot(codec.decode(held), whole, place))
            assert equal(codec.encode(codec.decode(held)), held)

    @pytest.mark.parametrize("options", [{"bits": 3}, {"group": 0}, {"recent": -1}])
    def test_wrong_options_are_an_error(self, options: dict[str, int]) -> None:
        with pytest.raises(CodecError, match="bits must be 2 or 4"):
            KIVI(**options)
