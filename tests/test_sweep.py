import threading
import time

import msgspec
import numpy as np
import pytest

from gistrec.errors import ConfigError
from gistrec.history_log import HistoryLog
from gistrec.recipe import Recipe
from gistrec.recommender import Event, Recommender, identity_recipe
from gistrec.state_cache import StateCache
from gistrec.store_settings import StoreSettings
from gistrec.stored_states import states_of
from gistrec.stores import open_store
from gistrec.sweep import drop, sweep, sweeping
from gistrec.testing.data import sample_state, stride_dataset
from gistrec.testing.servers import valkey_server
from gistrec.train import train

START = 1_600_000_000
STATES = [sample_state(n) for n in (0, 1, 9, 60, 200)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with valkey_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(params=["ram", "lmdb", "valkey"])
def url(request, tmp_path):
    """Of an engine, real ones among them."""
    if request.param == "valkey":
        server = request.getfixturevalue("server")
        return f"{server.url}?namespace={tmp_path.name}"
    return f"lmdb://{tmp_path}?sync=off" if request.param == "lmdb" else f"ram://{tmp_path.name}"


@pytest.fixture
def store(url):
    with open_store(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def model():
    return train(stride_dataset(), "hstu(width=8)", epochs=1, batch_tokens=240)


def limit(store, **limits):
    StoreSettings(store).change(lambda old: msgspec.structs.replace(old, **limits))


def fill(store, users, *, state=STATES[2], spec="identity()"):
    cache = StateCache(Recipe.fit(spec, STATES, model=STATES[0].model), store)
    log = HistoryLog(store)
    for n in users:
        log.append(f"u{n}", [n], [START])
        cache.save(f"u{n}", state)
    return cache


def states_in(store, version):
    return sum(s.nbytes for part in states_of(store, version) for s in part)


def logs_of(store):
    found = {}
    for kind in ("h/", "b/", "i/"):
        keys = list(store.keys(kind))
        found |= dict(zip(keys, store.get_many(keys), strict=True))
    return found


class Later:
    """A clock that can be put forward, in place of `time.time`."""

    def __init__(self, monkeypatch):
        self.ahead = 0.0
        real = time.time
        monkeypatch.setattr("time.time", lambda: real() + self.ahead)


def test_nothing_is_removed_without_limits(store):
    cache = fill(store, range(5))
    before = list(store.keys())
    assert sweep(store) == (0, 0, 0, 0, states_in(store, cache.version))
    assert list(store.keys()) == before


def test_a_budget_is_kept_logs_are_untouched_and_answers_stay_the_same(model, url):
    rng = np.random.default_rng(0)
    with Recommender(model, identity_recipe(model), open_store(url)) as recommender:
        answers = {}
        for n in range(60):
            items = rng.integers(0, 30, rng.integers(3, 60)).tolist()
            recommender.observe(f"u{n}", [Event(i, START + t) for t, i in enumerate(items)])
            answers[f"u{n}"] = recommender.recommend(f"u{n}")
        total, logs = recommender.stats().bytes_total, logs_of(recommender.store)
        budget = total // 3
        limit(recommender.store, state_budget_bytes=budget)
        swept = sweep(recommender.store)
        stats = recommender.stats()
        assert 0.8 * budget < stats.bytes_total <= budget
        assert swept.state_bytes == stats.bytes_total
        assert (swept.evicted, swept.expired, swept.forgotten) == (60 - stats.users, 0, 0)
        assert logs_of(recommender.store) == logs
        missing = recommender.counts["missing"]
        for user, answer in answers.items():
            again = recommender.recommend(user)
            assert [s.item_id for s in again] == [s.item_id for s in answer]
            np.testing.assert_allclose(
                [s.score for s in again], [s.score for s in answer], atol=1e-4
            )
        assert recommender.counts["missing"] - missing == swept.evicted
        assert sweep(recommender.store).state_bytes <= budget


def test_states_used_longest_ago_go_first(tmp_path, monkeypatch):
    with open_store(f"lmdb://{tmp_path}?sync=off") as store:
        clock = Later(monkeypatch)
        limit(store, state_budget_bytes=10**9)
        cache = fill(store, range(4))
        size = cache.stored_bytes("u0")
        clock.ahead = 4000
        assert cache.touch("u1", cache.read("u1")) is True  # read after more than an hour
        assert cache.touch("u1", cache.read("u1")) is False
        fill(store, [3, 4])
        limit(store, state_budget_bytes=3 * size)
        assert sweep(store).evicted == 2
        left = [s.user_id for part in states_of(store, cache.version) for s in part]
        assert left == ["u1", "u3", "u4"]


@pytest.mark.parametrize("state", [STATES[2], STATES[4]], ids=["small", "large"])
def test_an_unused_state_expires_and_a_used_one_does_not(tmp_path, monkeypatch, state):
    with open_store(f"lmdb://{tmp_path}?sync=off") as store:
        clock = Later(monkeypatch)
        limit(store, state_ttl_s=4000.0)
        cache = fill(store, range(2), state=state)
        for clock.ahead in (1500, 3000):
            assert cache.touch("u1", cache.read("u1")) is True
            assert sweep(store).expired == 0
        clock.ahead = 4500
        logs = logs_of(store)
        assert sweep(store).expired == 1
        assert cache.load("u0") is None
        assert cache.load("u1").state.length == state.length
        assert logs_of(store) == logs


def test_redis_drops_unused_states_itself_and_never_half_of_one(server, tmp_path):
    with open_store(f"{server.url}?namespace={tmp_path.name}") as store:
        limit(store, state_ttl_s=1000.0)
        cache = fill(store, range(1), state=STATES[4])
        left = {key: store._client.pttl(store._key(key)) for key in list(store.keys(""))}
        (state,), (block,) = store.keys("s"), store.keys("q")
        assert 999_000 < left.pop(state) <= 1_000_000
        assert 1_249_000 < left.pop(block) <= 1_250_000
        assert set(left.values()) == {-1}  # histories and settings stay
        limit(store, state_ttl_s=None)
        cache.settings.read()
        cache.save("u0", STATES[4])
        assert store._client.pttl(store._key(state)) == -1


def test_a_block_older_than_its_tail_is_sealed_anew_in_time(tmp_path, monkeypatch):
    with open_store(f"lmdb://{tmp_path}?sync=off") as store:
        clock = Later(monkeypatch)
        limit(store, state_ttl_s=4000.0)
        cache = fill(store, range(1), state=STATES[4])
        (block,) = store.keys("q")
        written = [store.get(block).version]
        for clock.ahead in (500, 1100):
            held = cache.load("u0")
            cache.save("u0", held.state, grown_from=held)
            written.append(store.get(block).version)
        assert written[0] == written[1] < written[2]


def test_redis_may_evict_states_under_memory_pressure_and_only_those(model, tmp_path):
    """`maxmemory-policy volatile-lru`: only states have an expiry, once they have a lifetime."""
    with (
        valkey_server(tmp_path, "--maxmemory-policy", "volatile-lru") as server,
        Recommender(model, identity_recipe(model), open_store(server.url)) as recommender,
    ):
        limit(recommender.store, state_ttl_s=86_400.0)
        recommender.settings.read()
        answers = {}
        for n in range(60):
            events = [Event((n + 7 * t) % 30, START + t) for t in range(100)]
            recommender.observe(f"u{n}", events)
            answers[f"u{n}"] = recommender.recommend(f"u{n}")
        logs = logs_of(recommender.store)
        used = int(recommender.store._client.info("memory")["used_memory"])
        server.command("CONFIG", "SET", "maxmemory", str(used - 500_000))
        while recommender.store._client.info("stats")["evicted_keys"] < 20:
            recommender.store.put("x", bytes(10_000))
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert logs_of(recommender.store) == logs
        for user, answer in answers.items():
            again = recommender.recommend(user)
            assert [s.item_id for s in again] == [s.item_id for s in answer]
        assert recommender.counts["corrupt"] == 0
        assert recommender.counts["missing"] > 60


def test_users_without_new_events_are_forgotten_by_a_rule_of_their_own(store, monkeypatch):
    clock = Later(monkeypatch)
    limit(store, log_ttl_s=1000.0)
    cache = fill(store, range(3))
    assert sweep(store).forgotten == 0
    HistoryLog(store).append("later", [1], [START])
    clock.ahead = 2000
    found = sweep(store)
    assert (found.forgotten, found.orphaned, found.state_bytes) == (4, 3, 0)
    assert logs_of(store) == {}
    assert cache.stats().users == 0


def test_a_user_who_came_back_is_not_forgotten(store, monkeypatch):
    log = HistoryLog(store)
    log.append("u", [1], [START])
    (version,) = log.last_writes(["u"])
    log.append("u", [2], [START])
    assert log.forget("u", if_version=version) is False
    assert log.length("u") == 2


def test_what_belongs_to_nobody_is_removed(store):
    cache = fill(store, range(3), state=STATES[4])
    HistoryLog(store).forget("u0")  # while a request saved the state, say
    store.delete(next(iter(store.keys("s" + cache.version + "/u1"))))
    store.put("s/u2", b"of an earlier layout")
    assert sweep(store).orphaned == 3
    assert [s.user_id for part in states_of(store, cache.version) for s in part] == ["u2"]
    assert list(store.keys("s/")) == []


def test_a_server_sweeps_in_the_background_one_of_them_at_a_time(store):
    cache = fill(store, range(10))
    with sweeping(store, every_s=0.02), sweeping(store, every_s=0.02):
        threading.Event().wait(0.1)
        assert "v/swept" not in set(store.keys())  # no limits, nothing to do
        limit(store, state_budget_bytes=states_in(store, cache.version) // 2)
        while cache.stats().users > 5:
            threading.Event().wait(0.01)
    assert 0 < cache.stats().users <= 5


def test_requests_go_on_while_their_states_are_evicted(model, url):
    with (
        Recommender(model, identity_recipe(model), open_store(url)) as recommender,
        Recommender(model, identity_recipe(model), open_store("ram://")) as calm,
    ):
        limit(recommender.store, state_budget_bytes=1)
        end, swept = threading.Event(), []

        def evict():
            while not end.is_set():
                swept.append(sweep(recommender.store).evicted)

        thread = threading.Thread(target=evict)
        thread.start()
        for n in range(60):
            events = [Event(n * 7 % 30, START + n)]
            assert recommender.observe("u", events).length == calm.observe("u", events).length
            lists = recommender.recommend("u", k=5), calm.recommend("u", k=5)
            assert [s.item_id for s in lists[0]] == [s.item_id for s in lists[1]]
        end.set()
        thread.join()
        assert sum(swept) > 3
        assert recommender.counts["corrupt"] == recommender.counts["stale"] == 0


def test_a_version_is_dropped_and_a_killed_run_can_be_repeated(store):
    class Killed(Exception):
        pass

    def kill(count):
        raise Killed

    one, other = (
        fill(store, range(600), state=STATES[4], spec=spec) for spec in ("identity()", "int8()")
    )
    with pytest.raises(Killed):
        drop(store, one.version, report=kill)
    left = one.stats()
    assert 0 < left.users < 600
    assert drop(store, one.version) == (left.users, left.bytes_total)
    assert other.stats().users == 600
    assert list(store.keys(f"s{one.version}")) == list(store.keys(f"q{one.version}")) == []
    assert StoreSettings(store).read().versions.keys() == {other.version}
    with pytest.raises(ConfigError, match=f"it has those of {other.version}"):
        drop(store, one.version)
