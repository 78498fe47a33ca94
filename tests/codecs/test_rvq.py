import pytest
import torch

from gistrec.codecs.rvq import RVQ
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import REFERENCE_LENGTH, LearnedTests, relative_error, samples
from gistrec.testing.data import sample_state


class TestRVQ(LearnedTests):
    codec = RVQ(levels=2, codes=32)
    max_error = 0.7

    def test_more_levels_err_less_and_stay_fixed(self) -> None:
        state = sample_state(REFERENCE_LENGTH)
        errors = []
        for levels in (1, 2, 4, 8):
            codec = RVQ(levels=levels, codes=32).fit(samples())
            encoded = codec.encode(state)
            decoded = codec.decode(encoded)
            assert equal(codec.encode(decoded), encoded)
            errors.append(relative_error(decoded, state))
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < errors[0] / 3

    def test_codes_do_not_depend_on_other_slots(self) -> None:
        state = sample_state(REFERENCE_LENGTH)
        together = self.fitted().encode(state)
        for slot in range(state.num_slots):
            index = torch.tensor([slot])
            alone = self.fitted().encode(state.select(index))
            assert equal(alone, together.select(index))

    def test_fewer_rows_than_codes(self) -> None:
        state = sample_state(8)
        codec = RVQ(levels=2).fit([state])
        assert relative_error(codec.decode(codec.encode(state)), state) < 1e-3

    def test_many_rows_are_sampled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(RVQ, "sample_rows", 10)
        (first, *_) = RVQ(levels=1).fit(samples()).tables["k.0.codebooks"]
        assert len(first.unique(dim=0)) == 10

    def test_tensors_without_heads(self) -> None:
        state = UserState({"latent.0": torch.randn(90, 6)}, 90)
        codec = RVQ(levels=2, codes=16).fit([state])
        encoded = codec.encode(state)
        assert encoded.tensors["latent.0.codes"].shape == (90, 2)
        assert codec.decode(encoded).tensors["latent.0"].shape == (90, 6)

    @pytest.mark.parametrize("options", [{"levels": 0}, {"codes": 257}, {"codes": 1}])
    def test_options(self, options: dict[str, int]) -> None:
        with pytest.raises(CodecError, match="levels must be 1 to 16 and codes 2 to 256"):
            RVQ(**options)


def test_samples_below_the_normal_range() -> None:
    state = UserState({"k.0": torch.full((1, 5, 2), 1e-44)}, 6)
    codec = RVQ(levels=1).fit([state])
    encoded = codec.encode(state)
    assert equal(codec.encode(codec.decode(encoded)), encoded)
