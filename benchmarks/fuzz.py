"""Damaged input to parsers, and hostile requests to a server: no crash, no 5xx, memory flat.

    make fuzz                                               # 10 million and 20,000 cases
    python benchmarks/fuzz.py --parser-cases 100000 --http-cases 0

Rows go to docs/results/serving.jsonl.
"""

import argparse
import contextlib
import ctypes
import gc
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

from gistrec import results
from gistrec.server.routes import OPERATIONS
from gistrec.testing.chaos import Served
from gistrec.testing.data import stride_dataset
from gistrec.testing.fuzz import fuzz, parsers
from gistrec.testing.fuzz_http import ask
from gistrec.train import train

STEPS = 10


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def held_bytes() -> int:
    """Memory that is in use; the allocator first gives back what it only keeps, tens of MB."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # of glibc
    (line,) = re.findall(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(line) * 1024


def of_parsers(count: int, seed: int) -> dict[str, object]:
    begun, refused, crashes, sizes = time.monotonic(), 0, [], []
    for step in range(STEPS):
        found = fuzz(count // STEPS, seed=seed + step)
        refused += found.refused
        crashes += found.crashes
        sizes.append(held_bytes())
        print(f"{(step + 1) * count // STEPS:,} cases, {len(crashes)} crashes", flush=True)
    return {
        "test": "fuzz parsers",
        "parsers": list(parsers()),
        "cases": count // STEPS * STEPS,
        "refused": refused,
        "crashes": len(crashes),
        "examples": crashes[:3],
        "first_bytes": sizes[0],
        "last_bytes": sizes[-1],
        "peak_bytes": peak_bytes(),  # a forged length may ask for 512 MB, for a moment
        "seconds": time.monotonic() - begun,
    }


def of_http(count: int, seed: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        folder = Path(temporary).resolve()
        model = folder / "model"
        train(stride_dataset(), "hstu(width=16)", epochs=1, batch_tokens=240).save(model)
        server = Served(model, f"lmdb://{folder / 'users'}?map_size=4g")
        try:
            server.start()
            first = ask(server, examples=10, seed=seed)
            asked = [first]
            while (left := count - sum(a.cases for a in asked)) > 0:
                examples = max(10, min(400, left // len(OPERATIONS)))
                asked.append(ask(server, examples=examples, seed=seed + len(asked)))
                print(asked[-1], flush=True)
        finally:
            server.kill()
    return {
        "test": "fuzz http",
        "store": "lmdb sync=full",
        "cases": sum(a.cases for a in asked),
        "failures": sorted({failure for a in asked for failure in a.failures}),
        "first_bytes": asked[1].resident_bytes if len(asked) > 1 else first.resident_bytes,
        "last_bytes": asked[-1].resident_bytes,
        "seconds": sum(a.seconds for a in asked),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parser-cases", type=int, default=10_000_000)
    parser.add_argument("--http-cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="docs/results/serving.jsonl")
    given = parser.parse_args()
    bad = False
    for measure, count in ((of_http, given.http_cases), (of_parsers, given.parser_cases)):
        if count:
            row = measure(count, given.seed)
            results.append(given.out, row | results.environment())
            print(row, flush=True)
            bad |= bool(row.get("crashes") or row.get("failures"))
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
