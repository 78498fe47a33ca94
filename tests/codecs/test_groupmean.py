import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.codecs.groupmean import GroupMean
from gistrec.codecs.recent import Recent
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import CodecTests, append_slot, first_slots
from gistrec.testing.data import sample_state


def counting(slots: int) -> UserState:
    """Slot j has the key j, the value 10 j and the time 100 j."""
    j_M = torch.arange(slots)
    rows = {"k.0": j_M[:, None].float(), "v.0": 10 * j_M[None, :, None].float()}
    return UserState(rows | {"time": 100 * j_M, "code.0": j_M[:, None].byte()}, slots)


class TestGroupMean(CodecTests):
    codec = GroupMean(group=3, window=4)
    # compared with the newest slot of the group: a sum of three random values differs from one of
    # them by sqrt(2) times its norm, a mean of three keys by sqrt(2/3) times
    max_error = 1.3

    def test_appending_leaves_the_codes_of_older_slots(self) -> None:
        """All but those of the group that leaves the window; more: the path does not matter."""
        whole = sample_state(51)
        held = self.codec.encode(first_slots(whole, 0))
        for place in range(50):
            held = self.codec.encode(append_slot(held, whole, place))
            assert equal(held, self.codec.encode(first_slots(whole, place + 1)))

    @settings(deadline=None)
    @given(
        st.integers(2, 9),
        st.integers(0, 9),
        st.booleans(),
        st.lists(st.integers(0, 12), max_size=6),
    )
    def test_the_path_does_not_matter(
        self, group: int, window: int, weighted: bool, steps: list[int]
    ) -> None:
        codec, whole, place = GroupMean(group, window, weighted), sample_state(73), 0
        held = codec.encode(first_slots(whole, 0))
        for step in steps:
            for _ in range(step):
                held = append_slot(held, whole, place)
                place += 1
            held = codec.encode(held)
        assert equal(held, codec.encode(first_slots(whole, place)))

    @pytest.mark.parametrize(
        ("weighted", "values"), [(True, [30, 120, 60, 70, 80]), (False, [10, 40, 60, 70, 80])]
    )
    def test_a_worked_example(self, weighted: bool, values: list[float]) -> None:
        encoded = GroupMean(group=3, window=2, weighted=weighted).encode(counting(9))
        assert encoded.tensors["pos"].tolist() == [2, 5, 6, 7, 8]
        assert encoded.tensors["time"].tolist() == [200, 500, 600, 700, 800]
        assert encoded.tensors["code.0"].flatten().tolist() == [2, 5, 6, 7, 8]
        assert encoded.tensors["k.0"].flatten().tolist() == [1, 4, 6, 7, 8]
        assert encoded.tensors["v.0"].flatten().tolist() == values

    def test_a_group_with_an_evicted_slot_stays_as_it_is(self) -> None:
        chain = Recent(keep=7, sink=2) | GroupMean(group=3, window=0)
        encoded = chain.encode(counting(12))  # left: 0, 1 and 7 to 11
        assert encoded.tensors["pos"].tolist() == [0, 1, 7, 8, 11]
        assert equal(chain.encode(chain.decode(encoded)), encoded)

    def test_sums_beyond_the_largest_number_are_cut_off(self) -> None:
        rows = torch.full((2, 4, 1), 3e38)
        encoded = GroupMean(group=2, window=0).encode(UserState({"k.0": rows, "v.0": rows}, 4))
        assert (encoded.tensors["k.0"] == 3e38).all()
        assert (encoded.tensors["v.0"] == torch.finfo(torch.float32).max).all()

    def test_values_are_needed_to_be_summed(self) -> None:
        latent = UserState({"c.0": torch.tensor([[1.0], [3.0]])}, 2)
        with pytest.raises(CodecError, match="needs v in the state, which holds c"):
            GroupMean(group=2, window=0).encode(latent)
        mean = GroupMean(group=2, window=0, weighted=False).encode(latent)
        assert mean.tensors["c.0"].tolist() == [[2.0]]

    @pytest.mark.parametrize("options", [{"group": 1}, {"window": -1}])
    def test_wrong_options_are_an_error(self, options: dict[str, int]) -> None:
        with pytest.raises(CodecError, match="group must be at least 2 and window at least 0"):
            GroupMean(**options)
