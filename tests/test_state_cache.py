import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.errors import (
    ConflictError,
    CorruptStateError,
    DataError,
    FormatVersionError,
    StaleStateError,
)
from gistrec.recipe import Recipe
from gistrec.state import UserState, equal, slot_axis
from gistrec.state_cache import StateCache
from gistrec.store_settings import KEY
from gistrec.stored_states import block_key, state_key
from gistrec.stores import Put, open_store
from gistrec.testing.data import sample_state

STATES = [sample_state(n) for n in (0, 1, 2, 9, 60, 200)]
MODEL = STATES[0].model
SPEC = "recent(keep=16) | bf16()"


@pytest.fixture
def recipe():
    return Recipe.fit(SPEC, STATES, model=MODEL)


@pytest.fixture
def store():
    return open_store("ram://")


class TestStateCache:
    def test_saved_and_loaded(self, recipe, store):
        cache = StateCache(recipe, store)
        assert cache.load("u") is None
        receipt = cache.save("u", STATES[4])
        held = cache.load("u")
        assert equal(held.state, recipe.round_trip(STATES[4]))
        assert equal(receipt.state, held.state)
        assert held.version == receipt.version == cache.read("u").version
        assert held.stored_bytes == receipt.stored_bytes == cache.stored_bytes("u")
        assert cache.load("v") is None

    def test_a_small_state_is_one_value(self, recipe, store):
        cache = StateCache(recipe, store)
        held = cache.save("u", STATES[3])
        assert cache.version == f"{recipe.manifest.id:08x}"
        assert list(store.keys("q")) == []
        assert list(store.keys("s")) == [f"s{cache.version}/u"]
        assert held.stored_bytes == len(store.get(f"s{cache.version}/u").blob)

    def test_compare_and_set(self, recipe, store):
        cache = StateCache(recipe, store)
        old = cache.save("u", STATES[1], if_version=0).version
        new = cache.save("u", STATES[2], if_version=old).version
        for wrong in (old, 0):
            with pytest.raises(ConflictError):
                cache.save("u", STATES[3], if_version=wrong)
        assert cache.load("u").state.length == STATES[2].length
        assert cache.read("u").version == new

    def test_versions_live_beside_each_other(self, recipe, store):
        one = StateCache(recipe, store)
        other = StateCache(Recipe.fit("int8()", STATES, model=MODEL), store)
        large = StateCache(Recipe.fit("identity()", STATES, model=MODEL), store)
        assert len({one.version, other.version, large.version}) == 3
        for cache, state in ((one, STATES[3]), (other, STATES[4]), (large, STATES[5])):
            assert cache.load("u") is None
            cache.save("u", state, if_version=0)
        lengths = [cache.load("u").state.length for cache in (one, other, large)]
        assert lengths == [state.length for state in STATES[3:]]
        assert one.stats().users == other.stats().users == 1
        assert store.get(f"q{large.version}/u") is not None
        assert one.forget("u") is True
        assert list(store.keys("s")) == list(store.keys("q")) == []

    def test_states_of_another_model_are_another_version(self, recipe, store):
        states = [UserState(s.tensors, s.length, "new model") for s in STATES]
        new = Recipe.fit(SPEC, states, model="new model")
        assert StateCache(new, store).version != StateCache(recipe, store).version

    def test_a_state_under_another_versions_key_is_stale(self, recipe, store):
        """Two versions of one name, as one in 4 billion pairs has."""
        one, other = StateCache(recipe, store), Recipe.fit("int8()", STATES, model=MODEL)
        store.put(f"s{one.version}/u", other.to_bytes(STATES[3]))
        with pytest.raises(StaleStateError, match=f"{other.manifest.id:08x}"):
            one.load("u")
        one.save("u", STATES[3], if_version=one.read("u").version)
        assert one.load("u").state.length == 9

    def test_states_of_the_layout_without_versions_are_not_read_but_erased(self, recipe, store):
        """As version 0.1 wrote them before versions were in the keys."""
        cache = StateCache(recipe, store)
        store.put_many([Put("s/u", recipe.to_bytes(STATES[3])), Put("q/u", b"block")])
        assert cache.load("u") is None
        assert cache.forget("u") is True
        assert list(store.keys()) == []

    def test_what_a_state_covers_is_read_from_its_header(self, recipe, store):
        large = StateCache(Recipe.fit("identity()", STATES, model=MODEL), store)
        small = StateCache(recipe, store)
        for cache in (small, large):
            assert cache.covered(cache.read("u")) == 0
            for state in STATES:
                cache.save("u", state)
                assert cache.covered(cache.read("u")) == state.length
        store.delete(f"q{large.version}/u")
        assert large.covered(large.read("u")) == 0
        store.put(f"s{small.version}/u", b"rubbish")
        assert small.covered(small.read("u")) == 0

    def test_many_are_saved_at_once(self, store):
        cache = StateCache(Recipe.fit("int8()", STATES, model=MODEL), store)
        version = cache.save("u0", STATES[1]).version
        asked = [(f"u{n}", state, 0) for n, state in enumerate(STATES)]
        assert cache.save_many(asked) == [False] + [True] * 5
        assert cache.save_many([("u0", STATES[2], version), ("v", STATES[2], 0)]) == [True, True]
        assert cache.load("u0").state.length == STATES[2].length
        for n in range(1, 6):
            assert equal(cache.load(f"u{n}").state, cache.recipe.round_trip(STATES[n]))
            assert cache.covered(cache.read(f"u{n}")) == STATES[n].length

    def test_damaged_states_are_corrupt(self, recipe, store):
        cache = StateCache(recipe, store)
        cache.save("u", STATES[3])
        key = f"s{cache.version}/u"
        blob = store.get(key).blob
        for bad in (blob[:-1], blob[:10] + b"!" + blob[11:], b""):
            store.put(key, bad)
            with pytest.raises(CorruptStateError):
                cache.load("u")
            assert cache.stored_bytes("u") == len(bad)
        assert cache.read("u").version > 0
        assert cache.forget("u") is True

    def test_forget(self, recipe, store):
        cache = StateCache(recipe, store)
        cache.save("u", STATES[3])
        assert cache.forget("u") is True
        assert cache.forget("u") is False
        assert cache.load("u") is None
        assert cache.read("u").version == cache.stored_bytes("u") == 0

    def test_stats(self, recipe, store):
        cache = StateCache(recipe, store)
        assert cache.stats() == (0, 0, 0.0, 0.0)
        store.put("h/u", b"no state")
        sizes = [cache.save(f"user {n}", STATES[n % len(STATES)]).stored_bytes for n in range(600)]
        stats = cache.stats()
        assert stats.users == 600
        assert stats.bytes_total == sum(sizes)
        assert stats.bytes_p50 == np.percentile(sizes, 50)
        assert stats.bytes_p99 == np.percentile(sizes, 99)

    def test_wrong_user_ids(self, recipe, store):
        cache = StateCache(recipe, store)
        for call in (cache.load, cache.forget, cache.stored_bytes):
            with pytest.raises(DataError, match="user id"):
                call("")


class Counting:
    """A store that remembers the bytes of its last group of writes, by kind and user."""

    def __init__(self):
        self.inner = open_store("ram://")
        self.written = {}

    def put_many(self, puts):
        versions = self.inner.put_many(puts)
        self.written = {
            f"{put.key[0]}/{put.key.partition('/')[2]}": len(put.blob)
            for put in puts
            if put.blob is not None
        }
        return versions

    def __getattr__(self, name):
        return getattr(self.inner, name)


def first_slots(state, count):
    """The state of a user before the newest slots came."""
    kept = {
        name: tensor.narrow(slot_axis(name, tensor), 0, count) for name, tensor in state.slots()
    }
    return state.replace({**state.tensors, **kept}, length=count + 1)


def grown(held, state):
    """What a backbone makes of a stored state: its slots followed by the new ones of `state`."""
    tensors = dict(state.tensors)
    for name, tensor in held.state.slots() if held else ():
        axis, old = slot_axis(name, tensor), tensor.shape[slot_axis(name, tensor)]
        new = tensors[name].narrow(axis, old, tensors[name].shape[axis] - old)
        tensors[name] = torch.cat([tensor, new], axis)
    return state.replace(tensors)


@pytest.fixture(params=["identity()", "int8()", "bf16() | zstd()", "intactkv()"])
def growing(request):
    """A cache of states that only gain slots."""
    return StateCache(Recipe.fit(request.param, STATES, model=MODEL), Counting())


class TestLargeStates:
    whole = sample_state(400)

    def test_an_append_writes_the_tail_only(self, growing):
        held = growing.save("u", first_slots(self.whole, 300))
        assert growing._store.written.keys() == {"s/u", "q/u"}
        for count in range(301, 306):
            state = grown(held, first_slots(self.whole, count))
            held = growing.save("u", state, grown_from=held)
            assert growing._store.written.keys() == {"s/u"}
            assert growing._store.written["s/u"] < 2000
            again = growing.load("u")
            assert equal(again.state, growing.recipe.round_trip(state))
            assert equal(held.state, again.state)
            assert held[1:3] == again[1:3]
            assert held.stored_bytes == growing.stored_bytes("u")

    @settings(max_examples=25)
    @given(cuts=st.lists(st.integers(0, 399), min_size=2, max_size=8, unique=True))
    def test_cuts_do_not_matter(self, cuts):
        recipe = Recipe.fit("int8()", STATES, model=MODEL)
        cache, held = StateCache(recipe, Counting()), None
        for count in sorted(cuts):
            state = grown(held, first_slots(self.whole, count))
            cache.save("u", state, grown_from=held)
            held = cache.load("u")
            assert equal(held.state, recipe.round_trip(state))
            assert cache._store.written["s/u"] <= 2000

    def test_a_long_tail_is_sealed(self, growing):
        held, sealed = None, 0
        for count in range(0, 400, 7):
            state = grown(held, first_slots(self.whole, count))
            held = growing.save("u", state, grown_from=held)
            sealed += "q/u" in growing._store.written
            assert equal(growing.load("u").state, growing.recipe.round_trip(state))
        assert 1 < sealed < 40

    @pytest.mark.parametrize("spec", ["kivi(recent=5)", "kivi(group=8)", "groupmean(group=3)"])
    def test_codecs_that_rework_the_newest_slots(self, spec):
        recipe = Recipe.fit(spec, STATES, model=MODEL)
        cache, held = StateCache(recipe, Counting()), None
        for count in range(250, 300):
            state = first_slots(self.whole, count)  # encoded anew, all of it
            held = cache.save("u", state, grown_from=held)
            assert equal(cache.load("u").state, held.state)
            assert equal(held.state, recipe.round_trip(state))

    def test_slots_that_changed_are_written_whole(self, growing):
        held = growing.save("u", first_slots(self.whole, 300))
        other = first_slots(sample_state(400, seed=3), 301)
        growing.save("u", other, if_version=held.version)
        assert "q/u" in growing._store.written
        assert equal(growing.load("u").state, growing.recipe.round_trip(other))
        shorter = first_slots(self.whole, 290)
        growing.save("u", shorter)
        assert equal(growing.load("u").state, growing.recipe.round_trip(shorter))

    def test_evicted_states_are_written_whole(self):
        recipe = Recipe.fit("recent(keep=100)", STATES, model=MODEL)
        cache = StateCache(recipe, Counting())
        held = cache.save("u", first_slots(self.whole, 200))
        new = first_slots(self.whole, 210).select(torch.arange(200, 210))
        tensors = dict(new.tensors)
        for name, tensor in held.state.slots():
            tensors[name] = torch.cat([tensor, tensors[name]], slot_axis(name, tensor))
        again = cache.save("u", new.replace(tensors), grown_from=held)
        assert "q/u" in cache._store.written
        assert equal(again.state, recipe.round_trip(first_slots(self.whole, 210)))
        assert equal(cache.load("u").state, again.state)

    def test_a_state_that_became_small_leaves_no_block(self, growing):
        held = growing.save("u", self.whole)
        growing.save("u", first_slots(self.whole, 3), if_version=held.version)
        assert list(growing._store.keys("q")) == []
        assert len(list(growing._store.keys("s"))) == 1

    def test_a_state_of_fixed_size_is_one_value(self):
        states = [s.replace({"fixed.k.0": torch.randn(2, 300, 8)}) for s in STATES]
        cache = StateCache(Recipe.fit("identity()", states, model=MODEL), Counting())
        held = cache.save("u", states[0])
        cache.save("u", states[1], grown_from=held)
        assert list(cache._store.keys("q")) == []
        assert equal(cache.load("u").state, states[1])

    def test_somebody_elses_write_is_not_lost(self, growing):
        held = growing.save("u", first_slots(self.whole, 300))
        growing.save("u", first_slots(self.whole, 350), grown_from=held)
        with pytest.raises(ConflictError):
            growing.save("u", first_slots(self.whole, 301), grown_from=held)
        assert growing.load("u").state.num_slots == 350

    def test_every_damage_is_noticed(self):
        cache = StateCache(Recipe.fit("int8()", STATES, model=MODEL), open_store("ram://"))
        held = cache.save("u", first_slots(self.whole, 300))
        cache.save("u", first_slots(self.whole, 302), grown_from=held)
        keys = state_key(cache.version, "u"), block_key(cache.version, "u")
        for key in keys:
            blob = cache._store.get(key).blob
            for place in {*range(24), *range(len(blob) - 24, len(blob)), len(blob) // 2}:
                cache._store.put(key, blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :])
                with pytest.raises((CorruptStateError, FormatVersionError)):
                    cache.load("u")
            cache._store.put(key, blob)
        cache._store.put(keys[1], cache.recipe.to_bytes(first_slots(self.whole, 299)))
        with pytest.raises(CorruptStateError, match="sealed block"):
            cache.load("u")
        cache._store.delete(keys[1])  # an engine evicts keys, not states
        assert cache.load("u") is None

    def test_forget_leaves_nothing(self, growing):
        growing.save("u", self.whole)
        growing.save("u/v", self.whole)
        assert growing.forget("u") is True
        assert growing.forget("u") is False
        keys = [key(growing.version, "u/v") for key in (block_key, state_key)]
        assert list(growing._store.keys()) == sorted([*keys, KEY])
        growing._store.delete(keys[1])  # lost by the store
        assert growing.forget("u/v") is True
        assert list(growing._store.keys()) == [KEY]

    def test_stats_count_blocks_and_tails(self, growing):
        sizes = [growing.save(f"{n}", STATES[n % 6]).stored_bytes for n in range(300)]
        assert growing.stats().bytes_total == sum(sizes)
        assert growing.stats().users == 300

    def test_golden_tail(self):
        def state(slots):
            return UserState(
                {
                    "k.0": torch.arange(2.0 * slots).reshape(1, slots, 2),
                    "item": torch.arange(slots) + 7,
                    "tail.item": torch.tensor([9]),
                },
                slots + 1,
                MODEL,
            )

        recipe = Recipe.fit("identity()", [state(1), state(4)], model=MODEL)
        cache = StateCache(recipe, open_store("ram://"))
        cache.save("u", state(300))
        # written by version 0.1
        tail = "00e2f5eafe01f6b1d4e8af02010300001644004016440080164400c0164401e60402d504fb674bb3"
        cache._store.put(state_key(cache.version, "u"), bytes.fromhex(tail))
        assert equal(cache.load("u").state, state(302))

    def test_forget_wins_over_a_save_in_between(self, growing, monkeypatch):
        growing.save("u", self.whole)
        put_many, raced = growing._store.inner.put_many, []

        def slow(puts):
            if not raced:
                raced.append(True)
                growing.save("u", first_slots(self.whole, 300))
            return put_many(puts)

        monkeypatch.setattr(growing._store.inner, "put_many", slow)
        assert growing.forget("u") is True
        assert list(growing._store.keys()) == [KEY]
