"""What a served user gets is what the benchmark measured: the same lists, over real HTTP."""

import http.client
import json
from contextlib import closing

import numpy as np
import pytest

from gistrec.build import fit_recipe
from gistrec.dataset import Dataset
from gistrec.events import read
from gistrec.history_log import HistoryLog
from gistrec.log_blocks import Logged
from gistrec.measure import Rules, Subject
from gistrec.recommender import identity_recipe
from gistrec.stores import open_store
from gistrec.testing.chaos import Served
from gistrec.train import train

RECIPES = ("identity()", "recent(keep=24) | int8()", "snapkv(keep=24) | rvq(levels=1)")


@pytest.fixture(scope="module")
def trained():
    dataset = Dataset.from_events(read("synthetic(users=1000, items=300, length=48)"))
    return train(dataset, "hstu(width=16)", epochs=1, batch_tokens=12_800), dataset


def served_lists(subject: Subject, folder, store: str) -> list[list[int]]:
    """Of every user of the task, asked at the request time that the benchmark uses."""
    task, items = subject.task, subject.dataset.items.ids
    histories = [task.history(n) for n in range(len(task))]
    with open_store(store) as opened:
        HistoryLog(opened).extend(
            [
                (f"{n}", Logged(items[h.item_index], h.timestamp, None))
                for n, h in enumerate(histories)
            ]
        )
    server, found = Served(folder, store), []
    try:
        server.start()
        with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
            for n, at in enumerate(task.request_times.tolist()):
                connection.request("GET", f"/v1/users/{n}/recommendations?k=10&at={at}")
                answer = connection.getresponse()
                said = answer.read()
                assert answer.status == 200, said
                found.append([item["item_id"] for item in json.loads(said)["items"]])
    finally:
        server.kill()
    return found


def check(trained, tmp_path, codec: str, users: int | None) -> None:
    model, dataset = trained
    subject = Subject(model, dataset, Rules(users=users, fit_users=64))
    if codec == "identity()":
        recipe, lists = identity_recipe(model), subject.full.lists
    else:
        recipe = fit_recipe(model, dataset, codec, users=64)
        lists = subject.offline(recipe).lists
    model.save(tmp_path / "model")
    recipe.save(tmp_path / "model" / "recipe")
    store = f"lmdb://{tmp_path / 'users'}?map_size=1g"
    served = np.array(served_lists(subject, tmp_path / "model", store))
    assert np.array_equal(served, dataset.items.ids[lists])


def test_fifty_users_get_the_lists_of_the_benchmark(trained, tmp_path):
    check(trained, tmp_path, RECIPES[1], 50)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("codec", RECIPES)
def test_a_thousand_users_get_the_lists_of_the_benchmark(trained, tmp_path, codec):
    check(trained, tmp_path, codec, None)
