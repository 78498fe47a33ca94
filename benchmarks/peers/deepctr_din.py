"""DIN of deepctr-torch: trained on impressions that benchmarks/ranking_peers.py wrote, and asked.

    python deepctr_din.py impressions.npz answers.npz

Needs no gistrec. The settings are the package's own but for width, epochs and length of history.
"""

import sys
import time
from importlib.metadata import version
from types import ModuleType

import numpy as np
import torch

# on import it would ask the network for its newest version, with a package that it does not require
sys.modules["requests"] = ModuleType("requests")

from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat, get_feature_names
from deepctr_torch.models import DIN

torch.set_num_threads(1)


def main(source: str, out: str) -> None:
    given = np.load(source)
    length, width = int(given["length"]), int(given["width"])
    torch.manual_seed(int(given["seed"]))
    items = int(given["items"]) + 1  # 0 is padding
    columns = [
        SparseFeat("item_id", items, embedding_dim=width),
        VarLenSparseFeat(
            SparseFeat("hist_item_id", items, embedding_dim=width, embedding_name="item_id"),
            maxlen=length,
            length_name="seq_length",
        ),
    ]
    model = DIN(columns, ["item_id"], att_weight_normalization=True, seed=int(given["seed"]))
    model.compile("adam", "binary_crossentropy")
    inputs = {part: rows(given, part, length) for part in ("train", "test")}
    names = get_feature_names(columns)
    begun = time.process_time()
    model.fit(
        {name: inputs["train"][name] for name in names},
        given["train_label"],
        batch_size=1024,
        epochs=int(given["epochs"]),
        verbose=2,
    )
    seconds = time.process_time() - begun
    share = model.predict({name: inputs["test"][name] for name in names}, batch_size=4096)[:, 0]
    share = np.clip(share.astype(np.float64), 1e-7, 1 - 1e-7)
    np.savez(
        out,
        logit=np.log(share / (1 - share)),
        seconds=seconds,
        versions=[f"{name} {version(name)}" for name in ("deepctr-torch", "torch", "numpy")],
    )


def rows(given, part: str, length: int) -> dict[str, np.ndarray]:
    """Items, and the newest events of each one's history, oldest first, padded at the end."""
    start, end = given[f"{part}_start"], given[f"{part}_end"]
    start = np.maximum(start, end - length)
    place = start[:, None] + np.arange(length)
    there = place < end[:, None]
    events = given["events"]
    history = np.where(there, events[np.minimum(place, len(events) - 1)] + 1, 0)
    return {
        "item_id": given[f"{part}_item"] + 1,
        "hist_item_id": history.astype(np.int32),
        # its masks need a length of at least 1
        "seq_length": np.maximum(end - start, 1),
    }


main(*sys.argv[1:])
