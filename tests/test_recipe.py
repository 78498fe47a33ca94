import dataclasses
import json

import pytest
import safetensors.torch
import torch

from gistrec import codecs
from gistrec.codecs import ByteCodec, Chain, Codec
from gistrec.errors import (
    ConfigError,
    CorruptStateError,
    FormatVersionError,
    StaleStateError,
    StateError,
)
from gistrec.recipe import Recipe
from gistrec.state import equal
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
