"""Ten million events into a store and out again: events a second, memory, bytes.

    python benchmarks/transfer.py [--events 10000000] [--out FILE] [NAME ...]

The log has users of 500 events on average and an action an event. The import is killed (kill -9) in
the middle and run again; what comes out is compared with what went in. Rows go to
docs/results/serving.jsonl.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb

from gistrec import results
from gistrec.history_log import HistoryLog
from gistrec.stores import open_store
from gistrec.testing.servers import valkey_server

STORES = ("lmdb sync=full", "redis appendfsync=everysec")


def make(path: Path, events: int) -> None:
    """Items by a power law, times over a year, users drawn evenly."""
    with duckdb.connect() as con:
        con.execute("SELECT setseed(0.5)")
        con.execute(
            "COPY (SELECT user_id, (50000 * random() ** 3)::BIGINT AS item_id, "
            "1600000000 + (random() * 31536000)::BIGINT AS timestamp, "
            "(random() * 4)::BIGINT AS action FROM (SELECT "
            f"(random() * {events // 500})::BIGINT AS user_id FROM range({events}))) TO '{path}'"
        )


def gistrec(*words: str, kill_after_s: float | None = None) -> dict[str, Any]:
    """What a verb says as JSON, its seconds, seconds of processor and greatest memory."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "gistrec", *words, "--json"], stdout=subprocess.PIPE, text=True
    )
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(process.pid, signal.SIGKILL)  # it stays a child of ours, ended or not
    said = process.stdout.read() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if kill_after_s is None and process.returncode:
        raise SystemExit(f"{words} ended with {process.returncode}")
    document = json.loads(said) if said else {}
    measured = {
        "wall_seconds": time.perf_counter() - begun,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
    }
    return document | measured


def equal(one: Path, other: Path) -> bool:
    """Whether two files hold the same events, whatever their order."""
    columns = "user_id, item_id, timestamp, action"
    with duckdb.connect() as con:
        sums = [
            con.execute(
                f"SELECT count(*), sum(hash({columns})::HUGEINT) FROM read_parquet('{path}')"
            ).fetchone()
            for path in (one, other)
        ]
    return sums[0] == sums[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only stores whose name holds one of these")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--out", default="docs/results/serving.jsonl")
    given = parser.parse_args()
    wrong = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="."))).resolve()
        log, back = folder / "log.parquet", folder / "back.parquet"
        make(log, given.events)
        for store in STORES:
            if given.names and not any(name in store for name in given.names):
                continue
            if store.startswith("lmdb"):
                url = f"lmdb://{folder / 'lmdb'}"
            else:
                valkey = valkey_server(folder / "valkey", "--appendfsync", "everysec")
                url = stack.enter_context(valkey).url
            words = ("import", f"parquet(path='{log}', action='action')", "--store", url)
            whole = gistrec(*words)
            with open_store(url) as opened:
                history = HistoryLog(opened)
                users = list(history.users())
                log_bytes = sum(map(history.nbytes, users))
            exported = gistrec("export", "--store", url, "--out", str(back))
            same = equal(log, back)
            again = gistrec(*words)
            with open_store(url) as opened:
                for user_id in users:
                    HistoryLog(opened).forget(user_id)
            reading_s = whole["wall_seconds"] - whole["seconds"]
            gistrec(*words, kill_after_s=reading_s + whole["seconds"] / 2)
            resumed = gistrec(*words)
            gistrec("export", "--store", url, "--out", str(back))
            same_after_kill = equal(log, back)
            row = {
                "test": "import",
                "store": store,
                "users": whole["users"],
                "events": whole["events"],
                "events_per_second": whole["events_per_second"],
                "events_per_cpu_second": whole["events"] / whole["cpu_seconds"],
                "import_seconds": whole["wall_seconds"],
                "import_cpu_seconds": whole["cpu_seconds"],
                "import_peak_bytes": whole["peak_bytes"],
                "log_bytes_per_event": log_bytes / whole["events"],
                "again_seconds": again["wall_seconds"],
                "added_again": again["events"],
                "kills": 1,
                "there_after_kill": resumed["kept"],
                "added_after_kill": resumed["events"],
                "export_seconds": exported["wall_seconds"],
                "export_cpu_seconds": exported["cpu_seconds"],
                "export_peak_bytes": exported["peak_bytes"],
                "round_trip_equal": same,
                "round_trip_equal_after_kill": same_after_kill,
            }
            results.append(given.out, row | results.environment())
            print(row, flush=True)
            wrong += not (same and same_after_kill and again["events"] == 0)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
