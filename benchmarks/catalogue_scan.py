"""How fast the best 100 of a catalogue are found, exactly and by indexes that may miss some.

    make scan                   # a million items; 15 minutes
    python benchmarks/catalogue_scan.py --items 10000000 "ivf Flat"
    python benchmarks/catalogue_scan.py --model FOLDER --data ml-1m.parquet

The scan of `gistrec.kernels.scan` beside an exact faiss index and torch's product and topk, and
beside faiss' inverted files, which look at some clusters only, and its graph (HNSW): the fewest
clusters, or the shortest list of candidates, that reach a recall@100 of 0.99. Three catalogues:
`uniform`, directions at random, the worst case of every index; `clustered`, 250 items around each
of many directions and users close to one of them, the best case; and with --model, `trained`: the
items of a model and what its users ask. One thread; --cpu times by the thread's own clock, for a
machine that is not idle. Rows go to docs/results/catalogue_scan.jsonl.
"""

import os

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # choose slower kernels than there are
    os.environ.pop(name, None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; see gistrec.cli.main

import argparse
import time
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import torch
from rounds import take_turns

from gistrec import kernels, results
from gistrec.dataset import Dataset
from gistrec.events import read
from gistrec.kernels.scan import Scan
from gistrec.train import Model

ROOT = Path(__file__).parents[1]
WIDTH, K, USERS = 64, 100, (1, 32)
RECALL = 0.99


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beside gistrec, only these methods")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--model", help="a model folder; its items in place of drawn ones")
    parser.add_argument("--data", help="the log that it was trained on")
    parser.add_argument("--cpu", action="store_true", help="the thread's own clock")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    faiss.omp_set_num_threads(1)
    clock = time.thread_time if given.cpu else time.perf_counter
    for kind in ("trained",) if given.model else ("uniform", "clustered"):
        if given.model:
            row_VD, query_BD = trained(given.model, given.data)
        else:
            row_VD, query_BD = vectors(kind, given.items, max(USERS))
        methods, build_s = built(row_VD, given.names, clock)
        exact_BK = np.stack([np.argsort(-(row_VD @ q), kind="stable")[:K] for q in query_BD])
        recall, effort = {}, {}
        for name, search in methods.items():
            recall[name], effort[name] = recall_of(search(query_BD), exact_BK), None
            if "ivf" in name or "hnsw" in name:
                recall[name], effort[name] = effort_for(search, query_BD, exact_BK)
        for users in USERS:
            some_BD = query_BD[:users]
            timed = take_turns(
                {n: partial(search, some_BD) for n, search in methods.items()}, clock=clock
            )
            for name, times in timed.items():
                line = {
                    "kind": "catalogue_scan",
                    "vectors": kind,
                    "items": len(row_VD),
                    "width": row_VD.shape[1],
                    "k": K,
                    "users": users,
                    "method": name,
                    **times,
                    "recall": recall[name],
                    "effort": effort[name],
                    "build_s": build_s[name],
                    "times_as_slow": times["ms_p50"] / timed["gistrec"]["ms_p50"],
                    "clock": "cpu" if given.cpu else "wall",
                    "kernels": kernels.chosen(),
                }
                print({n: line[n] for n in list(line)[1:-1]}, flush=True)
                results.append(
                    ROOT / "docs/results/catalogue_scan.jsonl", line | results.environment()
                )


def vectors(kind: str, items: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Items and queries of length 1; clustered ones about 250 to a direction."""
    rng = np.random.default_rng(0)
    row_ND = rng.standard_normal((items + queries, WIDTH), np.float32)
    if kind == "clustered":
        centre_CD = rng.standard_normal((items // 250, WIDTH), np.float32)
        row_ND *= 0.5
        row_ND += centre_CD[rng.integers(len(centre_CD), size=len(row_ND))]
    row_ND /= np.linalg.norm(row_ND, axis=1, keepdims=True)
    return row_ND[:items], row_ND[items:]


def trained(model: str, data: str) -> tuple[np.ndarray, np.ndarray]:
    """A model's item vectors, and what 32 of its users ask for."""
    loaded = Model.load(model)
    dataset, head = Dataset.from_events(read(data)), loaded.backbone.head
    users = np.random.default_rng(0).permutation(dataset.num_users)[: max(USERS)].tolist()
    states = loaded.backbone.prefill([dataset.history(n) for n in users])
    asked = loaded.backbone._asked(states, [None] * len(states))
    return head._items().numpy(), head.direction(asked.h_BD).numpy()


def built(row_VD: np.ndarray, names: list[str], clock) -> tuple[dict, dict[str, float]]:
    """Search functions of queries -> item indices, and what it took to prepare them."""
    table_VD, cells = torch.from_numpy(row_VD), 2 ** int(np.log2(4 * np.sqrt(len(row_VD))))
    cells = min(cells, 4096)  # more take long to fill and gain little

    def scan():
        found = Scan(row_VD)
        return lambda query_BD: found.top_k(query_BD, K)[0]

    def product():
        return lambda query_BD: (torch.from_numpy(query_BD) @ table_VD.T).topk(K).indices.numpy()

    def indexed(name: str):
        index = faiss.index_factory(row_VD.shape[1], name, faiss.METRIC_INNER_PRODUCT)
        if name.startswith("IVF"):
            index.cp.niter = 10
            index.train(row_VD[: 64 * cells])
        if name.startswith("HNSW"):
            index.hnsw.efConstruction = 80
        index.add(row_VD)
        return partial(searched, index)

    makers = {
        "gistrec": scan,
        "faiss flat": partial(indexed, "Flat"),
        "torch": product,
        "faiss ivf Flat": partial(indexed, f"IVF{cells},Flat"),
        "faiss ivf SQ8": partial(indexed, f"IVF{cells},SQ8"),
        "faiss hnsw": partial(indexed, "HNSW16,Flat"),
    }
    methods, build_s = {}, {}
    for name, make in makers.items():
        if names and name != "gistrec" and not any(part in name for part in names):
            continue
        started = clock()
        methods[name] = make()
        build_s[name] = clock() - started
    return methods, build_s


def searched(index, query_BD: np.ndarray) -> np.ndarray:
    return index.search(query_BD, K)[1]


def effort_for(search: partial, query_BD: np.ndarray, exact_BK: np.ndarray) -> tuple[float, int]:
    """Set the least effort (powers of two) that reaches the recall; what it then is, and which.

    That is how many cells are looked at, or how long a graph's list of candidates is.
    """
    (index,) = search.args
    graph = hasattr(index, "hnsw")
    effort, most, found = (K // 2, 1 << 14, 0.0) if graph else (1, index.nlist, 0.0)
    while found < RECALL and effort < most:
        effort *= 2
        if graph:
            index.hnsw.efSearch = effort
        else:
            index.nprobe = effort
        found = recall_of(search(query_BD), exact_BK)
    return found, effort


def recall_of(found_BK: np.ndarray, exact_BK: np.ndarray) -> float:
    pairs = zip(found_BK.tolist(), exact_BK.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / K for a, b in pairs]))


if __name__ == "__main__":
    main()
