"""How fast the best 100 of a catalogue are found, exactly and by indexes that may miss some.

    make scan                   # a million items; 5 minutes

The scan of `gistrec.kernels.scan` beside an exact faiss index and torch's product and topk, and
beside faiss' inverted files, which look at some clusters only: the fewest that reach a recall@100
of 0.99. Two catalogues of unit vectors: `uniform`, directions at random, the worst case of every
index; and `clustered`, 250 items around each of many directions and users close to one of them, the
best case. One thread. Rows go to docs/results/catalogue_scan.jsonl.
"""

import os

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # choose slower kernels than there are
    os.environ.pop(name, None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; see gistrec.cli.main

import sys
import time
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import torch
from rounds import take_turns

from gistrec import kernels, results
from gistrec.kernels.scan import Scan

ROOT = Path(__file__).parents[1]
WIDTH, K, USERS = 64, 100, (1, 32)
RECALL = 0.99


def main(items: int = 1_000_000) -> None:
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    for kind in ("uniform", "clustered"):
        row_VD, query_BD = vectors(kind, items, max(USERS))
        methods, build_s = built(row_VD)
        exact_BK = np.stack([np.argsort(-(row_VD @ q), kind="stable")[:K] for q in query_BD])
        recall = {}
        for name, search in methods.items():
            recall[name] = recall_of(search(query_BD), exact_BK)
            if name.startswith("faiss ivf"):
                recall[name] = probes_for(search, query_BD, exact_BK)
        for users in USERS:
            some_BD = query_BD[:users]
            timed = take_turns({n: partial(search, some_BD) for n, search in methods.items()})
            for name, times in timed.items():
                line = {
                    "kind": "catalogue_scan",
                    "vectors": kind,
                    "items": items,
                    "width": WIDTH,
                    "k": K,
                    "users": users,
                    "method": name,
                    **times,
                    "recall": recall[name],
                    "build_s": build_s[name],
                    "times_as_slow": times["ms_p50"] / timed["gistrec"]["ms_p50"],
                    "kernels": kernels.chosen(),
                }
                print({n: line[n] for n in list(line)[1:-1]}, flush=True)
                results.append(
                    ROOT / "docs/results/catalogue_scan.jsonl", line | results.environment()
                )


def vectors(kind: str, items: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Items and queries of length 1; clustered ones about 250 to a direction."""
    rng = np.random.default_rng(0)
    row_ND = rng.normal(size=(items + queries, WIDTH)).astype(np.float32)
    if kind == "clustered":
        centre_CD = rng.normal(size=(items // 250, WIDTH)).astype(np.float32)
        row_ND = centre_CD[rng.integers(len(centre_CD), size=len(row_ND))] + 0.5 * row_ND
    row_ND /= np.linalg.norm(row_ND, axis=1, keepdims=True)
    return row_ND[:items], row_ND[items:]


def built(row_VD: np.ndarray) -> tuple[dict, dict[str, float]]:
    """Search functions of queries -> item indices, and what it took to prepare them."""
    methods, build_s = {}, {}
    started = time.perf_counter()

    def add(name: str, search) -> None:
        nonlocal started
        methods[name], build_s[name] = search, time.perf_counter() - started
        started = time.perf_counter()

    scan = Scan(row_VD)
    add("gistrec", lambda query_BD: scan.top_k(query_BD, K)[0])
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(row_VD)
    add("faiss flat", partial(searched, flat))
    table_VD = torch.from_numpy(row_VD)
    add("torch", lambda query_BD: (torch.from_numpy(query_BD) @ table_VD.T).topk(K).indices.numpy())
    cells = 2 ** int(np.log2(4 * np.sqrt(len(row_VD))))
    for code in ("Flat", "SQ8"):
        index = faiss.index_factory(WIDTH, f"IVF{cells},{code}", faiss.METRIC_INNER_PRODUCT)
        index.cp.niter = 10
        index.train(row_VD[: 64 * cells])
        index.add(row_VD)
        add(f"faiss ivf {code}", partial(searched, index))
    return methods, build_s


def searched(index, query_BD: np.ndarray) -> np.ndarray:
    return index.search(query_BD, K)[1]


def probes_for(search: partial, query_BD: np.ndarray, exact_BK: np.ndarray) -> float:
    """Set the fewest cells (powers of two) whose search reaches the recall; what it then is."""
    (index,) = search.args
    index.nprobe, found = 1, 0.0
    while found < RECALL and index.nprobe < index.nlist:
        index.nprobe *= 2
        found = recall_of(search(query_BD), exact_BK)
    return found


def recall_of(found_BK: np.ndarray, exact_BK: np.ndarray) -> float:
    pairs = zip(found_BK.tolist(), exact_BK.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / K for a, b in pairs]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
