"""Requests a second and their times on one core: lists and appends 9:1, users by Zipf's law.

    make load                                     # needs wrk, and an idle machine: 15 minutes
    make soak                                     # 30 minutes, and what memory does
    python benchmarks/load.py --users 2000 --seconds 5 lmdb

100,000 users with histories of 500 events on average (lengths by an exponential law), on lmdb with
its default options, and on Valkey over loopback. The server has core 0; the client, wrk, and Valkey
share core 1. wrk sends the next request of a connection when it has the answer (a closed loop), so
it never asks for more than the server can do. The model and the filled stores stay in build/load
and are used again. The states of the most popular users are built before; others are built when
they first ask, as their share in `loads` tells. Rows go to docs/results/serving.jsonl.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from gistrec import results
from gistrec.build import fit_recipe
from gistrec.dataset import Dataset
from gistrec.events import read
from gistrec.recommender import Recommender
from gistrec.testing.chaos import Served
from gistrec.testing.servers import ValkeyServer
from gistrec.train import train

ITEMS = 5000
RECIPE = "recent(keep=64) | int8()"
BACKBONE = "hstu()"
STORES = ("lmdb sync=full", "redis appendfsync=everysec")
SERVER_CORE, CLIENT_CORE = "0", "1"
HERE = Path(__file__).parent


def model_of(folder: Path) -> Path:
    """A small model of the catalogue that the users' events are from."""
    model = folder / "model"
    if not (model / "recipe").exists():
        dataset = Dataset.from_events(read(f"synthetic(users=100, items={ITEMS}, length=500)"))
        trained = train(dataset, BACKBONE, epochs=1)
        trained.save(model)
        fit_recipe(trained, dataset, RECIPE).save(model / "recipe")
    return model


def log_of(folder: Path, users: int) -> Path:
    """Events of all users; the least user is the most popular one, with a history as the others."""
    path = folder / f"log-{users}.parquet"
    if not path.exists():
        part = path.with_suffix(".part")
        with duckdb.connect() as con:
            con.execute("SELECT setseed(0.5)")
            con.execute(
                "COPY (SELECT user_id, (pow(random(), 3) * 4999)::BIGINT AS item_id, "
                "1600000000 + n * 3600 AS timestamp FROM (SELECT user_id, "
                "unnest(range(greatest(1, (-500 * ln(1 - random()))::BIGINT))) AS n "
                f"FROM range({users}) t(user_id))) TO '{part}' (FORMAT parquet)"
            )
        os.replace(part, path)
    return path


def fill(url: str, log: Path, model: Path, states: int, marker: Path) -> None:
    """Histories of all users, states of the first ones; what is there stays."""
    if not marker.exists():
        command = [sys.executable, "-m", "gistrec", "import", str(log), "--store", url]
        if subprocess.run(command).returncode > 1:  # 1: users who got events in a run before
            raise SystemExit("the import failed; run this again")
        marker.touch()
    with Recommender.load(model, store=url) as recommender:
        for user in range(states):
            recommender.describe(f"{user}")
            if user % 1000 == 999:
                print(f"{user + 1:,} states", flush=True)


@contextlib.contextmanager
def opened(store: str, folder: Path) -> Iterator[str]:
    """The URL of a store that lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    if store.startswith("lmdb"):
        yield f"lmdb://{(folder / 'lmdb').resolve()}"
        return
    server = ValkeyServer(folder.resolve() / "valkey", "--appendfsync", "everysec")
    server.start()
    try:
        _pin(server.pid, CLIENT_CORE)
        yield server.url
    finally:
        server.kill()


def _pin(pid: int, core: str) -> None:
    subprocess.run(["taskset", "-a", "-p", "-c", core, str(pid)], check=True, capture_output=True)


def metrics(port: int) -> dict[str, float]:
    """The server's own figures, name and labels -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if line[:1] not in ("", "#"))
    return {name: float(value) for name, _, value in lines}


def wrk(port: int, users: int, connections: int, seconds: int, seed: int) -> dict[str, Any]:
    about = {"LOAD_USERS": users, "LOAD_ITEMS": ITEMS, "LOAD_SEED": seed}
    about |= {"LOAD_RUN": f"{time.time_ns():x}"}
    command = ["taskset", "-c", CLIENT_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    command += ["--timeout", "30s", "-s", str(HERE / "load.lua"), f"http://127.0.0.1:{port}"]
    done = subprocess.run(
        command,
        env=os.environ | {name: str(value) for name, value in about.items()},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.rpartition("JSON ")[2])
    return found


def grown(before: dict[str, float], after: dict[str, float], name: str) -> dict[str, float]:
    """How much the counters of a name grew, by their one label."""
    found = {}
    for key, value in after.items():
        if label := re.fullmatch(rf'{name}{{\w+="(.*)"}}', key):
            found[label[1]] = value - before.get(key, 0.0)
    return found


def measured(port: int, given: argparse.Namespace, connections: int) -> dict[str, Any]:
    wrk(port, given.users, connections, max(1, given.seconds // 4), seed=1)  # warm
    before = metrics(port)
    row = wrk(port, given.users, connections, given.seconds, seed=2)
    after = metrics(port)
    requests = row["requests"]
    stages = grown(before, after, "gistrec_stage_seconds_sum")
    return {
        "connections": connections,
        "requests_per_second": requests / row["seconds"],
        **row,
        "stage_ms": {stage: 1e3 * s / requests for stage, s in stages.items()},
        "loads": grown(before, after, "gistrec_state_loads_total"),
    }


def soaked(server: Served, given: argparse.Namespace) -> dict[str, Any]:
    """Mixed load in stretches, and the server's memory after each."""
    stretch_s, samples, errors, requests = max(5, given.soak // 60), [], 0, 0
    begun = time.monotonic()
    while time.monotonic() < begun + given.soak:
        row = wrk(server.port, given.users, 8, stretch_s, seed=len(samples))
        samples.append(server.resident_bytes)
        requests += row["requests"]
        errors += row["errors"] + row["socket_errors"]
        print(f"{samples[-1] / 2**20:,.0f} MiB, {requests:,} requests", flush=True)
    after = samples[len(samples) // 10 :]  # the first tenth fills what is kept for reuse
    return {
        "connections": 8,
        "seconds": time.monotonic() - begun,
        "requests": requests,
        "errors": errors,
        "first_bytes": after[0],
        "last_bytes": after[-1],
        "peak_bytes": max(samples),
        "samples_bytes": samples,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only stores whose name holds one of these")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--states", type=int, default=20_000, help="built before, most popular")
    parser.add_argument("--seconds", type=int, default=60, help="of one measurement")
    parser.add_argument("--soak", type=int, default=0, help="seconds of soak in place of load")
    parser.add_argument("--out", default="docs/results/serving.jsonl")
    given = parser.parse_args()
    for tool in ("wrk", "taskset"):
        if shutil.which(tool) is None:
            raise SystemExit(f"this needs {tool}: install the package (apt-get install {tool})")
    folder = Path("build/load")
    folder.mkdir(parents=True, exist_ok=True)
    model, log = model_of(folder), log_of(folder, given.users)
    bad = 0
    for store in STORES:
        if given.names and not any(name in store for name in given.names):
            continue
        place = folder / f"{store.partition(' ')[0]}-{given.users}"
        with opened(store, place) as url:
            fill(url, log, model, min(given.states, given.users), place / "filled")
            server = Served(model, url)
            try:
                server.start()
                _pin(server.pid, SERVER_CORE)
                if given.soak:
                    found = [soaked(server, given)]
                else:
                    found = [measured(server.port, given, c) for c in (1, 16)]
            finally:
                server.kill()
        for row in found:
            row = {
                "test": "soak" if given.soak else "load",
                "store": store,
                "users": given.users,
                "backbone": BACKBONE,
                "codec": RECIPE,
                **row,
            }
            results.append(given.out, row | results.environment())
            print(row, flush=True)
            bad += row["errors"]
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
