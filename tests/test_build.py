import dataclasses

import numpy as np
import pytest

from gistrec.build import Built, build_states, fit_recipe
from gistrec.dataset import Dataset
from gistrec.errors import ConfigError, DataError
from gistrec.events import Events
from gistrec.recommender import Event, Recommender, identity_recipe
from gistrec.stores import open_store
from gistrec.testing.data import stride_events
from gistrec.train import Model, train


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    events = stride_events(users=9, items=12, length=20)
    # histories of different lengths: user n has 20 - n events
    keep = np.arange(20) < 20 - events.user_id[::20, None]
    columns = [c[keep.ravel()] for c in (events.user_id, events.item_id, events.timestamp)]
    return Dataset.from_events(Events(*columns))


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> Model:
    return train(dataset, "hstu(width=8)", epochs=1)


def recommender(model: Model, store: str = "ram://") -> Recommender:
    return Recommender(model, identity_recipe(model), open_store(store))


def test_a_built_user_is_as_one_that_was_observed(model, dataset):
    with recommender(model) as built, recommender(model) as observed:
        done = []
        found = build_states(built, dataset, batch_tokens=50, report=done.append)
        assert found == Built(users=9, events=len(dataset.timestamp), kept=0)
        assert done[-1] == 9
        assert len(done) > 1
        for n, user in enumerate(dataset.user_ids.tolist()):
            history = dataset.history(n)
            items = dataset.items.ids[history.item_index].tolist()
            events = [Event(i, t) for i, t in zip(items, history.timestamp.tolist(), strict=True)]
            observed.observe(str(user), events)
            assert built.describe(str(user)) == observed.describe(str(user))
            lists = built.recommend(str(user)), observed.recommend(str(user))
            assert [i.item_id for i in lists[0]] == [i.item_id for i in lists[1]]
        assert built.counts["fresh"] == built.counts.total()


def test_a_killed_run_can_be_repeated(model, dataset):
    class Killed(Exception):
        pass

    def kill(done: int) -> None:
        raise Killed

    with recommender(model) as built:
        with pytest.raises(Killed):
            build_states(built, dataset, batch_tokens=50, report=kill)
        first = sum(1 for _ in built.log.users())
        assert 0 < first < 9
        assert build_states(built, dataset) == Built(
            users=9 - first,
            events=len(dataset.timestamp) - sum(20 - n for n in range(first)),
            kept=first,
        )
        assert built.stats().users == 9


def test_a_user_who_is_there_keeps_the_stored_history(model, dataset):
    with recommender(model) as built:
        built.observe("0", [Event(3, 1_700_000_000)])
        built.states.forget("0")
        assert build_states(built, dataset).kept == 1
        assert built.states.load("0").state.length == 1


def test_items_that_the_model_does_not_know_are_logged_and_skipped(model, dataset):
    ids = dataset.items.ids + 3  # 12, 13 and 14 are new
    shifted = dataclasses.replace(
        dataset, items=dataclasses.replace(dataset.items, ids=ids), user_ids=dataset.user_ids
    )
    with recommender(model) as built:
        build_states(built, shifted)
        report = built.describe("0")
        assert report.length == 20
        unknown = int((ids[shifted.history(0).item_index] > 11).sum())
        assert unknown > 0
        assert report.slots == 20 - unknown - 1  # the newest event is in the tail


def test_a_log_of_other_ids_is_refused(model, dataset):
    texts = np.array([f"item {n}" for n in range(12)], object)
    other = dataclasses.replace(dataset, items=dataclasses.replace(dataset.items, ids=texts))
    with recommender(model) as built, pytest.raises(DataError, match=r"none of the log's 12 items"):
        build_states(built, other)


def test_a_fitted_recipe_belongs_to_the_model(model, dataset):
    recipe = fit_recipe(model, dataset, "recent(keep=8) | rvq(levels=1, codes=4)")
    assert recipe.manifest.model == model.backbone.fingerprint()
    assert recipe.shared_bytes > 0
    empty = model.backbone.empty()
    assert recipe.from_bytes(recipe.to_bytes(empty)).length == 0
    with pytest.raises(ConfigError, match="did you mean 'recent'"):
        fit_recipe(model, dataset, "recnt(keep=4)")
