"""A small fake recommender, requests to an app around it, and servers in processes of their own.

Run as a script, it serves the fake.
"""

import asyncio
import collections
import contextlib
import logging
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from gistrec import backbones, errors, server
from gistrec.dataset import Vocabulary
from gistrec.rebuilds import Rebuilds
from gistrec.recommender import (
    Event,
    Observed,
    Recommender,
    Scored,
    UserReport,
    identity_recipe,
)
from gistrec.server import logs
from gistrec.server.settings import Settings
from gistrec.stores import open_store
from gistrec.testing.data import stride_dataset
from gistrec.train import Model, Training

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b>&amp;</b>"


class FakeRecommender:
    """Scores fall with the distance from the newest item; a user costs 10 + 3 bytes an event."""

    def __init__(self, num_items: int = 20) -> None:
        self.backbone = SimpleNamespace(spec="hstu(width=64)")
        self.model = SimpleNamespace(labels=(), contexts=())
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
        self.hold = threading.Event()
        """Calls wait for it, and say so first."""
        self.hold.set()
        self.held = threading.Semaphore(0)
        self.counts: collections.Counter[str] = collections.Counter()
        self.rebuilds = Rebuilds()
        self.store = open_store("ram://")
        self.served = SimpleNamespace(version="00000000")
        self.versions: dict[str, Any] = {}
        self.states = SimpleNamespace(forget=lambda user_id: user_id in self.histories)

    def _check(self) -> None:
        if not self.hold.is_set():
            self.held.release()
            assert self.hold.wait(60)
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
        if self.fault:
            raise self.fault
        users = len(self.histories)
        return SimpleNamespace(users=users, bytes_total=10 * users, bytes_p50=10.0, bytes_p99=10.0)

    def close(self) -> None:
        self.closed = True


class Client:
    """Requests to an app in this process."""

    def __init__(self, recommender: FakeRecommender | Recommender, **settings: Any) -> None:
        self.app = server.create_app(recommender, Settings(**settings))
        self.transport = httpx.ASGITransport(self.app)

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

    def post(self, path: str, body: Any, **options: Any) -> dict[str, Any]:
        response = self("POST", path, json=body, **options)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
def fake() -> FakeRecommender:
    return FakeRecommender()


@pytest.fixture
def http(fake: FakeRecommender) -> Client:
    return Client(fake)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A server sends the logs of its whole process to stderr."""
    root, ours = logging.getLogger(), logs.log
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture
def serving() -> Callable[..., Client]:
    """Clients of other recommenders and settings."""
    return Client


@pytest.fixture(scope="session")
def model() -> Model:
    """One that was never trained; it knows the items 0 to 29."""
    dataset = stride_dataset()
    backbone = backbones.build("hstu(width=16)", num_items=dataset.num_items)
    return Model(backbone.eval(), dataset.items, Training())


@pytest.fixture
def real(model: Model) -> Iterator[Recommender]:
    with Recommender(model, identity_recipe(model), open_store("ram://")) as recommender:
        yield recommender


class Served:
    """A server in a process of its own."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline()
        found = re.fullmatch(
            r"gistrec serves at (https?://127\.0\.0\.1:\d+) \(stop with Ctrl-C\)\n", line
        )
        if not found:
            self.process.kill()
            raise AssertionError(line + self.process.communicate()[1])
        self.url = found[1]

    def stop(self) -> tuple[int, str, str]:
        """Ask it to end by SIGTERM; exit code, and what it wrote behind the first line."""
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a server of the fake, stopped in order."""
    served = Served([sys.executable, __file__])
    try:
        yield served.url
    finally:
        stopped = served.stop()
    assert stopped == (0, "closed\n", "")


@pytest.fixture(scope="session")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's."""
    path = tmp_path_factory.mktemp("server") / "model"
    model.save(path)
    return path


@pytest.fixture
def served(folder: Path) -> Iterator[Callable[..., Served]]:
    """Starts `gistrec serve` with arguments of a test's own."""
    started: list[Served] = []

    def start(*arguments: str, model: Path = folder) -> Served:
        command = [sys.executable, "-m", "gistrec", "serve", "--model", str(model)]
        started.append(Served([*command, "--port", "0", *arguments]))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
        one.process.communicate()


if __name__ == "__main__":
    server.serve(FakeRecommender, port=0)
    sys.stdout.write("closed\n")
