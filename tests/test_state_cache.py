import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import torch

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
from gistrec.state import UserState, equal
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
        assert held.version == receipt.version == cache.version("u")
        assert held.stored_bytes == receipt.stored_bytes == len(store.get("s/u").blob)
        assert cache.load("v") is None

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
