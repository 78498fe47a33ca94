import numpy as np
import pytest

from gistrec import impressions, metrics
from gistrec.errors import ConfigError

SPEC = "interests(users=60, length=400, shown=20, topics=60)"


@pytest.fixture(scope="module")
def shown() -> impressions.Impressions:
    return impressions.read(SPEC)


def auc_of_last(shown: impressions.Impressions, events: int) -> float:
    """Of one who knows the rules, and the last so many events."""
    answer = 2 * shown.dataset.action - 1
    score = []
    for n in range(len(shown)):
        end = int(shown.history_end[n])
        start = max(int(shown.dataset.offsets[shown.user[n]]), end - events)
        same = shown.dataset.item_index[start:end] // 4 == shown.item_index[n] // 4
        score.append(answer[start:end][same].sum())
    return metrics.auc(np.array(score, float), shown.label_NT[:, 0])


def test_only_a_long_history_tells(shown):
    assert auc_of_last(shown, 20) < 0.7 < auc_of_last(shown, 100) < 0.85 < auc_of_last(shown, 400)


def test_the_newest_events_are_asked_for(shown):
    assert len(shown) == 60 * 20
    assert shown.lengths.reshape(60, 20)[0].tolist() == [*range(380, 400)]
    assert len(shown.dataset.item_index) == 60 * 400


def test_items_of_a_topic_share_a_feature(shown):
    row = shown.feature_VF[:, 0]
    assert (row[shown.items.ids // 4 == 7] == impressions.feature_row("topic", 7)).all()
    assert len(np.unique(row)) > 55  # values share rows now and then


def test_the_same_seed_gives_the_same(shown):
    np.testing.assert_array_equal(impressions.read(SPEC).item_index, shown.item_index)
    other = impressions.read(SPEC.replace(")", ", seed=1)"))
    assert (other.item_index != shown.item_index).any()


def test_wrong_options():
    for options in ("users=0", "length=10, shown=11", "seed=-1"):
        with pytest.raises(ConfigError, match="must be at least"):
            impressions.read(f"interests({options})")


def test_histories_as_a_log(shown):
    log = shown.events
    assert len(log) == 60 * 400
    assert (np.diff(log.user_id) >= 0).all()
    np.testing.assert_array_equal(log.action, shown.dataset.action)
