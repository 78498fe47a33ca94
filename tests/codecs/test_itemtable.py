import pytest
import torch
from torch import Tensor

from gistrec.codecs import parse
from gistrec.codecs.itemtable import ItemTable
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import LearnedTests, relative_error, samples
from gistrec.testing.data import sample_state

# a small table, which knows some of the items that are tested and not the others
FEW_ITEMS = [s.select((s.tensors["item"] < 450).nonzero()[:, 0]) for s in samples()]


def state_of(items: list[int], rows_MK: Tensor | list[list[float]]) -> UserState:
    """One head, one tensor."""
    rows = torch.as_tensor(rows_MK, dtype=torch.float32)
    return UserState({"item": torch.tensor(items), "k.0": rows[None]}, len(items) + 1)


class TestItemTable(LearnedTests):
    codec = ItemTable()
    max_error = 1.5  # the samples' rows do not depend on the item
    fit_on = FEW_ITEMS

    def test_states_without_items(self) -> None:
        """Items are all that it keeps."""
        tensors = {n: t for n, t in sample_state(64).tensors.items() if n != "item"}
        with pytest.raises(CodecError, match="needs item"):
            self.fitted().encode(sample_state(64).replace(tensors))

    def test_no_row_is_kept(self) -> None:
        encoded = self.fitted().encode(sample_state(64))
        assert encoded.tensors.keys() == {"item", "time", "tail.item", "tail.time"}

    def test_means_by_hand(self) -> None:
        codec = self.codec.fit(
            [state_of([0, 2], [[1.0, 0.0], [8.0, 4.0]]), state_of([0], [[3.0, -1.0]])]
        )
        encoded = codec.encode(state_of([0, 1, 2, 3, 99], torch.zeros(5, 2)))
        overall = [4.0, 1.0]
        expected = torch.tensor([[2.0, -0.5], overall, [8.0, 4.0], overall, overall])
        torch.testing.assert_close(
            codec.decode(encoded).tensors["k.0"][0], expected, rtol=0, atol=2**-12
        )

    def test_rows_that_are_functions_of_the_item_are_restored(self) -> None:
        rng = torch.Generator().manual_seed(0)
        table = torch.randn(50, 8, generator=rng)
        items = torch.randint(0, 50, (600,), generator=rng)
        states = [state_of(part.tolist(), table[part]) for part in items.split(200)]
        codec = self.codec.fit(states)
        for state in states:
            assert relative_error(codec.decode(codec.encode(state)), state) < 1e-4

    def test_ids_far_between_are_looked_up(self) -> None:
        """A table of all ids up to the largest would be mostly empty."""
        rows = torch.tensor([[1.0, 0.0], [8.0, 4.0], [3.0, -1.0]])
        codec = self.codec.fit([state_of([7, 900, 10**12], rows)])
        assert len(codec.tables["k.0.means"]) == 4
        assert codec.tables["k.0.ids"].tolist() == [7, 900, 10**12]
        asked = [10**12, 8, 7, 0, 900, 2 * 10**12]
        decoded = codec.decode(codec.encode(state_of(asked, torch.zeros(6, 2))))
        overall = [4.0, 1.0]
        expected = torch.tensor([[3.0, -1], overall, [1, 0], overall, [8, 4], overall])
        torch.testing.assert_close(decoded.tensors["k.0"][0], expected, rtol=0, atol=2**-12)

    def test_items_that_the_backbone_does_not_read(self) -> None:
        codec = self.fitted()
        state = sample_state(64)
        hinted = {("hint.item" if n == "item" else n): t for n, t in state.tensors.items()}
        decoded = codec.decode(codec.encode(state.replace(hinted)))
        expected = codec.decode(codec.encode(state))
        assert torch.equal(decoded.tensors["v.1"], expected.tensors["v.1"])
        assert torch.equal(decoded.tensors["hint.item"], state.tensors["item"])

    def test_states_of_which_only_items_are_left(self) -> None:
        rng = torch.Generator().manual_seed(0)
        states = []
        for length in (5, 9, 7):
            items = torch.randint(0, 40, (length,), generator=rng)
            rows = {"k.0": torch.randn(1, length, 2, generator=rng)}
            states.append(UserState({"hint.item": items, **rows}, length))
        chain = parse("itemtable()").fit(states)
        encoded = chain.encode_many(states)
        assert [s.num_slots for s in encoded] == [5, 9, 7]
        assert all(set(s.tensors) == {"hint.item"} for s in encoded)
        for one, whole in zip(encoded, chain.decode_many(encoded), strict=True):
            assert equal(chain.decode(one), whole)

    def test_the_largest_numbers_stay_finite(self) -> None:
        state = state_of([0, 1], [[3.4e38, -3.4e38], [0.0, 1.0]])
        codec = self.codec.fit([state])
        assert codec.decode(codec.encode(state)).tensors["k.0"].isfinite().all()

    def test_the_layers_above_are_left_to_the_codec_behind(self) -> None:
        chain = parse("itemtable(layers=1) | int8()").fit(samples())
        encoded = chain.encode(sample_state(64))
        rows = {name for name in encoded.tensors if name[:2] in ("k.", "v.")}
        assert rows == {"k.1.q", "k.1.scale", "v.1.q", "v.1.scale"}
        assert equal(chain.encode(chain.decode(encoded)), encoded)

    def test_nothing_is_left_for_a_learned_codec_behind_all_layers(self) -> None:
        with pytest.raises(CodecError, match="can't learn"):
            parse("itemtable() | rvq()").fit(samples())

    def test_wrong_layers(self) -> None:
        with pytest.raises(CodecError, match="layers"):
            ItemTable(layers=-1)
