"""The 100 best of a million items, exactly: gistrec's scan and faiss' exact index."""

from importlib.metadata import version

import faiss
import numpy as np
from worker import USERS, K, in_turn, serve

from gistrec.kernels.scan import Scan

ITEMS, WIDTH, QUERIES = 1_000_000, 64, 512
faiss.omp_set_num_threads(1)


def main() -> None:
    rng = np.random.default_rng(0)
    row_VD = rng.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    query_BD = rng.normal(size=(QUERIES, WIDTH)).astype(np.float32)
    scan, flat = Scan(row_VD), faiss.IndexFlatIP(WIDTH)
    flat.add(row_VD)
    ways = {
        "gistrec scan": lambda users: scan.top_k(query_BD[users], K)[0],
        "faiss flat": lambda users: flat.search(query_BD[users], K)[1],
    }
    exact = np.argsort(-(query_BD[3].astype(np.float64) @ row_VD.T.astype(np.float64)))[:K]
    for name, search in ways.items():
        assert set(search([3])[0].tolist()) == set(exact.tolist()), name  # recall@100 of 1.00
    functions = {
        f"{name}|{users}|fp32": in_turn(search, users, QUERIES)
        for name, search in ways.items()
        for users in USERS
    }
    versions = {name: version(name) for name in ("gistrec", "torch", "numpy")}
    about = {name.partition(" ")[2]: {"items": ITEMS, "width": WIDTH, "k": K} for name in ways}
    serve(functions, versions | {"faiss": version("faiss-cpu")}, about)


main()
