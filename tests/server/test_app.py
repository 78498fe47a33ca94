"""The app around a small fake recommender."""

import importlib
import json
import sys
import time
from typing import Any

import numpy as np
import pytest

from gistrec import errors, server
from gistrec.dataset import Vocabulary
from gistrec.recommender import Event, Recommender
from gistrec.server.errors import STATUS

JSON = {"Content-Type": "application/json"}


def test_observe_appends_and_counts(http, fake) -> None:
    event = {"item_id": 3, "timestamp": 1_700_000_000, "action": 2}
    answer = http.post("/v1/users/ann/events", {"events": [event, {"item_id": 4}]})
    assert answer.pop("ms") >= 0
    assert answer == {"length": 2, "state_bytes": 10, "log_bytes": 6}
    first, second = fake.histories["ann"]
    assert first == Event(3, 1_700_000_000, 2)
    assert second.action is None
    assert abs(second.timestamp - time.time()) < 5


def test_observe_passes_on_what_makes_it_repeatable(http, fake) -> None:
    event = {"item_id": 8, "timestamp": 1, "event_id": "cart-17"}
    http.post("/v1/users/ann/events", {"events": [event], "expected_length": 0})
    assert fake.observed == [(["cart-17"], 0)]
    body = {"events": [{"item_id": 8}], "expected_length": 1}
    status, kind, message = http.error("POST", "/v1/users/ann/events", json=body)
    assert (status, kind) == (400, "DataError")
    assert "timestamp" in message


def test_recommend_lists_titles_and_the_users_bytes(http, fake) -> None:
    http.post("/v1/users/ann/events", {"events": [{"item_id": 8}]})
    answer = http("GET", "/v1/users/ann/recommendations?k=2&exclude_seen=false&at=5").json()
    assert answer.pop("ms") >= 0
    assert answer == {
        "items": [
            {"item_id": 8, "score": 0.0, "title": "Eight"},
            {"item_id": 7, "score": -0.5, "title": fake.items.title(7)},
        ],
        "state_bytes": 10,
        "log_bytes": 3,
    }
    assert fake.calls == [("recommend", False), ("rank", 5)]


def test_recommend_defaults(http, fake) -> None:
    answer = http("GET", "/v1/users/new/recommendations").json()
    assert len(answer["items"]) == 10
    assert (answer["state_bytes"], answer["log_bytes"]) == (0, 0)
    assert fake.calls == [("recommend", None), ("rank", None)]


def test_rank_orders_candidates(http, fake) -> None:
    http.post("/v1/users/ann/events", {"events": [{"item_id": 8}]})
    answer = http.post("/v1/users/ann/rank", {"item_ids": [1, 9, 8], "at": 6})
    assert [item["item_id"] for item in answer["items"]] == [8, 9, 1]
    assert answer["ms"] >= 0
    assert fake.calls == [("rank", 6)]


def test_state_is_described_and_forgotten(http) -> None:
    assert http.error("GET", "/v1/users/ann/state")[:2] == (404, "NotFoundError")
    http.post("/v1/users/ann/events", {"events": [{"item_id": 1}]})
    report = http("GET", "/v1/users/ann/state").json()
    assert report.pop("ms") >= 0
    assert report == {
        "user_id": "ann",
        "length": 1,
        "covered": 1,
        "slots": 1,
        "state_bytes": 10,
        "log_bytes": 3,
        "model": "0123456789abcdef",
        "codec": "recent(keep=64) | int8()",
    }
    assert http("DELETE", "/v1/users/ann").json()["user_id"] == "ann"
    assert http.error("DELETE", "/v1/users/ann")[:2] == (404, "NotFoundError")


def test_a_state_is_deleted_and_comes_back_from_the_history(serving, real: Recommender) -> None:
    http = serving(real)
    events = [{"item_id": i, "timestamp": 1_600_000_000 + i} for i in range(5)]
    http.post("/v1/users/ann/events", {"events": events})
    before = http("GET", "/v1/users/ann/recommendations").json()
    assert http("DELETE", "/v1/users/ann/state").json()["user_id"] == "ann"
    assert real.sizes("ann")[:2] == (5, 0)
    assert http.error("DELETE", "/v1/users/ann/state")[:2] == (404, "NotFoundError")
    after = http("GET", "/v1/users/ann/recommendations").json()
    assert after["items"] == before["items"]
    assert real.counts["missing"] == 2


@pytest.mark.parametrize("name", ["ann/state", "ann", "state"])
def test_a_user_called_like_a_route_is_told_from_it(http, fake, name: str) -> None:
    for user in ("ann/state", "ann", "state"):
        fake.observe(user, [Event(1, 1)])
    path = "/v1/users/" + name.replace("/", "%2F")
    assert http("DELETE", path).json()["user_id"] == name
    assert set(fake.histories) == {"ann/state", "ann", "state"} - {name}


def test_stats_name_the_recipe(http) -> None:
    http.post("/v1/users/ann/events", {"events": [{"item_id": 1}]})
    stats = http("GET", "/v1/stats").json()
    assert stats.pop("ms") >= 0
    assert stats == {
        "backbone": "hstu(width=64)",
        "model": "0123456789abcdef",
        "codec": "recent(keep=64) | int8()",
        "num_items": 20,
        "item_id_type": "integer",
        "labels": [],
        "contexts": [],
        "users": 1,
        "bytes_total": 10,
        "bytes_p50": 10.0,
        "bytes_p99": 10.0,
        "shared_bytes": 4096,
    }


def test_item_ids_may_be_text(http, fake) -> None:
    fake.items = Vocabulary(np.array(["1", "b"]))
    http.post("/v1/users/ann/events", {"events": [{"item_id": "b"}]})
    assert http.post("/v1/users/ann/rank", {"item_ids": ["1", "b"]})["items"][0]["item_id"] == "b"
    assert http("GET", "/v1/stats").json()["item_id_type"] == "string"
    assert http.error("POST", "/v1/users/ann/rank", json={"item_ids": [1]})[:2] == (
        400,
        "DataError",
    )


@pytest.mark.parametrize(
    ("path", "user_id"),
    [
        ("a%2Fb", "a/b"),
        ("a/b", "a/b"),
        ("x%2Fevents", "x/events"),
        ("%C3%A9%20%3F%23%25", "é ?#%"),
        ("line%0Abreak", "line\nbreak"),
        ("%3Cscript%3E", "<script>"),
        ("123", "123"),
    ],
)
def test_user_ids_are_any_text(http, fake, path: str, user_id: str) -> None:
    http.post(f"/v1/users/{path}/events", {"events": [{"item_id": 1}]})
    assert list(fake.histories) == [user_id]
    assert http("GET", f"/v1/users/{path}/state").json()["user_id"] == user_id


@pytest.mark.parametrize("path", ["", "%FF"])
def test_a_user_id_is_not_empty_and_is_utf8(http, path: str) -> None:
    assert http.error("GET", f"/v1/users/{path}/state")[:2] == (400, "DataError")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"item_ids":["\xff"]}', b'{"item_ids":["\\ud800"]}', b'{"item_ids":[1]} {}'],
)
def test_a_body_that_is_not_json(http, body: bytes) -> None:
    status, kind, message = http.error("POST", "/v1/users/a/rank", content=body, headers=JSON)
    assert (status, kind) == (400, "DataError")
    assert message.startswith("the body is not JSON: ")


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("events", {}, "missing required field `events`"),
        ("events", [], "Expected `object`, got `array`"),
        ("events", {"events": []}, "`$.events`"),
        ("events", {"events": [{"item_id": 1}] * 1001}, "length <= 1000 - at `$.events`"),
        ("events", {"events": [{"item_id": 1}], "user": 1}, "unknown field `user`"),
        ("events", {"events": [{"item_id": 1, "time": 1}]}, "unknown field `time`"),
        ("events", {"events": [{"item_id": 1.5}]}, "`$.events[0].item_id`"),
        ("events", {"events": [{"item_id": True}]}, "`$.events[0].item_id`"),
        ("events", {"events": [{"item_id": None}]}, "`$.events[0].item_id`"),
        ("events", {"events": [{"item_id": 2**63}]}, "`$.events[0].item_id`"),
        ("events", {"events": [{"timestamp": 1}]}, "missing required field `item_id`"),
        ("events", {"events": [{"item_id": 1, "timestamp": "1"}]}, "`$.events[0].timestamp`"),
        ("events", {"events": [{"item_id": 1, "timestamp": -1}]}, "`$.events[0].timestamp`"),
        ("events", {"events": [{"item_id": 1, "timestamp": 1.5}]}, "`$.events[0].timestamp`"),
        ("events", {"events": [{"item_id": 1, "timestamp": 1_700_000_000_000}]}, "timestamp`"),
        ("events", {"events": [{"item_id": 1, "action": 256}]}, "`$.events[0].action`"),
        ("rank", {"item_ids": []}, "`$.item_ids`"),
        ("rank", {"item_ids": [1] * 10_001}, "length <= 10000 - at `$.item_ids`"),
        ("rank", {"item_ids": [1], "k": 3}, "unknown field `k`"),
        ("rank", {"item_ids": [1], "at": "now"}, "`$.at`"),
    ],
)
def test_a_body_that_does_not_fit(http, path: str, body: Any, place: str) -> None:
    status, kind, message = http.error("POST", f"/v1/users/a/{path}", json=body)
    assert (status, kind) == (422, "SchemaError")
    assert place in message


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("k=0", "`int` >= 1 - at `$.k`"),
        ("k=1001", "`int` <= 1000 - at `$.k`"),
        ("k=ten", "`$.k`"),
        ("k=", "`$.k`"),
        ("exclude_seen=maybe", "`$.exclude_seen`"),
        ("at=-1", "`$.at`"),
        ("limit=3", "unknown field `limit`"),
    ],
)
def test_a_query_that_does_not_fit(http, query: str, place: str) -> None:
    status, kind, message = http.error("GET", f"/v1/users/a/recommendations?{query}")
    assert (status, kind) == (422, "SchemaError")
    assert place in message


def test_unknown_items_are_named(http) -> None:
    answer = http.error("POST", "/v1/users/a/rank", json={"item_ids": [1, 99]})
    assert answer == (400, "DataError", "unknown item 99: give one of the log's ids")


@pytest.mark.parametrize("path", ["/nope", "/v1/users", "/v1/users/", "/v1/stats/", "/a%0Ab"])
def test_unknown_routes(http, path: str) -> None:
    assert http.error("GET", path)[:2] == (404, "NotFoundError")


def test_wrong_methods(http) -> None:
    answer = http.error("POST", "/v1/users/a/state", json={})
    assert answer[:2] == (405, "MethodNotAllowedError")
    response = http("PUT", "/v1/users/a/state")
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "DELETE"}
    assert http("GET", "/v1/users/a").headers["allow"] == "DELETE"
    assert http("HEAD", "/v1/stats").status_code == 200


def test_a_body_must_be_declared_as_json(http) -> None:
    body = b'{"item_ids":[1]}'
    for headers in ({}, {"Content-Type": "text/plain"}):
        answer = http.error("POST", "/v1/users/a/rank", content=body, headers=headers)
        assert answer[:2] == (415, "MediaTypeError")
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert http("POST", "/v1/users/a/rank", content=body, headers=headers).status_code == 200


def test_a_body_has_at_most_a_mebibyte(http) -> None:
    body = b'{"item_ids":[1]}'.ljust(1 << 20)
    assert http("POST", "/v1/users/a/rank", content=body, headers=JSON).status_code == 200
    answer = http.error("POST", "/v1/users/a/rank", content=body + b" ", headers=JSON)
    assert answer[:2] == (413, "BodyTooLargeError")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ConfigError, 400),
        (errors.DataError, 400),
        (errors.CodecError, 400),
        (errors.BudgetError, 400),
        (errors.ConflictError, 409),
        (errors.CorruptStateError, 500),
        (errors.StaleStateError, 500),
        (errors.StoreError, 500),
        (errors.StoreUnavailableError, 503),
        (errors.BusyError, 503),
    ],
)
@pytest.mark.parametrize("path", ["events", "rank"])
def test_errors_of_the_library(http, fake, path: str, error: type[Exception], status: int) -> None:
    fake.fault = error("said why")
    body = {"events": [{"item_id": 1}]} if path == "events" else {"item_ids": [1]}
    answer = http.error("POST", f"/v1/users/a/{path}", json=body)
    assert answer == (status, error.__name__, "said why")


def test_who_is_refused_a_rebuild_is_told_when_to_come_back(http, fake) -> None:
    fake.fault = errors.BusyError("too many", retry_after_s=4.5)
    answer = http("GET", "/v1/users/ann/recommendations")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


def test_every_error_of_the_library_has_a_status() -> None:
    declared = [cls for cls in vars(errors).values() if isinstance(cls, type)]
    for cls in set(declared) - {errors.GistrecError}:
        assert any(base in STATUS for base in cls.__mro__), cls


def test_health_and_readiness(http, fake) -> None:
    assert http("GET", "/healthz").json() == {"status": "ok"}
    assert http("GET", "/readyz").json() == {"status": "ok"}
    fake.fault = errors.StoreUnavailableError("the disk is gone")
    assert http("GET", "/healthz").json() == {"status": "ok"}
    assert http.error("GET", "/readyz") == (503, "StoreUnavailableError", "the disk is gone")


def test_metrics_count_requests_of_their_own_app(http, fake, serving) -> None:
    other = serving(type(fake)())
    http.post("/v1/users/ann/events", {"events": [{"item_id": 1}]})
    http("GET", "/nope")
    http("GET", "/v1/users/ann/recommendations?k=0")
    text = http("GET", "/metrics").text
    for route, status in [
        ("POST /v1/users/{user_id}/events", 200),
        ("unmatched", 404),
        ("GET /v1/users/{user_id}/recommendations", 422),
    ]:
        label = f'{{route="{route}",status="{status}"}}'
        assert f"gistrec_request_seconds_count{label} 1.0" in text
    assert "gistrec_users 1.0" in text
    assert "gistrec_state_bytes 10.0" in text
    assert 'gistrec_state_loads_total{found="fresh"} 1.0' in text
    assert "gistrec_users 0.0" in other("GET", "/metrics").text


def test_get_answers_without_a_socket(fake) -> None:
    fake.observe("a/b", [Event(8, 1)])
    status, headers, body = server.get(fake, "/v1/users/a%2Fb/recommendations?k=1")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["items"][0]["title"] == "Eight"
    assert server.get(fake, "/nope")[0] == 404
    fake.fault = RuntimeError("unexpected")
    assert server.get(fake, "/v1/stats")[0] == 500


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "gistrec.server")
    with pytest.raises(errors.ConfigError, match=r'pip install "gistrec\[serve\]"'):
        importlib.import_module("gistrec.server")


def test_a_real_recommender(serving, real: Recommender) -> None:
    http = serving(real)
    events = [{"item_id": i, "timestamp": 1_600_000_000 + i} for i in range(5)]
    appended = http.post("/v1/users/ann/events", {"events": events})
    assert appended["length"] == 5
    answer = http("GET", "/v1/users/ann/recommendations?k=30&at=1600000009").json()
    expected = real.recommend("ann", k=30, at=1_600_000_009)
    assert len(expected) == 25
    assert [i["item_id"] for i in answer["items"]] == [s.item_id for s in expected]
    assert answer["state_bytes"] == appended["state_bytes"] > 0
    assert answer["log_bytes"] == appended["log_bytes"] > 0
    ranked = http.post("/v1/users/ann/rank", {"item_ids": [7, 12, 29]})
    expected = real.rank("ann", [7, 12, 29])
    assert [i["item_id"] for i in ranked["items"]] == [s.item_id for s in expected]
    assert http.error("POST", "/v1/users/ann/rank", json={"item_ids": ["7"]})[0] == 400
    assert http.error("GET", f"/v1/users/{'x' * 257}/state")[:2] == (400, "DataError")
    assert http("GET", "/v1/users/ann/state").json()["covered"] == 5
    stats = http("GET", "/v1/stats").json()
    assert (stats["users"], stats["num_items"]) == (1, 30)
    assert stats["model"] == real.backbone.fingerprint()
    assert "gistrec_users 1.0" in http("GET", "/metrics").text
    assert http("DELETE", "/v1/users/ann").status_code == 200
    assert http.error("GET", "/v1/users/ann/state")[0] == 404
