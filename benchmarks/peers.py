"""What a recommendation takes in gistrec and in three other libraries, side by side.

    make peers                  # 10 minutes, and as many to install; needs an idle machine

Every library runs in a process and an environment of its own under runs/peers, since they need
different versions of numpy; the processes take turns, at least five rounds, on one core and with
one thread. All have 10,000 items, histories of 200 events, width 64, two layers, lists of 100
without seen items, users in random order, one and 32 at once. Weights are random: no time depends
on them. PyTorch's memory stays with the process (MALLOC_*), which makes it up to twice as fast,
and of fp32 and bf16 the faster one counts. Rows go to docs/results/peers.jsonl.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; see gistrec.cli.main

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
OURS = "gistrec_requests"
PRINTED = (
    "peer",
    "users",
    "precision",
    "peer_ms_p50",
    "peer_ms_p99",
    "gistrec",
    "ms_p50",
    "ms_p99",
)


def main(rounds: int = ROUNDS, turn_s: float = TURN_S) -> None:
    pythons = {OURS: Path(sys.executable)} | {name: installed(name) for name in NEEDS}
    workers: list[Worker] = []
    taken: dict[str, list[float]] = {}
    try:
        workers += (Worker(name, python) for name, python in pythons.items())
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            for worker in workers:
                for name in worker.names:
                    taken.setdefault(name, []).extend(worker.turn(name, turn_s))
    finally:
        for worker in workers:
            worker.close()
    versions = {name: v for worker in workers for name, v in worker.versions.items()}
    for line in rows(taken, versions):
        numbers = (line[n] for n in PRINTED)
        print(*(f"{n:.4g}" if isinstance(n, float) else n for n in numbers), end="  ")
        print(f"{line['ratio']:.3g} times as long", flush=True)
        line |= {"rounds": rounds} | results.environment()
        results.append(ROOT / "docs/results/peers.jsonl", line)


def rows(taken: dict[str, list[float]], versions: dict[str, str]) -> list[results.Row]:
    """Every peer beside every way to ask gistrec, from names -> ms of all calls."""
    found: dict[tuple[str, int], tuple[float, float, str, int]] = {}
    for name, ms in taken.items():
        what, users, precision = name.split("|")
        p50, p99 = np.percentile(ms, [50, 99]).tolist()
        one = p50, p99, precision, len(ms)
        found[what, int(users)] = min(one, found.get((what, int(users)), one))
    out = []
    for (peer, users), theirs in found.items():
        if peer.startswith("gistrec"):
            continue
        backbone = "hstu" if "hstu" in peer else "sasrec"
        for (ours, same_users), own in found.items():
            if not ours.startswith(f"gistrec {backbone}") or same_users != users:
                continue
            out.append(
                {
                    "kind": "peers",
                    "peer": peer,
                    "version": versions[peer.split()[0]],
                    "precision": theirs[2],
                    "peer_ms_p50": theirs[0],
                    "peer_ms_p99": theirs[1],
                    "peer_calls": theirs[3],
                    "gistrec": ours.removeprefix("gistrec "),
                    "ms_p50": own[0],
                    "ms_p99": own[1],
                    "calls": own[3],
                    "ratio": theirs[0] / own[0],
                    "ratio_p99": theirs[1] / own[1],
                    "users": users,
                    "history": 200,
                    "items": 10_000,
                    "width": 64,
                    "layers": 2,
                    "k": 100,
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
        for failed, why in told["failed"].items():
            print(f"{failed} is left out: {why}", flush=True)

    def turn(self, name: str, seconds: float) -> list[float]:
        """Milliseconds of as many calls as fill the time."""
        self._process.stdin.write(json.dumps({"call": name, "seconds": seconds}) + "\n")
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
    main(*map(int, sys.argv[1:2]), *map(float, sys.argv[2:3]))
