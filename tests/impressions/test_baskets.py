from pathlib import Path

import numpy as np
import pytest

from gistrec import impressions, metrics
from gistrec.errors import ConfigError, DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"
DAY = 86_400


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 users with 12 baskets of 3 products each, of which low numbers sell more often."""
    rng = np.random.default_rng(0)
    lines = ["user_id,item_id,timestamp"]
    for user in range(30):
        for basket in range(12):
            time = 1_600_000_000 + basket * DAY + int(rng.integers(DAY // 2))
            for item in {int(40 * rng.random() ** 2) for _ in range(3)}:
                lines.append(f"{user},{item},{time}")
    path = tmp_path_factory.mktemp("baskets") / "log.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def shown(log: Path) -> impressions.Impressions:
    return impressions.read(f"baskets(log={str(log)!r}, baskets=5)")


def test_every_bought_product_stands_beside_one_that_was_not(shown):
    label = shown.label_NT[:, 0]
    assert shown.labels == ("bought",)
    assert label.mean() == 0.5
    basket = np.stack([shown.user, shown.timestamp])
    for n in range(0, len(shown), 17):
        same = (basket == basket[:, n : n + 1]).all(0)
        bought, not_bought = (set(shown.item_index[same & (label == x)]) for x in (1, 0))
        assert not bought & not_bought
        assert (label[same] == 1).sum() == len(bought)


def test_the_newest_baskets_are_asked_for(shown):
    for user in range(30):
        times = np.unique(shown.timestamp[shown.user == user])
        rows = slice(*shown.dataset.offsets[user : user + 2])
        assert times.tolist() == np.unique(shown.dataset.timestamp[rows])[-5:].tolist()


def test_histories_are_purchases_before_the_basket(shown):
    assert (shown.dataset.action == 1).all()
    for n in (0, 40, 99):
        history = shown.history(n)
        assert len(history)
        assert (history.timestamp < shown.timestamp[n]).all()
    rows = (shown.dataset.timestamp < shown.timestamp[0]) & (
        np.arange(len(shown.dataset.timestamp)) < shown.dataset.offsets[1]
    )
    assert shown.lengths[0] == rows.sum()


def test_popularity_tells_nothing(shown):
    sold = np.bincount(shown.dataset.item_index, minlength=shown.num_items)
    auc = metrics.auc(sold[shown.item_index].astype(float), shown.label_NT[:, 0])
    assert auc == pytest.approx(0.5, abs=0.04)


def test_the_same_seed_draws_the_same_products(log, shown):
    again = impressions.read(f"baskets(log={str(log)!r}, baskets=5)")
    other = impressions.read(f"baskets(log={str(log)!r}, baskets=5, seed=1)")
    np.testing.assert_array_equal(again.item_index, shown.item_index)
    assert (other.item_index != shown.item_index).any()


def test_hour_and_weekday_are_known(shown):
    hour = impressions.feature_row("hour", int(shown.timestamp[3] % DAY // 3600))
    assert shown.contexts == ("hour", "weekday")
    assert shown.context_NC[3, 0] == hour
    assert len(np.unique(shown.context_NC[:, 1])) in (5, 6)  # days begin at midnight


def test_a_first_basket_has_no_history_and_is_not_asked_for(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\n1,1,10\n1,2,10\n2,1,10\n")
    with pytest.raises(DataError, match="no user has two baskets"):
        impressions.read(f"baskets(log={str(path)!r})")


def test_wrong_options():
    with pytest.raises(ConfigError, match="baskets must be at least 1"):
        impressions.read("baskets(baskets=0)")
    with pytest.raises(ConfigError, match="go together"):
        impressions.read("baskets(items='items.csv')")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs the real log")
def test_completejourney():
    found = impressions.read(
        f"baskets(log='{SHARED}/completejourney.parquet', baskets=2, "
        f"items='{SHARED}/completejourney-items.parquet', features='category|brand')"
    )
    assert found.dataset.num_users == 2469
    assert found.label_NT.mean() == 0.5
    assert found.feature_VF.shape[1] == 2
    assert found.lengths.mean() > 400
