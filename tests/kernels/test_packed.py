"""States run and grown as bytes, against the long way: unpacked, decoded, run, encoded, packed."""

import contextlib
import zlib
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec import backbones, kernels
from gistrec.backbones import Backbone, Direct
from gistrec.dataset import History
from gistrec.errors import DataError
from gistrec.recipe import Recipe
from gistrec.state import equal
from gistrec.state_cache import StateCache, Stored
from gistrec.stores import Entry, open_store
from gistrec.testing.backbones import NUM_ITEMS, random_history

pytestmark = pytest.mark.skipif(not kernels.native(), reason="the compiled core is not in use")

SPECS = [
    "hstu()",
    "hstu(width=40, num_heads=4, memory='mqa()', repeats=True, request_time=False)",
    "hstu(width=6, num_heads=2)",
    "sasrec(num_layers=3)",
    "sasrec(width=24, num_heads=4, memory='gqa(groups=2)')",
]
CHAINS = [
    "identity()",
    "bf16()",
    "int8()",
    "int4()",
    "int4(group=5)",
    "rvq(levels=1)",
    "rvq(levels=3, codes=20)",
    "itemtable()",
    "itemtable(layers=1) | rvq()",
    "recent(keep=14) | itemtable()",
    "recent(keep=20, sink=0) | int8()",
    "recent(keep=1, sink=0)",
    "recent(keep=90) | rvq()",
]
WHOLE_BYTES = 400


@cache
def made(spec: str, chain: str) -> tuple[Backbone, Recipe, Direct | None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = backbones.build(spec, num_items=NUM_ITEMS)
        for name, parameter in net.named_parameters():
            torch.nn.init.normal_(
                parameter, std=1 if "table" in name else parameter.shape[-1] ** -0.5
            )
    net.eval()
    samples = [random_history(n, seed=1) for n in (1, 2, 5, 40, 120)]
    states = [net.empty(hints=True), *net.prefill(samples, hints=True)]
    recipe = Recipe.fit(chain, states, model=net.fingerprint())
    return net, recipe, recipe.direct(net, whole_bytes=WHOLE_BYTES)


def moved(blob: bytes, by: int) -> memoryview:
    """The same bytes, elsewhere in memory."""
    return memoryview(bytes(by) + blob)[by:]


def read(recipe: Recipe, state: bytes, block: bytes | None):
    """What is stored, the long way."""
    entry = Entry(block, 1) if block else None
    return StateCache(recipe, open_store("ram://")).decode("u", Stored(Entry(state, 1), entry))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("chain", CHAINS)
@settings(max_examples=6)
@given(
    length=st.sampled_from([1, 2, 3, 15, 16, 20, 64, 65, 66, 130, 200]),
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    offset=st.integers(0, 7),
    seed=st.integers(0, 99),
)
def test_as_the_long_way(spec, chain, length, counts, offset, seed):
    net, recipe, direct = made(spec, chain)
    assert direct is not None
    whole = random_history(length + sum(counts), seed=seed)
    (state,) = net.prefill([whole[:length]], hints=True)
    stored, block = recipe.to_bytes(state), None
    for count in [*counts, 0]:
        held = read(recipe, stored, block)
        at, seen = int(whole.timestamp[length - 1]) + 900, whole.item_index[:2]
        stored_there, block_there = moved(stored, offset), block and moved(block, offset)
        found = direct.top_k(stored_there, block_there, length, 5, exclude=seen, at=at)
        (wanted,) = net.top_k([held.state], 5, exclude=[seen], at=[at])
        np.testing.assert_allclose(found.score, wanted.score, atol=2e-4, rtol=2e-4)
        some = torch.tensor([3, 1, 3])
        torch.testing.assert_close(
            direct.score(stored_there, block_there, length, some),
            net.score([held.state], some)[0],
            atol=2e-4,
            rtol=2e-4,
        )
        new = whole[length : length + count]
        grown = direct.grow(
            stored_there,
            block_there,
            length,
            new,
            counted=count + 1,
            tail_bytes=WHOLE_BYTES * (count % 2),
        )
        (after,) = net.append([held.state], [new])
        after = after.replace(after.tensors, length=length + count + 1)
        (encoded,), _ = recipe.chain.encode_grown([after], [held.encoded])
        stored = grown.state
        block = None if not grown.is_tail else grown.block or block
        same(read(recipe, stored, block).encoded, encoded, recipe)
        # an event that the model does not know is counted and leaves nothing
        held = read(recipe, stored, block)
        back = held.encoded.replace(held.encoded.tensors, length=length + count)
        stored, block, length = recipe.pack(back), None, length + count


def same(found, wanted, recipe) -> None:
    """Codes are those of rows that were added up in another order: nearly all equal."""
    if equal(found, wanted):
        return
    assert found.length == wanted.length
    rows, others = recipe.chain.decode(found).tensors, recipe.chain.decode(wanted).tensors
    assert rows.keys() == others.keys()
    for name, tensor in rows.items():
        other = others[name]
        assert tensor.shape == other.shape
        far = (tensor - other).abs() > 1e-2 * other.abs().max().clamp(min=1)
        assert far.float().mean() < 0.1, name  # a code on the edge may fall to the other side


def test_an_item_table_of_some_ids():
    net, _, _ = made("hstu()", "itemtable()")
    samples = [random_history(n, seed=1) for n in (1, 2, 40)]
    few = [History(s.item_index % 2 * 27 + 1, s.timestamp) for s in samples]
    states = [net.empty(hints=True), *net.prefill(few, hints=True)]
    recipe = Recipe.fit("itemtable()", states, model=net.fingerprint())
    assert any(name.endswith(".ids") for name in recipe.chain.all_tables())
    direct = recipe.direct(net, whole_bytes=WHOLE_BYTES)
    (state,) = net.prefill([random_history(80)], hints=True)
    none = np.zeros(0, np.int64)
    found = direct.top_k(recipe.to_bytes(state), None, 80, 9, exclude=none)
    (wanted,) = net.top_k([recipe.round_trip(state)], 9)
    np.testing.assert_allclose(found.score, wanted.score, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("chain", ["int4()", "itemtable()", "rvq()"])
def test_what_is_not_such_a_state_is_refused(chain):
    net, recipe, direct = made("hstu()", chain)
    whole = random_history(70)
    (state,) = net.prefill([whole[:60]], hints=True)
    blob = recipe.to_bytes(state)

    def grow(state, block, length):
        return direct.grow(
            state,
            block,
            length,
            whole[60:61],
            counted=1,
            tail_bytes=WHOLE_BYTES,
        )

    def refused(state, block, length=60):
        asked = direct.top_k(state, block, length, 5, exclude=whole.item_index[:0])
        return asked is None and grow(state, block, length) is None

    assert not refused(blob, None)
    assert refused(blob, None, 59)
    assert refused(blob, None, 61)
    assert refused(b"", None)
    for size in range(1, len(blob), 7):
        assert refused(blob[:size], None)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(blob), 60).tolist():
        assert refused(blob[:place] + bytes([blob[place] ^ 4]) + blob[place + 1 :], None)
    grown = grow(blob, None, 60)
    if grown.is_tail:
        assert not refused(grown.state, grown.block, 61)
        assert refused(grown.state, None, 61)
        assert refused(grown.state, blob, 61)
    # right checksums around nonsense
    for _ in range(300):
        body = bytearray(blob[:-4])
        for place in rng.integers(5, len(body), 3).tolist():
            body[place] = int(rng.integers(256))
        with contextlib.suppress(DataError):  # of numbers that are not finite
            refused(bytes(body) + zlib.crc32(bytes(body)).to_bytes(4, "little"), None)
    empty = recipe.to_bytes(net.empty(hints=True))
    assert direct.top_k(empty, None, 0, 5, exclude=whole.item_index[:0]) is None
    assert grow(empty, None, 0) is not None


def test_rows_that_no_code_stands_for_are_refused():
    net, recipe, _ = made("sasrec(num_layers=3)", "int8()")
    with torch.random.fork_rng(devices=[]):
        broken = backbones.build("sasrec(num_layers=3)", num_items=NUM_ITEMS).eval()
    broken.load_state_dict(net.state_dict())
    (state,) = broken.prefill([random_history(9)])
    with torch.no_grad():
        broken.layers[0].memory.project.bias.fill_(torch.inf)
    recipe = Recipe.fit(
        "int8()",
        [net.empty(), *net.prefill([random_history(n) for n in (1, 2, 9)])],
        model=broken.fingerprint(),
    )
    state = state.replace(state.tensors)
    blob = recipe.pack(recipe.chain.encode(type(state)(state.tensors, 9, broken.fingerprint())))
    direct = recipe.direct(broken, whole_bytes=2000)
    new = History(np.array([1]), np.array([2_000_000_000]))
    assert (
        direct.grow(
            blob,
            None,
            9,
            new,
            counted=1,
            tail_bytes=0,
        )
        is None
    )


@pytest.mark.parametrize(
    "chain",
    [
        "h2o(keep=8)",
        "kivi()",
        "int8() | zstd()",
        "itemresidual() | rvq()",
        "recent(keep=8) | fp8()",
    ],
)
def test_what_is_not_compiled_takes_the_long_way(chain):
    assert made("hstu()", chain)[2] is None


@given(data=st.binary(max_size=300), repeats=st.integers(1, 9))
def test_checksums_are_those_of_zlib(data, repeats):
    from gistrec._native import checksum

    assert checksum(data * repeats) == zlib.crc32(data * repeats)
