"""Kill -9 while eight clients append over HTTP: lost, doubled and disordered events.

    make chaos                                               # 50 kills, 100,000 appends: hours
    python benchmarks/chaos.py --kills 5 --appends 2000      # minutes

gistrec's server is killed on lmdb and on Valkey, and the Valkey server under it, with
`appendfsync always` and with `everysec`. Rows go to docs/results/serving.jsonl.
"""

import argparse
import dataclasses
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from gistrec import results
from gistrec.testing.chaos import torment
from gistrec.testing.data import stride_dataset
from gistrec.testing.servers import valkey_server
from gistrec.train import train

CASES = {
    "lmdb sync=full": None,
    "redis appendfsync=always": "server",
    "redis appendfsync=always, its primary": "store",
    "redis appendfsync=everysec, its primary": "store",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only cases whose name holds one of these")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--appends", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--out", default="docs/results/serving.jsonl")
    given = parser.parse_args()
    bad = 0
    with ExitStack() as stack:
        # on the disk: /tmp may be memory
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="."))).resolve()
        train(stride_dataset(), "hstu(width=16)", epochs=1, batch_tokens=240).save(folder / "model")
        for number, (case, kind) in enumerate(CASES.items()):
            if given.names and not any(name in case for name in given.names):
                continue
            if kind is None:
                url, valkey = f"lmdb://{folder / str(number)}?map_size=4g", None
            else:
                policy = case.partition("=")[2].partition(",")[0]
                valkey = stack.enter_context(
                    valkey_server(folder / str(number), "--appendfsync", policy)
                )
                url = valkey.url
            outcome = torment(
                folder / "model",
                url,
                kills=given.kills,
                appends=given.appends,
                clients=given.clients,
                victim=valkey if kind == "store" else None,
            )
            row = {"test": "chaos", "store": case, "clients": given.clients}
            row |= dataclasses.asdict(outcome)
            results.append(given.out, row | results.environment())
            print(row, flush=True)
            bad += outcome.lost + outcome.doubled + outcome.disordered
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
