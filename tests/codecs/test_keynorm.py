import pytest
import torch

from gistrec.codecs.keynorm import KeyNorm
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import CodecTests, append_slot, first_slots
from gistrec.testing.data import sample_state


def keys(*norms: list[float]) -> UserState:
    """One layer per argument, one head, two numbers per key in the direction (3, 4)."""
    way = torch.tensor([0.6, 0.8])
    tensors = {f"k.{n}": torch.tensor(row)[None, :, None] * way for n, row in enumerate(norms)}
    return UserState(tensors, len(norms[0]))


class TestKeyNorm(CodecTests):
    codec = KeyNorm(keep=8, sink=2, window=1)
    max_error = 0

    @pytest.mark.parametrize("largest", [False, True])
    def test_appending_one_by_one_is_the_same_as_encoding_once(self, largest: bool) -> None:
        codec, whole = KeyNorm(keep=8, sink=1, window=2, largest=largest), sample_state(64)
        held = codec.encode(first_slots(whole, 0))
        for place in range(63):
            held = codec.encode(append_slot(held, whole, place))
            assert equal(held, codec.encode(first_slots(whole, place + 1)))

    @pytest.mark.parametrize(
        ("codec", "kept"),
        [
            (KeyNorm(keep=3), [1, 3, 5]),
            (KeyNorm(keep=3, largest=True), [2, 4, 5]),
            (KeyNorm(keep=4, sink=1), [0, 1, 3, 5]),
            (KeyNorm(keep=3, window=1, largest=True), [2, 4, 5]),
        ],
    )
    def test_shortest_or_longest_keys_stay(self, codec: KeyNorm, kept: list[int]) -> None:
        state = keys([4.0, 1.0, 9.0, 2.0, 7.0, 5.0])
        assert codec.encode(state).tensors["pos"].tolist() == kept

    def test_a_layer_of_long_keys_does_not_outvote_another(self) -> None:
        # products of norms: 2,000, 2,100, 800; sums would keep slot 1
        state = keys([2000.0, 700.0, 800.0, 0.0], [1.0, 3.0, 1.0, 0.0])
        assert KeyNorm(keep=2).encode(state).tensors["pos"].tolist() == [2, 3]
        assert KeyNorm(keep=2, largest=True).encode(state).tensors["pos"].tolist() == [1, 3]

    @pytest.mark.parametrize("largest", [False, True])
    def test_keys_of_zeros_or_of_any_length_do_not_displace_the_sinks(self, largest: bool) -> None:
        state = keys([1.0, 0.0, 3e38, 0.0, 3e38, 1.0])
        kept = KeyNorm(keep=3, sink=1, window=1, largest=largest).encode(state)
        assert kept.tensors["pos"].tolist() == [0, 4 if largest else 3, 5]

    def test_a_layer_without_keys_has_no_vote(self) -> None:
        state = keys([4.0, 1.0, 9.0, 9.0])
        mixed = state.replace(dict(state.tensors) | {"c.1": torch.zeros(4, 5)})
        assert KeyNorm(keep=2).encode(mixed).tensors["pos"].tolist() == [1, 3]

    def test_a_memory_without_keys_is_an_error(self) -> None:
        with pytest.raises(CodecError, match="needs k in the state, which holds c"):
            self.codec.encode(UserState({"c.0": torch.zeros(3, 4)}, 3))
