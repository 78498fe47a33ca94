import pytest
import torch

from gistrec.batch_requests import Candidates, rank_many
from gistrec.candidates import Told
from gistrec.errors import DataError
from gistrec.impressions import feature_row
from gistrec.recommender import Event, Recommender, identity_recipe
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.testing.rankers import taste_impressions
from gistrec.train import Model, train

NEW = 10_000
"""An item that the ranker does not know."""
NEWEST = 1_700_000_000


@pytest.fixture(scope="module")
def model() -> Model:
    shown = taste_impressions(labels=2)
    return train(
        shown, "twin(width=16)", epochs=6, max_len=64, batch_tokens=600, learning_rate=0.03
    )


@pytest.fixture(scope="module")
def recommender(model):
    with Recommender(model, identity_recipe(model), open_store("ram://")) as made:
        events = [Event(n % 24, NEWEST + n, int(n % 3 == 1)) for n in range(30)]
        made.observe("ann", events)
        yield made


def scores(items) -> dict:
    return {item.item_id: item.score for item in items}


def test_best_first_with_every_labels_probability(recommender):
    best = recommender.rank("ann", [3, 4, 5, 6, 7])
    assert [item.score for item in best] == sorted((i.score for i in best), reverse=True)
    for item in best:
        assert list(item.labels) == ["liked", "label_1"]
        assert item.labels["liked"] == pytest.approx(torch.tensor(item.score).sigmoid().item())
        assert item.known


def test_actions_decide(recommender, model):
    with Recommender(model, identity_recipe(model), open_store("ram://")) as other:
        other.observe("ann", [Event(n % 24, NEWEST + n, int(n % 3 == 2)) for n in range(30)])
        assert scores(other.rank("ann", [3, 4])) != scores(recommender.rank("ann", [3, 4]))


def test_context_of_the_request_and_of_candidates(recommender):
    plain = scores(recommender.rank("ann", [3, 4]))
    noon = scores(recommender.rank("ann", [3, 4], told=Told({"hour": 12})))
    assert noon != plain
    assert scores(recommender.rank("ann", [3, 4], told=Told({"hour": "12"}))) == noon
    mixed = scores(recommender.rank("ann", [3, 4], told=Told({"hour": 12}, [{"hour": 3}, {}])))
    early = scores(recommender.rank("ann", [3, 4], told=Told({"hour": 3})))
    assert mixed == pytest.approx({3: early[3], 4: noon[4]})


def test_unknown_items_are_nothing_but_their_features(recommender, model):
    (state,) = [recommender.served.current("ann").state]
    none, named = recommender.rank("ann", [NEW]), Told(features=[{"kind": "a|b"}])
    assert not none[0].known
    assert none[0].title == str(NEW)
    told = recommender.rank("ann", [NEW], told=named)
    rows = torch.tensor([[feature_row("kind", "a"), feature_row("kind", "b")]])
    expected = model.backbone.predict(state, torch.tensor([24]), features=rows)
    assert told[0].score == pytest.approx(float(expected[0, 0]), abs=1e-5)
    assert told[0].score != none[0].score
    known = scores(recommender.rank("ann", [3, NEW], told=Told(features=[{"kind": "a"}, {}])))
    assert known[3] == pytest.approx(scores(recommender.rank("ann", [3]))[3], abs=1e-5)


def test_a_user_without_events(recommender):
    assert len(recommender.rank("nobody", [1, NEW, 2])) == 3


def test_no_candidates(recommender):
    assert recommender.rank("ann", []) == []


def test_a_hundred_thousand_candidates(recommender):
    found = recommender.rank("ann", [n % 24 for n in range(100_000)])
    assert len(found) == 100_000
    one = scores(recommender.rank("ann", [found[0].item_id]))
    assert found[0].score == pytest.approx(one[found[0].item_id], abs=1e-5)


def test_parts_give_what_the_whole_gives(recommender, monkeypatch):
    items, told = [*range(24), NEW], Told({"hour": 1}, [{"hour": n} for n in range(25)])
    told = told._replace(features=[{"kind": n} for n in range(25)])
    whole = scores(recommender.rank("ann", items, told=told))
    monkeypatch.setattr("gistrec.backbones._ranker._PAIRS", 31 * 4)
    assert scores(recommender.rank("ann", items, told=told)) == pytest.approx(whole, abs=1e-5)


def test_several_users_are_as_one_by_one(recommender):
    told = Told({"hour": 5})
    requests = [Candidates("ann", [3, NEW], None, told), Candidates("bob", [4])]
    requests.append(Candidates("ann", [3], None, Told({"day": 1})))
    ann, bob, wrong = rank_many(recommender, requests)
    assert ann == recommender.rank("ann", [3, NEW], told=told)
    assert bob == recommender.rank("bob", [4])
    assert isinstance(wrong, DataError)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (Told({"day": 1}), "unknown context 'day': this ranker was trained with hour"),
        (Told({}, [{"hour": 1}]), "contexts of 1 candidates were given, but there are 2"),
        (Told(features=[{"a": 1}] * 3), "features of 3 candidates were given, but there are 2"),
    ],
)
def test_what_a_ranker_can_not_be_told(recommender, told, said):
    with pytest.raises(DataError, match=said):
        recommender.rank("ann", [3, 4], told=told)


def test_a_model_of_next_items_is_told_nothing():
    model = train(stride_dataset(), "hstu(width=8, num_layers=1)", epochs=1)
    with Recommender(model, identity_recipe(model), open_store("ram://")) as recommender:
        with pytest.raises(DataError, match="hstu takes no context"):
            recommender.rank("ann", [1], told=Told({"hour": 1}))
        with pytest.raises(DataError, match="not in the model's catalogue"):
            recommender.rank("ann", [NEW])
        requests = [Candidates("ann", [1], None, Told({"hour": 1})), Candidates("ann", [1])]
        refused, ranked = rank_many(recommender, requests)
        assert isinstance(refused, DataError)
        assert ranked[0].labels is None
