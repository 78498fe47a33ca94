from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from gistrec import backbones
from gistrec.codecs import Codec, Evict, chain, parse
from gistrec.codecs.bf16 import BF16
from gistrec.codecs.identity import Identity
from gistrec.codecs.int8 import Int8
from gistrec.codecs.lowrank import LowRank
from gistrec.codecs.recent import Recent
from gistrec.codecs.rvq import RVQ
from gistrec.codecs.zstd import Zstd
from gistrec.errors import BudgetError, CodecError
from gistrec.state import UserState, equal, positions
from gistrec.testing.backbones import NUM_ITEMS, random_history
from gistrec.testing.codecs import LENGTHS, REFERENCE_LENGTH, odd_numbers, samples
from gistrec.testing.data import sample_state

SLOTS = st.builds(Recent, keep=st.integers(9, 999), sink=st.integers(0, 8))
WIDTHS = st.builds(LowRank, rank=st.integers(1, 99))
PRECISIONS = st.sampled_from([BF16(), Int8(), Identity()]) | st.builds(
    RVQ, levels=st.integers(1, 16), codes=st.integers(2, 256)
)
BYTES = st.builds(Zstd, level=st.integers(1, 22), dict_bytes=st.sampled_from([0, 512]))


def nbytes(codec: Codec) -> float:
    return codec.fit(samples()).encode(sample_state(REFERENCE_LENGTH)).nbytes


@settings(deadline=None)
@given(st.tuples(*(st.lists(part, max_size=1) for part in (SLOTS, WIDTHS, PRECISIONS, BYTES))))
def test_spec_round_trip(parts: tuple[list[Codec], ...]) -> None:
    flat = [part for stage in parts for part in stage]
    if flat:
        assert parse(str(chain(flat))) == parse(repr(chain(flat))) == chain(flat)


def test_joining_with_a_bar_is_the_same_as_parsing() -> None:
    spec = "recent(keep=9, sink=4) | int8() | zstd(level=3, dict_bytes=0)"
    assert str(parse(spec)) == spec
    assert (Recent(keep=9) | (Int8() | Zstd())) == parse(spec)
    assert ((Recent(keep=9) | Int8()) | Zstd()) == parse(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "int8() | recent(keep=9)",
        "lowrank(rank=2) | recent(keep=9)",
        "rvq() | lowrank(rank=2)",
        "bf16() | int8()",
        "zstd() | int8()",
    ],
)
def test_order_errors(spec: str) -> None:
    with pytest.raises(CodecError, match="can't follow"):
        parse(spec)


def test_empty_chain_is_an_error() -> None:
    with pytest.raises(CodecError, match="at least one"):
        chain([])


@pytest.mark.parametrize(
    "spec",
    [
        "recent(keep=30) | rvq(codes=32)",
        "lowrank(rank=5) | bf16()",
        "lowrank(rank=5) | int8()",
        "lowrank(rank=5) | rvq(levels=4, codes=32)",
        "recent(keep=30) | lowrank(rank=1) | int8() | zstd()",
        "groupmean(group=3, window=4) | int8()",
        "mergeevict(keep=30) | rvq(codes=32)",
    ],
)
def test_encoding_again_changes_nothing(spec: str) -> None:
    codec = parse(spec).fit(samples())
    for state in [odd_numbers(), *(sample_state(length) for length in LENGTHS)]:
        encoded = codec.encode(state)
        assert equal(codec.encode(codec.decode(encoded)), encoded)


def test_each_part_is_fitted_on_what_the_parts_before_it_make() -> None:
    fitted = parse("lowrank(rank=3) | rvq(levels=2, codes=16)").fit(samples())
    tables = fitted.all_tables()
    assert tables["0.k.0.basis"].shape == (3, 2, 8)
    assert tables["1.k.0.coef.codebooks"].shape == (2, 16, 3)
    again = parse(str(fitted)).with_tables(load(save(tables)))
    assert equal(again.encode(sample_state(64)), fitted.encode(sample_state(64)))


def test_byte_codecs_are_fitted_and_undone_in_reverse() -> None:
    blobs = [bytes([n % 7]) * 9 + bytes(range(100)) for n in range(200)]
    fitted = parse("int8() | zstd(dict_bytes=512) | zstd(level=1)").fit_bytes(blobs)
    assert list(fitted.all_tables()) == ["1.dictionary"]
    packed = fitted.compress(blobs[0])
    assert fitted.expand(packed) == blobs[0]
    assert packed == fitted.byte_codecs[1].compress(fitted.byte_codecs[0].compress(blobs[0]))


@pytest.mark.parametrize("budget_bytes", [6_000, 20_000])
@pytest.mark.parametrize("spec", ["recent(keep=99)", "rvq(codes=4)", "recent(keep=99) | int8()"])
def test_the_dial_is_turned_as_far_as_the_budget_allows(spec: str, budget_bytes: int) -> None:
    best = parse(spec).at_budget(budget_bytes, nbytes)
    (turned, *_), (given, *_) = best.codecs, parse(spec).codecs
    assert str(best) == str(parse(spec)).replace(str(given), str(turned))
    assert nbytes(best) <= budget_bytes
    value = getattr(turned, turned.dial)
    if value < max(turned.dial_values):
        more = str(best).replace(f"{turned.dial}={value}", f"{turned.dial}={value + 1}")
        assert nbytes(parse(more)) > budget_bytes


def test_turning_the_dial_drops_fitted_tables() -> None:
    fitted = LowRank(rank=2).fit(samples())
    assert fitted.at_budget(10_000, nbytes).tables == {}


@pytest.mark.parametrize("spec", ["recent(keep=9)", "lowrank(rank=2) | bf16()", "int8()"])
def test_a_budget_out_of_reach_is_an_error(spec: str) -> None:
    with pytest.raises(BudgetError, match=r"takes \d+ bytes per user"):
        parse(spec).at_budget(64, nbytes)


@dataclass(frozen=True)
class KeyNorm(Evict):
    needs = frozenset({"k"})

    def importance(self, state: UserState, layer: int) -> Tensor:
        return state.tensors[f"k.{layer}"].norm(dim=-1)


def norms(*values: float) -> UserState:
    k = torch.tensor(values, dtype=torch.float32)[None, :, None].repeat(2, 1, 4)
    return UserState({"k.0": k, "k.1": k, "time": torch.arange(len(values))}, len(values))


@pytest.mark.parametrize(
    ("codec", "kept"),
    [
        (KeyNorm(keep=3), [2, 4, 6]),
        (KeyNorm(keep=4, sink=1), [0, 2, 4, 6]),
        (KeyNorm(keep=3, window=2), [4, 5, 6]),
        (KeyNorm(keep=4, sink=1, window=2), [0, 4, 5, 6]),
        (KeyNorm(keep=9), [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_evict_keeps_sinks_window_and_the_most_important(codec: Evict, kept: list[int]) -> None:
    encoded = codec.encode(norms(1, 2, 7, 3, 9, 5, 4))
    assert encoded.tensors["pos"].tolist() == encoded.tensors["time"].tolist() == kept


def test_evict_prefers_the_newest_of_equals() -> None:
    assert KeyNorm(keep=2).encode(norms(1, 1, 1, 1)).tensors["pos"].tolist() == [2, 3]


def test_missing_tensor_is_an_error() -> None:
    with pytest.raises(CodecError, match="needs k in the state, which holds latent"):
        KeyNorm(keep=2).encode(UserState({"latent.0": torch.zeros(3, 4)}, 3))


def test_numbers_that_stand_alone_are_left_alone() -> None:
    state = UserState({"k.0": torch.ones(2, 3, 4), "weight": torch.ones(3)}, 3)
    assert Int8().encode(state).tensors["weight"] is state.tensors["weight"]


@pytest.mark.parametrize(
    "spec", ["random(keep=9)", "keynorm(keep=9)", "tova(keep=9)", "mergeevict(keep=9)"]
)
def test_positions_go_on_behind_evicted_slots(spec: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = backbones.build("hstu(width=16)", num_items=NUM_ITEMS).eval()
    chain, states = parse(spec), [net.empty(hints=True)]
    whole = random_history(40)
    for n in range(40):
        states = net.append(states, [whole[n : n + 1]])
        states = [chain.decode(chain.encode(state)) for state in states]
        assert positions(states[0])[-1:].tolist() == [n - 1][:n]


def test_evicting_from_a_state_of_constant_size_changes_nothing() -> None:
    state = UserState({"fixed.k.0": torch.ones(2, 4, 8), "fixed.count": torch.tensor([9])}, 10)
    assert equal(parse("recent(keep=9)").encode(state), state)


@pytest.mark.parametrize("name", ["h2o", "snapkv", "tova"])
def test_attention_is_counted_on_behind_a_stored_state(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = backbones.build("hstu(width=16)", num_items=NUM_ITEMS).eval()
    chain, states = parse(f"{name}(keep=99)"), [net.empty(hints=True)]
    whole = random_history(40)
    for n in range(40):
        states = [chain.decode(chain.encode(s)) for s in states]
        states = net.append(states, [whole[n : n + 1]])
    (score,) = (n for n in chain.decode(chain.encode(states[0])).tensors if n.startswith("hint."))
    prefilled = net.prefill([whole], hints=True)[0].tensors[score]
    torch.testing.assert_close(states[0].tensors[score], prefilled, rtol=0.01, atol=1e-5)
