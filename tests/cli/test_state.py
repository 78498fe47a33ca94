import contextlib
import http.client
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gistrec.cli import main
from gistrec.recommender import Event, Recommender, identity_recipe
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.train import train


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """An old model and a new one."""
    made = []
    for width in (8, 16):
        model = train(stride_dataset(), f"hstu(width={width})", epochs=1, batch_tokens=240)
        made.append(tmp_path_factory.mktemp("model"))
        with Recommender(model, identity_recipe(model), open_store("ram://")) as recommender:
            recommender.save(made[-1])
    return made


@contextlib.contextmanager
def serving(*models: Path, store: str):
    """A real server: asks it for the model that describes a user."""
    words = [word for model in models for word in ("--model", str(model))]
    command = [sys.executable, "-m", "gistrec", "serve", *words, "--store", store, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(re.search(r":(\d+) ", process.stdout.readline())[1])
            connection = http.client.HTTPConnection("127.0.0.1", port)

            def ask(path: str):
                connection.request("GET", path)
                answer = connection.getresponse()
                document = json.loads(answer.read())
                assert answer.status == 200, document
                return document

            yield ask
            connection.close()
        finally:
            process.terminate()


def test_a_running_server_is_switched_and_switched_back(folders, tmp_path, capsys):
    store = f"lmdb://{tmp_path / 'users'}?sync=off"
    with Recommender.load(folders[0], store=store) as recommender:
        for n in range(50):
            recommender.log.append(f"u{n}", list(range(n % 30 + 1)), [1_600_000_000] * (n % 30 + 1))

    def run(*words):
        capsys.readouterr()
        assert main(["state", *map(str, words)]) == 0
        return capsys.readouterr().out

    def becomes(ask, model):
        deadline = time.monotonic() + 60
        while ask("/v1/users/u7/state")["model"] != model:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    old, new = (Recommender.load(folder).model.backbone.fingerprint() for folder in folders)
    with serving(*folders, store=store) as ask:
        assert ask("/v1/users/u7/state")["model"] == old  # the first one given
        built = run("build", "--model", folders[1], "--store", store)
        assert re.search(r"50 users with .* events built in lmdb.* 0 were up to date", built)
        assert '"current":50' in run("build", "--model", folders[1], "--store", store, "--json")
        run("switch", "--model", folders[1], "--store", store)
        becomes(ask, new)
        assert len(ask("/v1/users/u7/recommendations?k=3")["items"]) == 3
        run("switch", "--model", folders[0], "--store", store)
        becomes(ask, old)


def test_an_old_and_a_new_server_on_one_store_rebuild_nothing_of_each_other(folders, tmp_path):
    store = f"lmdb://{tmp_path / 'users'}?sync=off"
    with Recommender.load(folders[0], store=store) as recommender:
        recommender.observe("u", [Event(n, 1_600_000_000 + n) for n in range(9)])
    with serving(folders[0], store=store) as old, serving(folders[1], store=store) as new:
        models = {(old(path)["model"], new(path)["model"]) for path in ["/v1/users/u/state"] * 3}
        assert len(models) == 1
        assert len(set(*models)) == 2
    with Recommender.load(folders[0], store=store) as recommender:
        recommender.recommend("u")
        assert recommender.counts == {"fresh": 1}
