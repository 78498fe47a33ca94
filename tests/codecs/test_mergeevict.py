import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.codecs.mergeevict import MergeEvict
from gistrec.errors import CodecError
from gistrec.state import UserState
from gistrec.testing.codecs import CodecTests, append_slot, first_slots
from gistrec.testing.data import sample_state


def keyed(*keys: float) -> UserState:
    """Slots of these keys; slot j has the value 10 j and the time 100 j."""
    j_M = torch.arange(len(keys))
    rows = {
        "k.0": torch.tensor(keys, dtype=torch.float32)[None, :, None],
        "v.0": 10 * j_M[None, :, None].float(),
    }
    return UserState(rows | {"time": 100 * j_M}, len(keys))


class TestMergeEvict(CodecTests):
    codec = MergeEvict(keep=8, sink=2, window=1)
    # 200 slots in 8: the sum of dozens of random values is compared with the newest one of them
    max_error = 3.2

    def test_appending_leaves_the_codes_of_older_slots(self) -> None:
        """All but the pair that is merged, the slots next to each other."""
        whole = sample_state(51)
        held = self.codec.encode(first_slots(whole, 0))
        for place in range(50):
            longer = append_slot(held, whole, place)
            held = self.codec.encode(longer)
            before, after = longer.tensors["pos"].tolist(), held.tensors["pos"].tolist()
            gone = [n for n, pos in enumerate(before) if pos not in after]
            assert len(gone) == (place >= 8)
            there = [n for n in range(len(before)) if n not in gone and n - 1 not in gone]
            here = [after.index(before[n]) for n in there]
            for name in ("k.0", "v.0", "k.1", "v.1"):
                assert torch.equal(longer.tensors[name][:, there], held.tensors[name][:, here])

    @pytest.mark.parametrize(
        ("codec", "pos", "keys", "values"),
        [
            (MergeEvict(5, sink=0), [0, 1, 3, 4, 5], [0, 5, 7.5, 20, 24], [0, 10, 50, 40, 50]),
            (MergeEvict(4, sink=0), [0, 3, 4, 5], [0, 20 / 3, 20, 24], [0, 60, 40, 50]),
            (MergeEvict(3, sink=0), [0, 3, 5], [0, 20 / 3, 22], [0, 60, 90]),
            (MergeEvict(3, sink=1, window=1), [0, 4, 5], [0, 10, 24], [0, 100, 50]),
            (MergeEvict(3, sink=0, weighted=False), [0, 3, 5], [0, 20 / 3, 22], [0, 20, 45]),
        ],
    )
    def test_a_worked_example(
        self, codec: MergeEvict, pos: list[int], keys: list[float], values: list[float]
    ) -> None:
        # costs at first 12.5, 2, 0.5, 72, 8; after {2, 3}: 12.5, 4.17, 104, 8; then 33, 133, 8
        encoded = codec.encode(keyed(0, 5, 7, 8, 20, 24)).tensors
        assert encoded["pos"].tolist() == pos
        assert encoded["time"].tolist() == [100 * p for p in pos]
        assert encoded["k.0"].flatten().tolist() == pytest.approx(keys)
        assert encoded["v.0"].flatten().tolist() == values

    @settings(deadline=None)
    @given(
        st.integers(2, 20),
        st.integers(0, 3),
        st.integers(0, 3),
        st.lists(st.integers(0, 40), max_size=5),
    )
    def test_sums_are_kept_whatever_the_path(
        self, more: int, sink: int, window: int, steps: list[int]
    ) -> None:
        codec = MergeEvict(sink + window + more, sink=sink, window=window)
        whole, place = sample_state(sum(steps) + 1), 0
        held = codec.encode(first_slots(whole, 0))
        for step in steps:
            for _ in range(step):
                held = append_slot(held, whole, place)
                place += 1
            held = codec.encode(held)
        pos_M = held.tensors["pos"]
        assert len(pos_M) == min(place, codec.keep)
        expected = [*range(min(sink, place)), *range(max(place - window, sink), place)]
        assert torch.isin(torch.tensor(expected, dtype=torch.int64), pos_M).all()
        count_M1 = pos_M.diff(prepend=torch.tensor([-1]))[:, None]
        for name, weight in (("k.1", count_M1), ("v.1", torch.ones_like(count_M1))):
            torch.testing.assert_close(
                (held.tensors[name] * weight).sum(-2),
                whole.tensors[name].sum(-2),
                rtol=0,
                atol=1e-3,
            )

    def test_equal_keys_are_merged_without_loss_to_a_sum_over_slots(self) -> None:
        state = keyed(*[1.0] * 40, *[3.0] * 5, *[2.0] * 100)
        held = MergeEvict(keep=3, sink=0).encode(state)
        assert held.tensors["pos"].tolist() == [39, 44, 144]

        def read(s: UserState) -> float:
            return float(
                (torch.nn.functional.silu(0.7 * s.tensors["k.0"]) * s.tensors["v.0"]).sum()
            )

        assert read(held) == pytest.approx(read(state), rel=1e-6)

    def test_keys_that_are_not_numbers_do_not_displace_the_sinks(self) -> None:
        held = MergeEvict(keep=3, sink=1, window=1).encode(keyed(0, 0, torch.nan, torch.inf, 0, 0))
        assert held.tensors["pos"].tolist() == [0, 4, 5]

    @pytest.mark.parametrize("options", [{"sink": -1}, {"window": -1}, {"sink": 4, "window": 4}])
    def test_wrong_options_are_an_error(self, options: dict[str, int]) -> None:
        with pytest.raises(CodecError, match="at least one slot must be free"):
            MergeEvict(keep=8, **options)

    def test_a_memory_without_values_is_an_error(self) -> None:
        with pytest.raises(CodecError, match="needs k, v in the state"):
            self.codec.encode(UserState({"c.0": torch.zeros(3, 4)}, 3))
