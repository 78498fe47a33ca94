import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gistrec import errors
from gistrec.recommender import Event
from gistrec.server import logs
from gistrec.server.keys import KeyRing, add_key

SECRET_USER, SECRET_ITEM = "user-4711", 17


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What went to stderr."""
    return lambda: capsys.readouterr().err


def test_a_request_is_a_line_of_json(serving, fake, written) -> None:
    logs.set_up("json")
    http = serving(fake)
    http("GET", f"/v1/users/{SECRET_USER}/recommendations?k=3&at=123456789")
    http("GET", f"/nowhere/{SECRET_USER}")
    first, second = map(json.loads, written().splitlines())
    assert first.keys() == {
        "time", "level", "logger", "process", "message", "route", "status", "ms"
    }  # fmt: skip
    assert first["route"] == "GET /v1/users/{user_id}/recommendations"
    assert (first["status"], first["level"]) == (200, "info")
    assert first["ms"] > 0
    assert (second["route"], second["status"]) == ("unmatched", 404)


def test_a_request_is_a_line_of_text(serving, fake, written) -> None:
    logs.set_up("text")
    serving(fake)("GET", "/healthz")
    (line,) = written().splitlines()
    assert "INFO request route=GET /healthz status=200 ms=" in line


def test_requests_are_not_logged_unasked(serving, fake, written) -> None:
    logs.set_up(None)
    serving(fake)("GET", "/healthz")
    assert written() == ""


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "fault",
    [
        None,
        RuntimeError(f"of {SECRET_USER}"),
        errors.CorruptStateError(f"the history of user {SECRET_USER!r} is damaged"),
        errors.ConflictError(f"the history of user {SECRET_USER!r} has 3 events"),
    ],
    ids=repr,
)
def test_nothing_of_users_and_keys_is_logged(
    serving, fake, written, tmp_path: Path, form, fault: Exception | None
) -> None:
    logs.set_up(form)
    file = tmp_path / "keys"
    key = add_key(file, "shop", ["read", "write", "admin"])
    http = serving(fake, keys=KeyRing(file))
    fake.observe(SECRET_USER, [Event(SECRET_ITEM, 1_234_567_890)])
    fake.fault = fault
    user = f"/v1/users/{SECRET_USER}"
    for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"Bearer {key}x"}):
        event = {"item_id": 1, "timestamp": 1_234_567_890, "event_id": "event-0815"}
        http("POST", f"{user}/events", headers=headers, json={"events": [event]})
        http("GET", f"{user}/recommendations?k=5&at=1234567890", headers=headers)
        http("POST", f"{user}/rank", headers=headers, json={"item_ids": [1], SECRET_USER: 1})
        http("PUT", f"{user}/rank", headers=headers)
        http("GET", f"{user}/state", headers=headers)
        http("DELETE", user, headers=headers)
    said = written()
    assert said.count("route") >= 12
    for secret in ("4711", key.removeprefix("gistrec_"), "1234567890", "0815", "k=5"):
        assert secret not in said
    assert "shop" in said  # whose key it was may be known
    if fault and not isinstance(fault, errors.ConflictError):
        assert type(fault).__name__ in said


def test_an_unexpected_error_tells_the_client_nothing_and_the_log_the_place(
    http, fake, caplog: pytest.LogCaptureFixture
) -> None:
    fake.fault = RuntimeError("the secret")
    answer = http.error("GET", "/v1/users/a/state")
    assert answer == (500, "InternalError", "internal error: the server's log says more")
    (record,) = caplog.records
    assert record.getMessage().startswith("RuntimeError, its message is left out, raised at\n")
    assert "raise self.fault" in record.getMessage()
    assert "secret" not in record.getMessage()


def test_an_unreachable_store_is_named(http, fake, caplog: pytest.LogCaptureFixture) -> None:
    fake.fault = errors.StoreUnavailableError("redis://host:6379 does not answer")
    http("GET", "/v1/users/a/state")
    assert "redis://host:6379 does not answer" in caplog.text
