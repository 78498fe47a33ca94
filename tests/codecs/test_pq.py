from pathlib import Path

import pytest
import torch

from gistrec.codecs.pq import PQ
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import REFERENCE_LENGTH, LearnedTests, relative_error, samples
from gistrec.testing.data import sample_state


class TestPQ(LearnedTests):
    codec = PQ(subvectors=8, codes=64)
    max_error = 0.2

    def test_more_subvectors_err_less_and_stay_fixed(self) -> None:
        state = sample_state(REFERENCE_LENGTH)
        errors = []
        for subvectors in (1, 3, 8, 16, 20):  # a row has 16 numbers
            codec = PQ(subvectors=subvectors, codes=32).fit(samples())
            encoded = codec.encode(state)
            assert encoded.tensors["k.0.codes"].shape == (state.num_slots, min(subvectors, 16))
            decoded = codec.decode(encoded)
            assert equal(codec.encode(decoded), encoded)
            errors.append(relative_error(decoded, state))
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] == errors[-2] < errors[0] / 5

    @pytest.mark.parametrize("subvectors", [4, 5])
    def test_few_codes_share_a_byte(self, subvectors: int) -> None:
        state = sample_state(REFERENCE_LENGTH)
        codec = PQ(subvectors=subvectors, codes=16).fit(samples())
        encoded = codec.encode(state)
        assert encoded.tensors["k.0.codes"].shape == (state.num_slots, (subvectors + 1) // 2)
        assert encoded.tensors["k.0.codes"].max() > 15
        assert equal(codec.encode(codec.decode(encoded)), encoded)

    def test_by_hand(self) -> None:
        words = torch.tensor([[[0, 0, 0]], [[4, 0, 6]], [[4, 0, 6]]], dtype=torch.int16)
        tables = {"k.0.codewords": words, "k.0.step": torch.tensor(0.5)}
        codec = PQ(subvectors=2, codes=20).with_tables(tables)
        x = torch.tensor([[[1.0, 0, 9], [1.5, 0.5, 1.5], [2, 3, 1]]])
        encoded = codec.encode(UserState({"k.0": x}, 3))
        # codewords (0, 0) and (2, 0), then 0 and 3: equally near ones get the lowest code
        assert encoded.tensors["k.0.codes"].tolist() == [[0, 1], [1, 0], [1, 0]]
        assert codec.decode(encoded).tensors["k.0"].tolist() == [[[0, 0, 3], [2, 0, 0], [2, 0, 0]]]

    def test_codes_do_not_depend_on_other_slots(self) -> None:
        state = sample_state(REFERENCE_LENGTH)
        together = self.fitted().encode(state)
        for slot in range(state.num_slots):
            index = torch.tensor([slot])
            assert equal(self.fitted().encode(state.select(index)), together.select(index))

    def test_fewer_rows_than_codes(self) -> None:
        state = sample_state(8)
        codec = PQ(subvectors=2).fit([state])
        assert relative_error(codec.decode(codec.encode(state)), state) < 1e-3

    @pytest.mark.parametrize("scale", [0, 1e-44, 1e37])
    def test_samples_of_any_size(self, scale: float) -> None:
        state = UserState({"latent.0": torch.randn(90, 6) * scale}, 90)
        codec = PQ(subvectors=4, codes=16).fit([state])
        decoded = codec.decode(codec.encode(state))
        assert decoded.tensors["latent.0"].shape == (90, 6)
        assert decoded.tensors["latent.0"].isfinite().all()
        assert equal(codec.encode(decoded), codec.encode(state))

    @pytest.mark.parametrize("options", [{"subvectors": 0}, {"codes": 257}, {"codes": 1}])
    def test_options(self, options: dict[str, int]) -> None:
        with pytest.raises(CodecError, match="subvectors must be at least 1 and codes 2 to 256"):
            PQ(**options)


class TestPackedPQ(LearnedTests):
    codec = PQ(subvectors=4, codes=16)
    max_error = 0.8

    @classmethod
    def folder(cls) -> Path:
        return super().folder().with_name("pq-packed")
