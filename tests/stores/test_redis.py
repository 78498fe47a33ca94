import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gistrec.errors import ConfigError, StoreError, StoreUnavailableError
from gistrec.stores import Put, StateStore, open_store
from gistrec.testing.servers import ValkeyServer, valkey_cluster, valkey_server
from gistrec.testing.stores import StoreTests


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with valkey_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with valkey_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def own_server(tmp_path):
    with valkey_server(tmp_path, "--appendfsync", "always") as started:
        yield started


class TestRedis(StoreTests):
    @pytest.fixture(autouse=True)
    def at(self, server):
        self.url = server.url

    def open(self, folder: Path) -> StateStore:
        return open_store(f"{self.url}?namespace={folder.name}")


class TestCluster(StoreTests):
    @pytest.fixture(autouse=True)
    def at(self, cluster):
        self.url = f"redis://{','.join(f'127.0.0.1:{node.port}' for node in cluster)}"

    def open(self, folder: Path) -> StateStore:
        return open_store(f"{self.url}?cluster=on&namespace={folder.name}")


def test_a_users_log_and_state_share_a_slot_and_users_are_spread(cluster):
    with open_store(f"{cluster[0].url}?cluster=on&namespace=spread") as store:
        for n in range(60):
            store.put_many([Put(f"{kind}/ann/{n}", b"1") for kind in "hsq"])
            store.put_many([Put(f"b/ann/{n}/0", b"1"), Put(f"h/ann/{n}", b"2")])
        assert len(list(store.keys())) == 240
    held = [int(node.command("DBSIZE").strip(":\r\n")) for node in cluster]
    assert min(held) > 30


@pytest.mark.parametrize("scheme", ["redis", "valkey", "VALKEY"])
def test_schemes_database_and_namespace(server, scheme):
    address = f"{scheme}://127.0.0.1:{server.port}"
    with open_store(f"{address}/1?namespace=x") as one, open_store(f"{address}/2") as other:
        one.put("a", b"1")
        other.put("a", b"2")
        assert one.get("a").blob == b"1"
    with open_store(f"{address}/1?namespace=y") as store:
        assert store.get("a") is None
        assert list(store.keys()) == []


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("h?cluster=1", "cluster=1.*on, off"),
        ("h?sync=on", "no options.*sync.*namespace"),
        ("h?namespace={x}", "namespace"),
        ("h?timeout_s=0", "timeout_s"),
        ("h?timeout_s=soon", "timeout_s"),
        ("h?password_file=/nowhere", "password_file"),
        ("h?ca_file=/x", "rediss://"),
        ("", "names no server"),
        ("h:port", "names no server"),
        ("h/zero", "names no server"),
        ("one,two", "cluster=on"),
        ("h/3?cluster=on", "databases"),
        ("[h", "not a store URL"),
    ],
)
def test_wrong_urls(rest, said):
    with pytest.raises(ConfigError, match=said) as caught:
        open_store(f"redis://ann:secret@{rest}")
    assert "secret" not in str(caught.value)


def test_not_a_url_hides_the_password():
    with pytest.raises(ConfigError, match="not a store URL") as caught:
        open_store("redis:/ann:secret@host")
    assert "secret" not in str(caught.value)


def test_nobody_there(tmp_path):
    port = ValkeyServer(tmp_path).port
    for query in ("", "&cluster=on"):
        with pytest.raises(StoreUnavailableError, match=str(port)) as caught:
            open_store(f"redis://ann:secret@127.0.0.1:{port}?timeout_s=0.2{query}")
        assert "secret" not in str(caught.value)


def test_a_server_that_does_not_answer(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            open_store(f"redis://127.0.0.1:{silent.getsockname()[1]}?timeout_s=0.2")
        assert time.monotonic() - begun < 5


def test_of_a_cluster_or_not_is_told(server, cluster):
    with pytest.raises(ConfigError, match=r"\?cluster=on"):
        open_store(cluster[1].url)
    with pytest.raises(StoreUnavailableError, match="cluster-enabled"):
        open_store(f"{server.url}?cluster=on&timeout_s=0.2")


def test_passwords(tmp_path):
    (tmp_path / "password").write_text("s/e@c:ret\n")
    with valkey_server(tmp_path / "data", "--requirepass", "s/e@c:ret") as server:
        address = f"127.0.0.1:{server.port}"
        open_store(f"redis://:s%2Fe%40c%3Aret@{address}").close()
        open_store(f"redis://{address}?password_file={tmp_path / 'password'}").close()
        for wrong in ("", ":hidden@", "ann:hidden@"):
            with pytest.raises(StoreUnavailableError, match="password") as caught:
                open_store(f"redis://{wrong}{address}?timeout_s=0.2")
            assert "hidden" not in str(caught.value)


def test_a_user_who_may_not(own_server):
    own_server.command("ACL", "SETUSER", "bob", "on", ">b", "+mget", "~*")
    store = open_store(f"redis://bob:b@127.0.0.1:{own_server.port}")
    with store, pytest.raises(StoreUnavailableError, match=r"does not allow.*evalsha"):
        store.put("a", b"1")


def test_an_unlogged_server_is_warned_of(tmp_path, caplog):
    with valkey_server(tmp_path, "--appendonly", "no") as server:
        open_store(server.url).close()
    assert "appendonly no" in caplog.text


def test_a_closed_store_says_so(server):
    store = open_store(server.url)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="open it again"):
        store.get("a")


def test_others_bytes_are_told(server):
    with open_store(f"{server.url}?namespace=theirs") as store:
        name = store._key("a").decode()
        server.command("SET", name, "short")
        with pytest.raises(StoreError, match="did not write"):
            store.get("a")
        server.command("DEL", name)
        server.command("LPUSH", name, "a-list")
        with pytest.raises(StoreError, match="wrong kind of value"):
            store.put("a", b"1")


def test_out_of_memory_nothing_is_written_but_users_can_be_erased(tmp_path):
    with valkey_server(tmp_path) as server, open_store(server.url) as store:
        version = store.put("h/u", b"old")
        server.command("CONFIG", "SET", "maxmemory", "1")
        for puts in ([Put("h/u", b"new")], [Put("h/u", None), Put("s/u", b"new")]):
            with pytest.raises(StoreUnavailableError, match="maxmemory"):
                store.put_many(puts)
            assert store.get("h/u") == (b"old", version)
        assert store.delete("h/u")
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert store.put("h/u", b"new", if_version=0) > version


def test_what_may_go_is_dropped_by_the_server(server):
    with open_store(f"{server.url}?namespace=ttl") as store:
        store.put_many([Put("s/u", b"1", ttl_s=0.05), Put("h/u", b"2")])
        while store.get("s/u") is not None:
            time.sleep(0.01)
        assert store.get("h/u").blob == b"2"
        assert store.sizes(["s/u"]) == [None]
        store.put_many([Put("s/u", b"1", 0, ttl_s=0.05)])
        version = store.put("s/u", b"2")  # kept from now on
        assert store._client.pttl(store._key("s/u")) == -1
        assert store.get("s/u") == (b"2", version)


def test_too_few_replicas(tmp_path):
    with (
        valkey_server(tmp_path, "--min-replicas-to-write", "1") as server,
        open_store(f"{server.url}?timeout_s=0.1") as store,
        pytest.raises(StoreUnavailableError, match="NOREPLICAS"),
    ):
        store.put("a", b"1")


def test_versions_grow_when_the_clock_or_the_record_is_lost(server):
    with open_store(f"{server.url}?namespace=clock") as store:
        far = 2**52
        record = store._key("a").split(b"}")[0] + b"}"
        store._client.set(record, b"token---" + far.to_bytes(8, "little"))
        assert store.put("a", b"1") == far + 1  # the clock is behind the last write
        store._client.delete(record)
        assert store.put("a", b"2") == far + 2  # evicted: the entry itself knows
        assert store._client.strlen(record) == 16
        for _ in range(40):
            store.put("a", b"3")
        assert store._client.strlen(record) == 32 * 16


class Cut:
    """Between client and server; drops the answer to a command, and the connection with it."""

    def __init__(self, port: int, word: bytes) -> None:
        self.word, self.cuts, self.port = word, 0, port
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.port)) as server:
            while asked := client.recv(1 << 20):
                server.sendall(asked)
                answer = server.recv(1 << 20)
                if self.word in asked and self.cuts > 0:
                    self.cuts -= 1
                    return
                client.sendall(answer)


def test_a_write_whose_answer_was_lost_is_done_once(server):
    cut = Cut(server.port, b"EVAL")
    with cut.listener, open_store(f"redis://127.0.0.1:{cut.listener.getsockname()[1]}") as store:
        version = store.put("a", b"0")
        for n in range(1, 6):
            cut.cuts = 2
            version = store.put("a", b"%d" % n, if_version=version)  # no conflict with itself
            assert cut.cuts == 0
            assert store.get("a") == (b"%d" % n, version)
        cut.cuts = 1
        assert store.put_many([Put(f"h/{n}", b"x") for n in range(100)])
        assert cut.cuts == 0


def test_a_read_is_repeated(server):
    cut = Cut(server.port, b"MGET")
    with cut.listener, open_store(f"redis://127.0.0.1:{cut.listener.getsockname()[1]}") as store:
        cut.cuts = 3
        assert store.get("unknown") is None
        assert cut.cuts == 0


WRITER = """
import sys
from gistrec.stores import Put, open_store
store = open_store(sys.argv[1])
n = 0
while True:
    store.put_many([Put(f"{kind}/{n % 50}", b"%d" % n) for kind in "hs"])
    print(n, flush=True)
    n += 1
"""


def test_kill_9_of_the_server_loses_nothing_acknowledged(own_server):
    """With `appendfsync always`, under a writer that rides out the restart."""
    command = [sys.executable, "-c", WRITER, f"{own_server.url}?timeout_s=20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        acknowledged = 0
        for _ in range(3):
            for _ in range(200):
                acknowledged = int(writer.stdout.readline())
            own_server.kill()
            own_server.start()
        acknowledged = int(writer.stdout.readline())
        writer.kill()
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
    with open_store(own_server.url) as store:
        for n in range(acknowledged - 49, acknowledged + 1):
            h, s = store.get_many([f"h/{n % 50}", f"s/{n % 50}"])
            assert h.blob == s.blob
            assert int(h.blob) in (n, acknowledged + 1)


def test_a_cluster_rides_out_a_node_killed_and_started(tmp_path):
    with valkey_cluster(tmp_path, "--appendfsync", "always") as nodes:
        with open_store(f"{nodes[0].url}?cluster=on&timeout_s=20") as store:
            for n in range(100):
                store.put(f"h/{n}", b"0", if_version=0)
            nodes[1].kill()
            starter = threading.Timer(0.5, nodes[1].start)
            starter.start()
            for n in range(100):
                found = store.get(f"h/{n}")
                assert found.blob == b"0"
                store.put(f"h/{n}", b"1", if_version=found.version)
            starter.join()
        nodes[2].kill()
        store = open_store(f"{nodes[0].url}?cluster=on&timeout_s=0.3")
        with store, pytest.raises(StoreUnavailableError):
            store.get_many([f"h/{n}" for n in range(100)])


def test_a_slot_that_moves_under_load_loses_nothing(tmp_path):
    with valkey_cluster(tmp_path) as nodes, open_store(f"{nodes[0].url}?cluster=on") as store:
        slot = store._client.keyslot(store._key("h/u"))
        there = next(
            n for n in nodes if n.port == store._client.get_node_from_key(store._key("h/u")).port
        )
        other = next(n for n in nodes if n is not there)
        done, counted = threading.Event(), [0]

        def count() -> None:
            while not done.is_set():
                entry = store.get("h/u")
                n, version = (int(entry.blob), entry.version) if entry else (0, 0)
                store.put_many([Put("h/u", b"%d" % (n + 1), version), Put("s/u", b"x")])
                counted[0] += 1

        worker = threading.Thread(target=count)
        worker.start()
        while counted[0] < 50:
            time.sleep(0.001)
        ids = [n.command("CLUSTER", "MYID").split()[1] for n in (there, other)]
        other.command("CLUSTER", "SETSLOT", str(slot), "IMPORTING", ids[0])
        there.command("CLUSTER", "SETSLOT", str(slot), "MIGRATING", ids[1])
        while "*0" not in (keys := there.command("CLUSTER", "GETKEYSINSLOT", str(slot), "9")):
            names = [line for line in keys.split() if "{" in line]
            there.command("MIGRATE", "127.0.0.1", str(other.port), '""', "0", "5000", "KEYS",
                          *names)  # fmt: skip
        for node in (other, there):
            node.command("CLUSTER", "SETSLOT", str(slot), "NODE", ids[1])
        moved = counted[0]
        while counted[0] < moved + 50:
            time.sleep(0.001)
            assert worker.is_alive()
        done.set()
        worker.join()
        assert int(store.get("h/u").blob) == counted[0]


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that signs itself."""
    key, crt = tmp_path / "key.pem", tmp_path / "crt.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj"]
    command += ["/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", crt], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl")
    return key, crt


def test_tls(server, certificate):
    """A TLS ending in front of the server, as the tests' own one may be built without."""
    key, crt = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    cut = Cut(server.port, b"nothing")
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                client = context.wrap_socket(plain, server_side=True)
            except OSError:
                continue  # who does not trust the certificate
            threading.Thread(target=cut.serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    address = f"rediss://127.0.0.1:{listener.getsockname()[1]}"
    with cut.listener, listener:
        with open_store(f"{address}?ca_file={crt}&namespace=tls") as store:
            store.put("a", b"1")
        with open_store(f"{server.url}?namespace=tls") as store:
            assert store.get("a").blob == b"1"
        with pytest.raises(StoreUnavailableError, match="certificate"):
            open_store(f"{address}?timeout_s=0.2")
        with pytest.raises(ConfigError, match="PEM"):
            open_store(f"{address}?ca_file=/nowhere")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_has_connections_of_its_own(server):
    program = f"""
import os
from gistrec.stores import open_store
store = open_store({server.url!r} + "?namespace=fork")
child = os.fork()
for n in range(100):
    name = "child" if not child else "parent"
    store.put(name, b"%d" % n)
    assert store.get(name).blob == b"%d" % n
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True)
