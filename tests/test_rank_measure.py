import dataclasses

import numpy as np
import pytest
import torch

from gistrec import codecs, ranking
from gistrec.dataset import History
from gistrec.errors import ConfigError, DataError
from gistrec.impressions import Impressions
from gistrec.rank_measure import RankRules, RankSubject, fit_recipe
from gistrec.testing.rankers import taste_impressions
from gistrec.train import Model, train

TRAINING = {"max_len": 64, "batch_tokens": 600, "learning_rate": 0.03}


@pytest.fixture(scope="module")
def shown() -> Impressions:
    return taste_impressions()


def trained(shown: Impressions, memory: str) -> Model:
    return train(shown, f"twin(width=16, memory={memory!r})", epochs=2, **TRAINING)


@pytest.fixture(scope="module")
def subject(shown) -> RankSubject:
    return RankSubject(trained(shown, "full()"), shown, RankRules(users=12, fit_users=4))


def test_a_sample_of_users_with_all_their_impressions(subject):
    user = subject.impressions.user
    asked = subject.numbers[subject.sample]
    assert len(np.unique(user[asked])) == 12
    of_these = np.isin(user[subject.numbers], user[asked])
    np.testing.assert_array_equal(np.flatnonzero(of_these), subject.sample)
    assert [len(h) for h in subject.histories] == [
        subject.impressions.lengths[asked][user[asked] == u].max() for u in np.unique(user[asked])
    ]


@pytest.mark.parametrize(
    "memory", ["full()", "mla(rank=4)", "collective(own=4)", "control(hidden=8)"]
)
def test_the_item_table_loses_nothing_of_one_layer(shown, memory):
    """Rows are functions of item and action: also of pairs that no sample user has had."""
    subject = RankSubject(trained(shown, memory), shown, RankRules(users=8, fit_users=1))
    recipe = subject.fit(codecs.parse("itemtable()"))
    full_NT = subject.full_NT[subject.sample]
    for answer in (subject.offline(recipe), subject.online(recipe)):
        np.testing.assert_allclose(answer.logit_NT, full_NT, atol=2e-3 * np.abs(full_NT).max())


def test_the_item_table_keeps_a_number_an_event(subject):
    """24 items with three actions each (none is one of them) are 7 bits."""
    held = subject.offline(subject.fit(codecs.parse("itemtable()")))
    assert held.blob_bytes.max() <= 39 * 7 / 8 + 16


def test_events_without_an_action_are_in_the_item_table(subject):
    recipe = subject.fit(codecs.parse("itemtable()"))
    history = History(np.array([3, 5, 3]), np.array([10, 20, 30]))
    (state,) = subject.backbone.prefill([history], hints=True)
    back = recipe.round_trip(state)
    for name in ("k.0", "v.0"):
        torch.testing.assert_close(back.tensors[name], state.tensors[name], atol=1e-4, rtol=1e-3)


def test_an_action_makes_another_row(subject):
    item, time = np.array([3, 3]), np.array([10, 20])
    (state,) = subject.backbone.prefill([History(item, time, np.array([0, 1]))], hints=True)
    kind = state.tensors["hint.item"]
    assert kind[0] != kind[1]
    assert not torch.equal(state.tensors["k.0"][:, 0], state.tensors["k.0"][:, 1])


def test_a_budget_is_kept(subject):
    chain = subject.at_budget(codecs.parse("recent(keep=9, sink=0) | int8()"), 400)
    held = subject.offline(subject.fit(chain))
    assert 200 < held.blob_bytes.mean() <= 400


def test_offline_and_online_agree_where_a_slots_code_is_its_own(subject):
    recipe = subject.fit(codecs.parse("int8()"))
    np.testing.assert_allclose(
        subject.offline(recipe).logit_NT, subject.online(recipe).logit_NT, atol=1e-5
    )


def test_the_log_holds_actions(subject):
    plain = dataclasses.replace(subject.impressions.dataset, action=None)
    without = RankSubject(
        subject.model, dataclasses.replace(subject.impressions, dataset=plain), subject.rules
    )
    assert subject.log_bytes.mean() > without.log_bytes.mean()


def test_a_recipe_is_fitted_on_users_as_they_were_before_the_test(shown, subject):
    recipe = fit_recipe(subject.model, shown, codecs.parse("itemtable()"), users=3)
    assert recipe.manifest.model == subject.backbone.fingerprint()
    begin = shown.timestamp[shown.part("test")].min()
    assert all(
        (h.timestamp < begin).all() for h in (shown.dataset.rows(*r) for r in subject._known)
    )


def test_other_impressions_than_the_models(shown, subject):
    with pytest.raises(
        DataError, match="labels are liked, those of the impressions liked, label_1"
    ):
        RankSubject(subject.model, taste_impressions(labels=2), RankRules())
    with pytest.raises(DataError, match="items"):
        RankSubject(subject.model, taste_impressions(items=25), RankRules())


def test_rules_are_checked():
    with pytest.raises(ConfigError, match="users must be at least 1"):
        RankRules(users=0)


def test_what_answers_alike_changes_nothing(shown, subject):
    numbers, logit = subject.numbers, subject.full_NT
    same = ranking.change(shown, numbers, logit, logit)
    assert same["auc_change"] == same["gauc_change"] == 0
    worse = ranking.change(shown, numbers, -logit, logit)
    expected = (
        ranking.accuracy(shown, numbers, -logit)["auc"]
        - ranking.accuracy(shown, numbers, logit)["auc"]
    )
    assert worse["auc_change"] == pytest.approx(expected)


def test_stretches_show_what_the_sample_has_not_had(shown):
    """For rankers of several layers, whose rows depend on what came before."""
    subject = RankSubject(trained(shown, "full()"), shown, RankRules(users=8, fit_users=1))
    data = shown.dataset
    (first, end), *others = subject._known
    kinds = data.item_index + shown.num_items * data.action
    had = set(kinds[first:end])
    rest = {kind for a, b in others for kind in kinds[a:b]} - had
    stretches = subject._stretches()
    assert len(stretches) == len(rest) > 5
    newest = [h.item_index[-2:] + shown.num_items * h.action[-2:] for h in stretches]
    assert all(rest & set(two) for two in newest)
    assert {kind for two in newest for kind in two} >= rest
    assert all(1 <= len(h) <= 32 for h in stretches)
