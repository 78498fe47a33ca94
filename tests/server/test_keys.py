import re
import stat
from pathlib import Path

import pytest

from gistrec.errors import ConfigError
from gistrec.server import keys
from gistrec.server.keys import KeyRing, add_key, read_keys, revoke_key
from gistrec.server.routes import OPERATIONS

BODIES = {
    "observe": {"events": [{"item_id": 1}]},
    "rank": {"item_ids": [1]},
    "observe_many": {"users": [{"user_id": "ann", "events": []}]},
    "rank_many": {"users": [{"user_id": "ann"}]},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_is_long_and_only_its_hash_is_kept(file: Path) -> None:
    key = add_key(file, "shop", ["write", "read"])
    assert re.fullmatch(r"gistrec_[\w-]{43}", key)
    assert key != add_key(file, "other", ["read"])
    assert key not in file.read_text()
    assert key.removeprefix(keys.PREFIX) not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [(k.name, k.scopes) for k in read_keys(file)] == [
        ("shop", ["read", "write"]),
        ("other", ["read"]),
    ]


def test_names_are_unique_and_of_limited_length(file: Path) -> None:
    add_key(file, "shop", ["read"])
    with pytest.raises(ConfigError, match="has a key 'shop'"):
        add_key(file, "shop", ["write"])
    for name in ("", "x" * 101):
        with pytest.raises(ConfigError, match="allowed are 1 to 100"):
            add_key(file, name, ["write"])
    with pytest.raises(ConfigError, match="at least one --scope of read, write, admin"):
        add_key(file, "other", [])
    with pytest.raises(ConfigError, match="no key 'nobody'; it has 'shop'"):
        revoke_key(file, "nobody")


@pytest.mark.parametrize(
    "line",
    [
        "secret",
        '{"name": "a", "scopes": ["root"], "sha256": "%s", "created": ""}' % ("0" * 64),
        '{"name": "a", "scopes": [], "sha256": "%s", "created": ""}' % ("0" * 64),
        '{"name": "a", "scopes": ["read"], "sha256": "secret", "created": ""}',
        '{"name": "a", "scopes": ["read"], "key": "secret", "created": ""}',
    ],
)
def test_a_line_that_is_no_key_is_named_but_not_shown(file: Path, line: str) -> None:
    add_key(file, "shop", ["read"])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ConfigError, match="line 2 is not a key") as told:
        KeyRing(file)
    assert "secret" not in str(told.value)


def test_a_server_needs_a_file_with_keys(file: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        KeyRing(file)
    add_key(file, "shop", ["read"])
    revoke_key(file, "shop")
    with pytest.raises(ConfigError, match="holds no key"):
        KeyRing(file)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.id)
def test_every_operation_asks_for_its_scope(serving, fake, file: Path, operation) -> None:
    http = serving(fake, keys=keyring(file))
    path = operation.path.replace("{user_id}", "ann").replace("{name}", "style.css")
    options = {"json": BODIES[operation.id]} if operation.id in BODIES else {}
    fake.observe("ann", [])
    if operation.scope is None:
        headers = bearer(KEYS["read"]) if operation.id == "access" else {}
        assert http(operation.method, path, headers=headers, **options).status_code == 200
        return
    for headers in ({}, bearer("gistrec_wrong"), {"Authorization": "Basic YTpi"}, bearer("")):
        response = http(operation.method, path, headers=headers, **options)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["type"] == "UnauthenticatedError"
        assert "wrong" not in response.text
    for scope in {"read", "write", "admin"} - {operation.scope}:
        told = http.error(operation.method, path, headers=bearer(KEYS[scope]), **options)
        assert told[:2] == (403, "ForbiddenError")
        assert f"key {scope!r} has {scope}, this needs {operation.scope}" in told[2]
    assert fake.histories == {"ann": []}
    headers = {"Authorization": f"bearer  {KEYS[operation.scope]} "}
    assert http(operation.method, path, headers=headers, **options).status_code != 401
    allowed = http(operation.method, path, headers=bearer(KEYS[operation.scope]), **options)
    assert allowed.status_code not in (401, 403, 500)


KEYS: dict[str, str] = {}


def keyring(file: Path) -> KeyRing:
    KEYS.update({scope: add_key(file, scope, [scope]) for scope in ("read", "write", "admin")})
    return KeyRing(file)


def test_the_key_is_asked_for_before_anything_is_read(serving, fake, file: Path) -> None:
    http = serving(fake, keys=keyring(file))
    told = http.error("POST", "/v1/users/a/rank", content=bytes(3 << 20))
    assert told[:2] == (401, "UnauthenticatedError")


def test_a_changed_file_counts_at_once(
    serving, fake, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys, "_FRESH_S", -1)
    ring = keyring(file)
    http = serving(fake, keys=ring)
    added = add_key(file, "late", ["read"])
    assert http("GET", "/v1/stats", headers=bearer(added)).status_code == 200
    revoke_key(file, "late")
    assert http("GET", "/v1/stats", headers=bearer(added)).status_code == 401
    file.write_text("damaged\n")
    assert http("GET", "/v1/stats", headers=bearer(KEYS["read"])).status_code == 200
    assert "the keys stay as they were" in caplog.text
    file.write_text("")
    assert http("GET", "/v1/stats", headers=bearer(KEYS["read"])).status_code == 401
