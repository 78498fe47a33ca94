import dataclasses

import pytest
import torch

from gistrec.codecs.epicache import EpiCache
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import CodecTests, samples
from gistrec.testing.data import sample_state


def with_interests(interests: list[int]) -> UserState:
    """A state whose keys stand at one of a few places far from each other."""
    k = torch.tensor(interests, dtype=torch.float32)[None, :, None] * torch.ones(1, 1, 2) * 10
    return UserState({"k.0": k, "v.0": torch.zeros_like(k)}, len(interests) + 1)


class TestEpiCache(CodecTests):
    codec = EpiCache(keep=16, episodes=3)
    max_error = 0

    def test_every_interest_keeps_its_newest_slots(self) -> None:
        state = with_interests([0, 1, 0, 2, 0, 0, 1, 0, 0, 0])
        centroids = torch.tensor([[0.0, 0], [10, 10], [20, 20]])
        codec = EpiCache(keep=5, sink=0, episodes=3).with_tables({"centroids": centroids})
        assert codec.encode(state).tensors["pos"].tolist() == [1, 3, 6, 8, 9]

    def test_one_interest_is_a_sliding_window(self) -> None:
        state = with_interests([1] * 9)
        codec = EpiCache(keep=5, sink=2, episodes=1).fit([state])
        assert codec.encode(state).tensors["pos"].tolist() == [0, 1, 6, 7, 8]

    def test_fitting_twice_gives_the_same(self) -> None:
        again = self.codec.fit(samples())
        assert torch.equal(again.tables["centroids"], self.fitted().tables["centroids"])
        whole = sample_state(64)
        reloaded = dataclasses.replace(self.codec).with_tables(dict(again.tables))
        assert equal(reloaded.encode(whole), again.encode(whole))

    def test_use_before_fit_is_an_error(self) -> None:
        with pytest.raises(CodecError, match="not fitted"):
            self.codec.encode(sample_state(64))

    def test_fit_without_slots_is_an_error(self) -> None:
        with pytest.raises(CodecError, match="some history"):
            self.codec.fit([sample_state(1)])

    @pytest.mark.parametrize("episodes", [0, 257])
    def test_wrong_numbers_of_interests(self, episodes: int) -> None:
        with pytest.raises(CodecError, match="episodes"):
            EpiCache(keep=8, episodes=episodes)

    def test_keys_of_any_size_are_clustered_or_refused(self) -> None:
        huge = with_interests([1, 2, 3]).replace({"k.0": torch.full((1, 3, 2), 1e30)})
        assert EpiCache(keep=8, episodes=2).fit([huge]).tables["centroids"].isfinite().all()
        broken = huge.replace({"k.0": torch.full((1, 3, 2), torch.nan)})
        with pytest.raises(CodecError, match="infinite or NaN"):
            EpiCache(keep=8).fit([broken])
