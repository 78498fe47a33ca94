"""The server on a small fake recommender; run as a script, it serves the fake."""

import asyncio
import collections
import importlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from gistrec import backbones, errors, server
from gistrec.dataset import Vocabulary
from gistrec.recommender import (
    Event,
    Observed,
    Recommender,
    Scored,
    UserReport,
    identity_recipe,
)
from gistrec.server.errors import STATUS
from gistrec.server.openapi import document
from gistrec.server.operations import OPERATIONS
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.train import Model, Training

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b>&amp;</b>"
JSON = {"Content-Type": "application/json"}


class FakeRecommender:
    """Scores fall with the distance from the newest item; a user costs 10 + 3 bytes an event."""

    def __init__(self, num_items: int = 20) -> None:
        self.backbone = SimpleNamespace(spec="hstu(width=64)")
        self.recipe = SimpleNamespace(
            manifest=SimpleNamespace(model="0123456789abcdef"),
            chain="recent(keep=64) | int8()",
            shared_bytes=4096,
        )
        self.items = Vocabulary(np.arange(num_items), {7: HOSTILE, 8: "Eight"})
        self.histories: dict[str, list[Event]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.observed: list[tuple[list[str | None], int | None]] = []
        self.fault: Exception | None = None
        self.counts: collections.Counter[str] = collections.Counter()

    def _check(self) -> None:
        if self.fault:
            raise self.fault

    def observe(
        self, user_id: str, events: list[Event], *, expected_length: int | None = None
    ) -> Observed:
        self._check()
        self.observed.append(([e.event_id for e in events], expected_length))
        self.counts["fresh"] += 1
        history = self.histories.setdefault(user_id, [])
        history += events
        return Observed(len(history), 10, 3 * len(history))

    def _index(self, item_id: int | str) -> int:
        if (index := self.items.index(item_id)) < 0:
            raise errors.DataError(f"unknown item {item_id!r}: give one of the log's ids")
        return index

    def rank(
        self, user_id: str, item_ids: list[int | str], *, at: int | None = None
    ) -> list[Scored]:
        self._check()
        self.calls.append(("rank", at))
        history = self.histories.get(user_id)
        newest = self.items.index(history[-1].item_id) if history else 0
        scored = [Scored(i, -abs(self._index(i) - newest) / 2, self._title(i)) for i in item_ids]
        return sorted(scored, key=lambda s: (-s.score, s.item_id))

    def _title(self, item_id: int | str) -> str:
        return self.items.title(self._index(item_id))

    def recommend(
        self, user_id: str, *, k: int, exclude_seen: bool | None, at: int | None
    ) -> list[Scored]:
        self.calls.append(("recommend", exclude_seen))
        seen = {e.item_id for e in self.histories.get(user_id, [])} if exclude_seen else set()
        return self.rank(user_id, [i for i in range(len(self.items)) if i not in seen], at=at)[:k]

    def describe(self, user_id: str) -> UserReport | None:
        self._check()
        if user_id not in self.histories:
            return None
        n = len(self.histories[user_id])
        return UserReport(
            user_id, n, n, min(n, 64), 10, 3 * n, self.recipe.manifest.model, self.recipe.chain
        )

    def sizes(self, user_id: str) -> Observed:
        self._check()
        n = len(self.histories.get(user_id, []))
        return Observed(n, 10 if n else 0, 3 * n)

    def forget(self, user_id: str) -> bool:
        self._check()
        return self.histories.pop(user_id, None) is not None

    def stats(self) -> SimpleNamespace:
        self._check()
        users = len(self.histories)
        return SimpleNamespace(users=users, bytes_total=10 * users, bytes_p50=10.0, bytes_p99=10.0)


class Client:
    """Requests to an app in this process."""

    def __init__(self, recommender: FakeRecommender | Recommender) -> None:
        self.transport = httpx.ASGITransport(server.create_app(recommender))

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.transport, base_url="http://test") as http:
                return await http.request(method, path, **options)

        return asyncio.run(send())

    def error(self, method: str, path: str, **options: Any) -> tuple[int, str, str]:
        response = self(method, path, **options)
        told = response.json()
        assert told.keys() == {"error"}
        assert told["error"].keys() == {"type", "message", "status"}
        assert told["error"]["status"] == response.status_code
        assert response.headers["content-type"] == "application/json"
        return response.status_code, told["error"]["type"], told["error"]["message"]


@pytest.fixture
def fake() -> FakeRecommender:
    return FakeRecommender()


@pytest.fixture
def http(fake: FakeRecommender) -> Client:
    return Client(fake)


def post(http: Client, path: str, body: Any) -> dict[str, Any]:
    response = http("POST", path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_observe_appends_and_counts(http: Client, fake: FakeRecommender) -> None:
    event = {"item_id": 3, "timestamp": 1_700_000_000, "action": 2}
    answer = post(http, "/v1/users/ann/events", {"events": [event, {"item_id": 4}]})
    assert answer.pop("ms") >= 0
    assert answer == {"length": 2, "state_bytes": 10, "log_bytes": 6}
    first, second = fake.histories["ann"]
    assert first == Event(3, 1_700_000_000, 2)
    assert second.action is None
    assert abs(second.timestamp - time.time()) < 5


def test_observe_passes_on_what_makes_it_repeatable(http: Client, fake: FakeRecommender) -> None:
    event = {"item_id": 8, "timestamp": 1, "event_id": "cart-17"}
    post(http, "/v1/users/ann/events", {"events": [event], "expected_length": 0})
    assert fake.observed == [(["cart-17"], 0)]
    body = {"events": [{"item_id": 8}], "expected_length": 1}
    status, kind, message = http.error("POST", "/v1/users/ann/events", json=body)
    assert (status, kind) == (400, "DataError")
    assert "timestamp" in message


def test_recommend_lists_titles_and_the_users_bytes(http: Client, fake: FakeRecommender) -> None:
    post(http, "/v1/users/ann/events", {"events": [{"item_id": 8}]})
    answer = http("GET", "/v1/users/ann/recommendations?k=2&exclude_seen=false&at=5").json()
    assert answer.pop("ms") >= 0
    assert answer == {
        "items": [
            {"item_id": 8, "score": 0.0, "title": "Eight"},
            {"item_id": 7, "score": -0.5, "title": HOSTILE},
        ],
        "state_bytes": 10,
        "log_bytes": 3,
    }
    assert fake.calls == [("recommend", False), ("rank", 5)]


def test_recommend_defaults(http: Client, fake: FakeRecommender) -> None:
    answer = http("GET", "/v1/users/new/recommendations").json()
    assert len(answer["items"]) == 10
    assert (answer["state_bytes"], answer["log_bytes"]) == (0, 0)
    assert fake.calls == [("recommend", None), ("rank", None)]


def test_rank_orders_candidates(http: Client, fake: FakeRecommender) -> None:
    post(http, "/v1/users/ann/events", {"events": [{"item_id": 8}]})
    answer = post(http, "/v1/users/ann/rank", {"item_ids": [1, 9, 8], "at": 6})
    assert [item["item_id"] for item in answer["items"]] == [8, 9, 1]
    assert answer["ms"] >= 0
    assert fake.calls == [("rank", 6)]


def test_state_is_described_and_forgotten(http: Client) -> None:
    assert http.error("GET", "/v1/users/ann/state")[:2] == (404, "NotFoundError")
    post(http, "/v1/users/ann/events", {"events": [{"item_id": 1}]})
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
    assert http("DELETE", "/v1/users/ann/state").json()["user_id"] == "ann"
    assert http.error("DELETE", "/v1/users/ann/state")[:2] == (404, "NotFoundError")


def test_stats_name_the_recipe(http: Client) -> None:
    post(http, "/v1/users/ann/events", {"events": [{"item_id": 1}]})
    stats = http("GET", "/v1/stats").json()
    assert stats.pop("ms") >= 0
    assert stats == {
        "backbone": "hstu(width=64)",
        "model": "0123456789abcdef",
        "codec": "recent(keep=64) | int8()",
        "num_items": 20,
        "item_id_type": "integer",
        "users": 1,
        "bytes_total": 10,
        "bytes_p50": 10.0,
        "bytes_p99": 10.0,
        "shared_bytes": 4096,
    }


def test_item_ids_may_be_text(http: Client, fake: FakeRecommender) -> None:
    fake.items = Vocabulary(np.array(["1", "b"]))
    post(http, "/v1/users/ann/events", {"events": [{"item_id": "b"}]})
    assert post(http, "/v1/users/ann/rank", {"item_ids": ["1", "b"]})["items"][0]["item_id"] == "b"
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
def test_user_ids_are_any_text(
    http: Client, fake: FakeRecommender, path: str, user_id: str
) -> None:
    post(http, f"/v1/users/{path}/events", {"events": [{"item_id": 1}]})
    assert list(fake.histories) == [user_id]
    assert http("GET", f"/v1/users/{path}/state").json()["user_id"] == user_id


@pytest.mark.parametrize("path", ["", "%FF"])
def test_a_user_id_is_not_empty_and_is_utf8(http: Client, path: str) -> None:
    assert http.error("GET", f"/v1/users/{path}/state")[:2] == (400, "DataError")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"item_ids":["\xff"]}', b'{"item_ids":["\\ud800"]}', b'{"item_ids":[1]} {}'],
)
def test_a_body_that_is_not_json(http: Client, body: bytes) -> None:
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
def test_a_body_that_does_not_fit(http: Client, path: str, body: Any, place: str) -> None:
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
def test_a_query_that_does_not_fit(http: Client, query: str, place: str) -> None:
    status, kind, message = http.error("GET", f"/v1/users/a/recommendations?{query}")
    assert (status, kind) == (422, "SchemaError")
    assert place in message


def test_unknown_items_are_named(http: Client) -> None:
    answer = http.error("POST", "/v1/users/a/rank", json={"item_ids": [1, 99]})
    assert answer == (400, "DataError", "unknown item 99: give one of the log's ids")


@pytest.mark.parametrize("path", ["/nope", "/v1/users", "/v1/users/a", "/v1/stats/", "/a%0Ab"])
def test_unknown_routes(http: Client, path: str) -> None:
    assert http.error("GET", path)[:2] == (404, "NotFoundError")


def test_wrong_methods(http: Client) -> None:
    answer = http.error("POST", "/v1/users/a/state", json={})
    assert answer[:2] == (405, "MethodNotAllowedError")
    response = http("PUT", "/v1/users/a/state")
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "DELETE"}
    assert http("HEAD", "/v1/stats").status_code == 200


def test_a_body_must_be_declared_as_json(http: Client) -> None:
    body = b'{"item_ids":[1]}'
    for headers in ({}, {"Content-Type": "text/plain"}):
        answer = http.error("POST", "/v1/users/a/rank", content=body, headers=headers)
        assert answer[:2] == (415, "MediaTypeError")
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert http("POST", "/v1/users/a/rank", content=body, headers=headers).status_code == 200


def test_a_body_has_at_most_a_mebibyte(http: Client) -> None:
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
    ],
)
@pytest.mark.parametrize("path", ["events", "rank"])
def test_errors_of_the_library(
    http: Client, fake: FakeRecommender, path: str, error: type[Exception], status: int
) -> None:
    fake.fault = error("said why")
    body = {"events": [{"item_id": 1}]} if path == "events" else {"item_ids": [1]}
    answer = http.error("POST", f"/v1/users/a/{path}", json=body)
    assert answer == (status, error.__name__, "said why")


def test_every_error_of_the_library_has_a_status() -> None:
    declared = [cls for cls in vars(errors).values() if isinstance(cls, type)]
    for cls in set(declared) - {errors.GistrecError}:
        assert any(base in STATUS for base in cls.__mro__), cls


def test_unexpected_errors_tell_nothing_but_are_logged(
    http: Client, fake: FakeRecommender, caplog: pytest.LogCaptureFixture
) -> None:
    fake.fault = RuntimeError("the secret")
    answer = http.error("GET", "/v1/users/a/state")
    assert answer == (500, "InternalError", "internal error: the server's log says more")
    (record,) = caplog.records
    assert record.exc_info
    assert record.exc_info[1] is fake.fault


def test_health_and_readiness(http: Client, fake: FakeRecommender) -> None:
    assert http("GET", "/healthz").json() == {"status": "ok"}
    assert http("GET", "/readyz").json() == {"status": "ok"}
    fake.fault = errors.StoreUnavailableError("the disk is gone")
    assert http("GET", "/healthz").json() == {"status": "ok"}
    assert http.error("GET", "/readyz") == (503, "StoreUnavailableError", "the disk is gone")


def test_metrics_count_requests_of_their_own_app(http: Client) -> None:
    other = Client(FakeRecommender())
    post(http, "/v1/users/ann/events", {"events": [{"item_id": 1}]})
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


def test_openapi_documents_every_route_and_no_other(http: Client) -> None:
    described = http("GET", "/openapi.json").json()
    assert described == json.loads(msgspec.json.encode(document(OPERATIONS)))
    documented = {
        (path, method.upper()) for path, methods in described["paths"].items() for method in methods
    }
    app = server.create_app(FakeRecommender())
    served = {
        (route.path.replace(":path", ""), method)
        for route in app.routes
        for method in route.methods - {"HEAD"}
    }
    assert documented == served
    ids = [m["operationId"] for methods in described["paths"].values() for m in methods.values()]
    assert len(set(ids)) == len(ids)


def test_openapi_is_strict_about_input(http: Client) -> None:
    described = http("GET", "/openapi.json").json()
    schemas = described["components"]["schemas"]
    for name in ("NewEvents", "NewEvent", "Candidates"):
        assert schemas[name]["additionalProperties"] is False
    assert schemas["NewEvents"]["properties"]["events"]["maxItems"] == 1000
    recommend = described["paths"]["/v1/users/{user_id}/recommendations"]["get"]
    assert [p["name"] for p in recommend["parameters"]] == ["user_id", "k", "exclude_seen", "at"]
    limits = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 10}
    assert recommend["parameters"][1]["schema"] == limits
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert references == set(schemas)


def test_http_reference_is_up_to_date() -> None:
    page = Path(__file__).parent.parent / "docs" / "http.md"
    assert page.read_text(encoding="utf-8") == server.http_reference(), (
        "write gistrec.server.http_reference() to docs/http.md"
    )


def test_get_answers_without_a_socket(fake: FakeRecommender) -> None:
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


def test_the_page_parses_nothing_as_html_and_asks_nobody_else(http: Client) -> None:
    response = http("GET", "/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|https?://|\son\w+=", response.text
    )
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_a_real_recommender() -> None:
    dataset = stride_dataset()
    backbone = backbones.build("hstu(width=16)", num_items=dataset.num_items)
    model = Model(backbone.eval(), dataset.items, Training())
    with Recommender(model, identity_recipe(model), open_store("ram://")) as recommender:
        http = Client(recommender)
        events = [{"item_id": i, "timestamp": 1_600_000_000 + i} for i in range(5)]
        appended = post(http, "/v1/users/ann/events", {"events": events})
        assert appended["length"] == 5
        answer = http("GET", "/v1/users/ann/recommendations?k=30&at=1600000009").json()
        expected = recommender.recommend("ann", k=30, at=1_600_000_009)
        assert len(expected) == 25
        assert [i["item_id"] for i in answer["items"]] == [s.item_id for s in expected]
        assert answer["state_bytes"] == appended["state_bytes"] > 0
        assert answer["log_bytes"] == appended["log_bytes"] > 0
        ranked = post(http, "/v1/users/ann/rank", {"item_ids": [7, 12, 29]})
        expected = recommender.rank("ann", [7, 12, 29])
        assert [i["item_id"] for i in ranked["items"]] == [s.item_id for s in expected]
        assert http.error("POST", "/v1/users/ann/rank", json={"item_ids": ["7"]})[0] == 400
        assert http.error("GET", f"/v1/users/{'x' * 257}/state")[:2] == (400, "DataError")
        assert http("GET", "/v1/users/ann/state").json()["covered"] == 5
        stats = http("GET", "/v1/stats").json()
        assert (stats["users"], stats["num_items"]) == (1, 30)
        assert stats["model"] == backbone.fingerprint()
        assert "gistrec_users 1.0" in http("GET", "/metrics").text
        assert http("DELETE", "/v1/users/ann/state").status_code == 200
        assert http.error("GET", "/v1/users/ann/state")[0] == 404


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a process of its own, stopped by SIGTERM to its pid."""
    with subprocess.Popen(
        [sys.executable, __file__], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        line = process.stdout.readline()
        try:
            found = re.fullmatch(
                r"gistrec serves at (http://127\.0\.0\.1:\d+) \(stop with Ctrl-C\)\n", line
            )
            assert found, line + process.stderr.read()
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout.read() == "closed\n"
        assert process.stderr.read() == ""


def test_a_real_server_answers_and_stops_in_order(url: str) -> None:
    with httpx.Client(base_url=url) as http:
        path = "/v1/users/a%2Fb%0A/events"
        assert http.post(path, json={"events": [{"item_id": 8}]}).json()["length"] == 1
        big = http.post(path, content=bytes(3 << 20), headers=JSON)
        assert big.json()["error"]["status"] == 413
        assert http.get("/v1/users/a%2Fb%0A/state").json()["user_id"] == "a/b\n"


def test_a_taken_port_is_told(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(errors.ConfigError, match=f"port {port}: Address already in use"):
        server.serve(FakeRecommender(), port=port)


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium: apt install chromium")
def test_the_page_shows_hostile_titles_as_text(url: str, tmp_path: Path) -> None:
    user = "%3Ci%3Eann%3C%2Fi%3E"
    httpx.post(f"{url}/v1/users/{user}/events", json={"events": [{"item_id": 8}]})
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000"]
    page = subprocess.run(
        [*command, f"{url}/#user={user}"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "For &lt;i&gt;ann&lt;/i&gt;" in page
    assert "&lt;img src=x onerror=" in page
    assert "<img" not in page
    assert "<title>gistrec</title>" in page


if __name__ == "__main__":
    server.serve(FakeRecommender(), port=0)
    sys.stdout.write("closed\n")
