"""Looking at users changes nothing, and tells what serving tells."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from gistrec import backbones
from gistrec.errors import BusyError, CodecError, ConfigError, DataError
from gistrec.recipe import Recipe
from gistrec.recommender import Event, Recommender
from gistrec.served import identity_recipe
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.train import Model, Training
from gistrec.views import Views


@pytest.fixture(scope="module")
def model() -> Model:
    dataset = stride_dataset()
    torch.manual_seed(0)
    backbone = backbones.build("hstu(width=16)", num_items=dataset.num_items)
    return Model(backbone.eval(), dataset.items, Training())


@pytest.fixture
def recommender(model: Model) -> Iterator[Recommender]:
    states = model.backbone.prefill(
        [
            dataset_history[:n]
            for dataset_history in [stride_dataset().history(0)]
            for n in range(9)
        ],
        hints=True,
    )
    small = Recipe.fit(
        "recent(keep=4, sink=0) | int8()", states, model=model.backbone.fingerprint()
    )
    standby = [(model, small)]
    with Recommender(model, identity_recipe(model), open_store("ram://"), standby=standby) as made:
        yield made


def events(count: int) -> list[Event]:
    return [Event(n % 30, 1_600_000_000 + 60 * n) for n in range(count)]


def test_a_history_comes_in_parts_with_titles(recommender: Recommender) -> None:
    views = Views(recommender)
    recommender.observe("ann", [*events(7), Event(999, 1_700_000_000, 3)])
    found = views.history("ann", newest=3)
    assert (found.length, found.start) == (8, 5)
    assert found.events.item_id.tolist() == [5, 6, 999]
    assert found.titles == ["5", "6", "999"]
    assert found.events.action is not None
    older = views.history("ann", newest=3, before=5)
    assert (older.start, older.events.item_id.tolist()) == (2, [2, 3, 4])
    assert views.history("ann", newest=3, before=0).titles == []
    assert views.history("nobody", newest=3).length == 0


def test_what_is_stored_is_what_serves(recommender: Recommender) -> None:
    recommender.observe("ann", events(12))
    found = Views(recommender).stored("ann", k=5)
    assert found.stored
    assert found.items == recommender.recommend("ann", k=5)
    report = recommender.describe("ann")
    assert report is not None
    assert (found.state_bytes, found.slots) == (report.state_bytes, report.slots)
    # a large state is divided into a sealed block and a tail, each with a header
    assert 0 <= found.state_bytes - sum(found.parts.values()) <= 40
    assert [tuple(run) for run in found.fates] == [("kept", 11), ("waiting", 1)]


def test_trying_another_version_writes_nothing(recommender: Recommender) -> None:
    recommender.observe("ann", events(12))
    before = {key: recommender.store.get(key) for key in recommender.store.keys("")}
    _, small = recommender.versions
    found = Views(recommender).tried("ann", k=5, version=small)
    assert not found.stored
    assert (found.version, found.slots) == (small, 4)
    assert found.codec.startswith("recent(keep=4")
    assert [tuple(run) for run in found.fates] == [("forgotten", 7), ("kept", 4), ("waiting", 1)]
    assert {key: recommender.store.get(key) for key in recommender.store.keys("")} == before
    # what it would serve is what it does serve then
    recommender.settings.switch(small, recommender.versions[small].states.described)
    assert found.items == recommender.recommend("ann", k=5)


def test_codecs_are_fitted_to_users_of_the_store_once(recommender: Recommender) -> None:
    for user in range(5):
        recommender.observe(f"u{user}", events(12 + user))
    views = Views(recommender)
    found = views.tried("u1", k=5, codec="recent(keep=6) | rvq(levels=1, codes=16)")
    assert found.slots == 6
    assert len(views._fitted) == 1
    again = views.tried("u1", k=5, codec="recent(keep=6) | rvq(levels=1, codes=16)")
    assert again == found
    for keep in range(2, 14):
        views.tried("u1", k=5, codec=f"recent(keep={keep}, sink=0)")
    assert len(views._fitted) == 8


def test_one_recipe_is_fitted_at_a_time(recommender: Recommender) -> None:
    recommender.observe("ann", events(12))
    views = Views(recommender)
    with views._fitting, pytest.raises(BusyError, match="try again in a few seconds"):
        views.tried("ann", k=5, codec="int8()")
    assert views.tried("ann", k=5, codec="int8()").slots == 11


def test_what_can_not_be_tried(recommender: Recommender) -> None:
    views = Views(recommender)
    with pytest.raises(DataError, match="append events first"):
        views.tried("ann", k=5, codec="int8()")
    recommender.observe("ann", events(3))
    with pytest.raises(ConfigError, match="was not given version '00000000'"):
        views.tried("ann", k=5, version="00000000")
    with pytest.raises((ConfigError, CodecError), match="nothing_like_it"):
        views.tried("ann", k=5, codec="nothing_like_it()")


def test_a_user_without_a_history(recommender: Recommender) -> None:
    found = Views(recommender).stored("nobody", k=5)
    assert (found.state_bytes, found.slots, found.fates) == (0, 0, [])
    assert found.items == recommender.recommend("nobody", k=5)


def test_titles_come_from_a_file(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    (tmp_path / "titles.csv").write_text("item_id,title\n3,Three\n999,Not in the model\n")
    titles = tmp_path / "titles.csv"
    with Recommender.load(tmp_path / "model", titles=titles) as recommender:
        recommender.observe("ann", [Event(3, 5), Event(999, 6), Event(4, 7)])
        assert Views(recommender).history("ann", newest=9).titles == [
            "Three",
            "Not in the model",
            "4",
        ]
        (three,) = recommender.rank("ann", [3])
        assert three.title == "Three"
        assert np.array_equal(recommender.items.ids, model.items.ids)
    with pytest.raises(DataError, match="missing"):
        Recommender.load(tmp_path / "model", titles=tmp_path / "missing.csv")
