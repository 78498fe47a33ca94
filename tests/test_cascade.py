import dataclasses

import numpy as np
import pytest

from gistrec.cascade import Cascade
from gistrec.dataset import Dataset, Vocabulary
from gistrec.errors import ConfigError, DataError
from gistrec.events import Events
from gistrec.recommender import Event
from gistrec.testing.rankers import taste_impressions
from gistrec.train import train


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of next items and two rankers, the last of which does not know two of the items."""
    root = tmp_path_factory.mktemp("models")
    shown = taste_impressions()
    data = shown.dataset
    users = np.repeat(np.arange(data.num_users), np.diff(data.offsets))
    log = Dataset.from_events(Events(users, data.item_index, data.timestamp))
    train(log, "hstu(width=16, num_layers=1)", epochs=1, folder=root / "hstu")
    train(shown, "tarq(width=16)", epochs=1, folder=root / "tarq")
    twin = train(shown, "twin(width=16)", epochs=4, learning_rate=0.02, folder=root / "twin")
    ids = np.where(np.arange(24) < 22, np.arange(24), np.arange(24) + 1000)
    dataclasses.replace(twin, items=Vocabulary(ids)).save(root / "twin")
    return root


@pytest.fixture
def cascade(folders):
    stages = [(folders / "tarq", 20), (folders / "twin", 8)]
    with Cascade.load(folders / "hstu", *stages) as made:
        events = [Event(n, 1_600_000_000 + n, n % 2) for n in range(10)]
        made.recommender.observe("ann", events)
        yield made


def test_every_stage_orders_the_best_of_the_one_before(cascade):
    found = cascade.recommend("ann", k=5, exclude_seen=False)
    assert [stage.candidates for stage in found.stages] == [24, 20, 8]
    assert [s.model.partition("(")[0] for s in found.stages] == ["hstu", "tarq", "twin"]
    assert all(stage.ms > 0 for stage in found.stages)
    best = cascade.recommender.recommend("ann", k=20, exclude_seen=False)
    tarq, twin = (served for served, _ in cascade.rankers)
    score = tarq.backbone.score([tarq.current("ann").state])[0]
    second = sorted(best, key=lambda item: -float(score[item.item_id]))[:8]
    score = twin.backbone.score([twin.current("ann").state])[0]
    known = [item.item_id for item in second if item.item_id < 22]
    want = sorted(known, key=lambda item: -float(score[item]))
    want += [item.item_id for item in second if item.item_id >= 22]
    assert [item.item_id for item in found.items] == want[:5]
    assert found.items[0].score == pytest.approx(float(score[want[0]]), abs=1e-5)


def test_all_stages_see_new_events(cascade):
    before = cascade.recommend("ann", k=5, exclude_seen=False)
    cascade.recommender.observe("ann", [Event(3, 1_700_000_000, 1)] * 5)
    after = cascade.recommend("ann", k=5, exclude_seen=False)
    assert before.items != after.items
    assert all(served.current("ann").state.length == 15 for served, _ in cascade.rankers)


def test_forgetting_a_user_takes_the_states_of_all_stages(cascade):
    cascade.recommend("ann", k=5)
    store = cascade.recommender.store
    assert len([key for key in store.keys("") if "ann" in key]) >= 4
    assert cascade.recommender.forget("ann")
    assert not [key for key in store.keys("") if "ann" in key]


def test_somebody_without_events_gets_a_list(cascade):
    assert len(cascade.recommend("nobody", k=3).items) == 3


def test_wrong_use_is_told(cascade, folders):
    with pytest.raises(ConfigError, match="the last ranker is given 8 candidates"):
        cascade.recommend("ann", k=9)
    for rankers in ([], [("tarq", 5), ("twin", 6)], [("tarq", 0)]):
        with pytest.raises(ConfigError, match="fewer and fewer candidates"):
            Cascade.load(folders / "hstu", *((folders / name, n) for name, n in rankers))
    with pytest.raises(DataError, match="is not a finished model folder"):
        Cascade.load(folders / "hstu", (folders / "none", 5))
