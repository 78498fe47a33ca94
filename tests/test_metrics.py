"""Metrics against slow references written from the definitions."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec import metrics
from gistrec.errors import ConfigError, DataError

INF = float("inf")


def slow_ranking(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda item: -scores[item])  # Python's sort is stable


def slow_metrics(scores: list[float], targets: list[int], k: int) -> dict[str, float]:
    best, wanted = slow_ranking(scores)[:k], set(targets)
    dcg = sum(1 / np.log2(place + 2) for place, item in enumerate(best) if item in wanted)
    ideal = sum(1 / np.log2(place + 2) for place in range(min(k, len(wanted))))
    hits = len(wanted & set(best))
    return {f"hr_{k}": float(hits > 0), f"ndcg_{k}": dcg / ideal, f"recall_{k}": hits / len(wanted)}


# few distinct values, so that ties are the rule and not the exception
scores_of_users = st.integers(1, 12).flatmap(
    lambda num_items: st.lists(
        st.lists(
            st.sampled_from([-INF, -1.0, 0.0, 0.5, 2.0, INF]),
            min_size=num_items,
            max_size=num_items,
        ),
        min_size=1,
        max_size=4,
    )
)


@given(scores=scores_of_users, k=st.integers(1, 14), data=st.data())
@settings(max_examples=300, deadline=None)
def test_equals_the_definition_also_with_ties_and_infinities(
    scores: list[list[float]], k: int, data: st.DataObject
) -> None:
    items = st.integers(0, len(scores[0]) - 1)
    targets = [data.draw(st.lists(items, min_size=1, max_size=6)) for _ in scores]
    got = metrics.per_user(torch.tensor(scores), targets, k)
    lists = metrics.top_k(torch.tensor(scores), k)
    for row, user in enumerate(scores):
        assert lists[row].tolist() == slow_ranking(user)[:k]
        for name, value in slow_metrics(user, targets[row], k).items():
            assert got[name][row] == pytest.approx(value), name


def test_one_target_is_leave_last_out() -> None:
    score = torch.arange(20.0).flip(0).repeat(3, 1)  # item n is ranked n-th
    got = metrics.per_user(score, [[0], [3], [10]])
    assert got["hr_10"].tolist() == [1, 1, 0]
    assert got["recall_10"].tolist() == [1, 1, 0]
    assert got["ndcg_10"].tolist() == [1, pytest.approx(1 / np.log2(5)), 0]
    assert all(v.dtype == np.float64 for v in got.values())


def test_basket_divides_by_what_k_places_can_hold() -> None:
    score = torch.arange(40.0).flip(0)[None]
    perfect = metrics.per_user(score, [list(range(15))])
    assert perfect["ndcg_10"][0] == pytest.approx(1)
    assert perfect["recall_10"][0] == pytest.approx(10 / 15)
    assert metrics.per_user(score, [[0, 0, 39]])["recall_10"][0] == 0.5


def test_wrong_input_is_named() -> None:
    good = torch.zeros(2, 5)
    with pytest.raises(DataError, match="1 of 2 users have NaN"):
        metrics.per_user(torch.tensor([[0.0, float("nan")], [0.0, 1.0]]), [[0], [0]])
    with pytest.raises(DataError, match="2 users were scored and 1 of them"):
        metrics.per_user(good, [[0], []])
    with pytest.raises(DataError, match="2 users were scored and 1 of them"):
        metrics.per_user(good, [[0]])
    with pytest.raises(DataError, match="0 to 4, given 0 to 5"):
        metrics.per_user(good, [[0], [5]])
    with pytest.raises(ConfigError, match="at least 1; given 0"):
        metrics.top_k(good, 0)


def test_a_large_catalogue_of_ties_takes_well_under_two_seconds() -> None:
    score = torch.zeros(256, 70_000)
    start = time.perf_counter()
    got = metrics.per_user(score, [[9]] * 256)
    assert time.perf_counter() - start < 2
    assert got["hr_10"].all()


def test_interval_covers_the_mean_and_narrows_with_users() -> None:
    values = np.random.default_rng(5).random(4000)
    low, high = metrics.interval(values)
    # standard error .0046: the interval's half width is 1.96 of them, within bootstrap noise
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(4000), rel=0.15)
    wide_low, wide_high = metrics.interval(values[:40])
    assert wide_high - wide_low > 5 * (high - low)
    assert metrics.interval(values) == (low, high)
    assert metrics.interval(values, seed=1) != (low, high)
    assert metrics.interval([0.25]) == (0.25, 0.25)
    assert np.isnan(metrics.interval([])).all()


def test_by_length_names_its_ranges() -> None:
    got = metrics.by_length([1, 2, 3, 4, 6], [49, 50, 199, 1000, 5000])
    assert got == {
        "<50": {"mean": 1, "users": 1},
        "50-199": {"mean": 2.5, "users": 2},
        ">=1000": {"mean": 5, "users": 2},
    }


def test_overlap_ignores_order() -> None:
    a, b = np.array([[1, 2, 3, 4], [1, 2, 3, 4]]), np.array([[4, 3, 2, 1], [9, 1, 8, 7]])
    assert metrics.overlap(a, b).tolist() == [1, 0.25]


def test_ratio_interval_of_the_same_values_is_one():
    values = np.random.default_rng(0).random(50)
    assert metrics.ratio_interval(values, values) == (1, 1)
    low, high = metrics.ratio_interval(0.9 * values, values)
    assert low == pytest.approx(0.9)
    assert high == pytest.approx(0.9)


def test_ratio_interval_is_narrower_than_that_of_independent_users():
    rng = np.random.default_rng(0)
    base = (rng.random(2000) < 0.2).astype(float)
    values = base * (rng.random(2000) < 0.95)
    low, high = metrics.ratio_interval(values, base)
    assert low < values.mean() / base.mean() < high
    alone = metrics.interval(values)
    assert (high - low) < 0.5 * (alone[1] - alone[0]) / base.mean()
    assert all(np.isnan(metrics.ratio_interval([0.0], [0.0])))
    assert all(np.isnan(metrics.ratio_interval([], [])))
