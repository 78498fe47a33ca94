import dataclasses

import numpy as np
import pytest
import torch

from gistrec import metrics, ranking
from gistrec.recipe import Recipe
from gistrec.testing.rankers import taste_impressions
from gistrec.train import Model, train


@pytest.fixture(scope="module")
def shown():
    return taste_impressions()


@pytest.fixture(scope="module")
def model(shown) -> Model:
    return train(
        shown,
        "twin(width=16, dropout=0.0)",
        epochs=12,
        max_len=64,
        batch_tokens=600,
        learning_rate=0.03,
    )


def test_a_trained_ranker_beats_counting(shown, model):
    test = shown.part("test")
    found = ranking.accuracy(shown, test, ranking.logits(model.backbone, shown, test))
    counted = ranking.accuracy(shown, test, ranking.statistics(shown, test))
    assert found["auc"] > 0.8 > counted["auc"]
    assert found["auc_interval"][0] <= found["auc"] <= found["auc_interval"][1]
    assert found["gauc"] > 0.8
    assert found["logloss"] < counted["logloss"]
    assert set(found["by_length"]) == {"<50"}


def test_states_that_lose_nothing_answer_as_raw_histories_do(shown, model):
    test = shown.part("test")
    raw = ranking.logits(model.backbone, shown, test)
    states = model.backbone.prefill([shown.history(n) for n in range(5)], hints=True)
    recipe = Recipe.fit("identity()", states, model=model.backbone.fingerprint())
    found = ranking.replay(model.backbone, shown, test, recipe)
    np.testing.assert_allclose(found.logit_NT, raw, atol=1e-4)
    users = np.unique(shown.user[test])
    assert len(found.blob_bytes) == len(users)
    assert (found.full_bytes == [model.backbone.state_bytes(n) for n in found.log_events]).all()


def test_gauc_leaves_out_users_with_one_kind_of_label(shown):
    numbers = np.flatnonzero(shown.user < 2)
    logit = np.where(shown.user[numbers] == 0, shown.label_NT[numbers, 0], 0.0)[:, None]
    label = shown.label_NT.copy()
    label[shown.user == 1] = 1
    one_sided = dataclasses.replace(shown, label_NT=label)
    assert ranking.accuracy(one_sided, numbers, logit)["gauc"] == 1


def test_auc_counts_ties_half():
    assert metrics.auc([0.5, 0.5, 0.5], [0, 1, 0]) == 0.5
    assert np.isnan(metrics.auc([0.5, 0.5], [1, 1]))
    rng = np.random.default_rng(0)
    score, label = rng.integers(5, size=60), rng.integers(2, size=60)
    pairs = [(a > b) + 0.5 * (a == b) for a in score[label == 1] for b in score[label == 0]]
    assert metrics.auc(score, label) == pytest.approx(np.mean(pairs))


def test_log_loss_is_that_of_torch():
    logit, label = np.array([-30.0, -1, 0, 2, 40]), np.array([0, 1, 0, 1, 1])
    want = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logit), torch.tensor(label).double(), reduction="none"
    )
    np.testing.assert_allclose(metrics.log_loss(logit, label), want, atol=1e-12)
