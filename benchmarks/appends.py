"""Acknowledged appends a second by 1 and 8 clients, threads of a process or processes.

    python benchmarks/appends.py [--seconds 3] [--rounds 3] [--out FILE] [NAME ...]

Every client appends one event at a time to users of its own, so clients meet at the disk, not at a
user. The clients of all stores take turns within a round: read ratios within one run.
"""

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from gistrec import results
from gistrec.history_log import HistoryLog
from gistrec.stores import open_store
from gistrec.testing.servers import valkey_server

USERS = 200
LMDB = ("sync=full", "sync=on", "sync=off")
REDIS = ("appendfsync=always", "appendfsync=everysec")


def append(url: str, client: int, seconds: float) -> list[float]:
    """Seconds that each append took."""
    took = []
    with open_store(url) as store:
        log = HistoryLog(store)
        log.append(f"{client}/0", [0], [0])
        end = time.perf_counter() + seconds
        n = 0
        while (begun := time.perf_counter()) < end:
            log.append(f"{client}/{n % USERS}", [n % 5000], [1_600_000_000 + n])
            took.append(time.perf_counter() - begun)
            n += 1
    return took


def threads(url: str, clients: int, seconds: float) -> list[float]:
    took: list[list[float]] = []
    workers = [
        threading.Thread(target=lambda c=c: took.append(append(url, c, seconds)))
        for c in range(clients)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [t for part in took for t in part]


def processes(url: str, clients: int, seconds: float) -> list[float]:
    with multiprocessing.get_context("fork").Pool(clients) as pool:  # no stores are open here
        took = pool.starmap(append, [(url, c, seconds) for c in range(clients)])
    return [t for part in took for t in part]


WAYS: dict[str, tuple[Callable[[str, int, float], list[float]], int]] = {
    "1 client": (threads, 1),
    "8 threads": (threads, 8),
    "8 processes": (processes, 8),
}


def transactions(url: str) -> int:
    """How many an lmdb folder has seen; 0 for other stores."""
    if not url.startswith("lmdb"):
        return 0
    with open_store(url) as store:
        return int(store._shared.env.info()["last_txnid"])


def stores(stack: ExitStack, folder: Path) -> Iterator[tuple[str, str]]:
    for option in LMDB:
        yield f"lmdb {option}", f"lmdb://{folder / option}?map_size=4g&{option}"
    for option in REDIS:
        setting, value = option.split("=")
        server = stack.enter_context(valkey_server(folder / option, f"--{setting}", value))
        yield f"redis {option}", server.url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", help="only stores or ways whose name holds one of these"
    )
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default="docs/results/serving.jsonl")
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    measured: dict[tuple[str, str], list[list[float]]] = {}
    flushed: dict[tuple[str, str], int] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=".")))
        opened = dict(stores(stack, folder))
        for _ in range(given.rounds):
            for way, (run, clients) in WAYS.items():
                for store, url in opened.items():
                    if given.names and not any(n in f"{store}, {way}" for n in given.names):
                        continue
                    before = transactions(url)
                    took = run(url, clients, given.seconds)
                    flushed[store, way] = flushed.get((store, way), 0) + transactions(url) - before
                    measured.setdefault((store, way), []).append(took)
    for (store, way), rounds in measured.items():
        took_ms = np.concatenate(rounds) * 1e3
        p50, p99, p999 = np.percentile(took_ms, [50, 99, 99.9])
        rate = float(np.median([len(r) for r in rounds])) / given.seconds
        row = {
            "test": "appends",
            "store": store,
            "clients": way,
            "rounds": given.rounds,
            "acknowledged": len(took_ms),
            "appends_per_second": rate,
            "appends_per_transaction": len(took_ms) / (flushed[store, way] or len(took_ms)),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "p999_ms": float(p999),
            "note": given.note,
        }
        results.append(given.out, row | results.environment())
        print(
            f"{store:28}{way:14}{rate:9,.0f}/s  p50 {p50:.2f} ms  p99 {p99:.2f} ms  "
            f"{row['appends_per_transaction']:.1f} a transaction",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
