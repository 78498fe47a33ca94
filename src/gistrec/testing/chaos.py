"""Make trouble while clients append, and count what was lost or doubled.

Clients are threads that append over HTTP to users whom they share, one event a request, each with
an id; what got no answer is sent again, to the next server if there are several, until it is
acknowledged. In the end every event's item says which client sent it and as its how-manieth, so the
log tells what became of it. A `Case` is a store and its trouble.
"""

import contextlib
import dataclasses
import http.client
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gistrec.errors import ConfigError
from gistrec.history_log import HistoryLog
from gistrec.stores import open_store
from gistrec.testing.servers import free_port

USERS = 20
_PER_CLIENT = 1_000_000
_GIVES_UP_S = 120


@dataclasses.dataclass
class Outcome:
    """What became of the events."""

    kills: int
    """How often there was trouble."""
    acknowledged: int
    lost: int
    """Acknowledged and not in the log."""
    doubled: int
    """In the log more than once."""
    disordered: int
    """Behind a later event of the same client and user."""
    retries: int
    """Requests that were sent again."""
    refusals: dict[str, int]
    """Why, by status and type of error."""
    longest_s: float
    """The longest that it took until an event was acknowledged."""
    seconds: float


class Served:
    """`gistrec serve` in a process of its own, on a port that stays."""

    def __init__(self, model: Path, store: str) -> None:
        self.port = free_port()
        self._command = [sys.executable, "-m", "gistrec", "serve", "--model", str(model)]
        self._command += ["--store", store, "--port", str(self.port)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and return when it is ready."""
        with tempfile.TemporaryFile("w+") as said:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=said, text=True
            )
            assert self._process.stdout is not None
            if "serves at" not in self._process.stdout.readline():
                self.kill()
                said.seek(0)
                raise ConfigError(f"the server did not start: {said.read()[-500:]}")

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def resident_bytes(self) -> int:
        """Memory of its own that it takes now, without pages of mapped files; Linux only."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) * 1024

    def kill(self) -> None:
        """End it as kill -9 does; harmless if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


Trouble = Callable[[Sequence[Served], int], None]
"""Called at every moment with the servers and how often it was called before; it returns when all
is well again."""


def kill_gistrec(servers: Sequence[Served], number: int) -> None:
    """Kill -9, one server after another."""
    server = servers[number % len(servers)]
    server.kill()
    server.start()


class Case(NamedTuple):
    """A store, and what happens to it."""

    url: str
    trouble: Trouble = kill_gistrec
    truth: str = ""
    """URL of the store that has the log, if the first one only stands before it."""
    servers: int = 1
    """Of gistrec, all on this store."""
    keeps_all: bool = True
    """Whether the store's settings promise that what is acknowledged survives the trouble."""


def torment(
    model: Path, case: Case, *, kills: int, appends: int, clients: int = 8, seed: int = 0
) -> Outcome:
    """Append while there is trouble again and again, then read the log.

    Args:
        model: Folder of a saved model.
        case: The store and its trouble.
        kills: How often, at random moments between the first and the last append.
        appends: Of all clients together.
        clients: How many append at the same time.
        seed: Of the moments.
    """
    servers = [Served(model, case.url) for _ in range(case.servers)]
    progress = _Progress()
    share = appends // clients
    begun = time.monotonic()
    try:
        for server in servers:
            server.start()
        ports = [server.port for server in servers]
        threads = [
            threading.Thread(target=_append, args=(ports, c, share, progress))
            for c in range(clients)
        ]
        for thread in threads:
            thread.start()
        moments = sorted(random.Random(seed).sample(range(1, share * clients), kills))
        for number, moment in enumerate(moments):
            while progress.acknowledged < moment and any(t.is_alive() for t in threads):
                time.sleep(0.001)
            case.trouble(servers, number)
        for thread in threads:
            thread.join()
    finally:
        for server in servers:
            server.kill()
    seconds = time.monotonic() - begun
    assert not progress.failures, progress.failures[0]
    refused = dict(progress.refusals)
    retries = sum(refused.values())
    outcome = Outcome(kills, 0, 0, 0, 0, retries, refused, progress.longest_s, seconds)
    return _count(case.truth or case.url, clients, share, outcome)


class _Progress:
    def __init__(self) -> None:
        self.acknowledged = 0
        self.refusals: Counter[str] = Counter()
        self.longest_s = 0.0
        self.failures: list[str] = []
        self.lock = threading.Lock()


class _Client:
    """Asks one server until it fails, then the next."""

    def __init__(self, ports: Sequence[int], first: int) -> None:
        self.ports, self.number = ports, first
        self.connection = self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        port = self.ports[self.number % len(self.ports)]
        return http.client.HTTPConnection("127.0.0.1", port, timeout=_GIVES_UP_S)

    def close(self) -> None:
        self.connection.close()

    def post(self, path: str, body: str) -> tuple[str, str]:
        """Why it was refused, "" if it was not, and the answer."""
        try:
            self.connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = self.connection.getresponse()
            said = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            self.number += 1
            self.connection = self._connect()
            return "no answer", repr(error)
        if answer.status == 200:
            return "", said
        return f"{answer.status} {json.loads(said)['error']['type']}", said


def _append(ports: Sequence[int], number: int, share: int, progress: _Progress) -> None:
    client = _Client(ports, number)
    with contextlib.closing(client):
        for n in range(share):
            event = {
                "item_id": number * _PER_CLIENT + n,
                "timestamp": 1_600_000_000 + n,
                "event_id": f"{number}-{n}",
            }
            said = _until_acknowledged(client, f"u{(number + n) % USERS}", event, progress)
            if said:
                progress.failures.append(f"event {n} of client {number}: {said}")
                return


def _until_acknowledged(
    client: _Client, user: str, event: dict[str, Any], progress: _Progress
) -> str:
    """What was said last if it is not acknowledged in time, else nothing."""
    body = json.dumps({"events": [event]})
    begun = time.monotonic()
    while True:
        refusal, said = client.post(f"/v1/users/{user}/events", body)
        if not refusal:
            break
        if time.monotonic() > begun + _GIVES_UP_S:
            return said
        with progress.lock:
            progress.refusals[refusal] += 1
        time.sleep(0.05)
    with progress.lock:
        progress.acknowledged += 1
        progress.longest_s = max(progress.longest_s, time.monotonic() - begun)
    return ""


def _count(store: str, clients: int, share: int, outcome: Outcome) -> Outcome:
    """Compare the log with what was sent; everything was acknowledged."""
    found: dict[int, int] = {}
    with open_store(store) as opened:
        log = HistoryLog(opened)
        for user in log.users():
            newest: dict[Any, int] = {}
            for item in log.read(user).item_id.tolist():
                client, number = divmod(item, _PER_CLIENT)
                outcome.disordered += number < newest.get(client, -1)
                newest[client] = max(number, newest.get(client, -1))
                found[item] = found.get(item, 0) + 1
    sent = {c * _PER_CLIENT + n for c in range(clients) for n in range(share)}
    outcome.acknowledged = len(sent)
    outcome.lost = len(sent - found.keys())
    outcome.doubled = sum(count - 1 for count in found.values())
    return outcome
