"""Trouble while eight clients append over HTTP: lost, doubled and disordered events.

    make chaos                                               # 50 kills, 100,000 appends: hours
    python benchmarks/chaos.py --kills 5 --appends 2000 lmdb # minutes

The cases are those of `gistrec.testing.troubles`. Rows go to docs/results/serving.jsonl; a case
that has a row of this size already is passed over.
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

from gistrec import results
from gistrec.testing.chaos import torment
from gistrec.testing.data import stride_dataset
from gistrec.testing.troubles import CASES
from gistrec.train import train


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only cases whose name holds one of these")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--appends", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--out", default="docs/results/serving.jsonl")
    given = parser.parse_args()
    wanted = {"test": "chaos", "kills": given.kills, "acknowledged": given.appends}
    there = results.load(given.out) if Path(given.out).is_file() else []
    done = {row["store"] for row in there if wanted.items() <= row.items()}
    bad = 0
    # on the disk: /tmp may be memory
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        folder = Path(temporary).resolve()
        train(stride_dataset(), "hstu(width=16)", epochs=1, batch_tokens=240).save(folder / "model")
        for number, (name, case) in enumerate(CASES.items()):
            if name in done or (given.names and not any(part in name for part in given.names)):
                continue
            with case(folder / str(number)) as opened:
                outcome = torment(
                    folder / "model",
                    opened,
                    kills=given.kills,
                    appends=given.appends,
                    clients=given.clients,
                )
            row = {"test": "chaos", "store": name, "clients": given.clients}
            row |= dataclasses.asdict(outcome) | {"promises_all": opened.keeps_all}
            results.append(given.out, row | results.environment())
            print(row, flush=True)
            bad += outcome.lost * opened.keeps_all + outcome.doubled + outcome.disordered
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
