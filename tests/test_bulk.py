import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from gistrec.bulk import Builder, Part, build_all
from gistrec.errors import ConfigError
from gistrec.history_log import HistoryLog
from gistrec.recommender import Recommender, identity_recipe
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.testing.servers import valkey_server
from gistrec.train import train

USERS = 700


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two versions: another model each."""
    made = []
    for n in range(2):
        model = train(
            stride_dataset(), f"hstu(width={8 * (n + 1)})", epochs=1, batch_tokens=240, seed=n
        )
        made.append(tmp_path_factory.mktemp("model"))
        with Recommender(model, identity_recipe(model), open_store("ram://")) as recommender:
            recommender.save(made[-1])
    return made


def fill(url):
    """Histories of many lengths, a few of them long enough for sealed blocks; no states."""
    rng = np.random.default_rng(0)
    with open_store(url) as store:
        log = HistoryLog(store)
        for n in range(USERS):
            length = int(rng.integers(1, 20)) if n % 50 else 300
            items = rng.integers(0, 33, length).tolist()  # the models know 30
            log.append(f"u{n}", items, [1_600_000_000 + 60 * t for t in range(length)])


@pytest.fixture
def url(tmp_path):
    found = f"lmdb://{tmp_path}/users?sync=off&map_size=256m"
    fill(found)
    return found


def check(url, folder, *, users=USERS):
    """States are those that requests would have made."""
    with Recommender.load(folder, store=url) as built, Recommender.load(folder) as observed:
        assert built.stats().users == users
        for n in (0, 1, 50, 51, 350, USERS - 1):
            logged = built.log.read(f"u{n}")
            observed.log.append(f"u{n}", logged.item_id.tolist(), logged.timestamp.tolist())
            lists = built.recommend(f"u{n}"), observed.recommend(f"u{n}")
            assert [s.item_id for s in lists[0]] == [s.item_id for s in lists[1]]
            scores = [[s.score for s in scored] for scored in lists]
            np.testing.assert_allclose(*scores, atol=1e-3)
        assert built.counts.keys() == {"fresh"}


def test_built_states_are_those_of_requests_and_old_ones_stay(folders, url):
    told = []
    done = build_all(folders[0], url, report=told.append)
    assert (done.users, done.current, done.damaged) == (USERS, 0, 0)
    assert told[-1] == done
    assert len(told) == 3
    check(url, folders[0])
    assert build_all(folders[0], url) == Part(current=USERS)
    assert build_all(folders[1], url).users == USERS
    check(url, folders[1])
    check(url, folders[0])


def test_only_what_is_due_is_built(folders, url):
    build_all(folders[0], url)
    with Recommender.load(folders[0], store=url) as recommender:
        recommender.log.append("u3", [5], [1_700_000_000])
        recommender.states.forget("u4")
        key = f"s{recommender.states.version}/u5"
        recommender.store.put(key, b"rubbish")
        recommender.store.put("h/u6", b"rubbish")
    assert build_all(folders[0], url)[::2] == (3, USERS - 4)
    with Recommender.load(folders[0], store=url) as recommender:
        assert recommender.describe("u3").covered == recommender.log.length("u3")


def test_who_is_faster_is_not_overwritten(folders, url):
    builder = Builder(folders[0], url)
    states = builder._recommender.states
    read_many = states.read_many

    def overtaken(users):
        found = read_many(users)
        with Recommender.load(folders[0], store=url) as server:
            server.log.append("u1", [7], [1_700_000_000])
            server.recommend("u1")
        return found

    states.read_many = overtaken
    done = builder.build(["u1", "u2"])
    assert (done.users, done.current) == (1, 1)
    with Recommender.load(folders[0], store=url) as server:
        server.recommend("u1")
        server.recommend("u2")
        assert server.counts == {"fresh": 2}
    builder.close()


def test_nothing_is_left_of_a_user_who_is_forgotten_meanwhile(folders, url):
    builder = Builder(folders[0], url)
    save_many = builder._recommender.states.save_many

    def late(states):
        with Recommender.load(folders[1], store=url) as server:
            assert server.forget("u1")
        return save_many(states)

    builder._recommender.states.save_many = late
    builder.build(["u1", "u2"])
    states = builder._recommender.states
    assert states.load("u1") is None
    assert states.load("u2") is not None
    builder.close()


def test_several_processes(folders, url):
    done = build_all(folders[0], url, workers=2)
    assert (done.users, done.current) == (USERS, 0)
    check(url, folders[0])


def test_on_valkey(folders, tmp_path):
    with valkey_server(tmp_path) as server:
        fill(server.url)
        assert build_all(folders[0], server.url).users == USERS
        check(server.url, folders[0])


PROGRAM = """
import os, signal, sys
from gistrec.bulk import build_all
build_all(sys.argv[1], sys.argv[2], report=lambda done: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_run_goes_on(folders, url):
    killed = subprocess.run([sys.executable, "-c", PROGRAM, str(folders[0]), url], check=False)
    assert killed.returncode == -signal.SIGKILL
    done = build_all(folders[0], url)
    assert 0 < done.current < USERS
    assert done.users + done.current == USERS
    check(url, folders[0])


def test_wrong_calls(folders, tmp_path):
    with pytest.raises(ConfigError, match="workers must be at least 1, given 0"):
        build_all(folders[0], "ram://", workers=0)
    with pytest.raises(ConfigError, match="users of their own in ram://x"):
        build_all(folders[0], "ram://x", workers=2)


@pytest.mark.slow  # starts a cluster of processes
@pytest.mark.filterwarnings("default")  # of Ray's own
def test_with_ray(folders, url, monkeypatch):
    ray = pytest.importorskip("ray", reason='needs ray: pip install "gistrec[ray]"')
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        done = build_all(folders[0], url, workers=2, engine="ray")
        assert (done.users, done.current) == (USERS, 0)
    finally:
        ray.shutdown()
    check(url, folders[0])
    assert os.environ.get("RAY_ADDRESS") is None
