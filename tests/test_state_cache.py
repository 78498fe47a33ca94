import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec import codecs
from gistrec.codecs import ByteCodec, Chain, Codec
from gistrec.errors import (
    ConfigError,
    ConflictError,
    CorruptStateError,
    DataError,
    FormatVersionError,
    StaleStateError,
    StateError,
)
from gistrec.state import UserState, equal, slot_axis
from gistrec.state_cache import Recipe, StateCache
from gistrec.stores import open_store
from gistrec.testing.data import sample_state
from gistrec.wire import digest

STATES = [sample_state(n) for n in (0, 1, 2, 9, 60, 200)]
MODEL = STATES[0].model
SPEC = "recent(keep=16) | bf16()"


@dataclasses.dataclass(frozen=True)
class Scaled(Codec):
    """Divides keys by their greatest magnitude in the samples: a fitted table for tests."""

    tables: dict = dataclasses.field(default_factory=dict, repr=False)

    def fit(self, states):
        greatest = max(s.tensors["k.0"].abs().max() for s in states if s.num_slots)
        return dataclasses.replace(self, tables={"scale": greatest.reshape(1)})

    def encode(self, state):
        return self._times(state, 1 / self.tables["scale"])

    def decode(self, state):
        return self._times(state, self.tables["scale"])

    def _times(self, state, factor):
        return state.replace({**state.tensors, "k.0": state.tensors["k.0"] * factor})


@dataclasses.dataclass(frozen=True)
class Seen(ByteCodec):
    """Xors every byte with the number of samples it was fitted on."""

    tables: dict = dataclasses.field(default_factory=dict, repr=False)

    def fit_bytes(self, blobs):
        return dataclasses.replace(self, tables={"count": torch.tensor([len(blobs)])})

    def compress(self, data):
        return bytes(byte ^ int(self.tables["count"]) for byte in data)

    expand = compress


FITTED = Chain((Scaled(),), (Seen(),))


@pytest.fixture
def recipe():
    return Recipe.fit(SPEC, STATES, model=MODEL)


@pytest.fixture
def store():
    return open_store("ram://")


class TestRecipe:
    def test_without_loss(self):
        recipe = Recipe.fit("identity()", STATES, model=MODEL)
        for state in STATES:
            assert equal(recipe.from_bytes(recipe.to_bytes(state)), state)
        assert recipe.shared_bytes == 0

    @pytest.mark.parametrize("spec", [SPEC, f"{SPEC} | zstd()", "int8()"])
    def test_what_comes_back_is_what_the_chain_makes_of_it(self, spec):
        recipe = Recipe.fit(spec, STATES, model=MODEL)
        for state in STATES:
            back = recipe.from_bytes(recipe.to_bytes(state))
            assert equal(back, codecs.parse(spec).decode(codecs.parse(spec).encode(state)))
            assert equal(back, recipe.round_trip(state))
            assert recipe.to_bytes(back) == recipe.to_bytes(state)  # nothing drifts

    def test_smaller_chains_make_smaller_bytes(self):
        sizes = [
            len(Recipe.fit(spec, STATES, model=MODEL).to_bytes(STATES[-1]))
            for spec in ("identity()", "bf16()", "int8()", "recent(keep=16) | int8()")
        ]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] > 10 * sizes[-1]

    def test_fits_codecs_then_byte_codecs(self):
        recipe = Recipe.fit(FITTED, STATES, model=MODEL)
        greatest = max(s.tensors["k.0"].abs().max() for s in STATES[2:])
        tables = recipe.chain.all_tables()
        assert tables["0.scale"] == greatest
        assert tables["1.count"] == len(STATES)
        assert recipe.shared_bytes == 4 + 8
        assert recipe.manifest.tables == digest(tables)
        back = recipe.from_bytes(recipe.to_bytes(STATES[3]))
        torch.testing.assert_close(back.tensors["k.0"], STATES[3].tensors["k.0"])
        assert FITTED.all_tables() == {}

    def test_states_of_other_tables_are_stale(self):
        one = Recipe.fit(FITTED, STATES, model=MODEL)
        other = Recipe.fit(FITTED, STATES[:4], model=MODEL)
        with pytest.raises(StaleStateError):
            other.from_bytes(one.to_bytes(STATES[3]))

    def test_needs_states_of_several_lengths(self):
        with pytest.raises(StateError, match="one length"):
            Recipe.fit(SPEC, [sample_state(5), sample_state(5, seed=1)], model=MODEL)

    def test_states_must_be_of_the_model(self):
        with pytest.raises(StaleStateError, match="another"):
            Recipe.fit(SPEC, STATES, model="another")

    def test_a_size_that_no_sample_had_is_refused(self):
        recipe = Recipe.fit("recent(keep=5)", STATES[4:], model=MODEL)  # always 5 slots
        with pytest.raises(StateError, match=r"has k\.0 .* \(2, 5, 8\).*fit the recipe on samples"):
            recipe.to_bytes(sample_state(3))


class TestFolder:
    def test_saved_and_loaded(self, tmp_path, recipe):
        for spec in (SPEC, "int8() | zstd(level=5)", "rvq(levels=1, codes=4)"):
            recipe = Recipe.fit(spec, STATES, model=MODEL)
            recipe.save(tmp_path / "new" / "recipe")
            found = Recipe.load(tmp_path / "new" / "recipe")
            assert found.manifest == recipe.manifest
            assert str(found.chain) == str(recipe.chain)
            assert found.shared_bytes == recipe.shared_bytes
            for state in STATES:
                blob = recipe.to_bytes(state)
                assert found.to_bytes(state) == blob
                assert equal(found.from_bytes(blob), recipe.from_bytes(blob))
        names = sorted(path.name for path in (tmp_path / "new" / "recipe").iterdir())
        assert names == ["recipe.json", "recipe.safetensors"]

    def test_none_there(self, tmp_path):
        with pytest.raises(ConfigError, match="no recipe in"):
            Recipe.load(tmp_path / "missing")

    def test_files_of_two_recipes(self, tmp_path):
        Recipe.fit("rvq(levels=1, codes=4)", STATES, model=MODEL).save(tmp_path)
        tables = safetensors.torch.load_file(tmp_path / "recipe.safetensors")
        name = next(iter(tables))
        tables[name] = tables[name] + 1
        safetensors.torch.save_file(tables, tmp_path / "recipe.safetensors")
        with pytest.raises(CorruptStateError, match="does not belong"):
            Recipe.load(tmp_path)

    @pytest.mark.parametrize("name", ["recipe.json", "recipe.safetensors"])
    def test_damaged(self, tmp_path, recipe, name):
        recipe.save(tmp_path)
        for content in (b"", b"[]", b"rubbish", (tmp_path / name).read_bytes()[:-5]):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(CorruptStateError, match=r"fit the recipe again|save"):
                Recipe.load(tmp_path)
            recipe.save(tmp_path)

    def test_unknown_version(self, tmp_path, recipe):
        recipe.save(tmp_path)
        plain = json.loads((tmp_path / "recipe.json").read_text())
        (tmp_path / "recipe.json").write_text(json.dumps(plain | {"version": 5}))
        with pytest.raises(FormatVersionError, match="version 5"):
            Recipe.load(tmp_path)

    def test_a_failed_write_leaves_the_old_recipe(self, tmp_path, recipe, monkeypatch):
        recipe.save(tmp_path)

        def fail(*paths):
            raise OSError("disk full")

        monkeypatch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="disk full"):
            Recipe.fit("int8()", STATES, model=MODEL).save(tmp_path)
        assert Recipe.load(tmp_path).manifest == recipe.manifest


class TestStateCache:
    def test_saved_and_loaded(self, recipe, store):
        cache = StateCache(recipe, store)
        assert cache.load("u") is None
        receipt = cache.save("u", STATES[4])
        held = cache.load("u")
        assert equal(held.state, recipe.round_trip(STATES[4]))
        assert equal(receipt.state, held.state)
        assert held.version == receipt.version == cache.version("u")
        assert held.stored_bytes == receipt.stored_bytes == cache.stored_bytes("u")
        assert cache.load("v") is None

    def test_a_small_state_is_one_value(self, recipe, store):
        held = StateCache(recipe, store).save("u", STATES[3])
        assert list(store.keys()) == ["s/u"]
        assert held.stored_bytes == len(store.get("s/u").blob)

    def test_compare_and_set(self, recipe, store):
        cache = StateCache(recipe, store)
        old = cache.save("u", STATES[1], if_version=0).version
        new = cache.save("u", STATES[2], if_version=old).version
        for wrong in (old, 0):
            with pytest.raises(ConflictError):
                cache.save("u", STATES[3], if_version=wrong)
        assert cache.load("u").state.length == STATES[2].length
        assert cache.version("u") == new

    def test_states_of_another_recipe_are_stale(self, recipe, store):
        StateCache(recipe, store).save("u", STATES[3])
        other = StateCache(Recipe.fit("int8()", STATES, model=MODEL), store)
        with pytest.raises(StaleStateError, match=f"{recipe.manifest.id:08x}"):
            other.load("u")
        # still known by version, so that a rebuilt one can be saved over it
        other.save("u", STATES[3], if_version=other.version("u"))
        assert other.load("u").state.length == 9

    def test_a_large_state_of_another_recipe_is_stale_and_can_be_replaced(self, recipe, store):
        StateCache(Recipe.fit("identity()", STATES, model=MODEL), store).save("u", STATES[-1])
        other = StateCache(recipe, store)
        with pytest.raises(StaleStateError):
            other.load("u")
        assert other.save("u", STATES[-1]).stored_bytes == other.stored_bytes("u") < 5000

    def test_states_of_another_model_are_stale(self, recipe, store):
        StateCache(recipe, store).save("u", STATES[3])
        states = [UserState(s.tensors, s.length, "new model") for s in STATES]
        with pytest.raises(StaleStateError):
            StateCache(Recipe.fit(SPEC, states, model="new model"), store).load("u")

    def test_damaged_states_are_corrupt(self, recipe, store):
        cache = StateCache(recipe, store)
        cache.save("u", STATES[3])
        blob = store.get("s/u").blob
        for bad in (blob[:-1], blob[:10] + b"!" + blob[11:], b""):
            store.put("s/u", bad)
            with pytest.raises(CorruptStateError):
                cache.load("u")
            assert cache.stored_bytes("u") == len(bad)
        assert cache.version("u") > 0
        assert cache.forget("u") is True

    def test_forget(self, recipe, store):
        cache = StateCache(recipe, store)
        cache.save("u", STATES[3])
        assert cache.forget("u") is True
        assert cache.forget("u") is False
        assert cache.load("u") is None
        assert cache.version("u") == cache.stored_bytes("u") == 0

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
        for call in (cache.load, cache.forget, cache.version):
            with pytest.raises(DataError, match="user id"):
                call("")


class Counting:
    """A store that remembers the bytes of its last group of writes."""

    def __init__(self):
        self.inner = open_store("ram://")
        self.written = {}

    def put_many(self, puts):
        versions = self.inner.put_many(puts)
        self.written = {put.key: len(put.blob) for put in puts if put.blob is not None}
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
            assert len(cache._store.get("s/u").blob) <= 2000

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
        assert list(growing._store.keys()) == ["s/u"]

    def test_a_state_of_fixed_size_is_one_value(self):
        states = [s.replace({"fixed.k.0": torch.randn(2, 300, 8)}) for s in STATES]
        cache = StateCache(Recipe.fit("identity()", states, model=MODEL), Counting())
        held = cache.save("u", states[0])
        cache.save("u", states[1], grown_from=held)
        assert list(cache._store.keys()) == ["s/u"]
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
        for key in ("s/u", "q/u"):
            blob = cache._store.get(key).blob
            for place in {*range(24), *range(len(blob) - 24, len(blob)), len(blob) // 2}:
                cache._store.put(key, blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :])
                with pytest.raises((CorruptStateError, FormatVersionError)):
                    cache.load("u")
            cache._store.put(key, blob)
        cache._store.delete("q/u")
        with pytest.raises(CorruptStateError, match="sealed block"):
            cache.load("u")

    def test_forget_leaves_nothing(self, growing):
        growing.save("u", self.whole)
        growing.save("u/v", self.whole)
        assert growing.forget("u") is True
        assert growing.forget("u") is False
        assert set(growing._store.keys()) == {"s/u/v", "q/u/v"}
        growing._store.delete("s/u/v")  # lost by the store
        assert growing.forget("u/v") is True
        assert not list(growing._store.keys())

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
        cache._store.put("s/u", bytes.fromhex(tail))
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
        assert not list(growing._store.keys())
