import os
import random
import signal
import subprocess
import sys
import time

import duckdb
import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gistrec.errors import DataError
from gistrec.events import Events, from_table, read
from gistrec.history_log import HistoryLog
from gistrec.stores import open_store
from gistrec.testing.servers import valkey_server
from gistrec.transfer import Imported, export_events, import_events


def log_of(rows: list[tuple], *, actions: bool = False) -> Events:
    """Events of (user, item, time[, action]) rows."""
    names = ("user_id", "item_id", "timestamp", "action")[: len(rows[0])]
    columns = {
        name: np.array(values, object if isinstance(values[0], str) else np.int64)
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }
    return from_table(pandas.DataFrame(columns), action="action" if actions else "")


def same(one: Events, other: Events) -> bool:
    if (one.action is None) != (other.action is None):
        return False
    names = ["user_id", "item_id", "timestamp"] + ["action"] * (one.action is not None)
    return all(
        getattr(one, n).dtype == getattr(other, n).dtype
        and getattr(one, n).tolist() == getattr(other, n).tolist()
        for n in names
    )


def round_trip(events: Events, folder, *, text_users: bool = False) -> Events:
    out = folder / "out.parquet"
    with open_store("ram://") as store:
        import_events(HistoryLog(store), events)
        found = export_events(HistoryLog(store), out, text_users=text_users)
    assert found[:2] == (len(set(events.user_id.tolist())), len(events))
    action = ", action='action'" if found.actions else ""
    return read(f"parquet(path='{out}'{action})")


NUMBERS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)
TEXTS = TEXTS.map(lambda text: f"x{text}")  # neither a number nor a word for "missing"
IDS = st.sampled_from(["numbers", "texts"])


@st.composite
def logs(draw):
    users = draw(st.lists(NUMBERS if draw(IDS) == "numbers" else TEXTS, min_size=1, max_size=4))
    items = NUMBERS if draw(IDS) == "numbers" else TEXTS
    actions = draw(st.booleans())
    row = st.tuples(
        st.sampled_from(users),
        items,
        st.integers(0, 20) | st.integers(0, 253_402_300_799),
        *([st.integers(0, 255)] if actions else []),
    )
    rows = draw(st.lists(row, min_size=1, max_size=30))
    return log_of(rows * draw(st.sampled_from([1, 1, 1, 50])), actions=actions)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(logs())
def test_what_comes_out_is_what_went_in(tmp_path, events):
    assert same(round_trip(events, tmp_path), events)


def test_user_ids_are_numbers_only_if_all_are_written_so(tmp_path):
    rows = [("1", 5, 0), ("2", 6, 0)]
    assert round_trip(log_of(rows), tmp_path).user_id.tolist() == [1, 2]
    assert round_trip(log_of(rows), tmp_path, text_users=True).user_id.tolist() == ["1", "2"]
    assert round_trip(log_of([*rows, ("007", 5, 0)]), tmp_path).user_id[0] == "007"
    # too large for 64 bits
    assert round_trip(log_of([*rows, ("9" * 19, 5, 0)]), tmp_path).user_id[0] == "1"


def test_a_long_log_comes_out_in_several_row_groups(tmp_path):
    events = read("synthetic(users=30, length=9000, items=60)")
    assert same(round_trip(events, tmp_path), events)
    with duckdb.connect() as con:
        groups = con.execute(
            "SELECT count(DISTINCT row_group_id) FROM parquet_metadata(?)",
            [str(tmp_path / "out.parquet")],
        ).fetchone()
    assert groups[0] > 1


def test_an_export_leaves_nothing_but_the_file(tmp_path):
    round_trip(log_of([(1, 5, 0)]), tmp_path)
    assert os.listdir(tmp_path) == ["out.parquet"]


def test_users_with_numbers_and_users_with_texts_are_told(tmp_path):
    with open_store("ram://") as store:
        log = HistoryLog(store)
        with pytest.raises(DataError, match="holds no events"):
            export_events(log, tmp_path / "out.parquet")
        log.append("ann", [1], [0])
        log.append("bob", ["x"], [0])
        with pytest.raises(DataError, match=r"'bob' are text, those of user 'ann' whole numbers"):
            export_events(log, tmp_path / "out.parquet")


def test_a_user_without_actions_beside_one_with_them_has_zeros(tmp_path):
    with open_store("ram://") as store:
        log = HistoryLog(store)
        log.append("1", [7], [0])
        log.append("2", [8], [0], [3])
        export_events(log, tmp_path / "out.parquet")
    found = read(f"parquet(path='{tmp_path / 'out.parquet'}', action='action')")
    assert found.action.tolist() == [0, 3]


class TestImport:
    """Into a store that holds something already."""

    @pytest.fixture
    def log(self):
        with open_store("ram://") as store:
            yield HistoryLog(store)

    def test_again_adds_nothing(self, log):
        events = log_of([(1, 5, 10), (1, 6, 11), (2, 5, 10)])
        assert import_events(log, events) == Imported(2, 3, 0, 0, ())
        assert import_events(log, events) == Imported(2, 0, 3, 0, ())
        assert log.read("1").item_id.tolist() == [5, 6]

    def test_a_file_that_has_grown_adds_what_is_new(self, log):
        import_events(log, log_of([(1, 5, 10), (1, 6, 11)]))
        grown = log_of([(1, 5, 10), (1, 6, 11), (1, 6, 11), (1, 7, 12)])
        assert import_events(log, grown) == Imported(1, 2, 2, 0, ())
        assert log.read("1").item_id.tolist() == [5, 6, 6, 7]

    def test_a_file_of_the_next_day_continues(self, log):
        import_events(log, log_of([(1, 5, 10), (1, 6, 11)]))
        for added, kept in ((2, 0), (0, 2)):
            found = import_events(log, log_of([(1, 7, 11), (1, 8, 12)]))
            assert found == Imported(1, added, kept, 0, ())
        assert log.read("1").item_id.tolist() == [5, 6, 7, 8]

    def test_what_was_served_after_the_import_stays(self, log):
        events = log_of([(1, 5, 10), (1, 6, 11)])
        import_events(log, events)
        log.append("1", [9], [20])
        assert import_events(log, events) == Imported(1, 0, 2, 0, ())
        assert log.read("1").item_id.tolist() == [5, 6, 9]

    def test_a_file_that_overlaps_adds_the_rest(self, log):
        import_events(log, log_of([(1, 5, 10), (1, 6, 11), (1, 5, 12)]))
        found = import_events(log, log_of([(1, 6, 11), (1, 5, 12), (1, 9, 13)]))
        assert found == Imported(1, 1, 2, 0, ())
        assert log.read("1").item_id.tolist() == [5, 6, 5, 9]

    def test_a_user_with_other_events_is_left_and_told(self, log):
        import_events(log, log_of([(1, 5, 10), (2, 5, 10)]))
        found = import_events(log, log_of([(1, 6, 9), (2, 6, 11)]))
        assert found == Imported(2, 1, 0, 1, ("1",))
        assert log.read("1").item_id.tolist() == [5]

    def test_an_action_is_a_part_of_an_event(self, log):
        import_events(log, log_of([(1, 5, 10, 3), (1, 6, 11, 4)], actions=True))
        same_day = log_of([(1, 5, 10, 3), (1, 6, 11, 9)], actions=True)
        assert import_events(log, same_day).differing_users == 1

    def test_item_ids_of_another_kind_are_refused(self, log):
        log.append("1", ["x"], [0])
        with pytest.raises(DataError, match="user '1' have been text so far"):
            import_events(log, log_of([(1, 6, 9)]))

    def test_a_user_who_is_written_to_meanwhile_is_merged(self, log):
        """A writer comes between the look at the heads and the write."""
        events = log_of([(n, item, 10) for n in range(5) for item in (6, 7)])
        store = log._store
        put_many, came = store.put_many, []

        def late(puts):
            if not came:
                came.append(1)
                HistoryLog(store).append("3", [6], [10])
            return put_many(puts)

        store.put_many = late
        assert import_events(log, events) == Imported(5, 9, 1, 0, ())
        assert log.read("3").item_id.tolist() == [6, 7]


def import_in_a_process(path, url: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "gistrec", "import", str(path), "--store", url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """600,000 events in a file, and read."""
    path = tmp_path_factory.mktemp("large") / "log.parquet"
    with duckdb.connect() as con:
        con.execute(
            "COPY (SELECT n // 200 AS user_id, (n * 7919) % 4001 AS item_id, "
            f"1600000000 + n % 200 * 60 AS timestamp FROM range(600000) t(n)) TO '{path}'"
        )
    return path, read(path)


def killed_and_run_again(url: str, path) -> str:
    """What the last run says; the one before was killed when it had written some users."""
    process = import_in_a_process(path, url)
    wanted = random.Random(url).randrange(200, 2500)
    with open_store(url) as store:
        log = HistoryLog(store)
        while sum(1 for _ in log.users()) < wanted and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert any(log.users())
    again = import_in_a_process(path, url)
    said = again.communicate()[0]
    assert again.returncode == 0
    return said


def check_all_there(url: str, events: Events, folder) -> None:
    with open_store(url) as store:
        export_events(HistoryLog(store), folder / "out.parquet")
    assert same(read(folder / "out.parquet"), events)


@pytest.mark.slow
def test_an_import_killed_on_lmdb_goes_on(large, tmp_path):
    path, events = large
    url = f"lmdb://{tmp_path / 'store'}?map_size=1g"
    assert "were there already" in killed_and_run_again(url, path)
    check_all_there(url, events, tmp_path)


@pytest.mark.slow
def test_an_import_killed_on_valkey_goes_on(large, tmp_path):
    path, events = large
    with valkey_server(tmp_path / "valkey") as valkey:
        killed_and_run_again(valkey.url, path)
        check_all_there(valkey.url, events, tmp_path)
