from pathlib import Path

import numpy as np
import pytest

from gistrec.errors import ConfigError
from gistrec.events import read
from gistrec.events.planted import OCCASIONS, OLD, PACES_S, PERIODS, PURCHASES, SHOWN, Planted
from gistrec.testing.events import EventsTests


class TestPlanted(EventsTests):
    # a change of these makes results on older logs incomparable
    expected = [
        (0, 468, 1602466922, 2),
        (0, 5, 1602469431, 1),
        (0, 217, 1602472738, 2),
        (0, 0, 1602483803, 1),
    ]
    num_events = 102

    def source(self, folder: Path):
        return Planted(users=2, length=51, gap=20, seed=1)


def test_shares_of_the_events() -> None:
    events = read("planted(users=20)")
    assert events.action is not None
    assert np.abs(np.bincount(events.action) / len(events) - [0.45, 0.28, 0.28]).max() < 0.01


def test_users_do_not_depend_on_how_many_there_are() -> None:
    few, many = read("planted(users=2, length=6000)"), read("planted(users=5, length=6000)")
    assert np.array_equal(few.item_id, many.item_id[:12_000])
    assert not np.array_equal(few.item_id[:6000], few.item_id[6000:])
    assert not np.array_equal(few.item_id, read("planted(users=2, length=6000, seed=1)").item_id)


@pytest.mark.parametrize("length", [3000, 3001])
def test_an_occasion_is_followed_by_the_same_purchase_of_its_own(length: int) -> None:
    events = Planted(users=6, length=length, gap=1000).read()
    assert events.action is not None
    for item, action in zip(
        events.item_id.reshape(6, -1), events.action.reshape(6, -1), strict=True
    ):
        at = np.flatnonzero(action == 1)
        assert (action[at + 1] == 2).all()
        assert np.array_equal((item[at + 1] - OCCASIONS) // PURCHASES, item[at])
        pairs = np.unique(np.stack([item[at], item[at + 1]]), axis=1)
        assert len(np.unique(pairs[0])) == pairs.shape[1]
        assert (item[action == 0] >= OCCASIONS * (1 + PURCHASES)).all()


@pytest.mark.parametrize("gap", [20, 1001, 2900])
def test_the_last_purchase_is_told_three_times_and_long_ago(gap: int) -> None:
    items = Planted(users=20, length=3000, gap=gap).read().item_id.reshape(20, -1)
    for item in items:
        met = np.flatnonzero(item[:-1] == item[-1])
        assert len(met) == SHOWN
        assert len(item) - 1 - met.max() > gap
        assert np.array_equal(met, np.flatnonzero(item[:-2] == item[-2]) + 1)


def test_recurring_occasions_have_their_periods() -> None:
    item = Planted(users=1, length=200_000).read().item_id
    count = np.sort(np.bincount(item, minlength=OCCASIONS)[:OCCASIONS])
    assert (count[:OLD] <= SHOWN + 1).all()
    assert np.abs(200_000 / count[OLD:][::-1] / PERIODS - 1).max() < 0.15


def test_paces_differ_by_user() -> None:
    times = Planted(users=50, length=2000, gap=1000).read().timestamp.reshape(50, -1)
    pace_s = np.diff(times).mean(axis=1)
    assert np.diff(times).min() >= 1
    assert PACES_S[0] * 0.9 < pace_s.min() < 200 < 2000 < pace_s.max() < PACES_S[1] * 1.1


@pytest.mark.parametrize("options", ["users=0", "gap=0", "seed=-1", "length=5026", "gap=9980"])
def test_wrong_options(options: str) -> None:
    with pytest.raises(ConfigError, match=r"users and gap must be .* length at least gap \+ 27"):
        read(f"planted({options})")
