"""What gistrec takes beside other libraries and beside recomputing, and whether that is enough.

    make peers                  # 15 minutes, and as many to install; needs an idle machine

Every peer runs in a process of its own, those that need other versions of numpy in an environment
of their own (in ~/.cache/gistrec/peers); the processes take turns, at least five rounds, on one
core and with one thread. Requests: 10,000 items, histories of 200 events, width 64, two layers,
lists of 100 without seen items, users in random order, one and 32 at once. Then an event after a
long history, beside recomputing it (peers/long_history.py), and the scan of a million items
(peers/catalogue.py). Weights are random: no time depends on them. PyTorch's memory stays with the
process (MALLOC_*), which makes it up to twice as fast, and the fastest variant of each counts.
Rows go to docs/results/peers.jsonl. On a machine that is not idle,
`python benchmarks/peers.py 7 0.6 cpu` counts the processor's time, which is less than the true one
where a request waits for the disk.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; see gistrec.cli.main

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from gistrec import results

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(__file__).parent / "peers"
HOME = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gistrec" / "peers"
ROUNDS, TURN_S = 7, 0.6

TORCH = "torch==2.13.0"  # first, so that nothing else asks for one with CUDA
NEEDS = {
    "recbole_sasrec": (TORCH, "recbole==1.2.1", "numpy==1.26.4", "pandas==2.2.3"),
    "rectools_models": (TORCH, "rectools[torch]==0.19.0"),
    "implicit_als": ("implicit==0.7.3",),
}
OURS = ("gistrec_requests", "long_history", "catalogue")
GOALS = {
    ("rectools hstu", "gistrec hstu state", 1): 400,
    ("recbole sasrec", "gistrec sasrec state", 1): 45,
    ("implicit als fold-in", "gistrec sasrec state", 1): 4,
    ("pytorch recompute, 1024 events", "gistrec step, 1024 events", 1): 600,
    ("gistrec recompute, 1024 events", "gistrec step, 1024 events", 1): 150,
    ("gistrec recompute, 8192 events", "gistrec step, 8192 events", 1): 700,
    ("faiss flat", "gistrec scan", 1): 3,
    ("faiss flat", "gistrec scan", 32): 15,
}
"""Peer, what gistrec does instead, users at once -> how many times as long the peer should take."""


PRINTED = (
    *("peer", "users", "variant", "peer_ms_p50", "peer_ms_p99"),
    *("gistrec", "ms_p50", "ms_p99", "ratio", "at_least", "reached"),
)
LAYOUT = "{:31} {:5} {:26} {:>8} {:>8}  {:20} {:>8} {:>8} {:>8} {:>8}  {}"


def main(rounds: int = ROUNDS, turn_s: float = TURN_S, clock: str = "wall") -> None:
    HOME.mkdir(parents=True, exist_ok=True)
    pythons = dict.fromkeys(OURS, Path(sys.executable)) | {n: installed(n) for n in NEEDS}
    workers: list[Worker] = []
    taken: dict[str, list[float]] = {}
    try:
        workers += (Worker(name, python) for name, python in pythons.items())
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            for worker in workers:
                for name in worker.names:
                    taken.setdefault(name, []).extend(worker.turn(name, turn_s, clock))
    finally:
        for worker in workers:
            worker.close()
    versions = {name: v for worker in workers for name, v in worker.versions.items()}
    versions["pytorch"] = versions["torch"]
    about = {what: sizes for worker in workers for what, sizes in worker.about.items()}
    found = [line | about[line["gistrec"]] for line in rows(taken, versions)]
    print(
        LAYOUT.format(
            *("peer", "users", "variant", "p50 ms", "p99", "gistrec", "p50 ms", "p99"),
            *("ratio", "at least", ""),
        )
    )
    for line in sorted(found, key=lambda line: line["at_least"] is None):
        print(LAYOUT.format(*map(shown, (line[n] for n in PRINTED))), flush=True)
        results.append(
            ROOT / "docs/results/peers.jsonl",
            line | {"rounds": rounds, "clock": clock} | results.environment(),
        )


def shown(value: object) -> str:
    """Three digits of a number."""
    said = {None: "", True: "reached", False: "missed"}
    if value is None or isinstance(value, bool):
        return said[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def rows(taken: dict[str, list[float]], versions: dict[str, str]) -> list[results.Row]:
    """Peers beside what gistrec does instead, from names -> ms of all calls.

    Those of `GOALS`, and all peers that take requests beside all ways to ask gistrec.
    """
    found: dict[tuple[str, int], tuple[float, float, str, int]] = {}
    for name, ms in taken.items():
        what, users, variant = name.split("|")
        p50, p99 = np.percentile(ms, [50, 99]).tolist()
        one = p50, p99, variant, len(ms)
        found[what, int(users)] = min(one, found.get((what, int(users)), one))
    pairs = dict.fromkeys(
        pair for pair in GOALS if found.keys() >= {(n, pair[2]) for n in pair[:2]}
    )
    for (peer, users), (ours, same_users) in itertools.product(found, found):
        backbone = "hstu" if "hstu" in peer else "sasrec"
        asked = peer.startswith(("rectools", "recbole", "implicit"))
        if asked and ours.startswith(f"gistrec {backbone}") and users == same_users:
            pairs[peer, ours, users] = None
    out = []
    for peer, ours, users in pairs:
        theirs, own, goal = found[peer, users], found[ours, users], GOALS.get((peer, ours, users))
        ratio = theirs[0] / own[0]
        out.append(
            {
                "kind": "peers",
                "peer": peer,
                "version": versions[peer.split()[0]],
                "variant": theirs[2],
                "peer_ms_p50": theirs[0],
                "peer_ms_p99": theirs[1],
                "peer_calls": theirs[3],
                "gistrec": ours.removeprefix("gistrec "),
                "gistrec_variant": own[2],
                "ms_p50": own[0],
                "ms_p99": own[1],
                "calls": own[3],
                "ratio": ratio,
                "ratio_p99": theirs[1] / own[1],
                "at_least": goal,
                "reached": None if goal is None else ratio >= goal,
                "users": users,
                "weights": "random",
                "malloc": "kept",
            }
        )
    return out


def installed(name: str) -> Path:
    """The Python of a peer's environment, made where it is missing."""
    python = HOME / name / "bin" / "python"
    stamp = HOME / name / "needs.txt"
    if not stamp.exists() or stamp.read_text() != " ".join(NEEDS[name]):
        print(f"installing {' '.join(NEEDS[name])} into {python.parents[1]}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        parts = (NEEDS[name][:1], NEEDS[name]) if TORCH in NEEDS[name] else (NEEDS[name],)
        for packages in parts:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        stamp.write_text(" ".join(NEEDS[name]))
    return python


class Worker:
    """A peer's process."""

    def __init__(self, name: str, python: Path) -> None:
        self._log = (HOME / f"{name}.log").open("w")
        self._process = subprocess.Popen(
            [python, SCRIPTS / f"{name}.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=HOME,
            env=environment(),
            preexec_fn=on_one_core,
        )
        told = self._told()
        self.names: list[str] = told["names"]
        self.versions: dict[str, str] = told["versions"]
        self.about: dict[str, dict[str, int]] = told["about"]
        for failed, why in told["failed"].items():
            print(f"{failed} is left out: {why}", flush=True)

    def turn(self, name: str, seconds: float, clock: str) -> list[float]:
        """Milliseconds of as many calls as fill the time."""
        asked = {"call": name, "seconds": seconds, "clock": clock}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._told()["ms"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def _told(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args[1]} ended early: see {self._log.name}")
        return json.loads(line)


def environment() -> dict[str, str]:
    """One thread, memory kept by the process, and the fastest kernels that there are."""
    threads = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    without = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in without} | {
        **{f"{name}_NUM_THREADS": "1" for name in threads},
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TRIM_THRESHOLD_": "17179869184",
        "MALLOC_TOP_PAD_": "268435456",
    }


def on_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *map(float, sys.argv[2:3]), *sys.argv[3:4])
