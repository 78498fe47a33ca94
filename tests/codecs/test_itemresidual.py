import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.codecs import is_row_tensor, parse
from gistrec.codecs.itemresidual import FLOOR, ItemResidual
from gistrec.errors import CodecError
from gistrec.state import UserState, equal
from gistrec.testing.codecs import LearnedTests, odd_numbers, samples
from gistrec.testing.data import sample_state

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
BEHIND = ["", " | bf16()", " | int8()", " | rvq(levels=2, codes=32)"]
# a small table, which knows some of the items that are tested and not the others
FEW_ITEMS = [s.select((s.tensors["item"] < 450).nonzero()[:, 0]) for s in samples()]


def by_item(*, seed: int, scale: float, rest: float) -> UserState:
    """Rows of 40 items, each row its item's plus `rest` times noise of every size."""
    shared, rng = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    table = torch.randn(2, 40, 8, generator=shared)
    item = torch.randint(0, 40, (300,), generator=rng)
    size = 2.0 ** -torch.randint(0, 20, (300, 1), generator=rng)
    noise = torch.randn(2, 300, 8, generator=rng) * size
    return UserState({"item": item, "k.0": scale * (table[:, item] + rest * noise)}, 300)


class TestItemResidual(LearnedTests):
    codec = ItemResidual()
    max_error = 1e-6
    fit_on = FEW_ITEMS

    def test_states_without_items(self) -> None:
        """Without an item there is no mean to subtract."""
        tensors = {n: t for n, t in sample_state(64).tensors.items() if n != "item"}
        with pytest.raises(CodecError, match="needs item"):
            self.fitted().encode(sample_state(64).replace(tensors))

    def test_encoded_state_is_smaller(self) -> None:
        """Not in bytes: in size, where items explain rows; the codecs behind it need that."""
        states = [by_item(seed=seed, scale=1, rest=0.3) for seed in range(9)]
        codec = self.codec.fit(states[1:])
        left = codec.encode(states[0]).tensors["k.0"].norm() / states[0].tensors["k.0"].norm()
        assert left < 0.25

    def test_means_by_hand(self) -> None:
        def state(items: list[int], numbers: list[float]) -> UserState:
            return UserState({"item": torch.tensor(items), "k.0": torch.tensor([numbers]).T}, 9)

        codec = ItemResidual(shrink=2.0).fit([state([0, 0, 2, 2], [1.0, 3.0, 6.0, 6.0])])
        encoded = codec.encode(state([0, 1, 2, 3], [0.0, 0.0, 0.0, 0.0]))
        means = [(1 + 3 + 2 * 4) / 4, 4, (6 + 6 + 2 * 4) / 4, 4]
        assert encoded.tensors["k.0"][:, 0].tolist() == pytest.approx([-m for m in means], abs=1e-3)

    @settings(deadline=None)
    @given(
        st.lists(FINITE, min_size=8, max_size=8),
        st.lists(FINITE, min_size=8, max_size=8),
        st.sampled_from(BEHIND[:3]),
        st.sampled_from([0.0, 1.0]),
    )
    def test_any_finite_rows(
        self, seen: list[float], given_: list[float], behind: str, shrink: float
    ) -> None:
        def state(row: list[float]) -> UserState:
            x = torch.tensor(row).reshape(1, 4, 2)
            return UserState({"item": torch.tensor([0, 1, 2, 0]), "k.0": x}, 5)

        chain = parse(f"itemresidual(shrink={shrink}){behind}").fit([state(seen)])
        encoded = chain.encode(state(given_))
        decoded = chain.decode(encoded)
        assert decoded.tensors["k.0"].isfinite().all()
        assert equal(chain.encode(decoded), encoded)

    @pytest.mark.parametrize("behind", BEHIND)
    @pytest.mark.parametrize("shrink", [0.0, 1.0])
    @settings(deadline=None, max_examples=20)
    @given(
        seed=st.integers(0, 2**32),
        exponent=st.integers(-30, 30),
        rest=st.integers(0, 24).map(lambda n: 2.0**-n),
    )
    def test_precision_codecs_behind_it_stay_fixed(
        self, behind: str, shrink: float, seed: int, exponent: int, rest: float
    ) -> None:
        scale = 10.0**exponent
        train = by_item(seed=seed, scale=scale, rest=rest)
        chain = parse(f"itemresidual(shrink={shrink}){behind}").fit([train])
        unseen = by_item(seed=seed + 1, scale=scale, rest=1.0)
        unseen = unseen.replace(dict(unseen.tensors) | {"item": unseen.tensors["item"] + 1})
        for state in (train, by_item(seed=seed + 1, scale=scale, rest=rest), unseen):
            encoded = chain.encode(state)
            assert equal(chain.encode(chain.decode(encoded)), encoded)

    @pytest.mark.parametrize("behind", BEHIND)
    def test_odd_numbers_stay_fixed(self, behind: str) -> None:
        chain = parse(f"itemresidual(){behind}").fit(samples())
        encoded = chain.encode(odd_numbers())
        assert equal(chain.encode(chain.decode(encoded)), encoded)

    def test_int8_of_every_small_row_stays_fixed(self) -> None:
        """The rows whose int8 scale is about a step, where rounding could do harm."""
        number = torch.arange(1, 2000)
        rng = torch.Generator().manual_seed(0)
        x = (torch.rand(1999, 8, generator=rng) * 2 - 1) * number[:, None]
        x[:, 0] = number
        state = UserState({"item": torch.zeros(1999, dtype=torch.int64), "k.0": x[None]}, 1999)
        tables = {
            "0.k.0.means": torch.zeros(2, 1, 8, dtype=torch.int16),
            "0.k.0.step": torch.tensor(1.0),
            "0.k.0.floor": torch.tensor(0),
        }
        chain = parse("itemresidual() | int8()").with_tables(tables)
        encoded = chain.encode(state)
        assert equal(chain.encode(chain.decode(encoded)), encoded)

    def test_tiny_residuals_are_dropped_only_where_all_are_tiny(self) -> None:
        alike = [by_item(seed=seed, scale=1, rest=1e-4) for seed in range(3)]
        unlike = [by_item(seed=seed, scale=1, rest=1e-1) for seed in range(3)]
        codec = ItemResidual(shrink=0.0)
        assert not codec.fit(alike).encode(alike[0]).tensors["k.0"].any()
        left = codec.fit(unlike).encode(unlike[0]).tensors["k.0"].abs().amax(-1)
        step = codec.fit(unlike).tables["k.0.step"]
        assert ((left > 0) & (left < FLOOR * step)).any()

    def test_residuals_keep_the_names_of_their_tensors(self) -> None:
        state = sample_state(64)
        encoded = self.fitted().encode(state)
        assert encoded.tensors.keys() == state.tensors.keys()
        assert not any(
            torch.equal(t, encoded.tensors[n])
            for n, t in state.tensors.items()
            if is_row_tensor(n, t)
        )

    @pytest.mark.parametrize("shrink", [-1.0, float("inf")])
    def test_options(self, shrink: float) -> None:
        with pytest.raises(CodecError, match="shrink must be"):
            ItemResidual(shrink=shrink)
