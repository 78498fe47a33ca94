"""Too much at once, and what takes too long."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from gistrec.errors import ConfigError
from gistrec.rebuilds import RebuildLimits
from gistrec.recommender import Event
from gistrec.server.settings import Settings

ASK = ("GET", "/v1/users/ann/state")


@pytest.fixture
def many():
    """Requests that are sent at the same time."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def busy(fake):
    """The fake with a user, whose calls do not return."""
    fake.observe("ann", [Event(1, 1)])
    fake.hold.clear()
    yield fake
    fake.hold.set()


def begun(fake, count: int) -> None:
    for _ in range(count):
        assert fake.held.acquire(timeout=60)


def open_requests(http) -> int:
    return http.app.routes[0].endpoint.args[0].gate._open


def wait_until(condition) -> None:
    for _ in range(3000):
        if condition():
            return
        asyncio.run(asyncio.sleep(0.01))
    raise AssertionError("it did not come true")


def test_more_than_may_wait_are_refused_at_once(serving, busy, many) -> None:
    http = serving(busy, in_flight=2, waiting=3)
    first: list[Future[Any]] = [many.submit(http, *ASK) for _ in range(5)]
    begun(busy, 2)
    wait_until(lambda: open_requests(http) == 5)
    for _ in range(3):
        refused = http(*ASK)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        told = refused.json()["error"]
        assert (told["type"], told["status"]) == ("OverloadedError", 429)
        assert told["message"].startswith("5 requests are open, allowed are 5: ")
    # who looks after the server gets answers
    assert http("GET", "/healthz").status_code == 200
    text = http("GET", "/metrics").text
    assert (
        'gistrec_request_seconds_count{route="GET /v1/users/{user_id}/state",status="429"}' in text
    )
    busy.hold.set()
    assert [f.result().status_code for f in first] == [200] * 5
    assert http(*ASK).status_code == 200
    assert open_requests(http) == 0


def test_what_was_refused_does_not_count(serving, fake) -> None:
    http = serving(fake, in_flight=1, waiting=0)
    for _ in range(3):
        assert http.error("GET", "/v1/users/nobody/state")[0] == 404
        assert http.error("POST", "/v1/users/a/rank", json={})[0] == 422
    assert open_requests(http) == 0


def test_a_call_that_takes_too_long_may_still_be_done(serving, busy) -> None:
    http = serving(busy, in_flight=1, waiting=0, timeout_s=0.2)
    body = {"events": [{"item_id": 2, "event_id": "one"}]}
    status, kind, message = http.error("POST", "/v1/users/ann/events", json=body)
    assert (status, kind) == (504, "DeadlineError")
    assert "event ids or expected_length" in message
    # its thread is taken until it is done
    assert http.error(*ASK)[:2] == (429, "OverloadedError")
    busy.hold.set()
    wait_until(lambda: open_requests(http) == 0)
    assert len(busy.histories["ann"]) == 2


def test_a_request_that_waited_too_long_was_not_begun(serving, busy, many) -> None:
    http = serving(busy, in_flight=1, waiting=1, timeout_s=1)
    first = many.submit(http, *ASK)
    begun(busy, 1)
    response = http("POST", "/v1/users/ann/events", json={"events": [{"item_id": 2}]})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["type"] == "NotBegunError"
    assert first.result().status_code == 504
    busy.hold.set()
    wait_until(lambda: open_requests(http) == 0)
    assert len(busy.histories["ann"]) == 1
    assert [http(*ASK).status_code for _ in range(3)] == [200] * 3  # no place is lost


def test_a_body_that_does_not_arrive(serving, fake) -> None:
    http = serving(fake, timeout_s=0.2)

    async def slow():
        yield b'{"events":'
        await asyncio.sleep(60)

    headers = {"Content-Type": "application/json"}
    answer = http.error("POST", "/v1/users/ann/events", content=slow(), headers=headers)
    assert answer[:2] == (408, "SlowBodyError")
    assert not fake.histories
    assert open_requests(http) == 0


def test_the_longest_body_is_a_setting(serving, fake) -> None:
    http = serving(fake, max_body_bytes=2000)
    events = [{"item_id": 1}] * 200
    answer = http.error("POST", "/v1/users/ann/events", json={"events": events})
    assert answer[:2] == (413, "BodyTooLargeError")
    assert "2000 bytes" in answer[2]


def test_an_error_of_the_call_that_is_a_timeout_is_none_of_the_server(serving, fake) -> None:
    fake.fault = TimeoutError("of a socket")
    assert serving(fake).error(*ASK)[:2] == (500, "InternalError")


@pytest.mark.parametrize(
    "wrong",
    [{"in_flight": 0}, {"waiting": -1}, {"timeout_s": 0}, {"timeout_s": float("nan")},
     {"linger_s": -1}, {"max_body_bytes": 0}],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is .*, allowed is"):
        Settings(**wrong)


def test_a_burst_is_answered_or_refused_and_nothing_else(serving, real) -> None:
    """Far more at once than may wait, on a real recommender: every answer is one of the two."""
    http = serving(real, in_flight=2, waiting=8)

    async def burst() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=http.transport, base_url="http://test") as client:
            body = {"events": [{"item_id": 1, "timestamp": 5}]}
            sent = [client.post(f"/v1/users/u{n % 7}/events", json=body) for n in range(200)]
            return await asyncio.gather(*sent)

    statuses = [response.status_code for response in asyncio.run(burst())]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 10
    assert sum(real.log.length(f"u{n}") for n in range(7)) == statuses.count(200)


def test_who_waits_for_a_rebuild_takes_no_place_from_others(serving, real, many) -> None:
    real.rebuilds.limits = RebuildLimits(at_once=1, waiting=2, wait_s=60, long_events=5)
    http = serving(real, in_flight=1, waiting=8)
    for user, count in (("long", 5), ("longer", 6), ("longest", 7), ("short", 1)):
        real.observe(user, [Event(1, n) for n in range(count)])
        real.states.forget(user)
    path = "/v1/users/{}/recommendations"
    with real.rebuilds.turn(5):
        waiting = [many.submit(http, "GET", path.format(user)) for user in ("long", "longer")]
        for_both = 'gistrec_rebuilds{state="waiting"} 2.0'
        wait_until(lambda: for_both in http("GET", "/metrics").text)
        assert http("GET", path.format("short")).status_code == 200
        refused = http("GET", path.format("longest"))
        assert refused.status_code == 503
        assert (refused.headers["retry-after"], refused.json()["error"]["type"]) == (
            "60",
            "BusyError",
        )
        body = {"events": [{"item_id": 2, "timestamp": 9}]}
        appended = http("POST", "/v1/users/longest/events", json=body)  # does not wait
        assert (appended.json()["length"], appended.json()["state_bytes"]) == (8, 0)
    assert [f.result().status_code for f in waiting] == [200, 200]
    assert http("GET", path.format("longest")).status_code == 200
    text = http("GET", "/metrics").text
    assert 'gistrec_state_loads_total{found="refused"} 2.0' in text
    for state in ("running", "waiting"):
        assert f'gistrec_rebuilds{{state="{state}"}} 0.0' in text
    # all places are there again
    assert http("GET", path.format("short")).status_code == 200
    assert open_requests(http) == 0
