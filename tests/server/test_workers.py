"""Several real worker processes on one socket and one store."""

import functools
import os
import re
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from gistrec import server
from gistrec.errors import DataError
from gistrec.recommender import Recommender
from gistrec.server import workers
from gistrec.server.running import run
from gistrec.server.settings import Settings

pytestmark = pytest.mark.slow


def children(pid: int) -> list[int]:
    """Worker processes, without the one that multiprocessing keeps for itself."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"spawn_main" in command:
            found.append(int(child))
    return found


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def requests_counted(url: str) -> int:
    text = httpx.get(f"{url}/metrics").text
    found = re.findall(
        r'gistrec_request_seconds_count\{route="POST .*?",status="200"\} (\d+)', text
    )
    return sum(map(int, found))


@pytest.fixture
def two(served, tmp_path: Path):
    return served("--workers", "2", "--store", f"lmdb://{tmp_path / 'users'}?map_size=64m")


def test_workers_share_users_and_metrics_and_are_replaced(two) -> None:
    body = {"events": [{"item_id": 1, "timestamp": 5}]}
    for n in range(40):  # each on a connection of its own
        answer = httpx.post(f"{two.url}/v1/users/ann/events", json=body).json()
        assert answer["length"] == n + 1
    assert requests_counted(two.url) == 40
    victim, _ = children(two.process.pid)
    os.kill(victim, signal.SIGKILL)  # one of those that this test started
    wait_for(lambda: len(set(children(two.process.pid)) - {victim}) == 2)
    # the one that is left answers meanwhile
    answer = httpx.post(f"{two.url}/v1/users/ann/events", json=body, timeout=60).json()
    assert answer["length"] == 41
    assert requests_counted(two.url) == 41  # those of the dead one still count
    assert 'gistrec_rebuilds{state="running"} 0.0' in httpx.get(f"{two.url}/metrics").text
    code, out, err = two.stop()
    assert (code, out) == (0, "")
    assert re.fullmatch(
        r".* ERROR a worker process ended with code -9: another one takes its place\n", err
    )


def test_workers_end_when_nobody_watches_them(two) -> None:
    pids = children(two.process.pid)
    two.process.kill()
    two.process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() and running(pid) for pid in pids))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{two.url}/healthz")


def test_the_pause_before_a_worker_is_replaced_does_not_keep_from_ending(
    model, monkeypatch, tmp_path
):
    monkeypatch.setattr(workers, "_PAUSE_S", 3600)
    monkeypatch.setattr(workers.log, "error", lambda *said: os.kill(os.getpid(), signal.SIGTERM))
    model.save(tmp_path / "model")
    load = functools.partial(
        Recommender.load, tmp_path / "model", store=f"lmdb://{tmp_path / 'users'}?map_size=64m"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        workers.supervise(
            run,
            (load, listener, None, Settings()),
            2,
            ready=lambda: os.kill(children(os.getpid())[0], signal.SIGKILL),
            ending=listener.close,
            patience_s=60,
        )
    assert not children(os.getpid())


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("load", "kind", "said"),
    [
        (functools.partial(Recommender.load, "nowhere"), DataError, "nowhere is not a finished"),
        (functools.partial(os._exit, 3), workers.WorkerError, "ended with code 3"),
    ],
)
def test_workers_that_can_not_start_are_told(load, kind, said: str) -> None:
    with pytest.raises(kind, match=said):
        server.serve(load, port=0, processes=2)
