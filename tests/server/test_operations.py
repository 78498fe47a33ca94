"""That an erased user is nowhere in a store, whatever the engine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest
import redis

from gistrec.recommender import Recommender, identity_recipe
from gistrec.stores import open_store
from gistrec.stores.ram import Ram
from gistrec.testing.servers import valkey_server

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
