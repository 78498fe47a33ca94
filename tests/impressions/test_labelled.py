from pathlib import Path

import numpy as np
import pytest

from gistrec import impressions
from gistrec.errors import ConfigError, DataError
from gistrec.impressions import Impressions, feature_row

LOG = """user_id,item_id,timestamp,rating,tab
1,10,100,5,a
1,11,100,2,b
1,10,200,4,a
2,12,150,,a
2,10,160,1,
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return path


def read(log: Path, options: str = "label='rating', positive=4") -> Impressions:
    return impressions.read(f"labelled(path={str(log)!r}, {options})")


def test_labels_actions_and_histories_are_those_of_the_file(log):
    found = read(log)
    assert found.labels == ("rating",)
    assert found.label_NT[:, 0].tolist() == [1, 0, 1, 0]  # the unrated row is no impression
    assert found.user.tolist() == [0, 0, 0, 1]
    assert found.dataset.action.tolist() == [1, 0, 1, 0, 0]
    assert found.items.ids.tolist() == [10, 11, 12]


def test_events_of_the_same_second_are_not_known_yet(log):
    found = read(log)
    assert found.lengths.tolist() == [0, 0, 2, 1]
    assert found.history(2).item_index.tolist() == [0, 1]
    assert found.history(2).action.tolist() == [1, 0]


def test_a_history_of_positives_only(log):
    found = read(log, "label='rating', positive=4, history='positive'")
    assert len(found) == 4
    assert found.lengths.tolist() == [0, 0, 1, 0]


def test_context_and_features_become_rows(log, tmp_path):
    items = tmp_path / "items.csv"
    items.write_text("item_id,genres,year\n10,Drama|War,1994\n12,War,\n")
    more = f"context='tab', items={str(items)!r}, features='genres|year'"
    found = read(log, f"label='rating', positive=4, {more}")
    a, b = feature_row("tab", "a"), feature_row("tab", "b")
    assert found.context_NC[:, 0].tolist() == [a, b, a, -1]
    war = feature_row("genres", "War")
    assert found.feature_VF[0].tolist() == [
        feature_row("genres", "Drama"),
        war,
        feature_row("year", 1994),
    ]
    assert found.feature_VF[1].tolist() == [-1, -1, -1]
    assert found.feature_VF[2].tolist() == [war, -1, -1]


def test_the_value_of_a_category_is_the_same_as_a_whole_number_or_a_float():
    assert feature_row("year", 1994) == feature_row("year", 1994.0)
    assert feature_row("year", float("nan")) == feature_row("year", None) == -1


def test_several_labels_are_bits_of_the_action(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp,a,b\n1,1,1,1,0\n1,2,2,0,1\n1,3,3,1,1\n")
    found = read(path, "label='a|b'")
    assert found.dataset.action.tolist() == [1, 2, 3]
    assert found.label_NT.tolist() == [[1, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("label='stars'", "has no column 'stars'"),
        ("label='rating'", "a label is 0 or 1"),
        ("label='rating', positive=9", "never both 0 and 1"),
        ("label='tab'", "labels are numbers"),
    ],
)
def test_wrong_labels_are_told(log, options, message):
    with pytest.raises(DataError, match=message):
        read(log, options)


def test_wrong_options_are_told(log, tmp_path):
    for options in ("label=''", "label='a', history='none'", "label='a', items='x.csv'"):
        with pytest.raises(ConfigError):
            read(log, options)
    with pytest.raises(DataError, match="does not exist"):
        read(log, "label='rating', positive=4, items='x.csv', features='genres'")
    with pytest.raises(DataError, match=r"takes a \.parquet, \.csv, \.tsv or \.inter"):
        impressions.read("labelled(path='log.xls', label='a')")


def test_parts_follow_time(tmp_path):
    rows = [f"{n % 3},{n},{n},{n % 2}" for n in range(100)]
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp,a\n" + "\n".join(rows))
    found = read(path, "label='a'")
    parts = [found.part(p) for p in impressions.PARTS]
    assert [len(p) for p in parts] == [80, 10, 10]
    times = [found.timestamp[p] for p in parts]
    assert times[0].max() < times[1].min() <= times[1].max() < times[2].min()


def test_batches_hold_every_impression_once_with_its_history(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{rng.integers(6)},{rng.integers(20)},{rng.integers(80)},{n % 2}" for n in range(300)]
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp,a\n" + "\n".join(rows))
    found = read(path, "label='a'")
    seen = []
    everything = np.arange(len(found))
    for batch in found.batches(batch_tokens=200, max_len=8, numbers=everything):
        for b, column in (batch.number_BN >= 0).nonzero().tolist():
            n = int(batch.number_BN[b, column])
            seen.append(n)
            end = int(batch.position_BN[b, column]) + 1
            history = found.history(n)
            assert min(8, len(history)) <= end <= 16
            shown = batch.item_BS[b, :end].numpy()
            np.testing.assert_array_equal(shown, history.item_index[len(history) - end :])
            assert batch.label_BNT[b, column, 0] == found.label_NT[n, 0]
            assert batch.length_BN[b, column] == len(history)
    assert sorted(seen) == everything.tolist()


def test_an_atomic_file_of_recbole(tmp_path):
    path = tmp_path / "log.inter"
    head = "user_id:token\titem_id:token\ttimestamp:float\tlabel:float\n"
    path.write_text(head + "1\t7\t10\t1\n1\t8\t20\t0\n")
    found = read(path, "label='label'")
    assert found.label_NT[:, 0].tolist() == [1, 0]


SHARED = Path(__file__).parents[3] / "shared" / "data"
has_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs the real logs")


@has_shared
def test_ml_1m():
    found = impressions.read(
        f"labelled(path='{SHARED}/ml-1m.parquet', label='rating', positive=4, "
        f"items='{SHARED}/ml-1m-items.parquet', features='genres|year')"
    )
    assert (len(found), found.dataset.num_users, found.num_items) == (999_611, 6040, 3416)
    assert found.label_NT.mean() == pytest.approx(0.575, abs=0.001)
    assert set(np.unique(found.dataset.action)) == {0, 1}


@has_shared
def test_kuairand():
    found = impressions.read(
        f"labelled(path='{SHARED}/kuairand-pure-14d.parquet', label='is_click|long_view|is_like', "
        f"context='tab', items='{SHARED}/kuairand-pure-14d-items.parquet', "
        "features='author_id|category|video_type')"
    )
    assert found.labels == ("is_click", "long_view", "is_like")
    assert (len(found), found.dataset.num_users) == (228_329, 25_156)
    assert found.contexts == ("tab",)
    assert len(np.unique(found.context_NC)) > 5
    assert found.feature_VF.shape == (found.num_items, 3)
    bits = (found.label_NT.astype(int) << np.arange(3)).sum(1)
    assert (
        np.bincount(found.dataset.action, minlength=8).tolist()
        == np.bincount(bits, minlength=8).tolist()
    )


def test_columns_as_fuxictr_names_them(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(
        "clk,userid,adgroup_id,time_stamp,pid,cms_segid\n"
        "0,u1,a1,1494032110,430548_1007,5\n"
        "1,u1,a2,1494032310,430539_1007,5\n"
    )
    found = impressions.read(
        f"labelled(path={str(path)!r}, label='clk', user='userid', item='adgroup_id', "
        "time='time_stamp', context='pid|cms_segid')"
    )
    assert found.label_NT[:, 0].tolist() == [0, 1]
    assert found.items.ids.tolist() == ["a1", "a2"]
    assert found.context_NC[1].tolist() == [
        feature_row("pid", "430539_1007"),
        feature_row("cms_segid", "5"),
    ]


def test_columns_as_recbole_writes_them(tmp_path):
    path = tmp_path / "log.inter"
    path.write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "1\t10\t5\t100\n1\t11\t2\t200\n"
    )
    found = impressions.read(f"labelled(path={str(path)!r}, label='rating', positive=4)")
    assert found.label_NT[:, 0].tolist() == [1, 0]
    assert found.lengths.tolist() == [0, 1]
