"""That an erased user is nowhere in a store, whatever the engine."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
import redis

from gistrec import backbones
from gistrec.recommender import Recommender, identity_recipe
from gistrec.stores import open_store
from gistrec.stores.ram import Ram
from gistrec.testing.rankers import taste_impressions
from gistrec.testing.servers import valkey_server
from gistrec.train import Model, Training

Scan = Callable[[], dict[bytes, bytes]]


@pytest.fixture(params=["ram", "lmdb", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Scan]]:
    """A store's URL, and all that the engine itself has by key."""
    if request.param == "ram":
        store = open_store("ram://erased")
        assert isinstance(store, Ram)
        yield "ram://erased", lambda: {k.encode(): e.blob for k, e in store._entries.items()}
    elif request.param == "lmdb":
        yield f"lmdb://{tmp_path / 'users'}?map_size=64m", lambda: lmdb_scan(tmp_path / "users")
    else:
        with valkey_server(tmp_path) as valkey, redis.Redis(port=valkey.port) as client:
            yield valkey.url, lambda: redis_scan(client)


def lmdb_scan(folder: Path) -> dict[bytes, bytes]:
    # a process must not open a folder twice, and the server has it open: read a copy
    copy = folder.with_name("copy")
    copy.mkdir(exist_ok=True)
    (copy / "data.mdb").write_bytes((folder / "data.mdb").read_bytes())
    with lmdb.open(str(copy), readonly=True, lock=False) as env, env.begin() as txn:
        return {bytes(key): bytes(value) for key, value in txn.cursor()}


def redis_scan(client: redis.Redis) -> dict[bytes, bytes]:
    assert set(client.info("keyspace")) <= {"db0"}
    return {
        name: client.get(name) if client.type(name) == b"string" else client.dump(name)
        for name in client.scan_iter()
    }


def test_an_erased_user_is_nowhere_in_the_store(serving, model, store: tuple[str, Scan]) -> None:
    url, scan = store
    with Recommender(model, identity_recipe(model), open_store(url)) as recommender:
        http = serving(recommender)
        fill(http, "bob")
        bob = scan()
        fill(http, "ann/state")
        both = scan()
        new = both.keys() - bob.keys()
        version = recommender.states.version.encode()
        every = {b"h/", b"i/", b"b/", b"s%s/" % version, b"q%s/" % version}
        assert {kind for kind in every if holds(new, kind)} == every
        answer = http("DELETE", "/v1/users/ann%2Fstate")
        assert answer.json()["user_id"] == "ann/state"
        left = scan()
        assert not any(b"ann" in text for pair in left.items() for text in pair)
        # what is left is what was there before, and which writes a part of redis has seen
        ours = {name for name in left if b"bob" in name}
        assert {name: left[name] for name in ours} == {name: bob[name] for name in ours}
        assert all(
            (name.startswith(b"gistrec:{") and name.endswith(b"}")) or name.endswith(b"v/settings")
            for name in left.keys() - ours
        )
        assert http.error("DELETE", "/v1/users/ann%2Fstate")[:2] == (404, "NotFoundError")


def fill(http, user: str) -> None:
    """So much that the user has sealed blocks and ids of events."""
    path = f"/v1/users/{user.replace('/', '%2F')}"
    events = [
        {"item_id": n % 30, "timestamp": 1_600_000_000 + n, "event_id": f"{user}-{n}"}
        for n in range(300)
    ]
    assert http.post(f"{path}/events", {"events": events})["length"] == 300
    http.post(f"{path}/events", {"events": [{"item_id": 1, "timestamp": 1_700_000_000}]})


def holds(names: set[bytes], kind: bytes) -> bool:
    return any(kind + b"ann/state" in name for name in names)


# ---- several users in one request ----


def test_events_of_several_users_are_appended(serving, real: Recommender) -> None:
    http = serving(real)
    event = {"item_id": 1, "timestamp": 1_600_000_000}
    users = [{"user_id": f"u{n}", "events": [event] * (n + 1)} for n in range(20)]
    users[3]["expected_length"] = 9
    users[4]["events"] = [{"item_id": "text"}]
    answer = http.post("/v1/batch/events", {"users": users})
    assert answer.pop("ms") > 0
    found = answer["users"]
    assert [user["user_id"] for user in found] == [f"u{n}" for n in range(20)]
    for n, user in enumerate(found):
        if n in (3, 4):
            assert user["kept"] is None
            assert user["error"]["type"] == ("ConflictError" if n == 3 else "DataError")
            assert user["error"]["status"] == (409 if n == 3 else 400)
        else:
            assert user["error"] is None
            assert tuple(user["kept"].values()) == real.sizes(f"u{n}")
            assert user["kept"]["length"] == n + 1


def test_candidates_of_several_users_are_ranked(serving, real: Recommender) -> None:
    http = serving(real)
    http.post("/v1/users/ann/events", {"events": [{"item_id": 8, "timestamp": 5}]})
    users = [{"user_id": "ann"}, {"user_id": "ann", "item_ids": [3, 4], "at": 9}]
    users += [{"user_id": "new"}, {"user_id": "odd", "item_ids": [999]}]
    answer = http.post("/v1/batch/rank", {"users": users, "item_ids": [1, 2, 3]})
    first, second, third, fourth = answer["users"]
    for found, asked in ((first, [1, 2, 3]), (second, [3, 4]), (third, [1, 2, 3])):
        single = http.post(
            f"/v1/users/{found['user_id']}/rank",
            {"item_ids": asked, "at": 9 if asked == [3, 4] else None},
        )
        assert [i["item_id"] for i in found["items"]] == [i["item_id"] for i in single["items"]]
        assert found["error"] is None
    assert fourth["items"] is None
    assert (fourth["error"]["type"], fourth["error"]["status"]) == ("DataError", 400)


ANN = {"user_id": "ann"}
ONE = {"item_id": 1}


@pytest.mark.parametrize(
    ("path", "users", "said"),
    [
        ("events", [], "`$.users`"),
        ("events", [ANN], "`events`"),
        ("events", [{"user_id": "", "events": [ONE]}], "user_id"),
        ("events", [{"user_id": "\ufffd", "events": [ONE]}], "user_id"),
        ("events", [ANN | {"events": [ONE]}] * 2, "'ann' is named twice"),
        ("events", [ANN | {"events": [ONE], "expected_length": 0}], "no timestamp"),
        ("rank", [ANN | {"item_ids": [1]}] * 257, "length <= 256"),
        ("rank", [ANN | {"item_ids": [1]}, ANN], "none at `$.users[1]`"),
        ("rank", [ANN | {"item_ids": [1] * 1000}] * 101, "101000 candidates of 101 users"),
    ],
)
def test_a_batch_that_does_not_fit(http, path: str, users: list[Any], said: str) -> None:
    status, kind, message = http.error("POST", f"/v1/batch/{path}", json={"users": users})
    assert (status, kind) in [(422, "SchemaError"), (400, "DataError")]
    assert said in message


def test_unexpected_errors_of_one_user_are_told_as_such(
    serving, real: Recommender, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    secret = "of u" + str(1)

    def fail(*_, **__):
        raise RuntimeError(secret)

    monkeypatch.setattr(real.log, "append_beside", fail)
    users = [{"user_id": "u1", "events": [{"item_id": 1}]}]
    answer = serving(real).post("/v1/batch/events", {"users": users})
    assert answer["users"][0]["error"]["type"] == "InternalError"
    assert "RuntimeError" in caplog.text
    assert "u1" not in caplog.text


def test_a_cascade_answers_through_all_stages(serving, real, model, tmp_path) -> None:
    ranker = backbones.build("twin(width=16)", num_items=len(model.items)).eval()
    Model(ranker, model.items, Training()).save(tmp_path / "twin")
    http = serving(real, rankers=((tmp_path / "twin", 12),))
    fill(http, "ann")
    asked = {"k": 3, "exclude_seen": False}
    context = {"tab": 1, "hour": "9"}
    answer = http.post("/v1/users/ann/cascade", {**asked, "context": context})
    assert len(answer["items"]) == 3
    assert [stage["candidates"] for stage in answer["stages"]] == [30, 12]
    assert all(stage["ms"] > 0 for stage in answer["stages"])
    other = http.post("/v1/users/ann/cascade", {**asked, "context": {"tab": 2}})
    assert other["items"] != answer["items"]
    told = http.error("POST", "/v1/users/ann/cascade", json={"k": 13})
    assert told == (400, "ConfigError", told[2])
    assert "is given 12 candidates" in told[2]


def test_without_rankers_a_cascade_is_not_found(serving, real) -> None:
    told = serving(real).error("POST", "/v1/users/ann/cascade", json={})
    assert told[:2] == (404, "NotFoundError")
    assert "--then FOLDER=COUNT" in told[2]


@pytest.fixture
def ranker(serving) -> Iterator[Any]:
    """A client of a ranker of two labels and a context, that knows the items 0 to 23."""
    shown = taste_impressions(labels=2)
    spec = "twin(width=16, labels=2)"
    net = backbones.build(spec, num_items=shown.num_items).eval()
    model = Model(net, shown.items, Training(), labels=shown.labels, contexts=shown.contexts)
    with Recommender(model, identity_recipe(model), open_store("ram://")) as recommender:
        http = serving(recommender)
        events = [{"item_id": n, "timestamp": n, "action": n % 4} for n in range(20)]
        http.post("/v1/users/ann/events", {"events": events})
        yield http


def by_id(answer: dict[str, Any]) -> dict[int, float]:
    return {item["item_id"]: item["score"] for item in answer["items"]}


def test_a_ranker_is_told_of_requests_and_candidates(ranker) -> None:
    plain = ranker.post("/v1/users/ann/rank", {"item_ids": [3, 4, 5]})
    assert [set(item["labels"]) for item in plain["items"]] == [{"liked", "label_1"}] * 3
    assert all(0 < p < 1 for item in plain["items"] for p in item["labels"].values())
    assert "known" not in plain["items"][0]
    noon = ranker.post("/v1/users/ann/rank", {"item_ids": [3, 4], "context": {"hour": "12"}})
    candidates = [{"item_id": 3, "context": {"hour": 12}}, {"item_id": 4}, {"item_id": 99}]
    told = ranker.post("/v1/users/ann/rank", {"candidates": candidates})
    assert by_id(told)[3] == pytest.approx(by_id(noon)[3], abs=1e-5)
    assert by_id(told)[4] == pytest.approx(by_id(plain)[4], abs=1e-5)
    assert [item.get("known", True) for item in told["items"]].count(False) == 1


def test_features_of_an_unknown_item_count(ranker) -> None:
    candidates = [{"item_id": 99}, {"item_id": 98, "features": {"genre": "a|b", "year": 1994}}]
    answer = ranker.post("/v1/users/ann/rank", {"candidates": candidates})
    assert len(set(by_id(answer).values())) == 2


def test_a_ranker_of_several_users(ranker) -> None:
    users = [
        {"user_id": "ann", "context": {"hour": 3}},
        {"user_id": "bob", "item_ids": [5, 99]},
        {"user_id": "ann", "context": {"day": 3}},
        {"user_id": "ann", "candidates": [{"item_id": 7, "context": {"hour": 1}}]},
    ]
    body = {"users": users, "item_ids": [3, 4], "context": {"hour": 12}}
    first, second, wrong, last = ranker.post("/v1/batch/rank", body)["users"]
    alone = ranker.post("/v1/users/ann/rank", {"item_ids": [3, 4], "context": {"hour": 3}})
    assert by_id(first) == by_id(alone)
    assert len(second["items"]) == 2
    assert wrong["error"]["type"] == "DataError"
    assert by_id(last).keys() == {7}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "no item_ids and no candidates"),
        ({"item_ids": []}, 422, "length >= 1"),
        ({"candidates": []}, 422, "length >= 1"),
        ({"item_ids": [1], "candidates": [{"item_id": 1}]}, 422, "give either"),
        ({"item_ids": list(range(100_000))}, 422, "length <= 10000"),
        ({"item_ids": [1], "context": {"hour": [1]}}, 422, r"\$.context"),
        ({"item_ids": [1], "context": {"hour": None}}, 422, r"\$.context"),
        ({"item_ids": [1], "context": "noon"}, 422, "Expected `object`"),
        ({"item_ids": [1], "context": {"day": 1}}, 400, "trained with hour"),
        ({"candidates": [{"item_id": 1, "feature": {}}]}, 422, "unknown field `feature`"),
        ({"candidates": [{"context": {}}]}, 422, "missing required field `item_id`"),
        ({"item_ids": [1.5]}, 422, "item_ids"),
    ],
)
def test_wrong_requests_to_a_ranker(ranker, body, status, said) -> None:
    found, _, message = ranker.error("POST", "/v1/users/ann/rank", json=body)
    assert found == status
    assert re.search(said, message)
    assert ranker("GET", "/readyz").status_code == 200
    assert len(ranker.post("/v1/users/ann/rank", {"item_ids": [1, 2]})["items"]) == 2


def test_a_rankers_stats_say_what_actions_mean(ranker) -> None:
    stats = ranker("GET", "/v1/stats").json()
    assert (stats["labels"], stats["contexts"]) == (["liked", "label_1"], ["hour"])


def test_a_model_of_next_items_takes_no_context(serving, real) -> None:
    http = serving(real)
    body = {"item_ids": [1, 2], "context": {"hour": 1}}
    status, kind, message = http.error("POST", "/v1/users/ann/rank", json=body)
    assert (status, kind) == (400, "DataError")
    assert "it is no ranker" in message
