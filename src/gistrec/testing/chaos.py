"""Kill what serves while clients append, start it again, and count what was lost or doubled.

Clients are threads that append over HTTP to users whom they share, one event a request, each with
an id; what got no answer is sent again until it is acknowledged. In the end every event's item says
which client sent it and as its how-manieth, so the log tells what became of it.
"""

import contextlib
import dataclasses
import http.client
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from gistrec.history_log import HistoryLog
from gistrec.stores import open_store
from gistrec.testing.servers import ValkeyServer, free_port

USERS = 20
_PER_CLIENT = 1_000_000
_GIVES_UP_S = 120


@dataclasses.dataclass
class Outcome:
    """What became of the events."""

    kills: int
    acknowledged: int
    lost: int
    """Acknowledged and not in the log."""
    doubled: int
    """In the log more than once."""
    disordered: int
    """Behind a later event of the same client and user."""
    retries: int
    """Requests that were sent again."""
    seconds: float


class Served:
    """`gistrec serve` in a process of its own, on a port that stays."""

    def __init__(self, model: Path, store: str) -> None:
        self.port = free_port()
        self._command = [sys.executable, "-m", "gistrec", "serve", "--model", str(model)]
        self._command += ["--store", store, "--port", str(self.port)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and return when it listens."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert "serves at" in self._process.stdout.readline()

    def kill(self) -> None:
        """End it as kill -9 does; harmless if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def torment(
    model: Path,
    store: str,
    *,
    kills: int,
    appends: int,
    clients: int = 8,
    victim: ValkeyServer | None = None,
    seed: int = 0,
) -> Outcome:
    """Append while the server is killed and started again and again, then read the log.

    Args:
        model: Folder of a saved model.
        store: URL of the store.
        kills: How often, at random moments between the first and the last append.
        appends: Of all clients together.
        clients: How many append at the same time.
        victim: Kill this server of the store in place of gistrec's.
        seed: Of the moments.
    """
    served = Served(model, store)
    target = victim or served
    progress = _Progress()
    share = appends // clients
    begun = time.monotonic()
    try:
        served.start()
        threads = [
            threading.Thread(target=_append, args=(served.port, c, share, progress))
            for c in range(clients)
        ]
        for thread in threads:
            thread.start()
        for moment in sorted(random.Random(seed).sample(range(1, share * clients), kills)):
            while progress.acknowledged < moment and any(t.is_alive() for t in threads):
                time.sleep(0.001)
            target.kill()
            target.start()
        for thread in threads:
            thread.join()
    finally:
        served.kill()
    seconds = time.monotonic() - begun
    assert not progress.failures, progress.failures[0]
    return _count(store, clients, share, Outcome(kills, 0, 0, 0, 0, progress.retries, seconds))


class _Progress:
    def __init__(self) -> None:
        self.acknowledged = 0
        self.retries = 0
        self.failures: list[str] = []
        self.lock = threading.Lock()


def _append(port: int, client: int, share: int, progress: _Progress) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_GIVES_UP_S)
    with contextlib.closing(connection):
        for number in range(share):
            event = {
                "item_id": client * _PER_CLIENT + number,
                "timestamp": 1_600_000_000 + number,
                "event_id": f"{client}-{number}",
            }
            user = f"u{(client + number) % USERS}"
            said = _until_acknowledged(connection, user, event, progress)
            if said:
                progress.failures.append(f"event {number} of client {client}: {said}")
                return


def _until_acknowledged(
    connection: http.client.HTTPConnection, user: str, event: dict[str, Any], progress: _Progress
) -> str:
    """What was said last if it is not acknowledged in time, else nothing."""
    body, headers = json.dumps({"events": [event]}), {"Content-Type": "application/json"}
    deadline = time.monotonic() + _GIVES_UP_S
    while True:
        try:
            connection.request("POST", f"/v1/users/{user}/events", body, headers)
            answer = connection.getresponse()
            said = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            connection.close()  # the next request opens it again
            said = repr(error)
        else:
            if answer.status == 200:
                break
        if time.monotonic() > deadline:
            return said
        with progress.lock:
            progress.retries += 1
        time.sleep(0.05)
    with progress.lock:
        progress.acknowledged += 1
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
