import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gistrec.errors import (
    ConflictError,
    CorruptStateError,
    DataError,
    FormatVersionError,
    StoreUnavailableError,
)
from gistrec.history_log import HistoryLog
from gistrec.log_blocks import BLOCK_EVENTS, TAIL_BYTES, TAIL_EVENTS, LogHead
from gistrec.stores import Put, open_store
from gistrec.stores.ram import Ram

GOLDEN = Path(__file__).parent / "golden" / "wire"
ML_1M = Path(__file__).parents[2] / "shared" / "data" / "ml-1m.parquet"


class Spy(Ram):
    """Remembers what keys were asked for and written."""

    def __init__(self):
        super().__init__()
        self.read, self.written = [], []

    def get_many(self, keys):
        self.read += keys
        return super().get_many(keys)

    def put_many(self, puts):
        self.written += [put.key for put in puts]
        return super().put_many(puts)


@pytest.fixture
def store():
    return Spy()


@pytest.fixture
def log(store):
    return HistoryLog(store)


def lists(logged):
    action = None if logged.action is None else logged.action.tolist()
    return logged.item_id.tolist(), logged.timestamp.tolist(), action


def fill(log, user_id, count, *, start=0):
    """Items and times that tell an event's place."""
    places = range(start, start + count)
    return log.append(user_id, [n % 100 for n in places], [1_500_000_000 + n for n in places])


INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.data(), st.booleans(), st.integers(0, 3))
def test_what_is_appended_is_read(data, is_text, start):
    log = HistoryLog(open_store("ram://"))
    items, times, actions = [], [], []
    for length in data.draw(st.lists(st.integers(0, 5), max_size=4)):
        several = {"min_size": length, "max_size": length}
        new_items = data.draw(st.lists(TEXT if is_text else INT64, **several))
        new_times = data.draw(st.lists(INT64, **several))
        new_actions = data.draw(st.none() | st.lists(INT64, **several))
        items, times = items + new_items, times + new_times
        actions += [None] * length if new_actions is None else new_actions
        assert log.append("u", new_items, new_times, new_actions) == len(items)
    assert log.length("u") == len(items)
    found = lists(log.read("u", start))
    assert found[:2] == (items[start:], times[start:])
    if all(action is None for action in actions):
        assert found[2] is None
    else:
        assert found[2] == [action or 0 for action in actions[start:]]


@pytest.mark.parametrize("step", [1, 7, 100, 513, 2000])
@pytest.mark.parametrize("is_text", [False, True])
def test_long_histories(log, store, step, is_text):
    rng = np.random.default_rng(0)
    items = rng.integers(0, 4000, 2000).tolist()
    items = [f"item {n}" for n in items] if is_text else items
    times = np.cumsum(rng.integers(-20, 5000, 2000)).tolist()
    actions = rng.integers(1, 6, 2000).tolist()
    for n in range(0, 2000, step):
        part = slice(n, n + step)
        log.append("u", items[part], times[part], actions[part] if n >= 1000 else None)
    actions = [action if n - n % step >= 1000 else 0 for n, action in enumerate(actions)]
    expected = None if step == 2000 else actions
    assert lists(log.read("u")) == (items, times, expected)
    for start in (0, 1, 129, 512, 1024, 1999, 2000, 2500):
        found = lists(log.read("u", start))
        assert found == (items[start:], times[start:], expected and expected[start:])
    assert log.nbytes("u") == sum(len(store.get(key).blob) for key in list(store.keys()))


def test_unknown_user(log):
    assert lists(log.read("u")) == ([], [], None)
    assert (log.length("u"), log.nbytes("u"), log.forget("u")) == (0, 0, False)
    assert list(log.users()) == []


def test_one_event_writes_the_head_only(log, store):
    for n in range(TAIL_EVENTS):
        log.append("u", [n], [n])
    assert set(store.written) == {"h/u"}
    log.append("u", [0], [0])
    assert store.written[-2:] == ["h/u", "b/u/0"]
    log.append("u", [0], [0])
    assert store.written[-1] == "h/u"
    assert len(list(store.keys())) == 2


def test_a_head_stays_small(log, store):
    for n in range(300):
        log.append("u", [f"{n:060d}"], [n])
        assert len(store.get("h/u").blob) < TAIL_BYTES + 100
    assert 3 < len(list(store.keys("b/u/"))) <= 300 * 63 / TAIL_BYTES + 1


def test_many_events_at_once_make_large_blocks(log, store):
    fill(log, "u", 2 * BLOCK_EVENTS + 10)
    assert list(store.keys()) == ["b/u/0", "b/u/1", "h/u"]
    assert LogHead.from_bytes(store.get("h/u").blob).blocks == ((BLOCK_EVENTS, 2),)


def test_only_the_blocks_needed_are_read(log, store):
    fill(log, "u", 3 * BLOCK_EVENTS + 10)
    for start, blocks in [
        (3 * BLOCK_EVENTS, set()),
        (3 * BLOCK_EVENTS - 1, {"b/u/2"}),
        (2 * BLOCK_EVENTS, {"b/u/2"}),
        (2 * BLOCK_EVENTS - 1, {"b/u/1", "b/u/2"}),
    ]:
        store.read.clear()
        assert len(log.read("u", start).timestamp) == 3 * BLOCK_EVENTS + 10 - start
        assert set(store.read) == {"h/u"} | blocks


def test_expected_length(log):
    assert log.append("u", [1], [1], expected_length=0) == 1
    assert log.append("u", [2, 3], [1, 1], expected_length=1) == 3
    for wrong in (0, 2, 4):
        with pytest.raises(ConflictError, match=f"'u' has 3 events, expected were {wrong}"):
            log.append("u", [4], [1], expected_length=wrong)
    with pytest.raises(ConflictError):
        log.append("u", [], [], expected_length=2)
    assert log.length("u") == 3


def test_appending_nothing_writes_nothing(log, store):
    assert log.append("u", [], []) == 0
    fill(log, "u", 3)
    store.written.clear()
    assert log.append("u", [], []) == 3
    assert store.written == []


class Rival(Spy):
    """Somebody else appends just before some of our writes."""

    rivals = 0

    def put_many(self, puts):
        if self.rivals:
            self.rivals -= 1
            rivals, self.rivals = self.rivals, 0
            HistoryLog(self).append("u", [99], [99])
            self.rivals = rivals
        return super().put_many(puts)


def test_a_conflict_is_tried_again():
    store = Rival()
    log = HistoryLog(store)
    store.rivals = 3
    assert log.append("u", [1], [1]) == 4
    assert log.read("u").item_id.tolist() == [99, 99, 99, 1]


def test_a_conflict_with_an_expectation_is_reported():
    store = Rival()
    log = HistoryLog(store)
    store.rivals = 1
    with pytest.raises(ConflictError, match="has 1 events, expected were 0"):
        log.append("u", [1], [1], expected_length=0)
    assert log.read("u").item_id.tolist() == [99]


def test_tries_end():
    store = Rival()
    store.rivals = 10**6
    with pytest.raises(ConflictError, match="too many writers"):
        HistoryLog(store).append("u", [1], [1])


# ---- appends that come again ----


def test_an_event_that_comes_again_with_its_id_is_not_logged_again(log, store):
    assert log.append("u", [1, 2], [1, 2], event_ids=["a", "b"]) == 2
    store.written.clear()
    assert log.append("u", [1, 2], [1, 2], event_ids=["a", "b"]) == 2
    assert store.written == []
    # in other company, with another time, twice in a call, or without an id
    assert log.append("u", [2, 3, 3, 2], [9, 3, 3, 4], event_ids=["b", "c", "c", None]) == 4
    assert lists(log.read("u")) == ([1, 2, 3, 2], [1, 2, 3, 4], None)
    assert log.append("v", [1], [1], event_ids=["a"]) == 1  # another user's


def test_the_newest_64_ids_are_known(log):
    ids = [f"e{n}" for n in range(100)]
    for n, event_id in enumerate(ids):
        log.append("u", [n], [n], [n], event_ids=[event_id])
    assert log.append("u", [0] * 64, [0] * 64, event_ids=ids[36:]) == 100
    assert log.append("u", [35], [0], event_ids=[ids[35]]) == 101


def test_who_gives_no_ids_pays_nothing(log, store):
    log.append("u", [1], [1], event_ids=[None])
    assert set(store.read) == set(store.written) == {"h/u"}


def test_ids_are_counted_and_forgotten(log, store):
    log.append("u", [1], [1])
    before = log.nbytes("u")
    log.append("u", [1], [1], event_ids=["a"])
    assert log.nbytes("u") == sum(len(store.get(key).blob) for key in ("h/u", "i/u"))
    assert log.nbytes("u") >= before + 8
    log.forget("u")
    assert list(store.keys()) == []
    assert log.append("u", [1], [1], event_ids=["a"]) == 1


@pytest.mark.parametrize(
    ("ids", "said"), [(["a"], "1 event ids for 2"), (["", "b"], "bytes"), ([1, "b"], "not a text")]
)
def test_wrong_ids(log, ids, said):
    with pytest.raises(DataError, match=said):
        log.append("u", [1, 2], [1, 2], event_ids=ids)
    assert log.length("u") == 0


def test_damaged_ids_are_told(log, store):
    log.append("u", [1], [1], event_ids=["a"])
    blob = bytearray(store.get("i/u").blob)
    blob[3] ^= 1
    store.put("i/u", bytes(blob))
    with pytest.raises(CorruptStateError, match="event ids of user 'u'"):
        log.append("u", [1], [1], event_ids=["a"])
    assert log.append("u", [1], [1]) == 2
    assert log.forget("u")


@pytest.mark.parametrize("actions", [None, [4, 0]])
def test_an_append_with_the_expected_length_may_come_again(log, actions):
    fill(log, "u", 200)
    for _ in range(2):
        assert log.append("u", [7, 8], [5, 6], actions, expected_length=200) == 202
    log.append("u", [9], [9], [5])
    assert log.append("u", [7, 8], [5, 6], actions, expected_length=200) == 203
    others = [([7, 9], [5, 6], 200), ([7, 8], [5, 7], 200), ([9, 9], [9, 9], 202)]
    for items, times, expected in others:
        with pytest.raises(ConflictError, match=f"expected were {expected}"):
            log.append("u", items, times, expected_length=expected)
    with pytest.raises(ConflictError):
        log.append("u", [], [], expected_length=7)


class Lost(Ram):
    """Keeps what is written and then says that it can't be reached, when told to."""

    lost = 0

    def put_many(self, puts):
        versions = super().put_many(puts)
        if self.lost:
            self.lost -= 1
            raise StoreUnavailableError("lost")
        return versions


@pytest.mark.parametrize("how", [{"event_ids": ["a", "b"]}, {"expected_length": 3}])
def test_an_append_of_unknown_outcome_may_be_repeated(how):
    store = Lost()
    log = HistoryLog(store)
    fill(log, "u", 3)
    store.lost = 1
    with pytest.raises(StoreUnavailableError):
        log.append("u", [7, 8], [1, 1], **how)
    assert log.append("u", [7, 8], [1, 1], **how) == 5


PRODUCER = """
import sys
from gistrec.history_log import HistoryLog
from gistrec.stores import open_store
url, own = sys.argv[1:]
with open_store(url) as store:
    log = HistoryLog(store)
    for n in range(60):
        log.append("shared", [n], [n], event_ids=[f"all have {n}"])
        log.append("mixed", [int(own)], [n], event_ids=[f"{own} has {n}"])
        log.append("mixed", [int(own)], [n], event_ids=[f"{own} has {n}"])
"""


def test_processes_that_repeat_each_other_double_nothing_and_keep_their_order(tmp_path):
    url = f"lmdb://{tmp_path}?sync=off&map_size=64m"
    workers = [
        subprocess.Popen([sys.executable, "-c", PRODUCER, url, str(own)]) for own in range(3)
    ]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    with open_store(url) as store:
        log = HistoryLog(store)
        shared, mixed = log.read("shared"), log.read("mixed")
    assert sorted(shared.item_id.tolist()) == list(range(60))
    for own in range(3):
        assert mixed.timestamp[mixed.item_id == own].tolist() == list(range(60))


@pytest.mark.parametrize("engine", ["ram", "lmdb"])
def test_threads_lose_no_event(tmp_path, engine):
    url = f"lmdb://{tmp_path}?sync=off&map_size=64m" if engine == "lmdb" else "ram://"
    with open_store(url) as store:
        log = HistoryLog(store)

        def write(worker: int) -> None:
            for n in range(100):
                log.append("u", [worker], [n])

        workers = [threading.Thread(target=write, args=(w,)) for w in range(8)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            found = log.read("u")  # a reader in between sees a history without gaps
            for worker in range(8):
                times = found.timestamp[found.item_id == worker]
                assert times.tolist() == list(range(len(times)))
        for worker in workers:
            worker.join()
        assert log.length("u") == 800
        assert len(log.read("u").timestamp) == 800


def test_a_block_sealed_while_reading_is_seen_whole():
    class Busy(Spy):
        """An append that seals a block comes between two reads."""

        busy = False

        def get_many(self, keys):
            found = super().get_many(keys)
            if self.busy:
                self.busy = False
                fill(HistoryLog(self), "u", 128, start=600)
            return found

    store = Busy()
    log = HistoryLog(store)
    fill(log, "u", 600)
    store.busy = True
    assert log.read("u").timestamp.tolist() == [1_500_000_000 + n for n in range(728)]


def test_forget(log, store):
    fill(log, "u", 1000)
    fill(log, "v", 3)
    assert log.forget("u") is True
    assert list(store.keys()) == ["h/v"]
    assert log.forget("u") is False
    assert fill(log, "u", 2) == 2


def test_users_whose_ids_look_like_keys(log, store):
    users = ["a", "a/0", "a/0/0", "b/a", "ü 1", "%2F"]
    for n, user_id in enumerate(users):
        fill(log, user_id, 200, start=n * 1000)
    assert list(log.users()) == sorted(users)
    assert log.forget("a") is True
    for n, user_id in enumerate(users[1:], 1):
        assert log.read(user_id).timestamp[0] == 1_500_000_000 + n * 1000
        assert log.forget(user_id) is True
    assert list(store.keys()) == []


def test_forget_beats_an_append_in_between():
    class Late(Spy):
        """An append that seals a block comes after the keys were listed."""

        def keys(self, prefix=""):
            found = list(super().keys(prefix))
            if self.written.count("h/u") == 1:
                fill(HistoryLog(self), "u", 600)
            return iter(found)

    store = Late()
    log = HistoryLog(store)
    fill(log, "u", 600)
    assert log.forget("u") is True
    assert list(Ram.keys(store)) == []


def test_damage_is_noticed(log, store):
    fill(log, "u", 700)
    fill(log, "u", 20, start=700)
    for key in list(store.keys()):
        good = store.get(key).blob
        for place in range(len(good)):
            store.put(key, good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
            with pytest.raises((CorruptStateError, FormatVersionError), match="user 'u'"):
                log.read("u")
        store.put(key, good)
    store.put("b/u/0", store.get("b/u/1").blob)
    with pytest.raises(CorruptStateError, match=r"block 0 .* does not have 512 events"):
        log.read("u")
    store.delete("b/u/0")
    with pytest.raises(CorruptStateError, match="block 0 of the history of user 'u'"):
        log.read("u")
    store.put("h/u", b"rubbish")
    assert log.forget("u") is True
    assert list(store.keys()) == []


def test_unknown_version_is_named(log, store):
    fill(log, "u", 3)
    store.put("h/u", b"\x09" + store.get("h/u").blob[1:])
    with pytest.raises(FormatVersionError, match="user 'u' has format version 9"):
        log.append("u", [1], [1])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((["a", 1], [1, 1]), "whole numbers, or all as non-empty text"),
        (([1, "a"], [1, 1]), "whole numbers, or all"),
        (([""], [1]), "non-empty"),
        ((["a\0"], [1]), "zero characters"),
        ((["\ud800"], [1]), "item ids"),
        (([1.5], [1]), "item ids must be whole numbers.*float"),
        (([None], [1]), "item ids"),
        (([2**63], [1]), "item ids must be whole numbers of 64 bits"),
        (([1], [1.0]), "timestamps must be whole numbers"),
        (([1], [1], ["a"]), "actions must be whole numbers"),
        (([1, 2], [1]), r"columns of \[2, 1\] entries"),
        (([1], [1], []), r"columns of \[1, 1, 0\] entries"),
    ],
)
def test_wrong_events_are_refused(log, store, arguments, why):
    with pytest.raises(DataError, match=why):
        log.append("u", *arguments)
    assert store.written == []


def test_ids_of_another_kind_are_refused(log):
    log.append("u", [1], [1])
    log.append("v", ["a"], [1])
    with pytest.raises(DataError, match=r"'u' have been whole numbers.*\['a'\].*give whole"):
        log.append("u", ["a"], [1])
    with pytest.raises(DataError, match="'v' have been text"):
        log.append("v", [1], [1])


@pytest.mark.parametrize("user_id", ["", "x" * 257])
def test_wrong_users_are_refused(log, user_id):
    for call in (lambda: log.append(user_id, [1], [1]), lambda: log.read(user_id)):
        with pytest.raises(DataError, match="user id"):
            call()


def test_negative_start_is_refused(log):
    with pytest.raises(DataError, match="start=-1"):
        log.read("u", -1)


def test_numpy_columns(log):
    log.append("u", np.array([3, 4]), np.array([1, 2]), np.array([5, 5]))
    log.append("v", np.array(["a", "b"]), np.array([1, 2]))
    assert lists(log.read("u")) == ([3, 4], [1, 2], [5, 5])
    assert lists(log.read("v")) == (["a", "b"], [1, 2], None)


@pytest.mark.parametrize("name", ["log-v1", "log-text-v1"])
def test_golden_log_is_read(store, log, name):
    store.put_many(
        [
            Put("h/u", (GOLDEN / f"{name}-head.bin").read_bytes()),
            Put("b/u/0", (GOLDEN / f"{name}-block.bin").read_bytes()),
        ]
    )
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    assert lists(log.read("u")) == tuple(expected.values())


@pytest.mark.skipif(not ML_1M.exists(), reason=f"needs {ML_1M}")
def test_bytes_per_event_on_ml_1m(log, store):
    duckdb = pytest.importorskip("duckdb")
    columns = duckdb.sql(
        f"select user_id, item_id, timestamp, rating from '{ML_1M}' where user_id % 40 = 0"
    ).fetchnumpy()
    user, item, time = (columns[c].tolist() for c in ("user_id", "item_id", "timestamp"))
    rating = columns["rating"].astype(int).tolist()
    for n in range(len(user)):  # one by one, as a service appends
        log.append(str(user[n]), [item[n]], [time[n]], [rating[n]])
    stored = sum(len(entry.blob) for entry in store.get_many(list(store.keys())))
    assert stored == sum(log.nbytes(user_id) for user_id in log.users())
    assert stored / len(user) <= 3.5
