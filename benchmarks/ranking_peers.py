"""Rankers of other packages, trained and tested on the same impressions as gistrec's.

Part of benchmarks/ranking.py. A peer runs in an environment of its own (see peers.py), is given the
training part and the histories, and answers the test part; its answers are measured like any other.
DIN of other packages reads the items of a history and nothing else, so gistrec's rankers beside it
are trained on the same: histories of liked items, no features.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from peers import NEEDS, SCRIPTS, TORCH, environment, installed

from gistrec import rank_benchmark, ranking, results
from gistrec.impressions import Impressions

NEEDS |= {"deepctr_din": (TORCH, "deepctr-torch==0.3.0")}
LENGTH, WIDTH, EPOCHS = 100, 32, 2


def run(peer: str, data: str, shown: Impressions, out: Path, *, seed: int) -> None:
    """Train a peer, let it answer the test part, and write a row."""
    python = installed(peer)
    test = shown.part("test")
    with tempfile.TemporaryDirectory() as folder:
        source, answers = Path(folder, "impressions.npz"), Path(folder, "answers.npz")
        np.savez(
            source,
            **part_of(shown, "train", shown.part("train")),
            **part_of(shown, "test", test),
            events=shown.dataset.item_index,
            items=shown.num_items,
            length=LENGTH,
            width=WIDTH,
            epochs=EPOCHS,
            seed=seed,
        )
        subprocess.run(
            [python, SCRIPTS / f"{peer}.py", source, answers], check=True, env=environment()
        )
        with np.load(answers) as found:
            logit_N1 = found["logit"][:, None]
            about = {"train_seconds": float(found["seconds"]), "peer": found["versions"].tolist()}
    about |= {"kind": "peer", "data": data, "split": rank_benchmark.SPLIT, "backbone": peer}
    about |= {"seed": seed, "online": False, "epochs": EPOCHS, "max_len": LENGTH, "width": WIDTH}
    row = about | ranking.accuracy(shown, test, logit_N1)
    results.append(out, row | {"state_bytes": None, "log_bytes": None} | results.environment())


def part_of(shown: Impressions, name: str, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """What a peer is told of a part's impressions."""
    found = {
        "item": shown.item_index[numbers],
        "start": shown.dataset.offsets[shown.user[numbers]],
        "end": shown.history_end[numbers],
    }
    if name == "train":
        found["label"] = shown.label_NT[numbers, 0]
    return {f"{name}_{key}": value for key, value in found.items()}
