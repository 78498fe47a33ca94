import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from gistrec.build import Builder, Part, build_all, fit_recipe
from gistrec.errors import ConfigError
from gistrec.history_log import HistoryLog
from gistrec.recommender import Recommender, identity_recipe
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.testing.servers import valkey_server
from gistrec.train import Model, train

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
    done = build_all(folders[0], url)
    assert (done.users, done.current, done.damaged) == (3, USERS - 4, 1)
    with Recommender.load(folders[0], store=url) as recommender:
        assert recommender.describe("u3").covered == recommender.log.length("u3")


def test_who_is_faster_is_not_overwritten(folders, url, monkeypatch):
    with Recommender.load(folders[0], store=url) as recommender:
        read_many = recommender.states.read_many

        def overtaken(users):
            found = read_many(users)
            with Recommender.load(folders[0], store=url) as server:
                server.log.append("u1", [7], [1_700_000_000])
                server.recommend("u1")
            return found

        monkeypatch.setattr(recommender.states, "read_many", overtaken)
        done = Builder(recommender).build(["u1", "u2"])
        assert (done.users, done.current) == (1, 1)
    with Recommender.load(folders[0], store=url) as server:
        server.recommend("u1")
        server.recommend("u2")
        assert server.counts == {"fresh": 2}


def test_nothing_is_left_of_a_user_who_is_forgotten_meanwhile(folders, url, monkeypatch):
    with Recommender.load(folders[0], store=url) as recommender:
        save_many = recommender.states.save_many

        def late(states):
            with Recommender.load(folders[1], store=url) as server:
                assert server.forget("u1")
            return save_many(states)

        monkeypatch.setattr(recommender.states, "save_many", late)
        Builder(recommender).build(["u1", "u2"])
        assert recommender.states.load("u1") is None
        assert recommender.states.load("u2") is not None


def test_events_of_items_that_the_model_does_not_know_are_counted_and_skipped(folders):
    with Recommender.load(folders[0]) as recommender:
        recommender.log.append("u", [1, 30, 2, 31], [1, 2, 3, 4])
        recommender.log.append("v", [30, 31], [1, 2])
        assert Builder(recommender, batch_tokens=1).build(["u", "v"]) == Part(2, 6, unknown=4)
        assert [recommender.describe(user).slots for user in "uv"] == [1, 0]  # and a tail
        assert recommender.counts == {"fresh": 2}


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
from gistrec.build import build_all
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


def test_a_fitted_recipe_belongs_to_the_model(folders):
    model, dataset = Model.load(folders[0]), stride_dataset()
    recipe = fit_recipe(model, dataset, "recent(keep=8) | rvq(levels=1, codes=4)")
    assert recipe.manifest.model == model.backbone.fingerprint()
    assert recipe.shared_bytes > 0
    empty = model.backbone.empty()
    assert recipe.from_bytes(recipe.to_bytes(empty)).length == 0
    with pytest.raises(ConfigError, match="did you mean 'recent'"):
        fit_recipe(model, dataset, "recnt(keep=4)")


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
