import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gistrec.dataset import Dataset, Vocabulary
from gistrec.errors import ConfigError, DataError
from gistrec.events import Events, read
from gistrec.testing.data import stride_dataset


def log(*users):
    """Each user is a list of (item, time)."""
    rows = [(u, i, t) for u, events in enumerate(users) for i, t in events]
    return Events(*(np.array(c, np.int64) for c in zip(*rows, strict=True)))


BASKETS = log(
    [(5, 10), (6, 10), (7, 20), (8, 30), (9, 30)],
    [(5, 10), (6, 10), (7, 10), (8, 10), (9, 10)],  # one basket only: nothing to predict it from
)


def test_users_with_few_events_are_left_out_and_counted():
    dataset = Dataset.from_events(log([(1, 1)], [(1, 1), (2, 2), (3, 3)]), min_events=2)
    assert (dataset.num_users, dataset.num_items, dataset.dropped_users) == (1, 3, 1)
    with pytest.raises(DataError, match="no user has at least 9 events"):
        Dataset.from_events(log([(1, 1)]), min_events=9)


def test_a_user_with_one_event_is_named():
    dataset = Dataset.from_events(log([(5, 1), (6, 2)], [(7, 9)], [(8, 3)]), min_events=1)
    assert dataset.num_users == 3  # histories to be stored
    for scheme in ("leave_last_out", "last_basket"):
        with pytest.raises(DataError, match=r"the log: 2 users .* user 1 \(item 7, timestamp 9\)"):
            dataset.split(scheme)
    with pytest.raises(DataError, match=r"leave such users out with min_events=2 or more"):
        next(dataset.batches(batch_tokens=100, max_len=10, rng=np.random.default_rng(0)))


def test_a_user_with_one_event_is_named_with_the_file(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\nann,5,1\nbob,5,1\nann,6,2\n")
    dataset = Dataset.from_events(read(path), min_events=1)
    with pytest.raises(DataError, match=r"log\.csv: 1 users .* user bob \(item 5, timestamp 1\)"):
        dataset.split()


def test_a_log_with_nothing_to_train_on():
    dataset = Dataset.from_events(log([(5, 1), (6, 2)], [(7, 9), (5, 9)]), min_events=2)
    with pytest.raises(DataError, match="no user has two events left to train on"):
        next(dataset.batches(batch_tokens=100, max_len=10, rng=np.random.default_rng(0)))


def test_the_last_basket_is_all_events_of_the_last_time():
    dataset = Dataset.from_events(BASKETS)
    split = dataset.split("last_basket")
    assert [split.user.tolist(), split.target_start.tolist(), split.target_end.tolist()] == [
        [0],
        [3],
        [5],
    ]
    before = dataset.split("last_basket", holdout=1)
    assert [before.target_start.tolist(), before.target_end.tolist()] == [[2], [3]]
    with pytest.raises(DataError, match="no user has events before its target"):
        dataset.split("last_basket", holdout=2)


def test_leave_last_out_predicts_one_event():
    split = Dataset.from_events(BASKETS).split()
    assert split.target_start.tolist() == [4, 9]
    assert (split.target_end - split.target_start).tolist() == [1, 1]


def test_an_unknown_split_names_the_allowed_ones():
    with pytest.raises(ConfigError, match="leave_last_out, last_basket"):
        Dataset.from_events(BASKETS).split("random")


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(0, 1000), st.integers(0, 2))
def test_an_epoch_trains_each_event_but_a_user_s_first_once(max_len, seed, holdout):
    dataset = stride_dataset(users=7, length=24)
    seen = np.zeros((7, 30), int)
    for batch in dataset.batches(
        batch_tokens=100, max_len=max_len, rng=np.random.default_rng(seed), holdout=holdout
    ):
        assert batch.item_BS.shape[1] <= max_len
        row = batch.query_row_Q[batch.pair_query_P]
        position = batch.query_position_Q[batch.pair_query_P]
        hour = (batch.next_time_BS[row, position] - 1_600_000_000) // 3600
        np.add.at(seen[0], hour.numpy(), 1)
        assert (batch.time_BS[row, position] < batch.next_time_BS[row, position]).all()
        assert len(batch.pair_item_P) == len(row)
    assert seen[0, 1 : 24 - holdout].tolist() == [7] * (23 - holdout)
    assert not seen[0, 24 - holdout :].any()


def test_basket_queries_stand_at_basket_ends_and_own_the_next_basket():
    dataset = Dataset.from_events(BASKETS)
    batches = list(
        dataset.batches(
            batch_tokens=5, max_len=9, rng=np.random.default_rng(0), scheme="last_basket", holdout=0
        )
    )
    (batch,) = [b for b in batches if len(b.pair_item_P)]
    assert batch.query_position_Q.tolist() == [1, 2]
    assert batch.pair_query_P.tolist() == [0, 1, 1]
    assert dataset.items.ids[batch.pair_item_P].tolist() == [7, 8, 9]


def test_popularity_does_not_see_the_targets():
    dataset = Dataset.from_events(BASKETS)
    assert dataset.popularity(holdout=0).tolist() == [2, 2, 2, 2, 2]
    assert dataset.popularity("last_basket", holdout=1).tolist() == [1, 1, 1, 0, 0]
    assert dataset.popularity("last_basket", holdout=2).tolist() == [1, 1, 0, 0, 0]


def test_the_vocabulary_knows_its_items():
    items = Dataset.from_events(BASKETS).items
    assert [items.index(7), items.index(1), items.title(0)] == [2, -1, "5"]
    assert items.indices(np.array([7, 1, 5, 99, -3])).tolist() == [2, -1, 0, -1, -1]
    assert items.indices(np.array(["7", "x"])).tolist() == [-1, -1]


def test_a_vocabulary_of_texts_knows_its_items():
    items = Vocabulary(np.array(["a", "b"], dtype=object))
    assert items.indices(np.array(["b", "c", "a"], dtype=object)).tolist() == [1, -1, 0]
    assert items.indices(np.array([1, 2])).tolist() == [-1, -1]
    assert Vocabulary(np.zeros(0, np.int64)).indices(np.array([4])).tolist() == [-1]
