"""How many events a second a training takes in: gistrec compiled and in PyTorch, and RecTools.

    make training               # ten minutes, on ml-100k; installs RecTools as `make peers` does

The same log, width 64, two layers, two heads, softmax over the whole catalogue, windows of 200
events, 6,400 positions a step, one thread; an epoch each, in processes of their own that take
turns. Counted are events that are there, not padding, by the processor's time of the steps
without the first two. Rows go to docs/results/training.jsonl.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from accuracy import load
from peers import ROOT, SCRIPTS, environment, installed

from gistrec import results

BACKBONES = ("sasrec", "hstu")
SIZES = {"width": 64, "layers": 2, "heads": 2, "window": 200, "positions": 6400}
SKIPPED = 2
"""First steps: they allocate, and set up what is kept."""


def main(rounds: int = 5, data: str = "ml-100k") -> None:
    log = ROOT / "runs" / f"{data}.npz"
    log.parent.mkdir(exist_ok=True)
    events = load(data)
    user = np.unique(events.user_id, return_inverse=True)[1]
    np.savez(log, user=user, item=events.item_id, time=events.timestamp)
    python = installed("rectools_models")
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for backbone in BACKBONES:
            for way, command, kernels in (
                ("gistrec native", [sys.executable, __file__, "gistrec"], "native"),
                ("gistrec torch", [sys.executable, __file__, "gistrec"], "torch"),
                ("rectools", [python, SCRIPTS / "rectools_training.py"], ""),
            ):
                chosen = {"GISTREC_KERNELS": kernels} if kernels else {}
                given = [*command, backbone, log, json.dumps(SIZES)]
                done = subprocess.run(
                    given, env=environment() | chosen, stdout=subprocess.PIPE, text=True, check=True
                )
                found.setdefault((backbone, way), []).append(json.loads(done.stdout))
    for (backbone, way), taken in found.items():
        rate = float(np.median([t["events"] / t["seconds"] for t in taken]))
        line = {
            "kind": "training",
            "data": data,
            "backbone": backbone,
            "way": way,
            "events_per_s": rate,
            "padding_share": 1 - taken[0]["events"] / taken[0]["positions"],
            "version": taken[0]["version"],
            "rounds": rounds,
            "clock": "cpu",
            **SIZES,
        }
        times = rate / np.median([t["events"] / t["seconds"] for t in found[backbone, "rectools"]])
        line["times_rectools"] = float(times)
        print(
            f"{backbone:8}{way:16}{rate:10,.0f} events/s  {times:5.2f} times RecTools  "
            f"padding {line['padding_share']:.0%}",
            flush=True,
        )
        results.append(ROOT / "docs/results/training.jsonl", line | results.environment())


def steps(backbone: str, log: Path, sizes: dict[str, int]) -> None:
    """Train one epoch by gistrec, and print what it took."""
    from gistrec import Dataset, from_table, train
    from gistrec.train import Training

    columns = np.load(log)
    table = {"user_id": columns["user"], "item_id": columns["item"], "timestamp": columns["time"]}
    dataset = Dataset.from_events(from_table(table))
    settings = {"epochs": 1, "batch_tokens": sizes["positions"], "max_len": sizes["window"]}
    batches = list(
        dataset.batches(
            batch_tokens=sizes["positions"],
            max_len=sizes["window"],
            rng=np.random.default_rng([Training.seed, 0]),
        )
    )
    clock = []
    spec = f"{backbone}(width={sizes['width']}, num_layers={sizes['layers']}, "
    spec += f"num_heads={sizes['heads']})"
    train(dataset, spec, report=lambda _: clock.append(time.process_time()), **settings)
    counted = batches[SKIPPED:]
    told = {
        "events": sum(int((b.item_BS < dataset.num_items).sum()) for b in counted),
        "positions": sum(b.item_BS.numel() for b in counted),
        "seconds": clock[-1] - clock[SKIPPED - 1],
        "version": results.environment()["versions"]["gistrec"],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    if sys.argv[1:2] == ["gistrec"]:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        steps(sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
    else:
        main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
