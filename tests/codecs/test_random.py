import pytest
import torch

from gistrec.codecs.random import Random
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import CodecTests, append_slot, first_slots
from gistrec.testing.data import sample_state


class TestRandom(CodecTests):
    codec = Random(keep=8, sink=2, window=1)
    max_error = 0

    def test_appending_one_by_one_is_the_same_as_encoding_once(self) -> None:
        whole = sample_state(64)
        held = self.codec.encode(first_slots(whole, 0))
        for place in range(63):
            held = self.codec.encode(append_slot(held, whole, place))
            assert equal(held, self.codec.encode(first_slots(whole, place + 1)))

    def test_every_slot_is_as_likely_as_any_other(self) -> None:
        state = sample_state(51)
        kept_M = torch.zeros(50)
        for seed in range(1000):
            kept_M[Random(keep=14, seed=seed).encode(state).tensors["pos"]] += 1
        assert kept_M[[0, 1, 2, 3, -1]].tolist() == [1000] * 5
        # 9 of the other 45 slots: 200 of 1,000 times, with a standard deviation of 12.6. The seeds
        # are fixed; of random ones, one set in 48 would have a slot beyond 3.5 deviations.
        assert (kept_M[4:-1] - 200).abs().max() < 3.5 * 12.65

    def test_users_differ_by_the_times_of_their_events(self) -> None:
        early, late = sample_state(64, seed=1), sample_state(64, seed=2)
        assert not torch.equal(
            self.codec.encode(early).tensors["pos"], self.codec.encode(late).tensors["pos"]
        )

    def test_states_without_times(self) -> None:
        state = UserState({"k.0": torch.zeros(1, 99, 2)}, 99)
        kept = self.codec.encode(state).tensors["pos"].tolist()
        assert (len(set(kept)), kept[:2], kept[-1]) == (8, [0, 1], 98)

    @pytest.mark.parametrize("seed", [-1, 1 << 32])
    def test_seed_out_of_range_is_an_error(self, seed: int) -> None:
        with pytest.raises(CodecError, match="seed must be 0 to"):
            Random(keep=8, seed=seed)
