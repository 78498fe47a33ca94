"""What worker processes of a server take of memory, and how much of it they share (Linux).

    make workers                # a catalogue of a million items, 1, 2 and 4 workers

`own` is what a further worker costs (Private of /proc/*/smaps_rollup), `share` its part of all
that it maps (Pss), `resident` what it maps (Rss). Every worker has served lists before it is
measured. Rows go to docs/results/serving.jsonl.
"""

import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import torch

from gistrec import backbones, results
from gistrec.dataset import Vocabulary
from gistrec.testing.servers import free_port
from gistrec.train import Model, Training

ROOT = Path(__file__).parents[1]
ITEMS, WORKERS = 1_000_000, (1, 2, 4)


def main(items: int = ITEMS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = Model(
            backbones.build("hstu()", num_items=items), Vocabulary(np.arange(items)), Training()
        )
        model.save(f"{folder}/model")
        del model
        os.sync()  # pages that wait to be written count as a process's own
        for workers in WORKERS:
            found = measured(Path(folder), workers)
            row = {
                "test": "workers_memory",
                "items": items,
                "backbone": "hstu()",
                "workers": workers,
                "weights_bytes": (Path(folder) / "model/weights.safetensors").stat().st_size,
                **{f"{name}_bytes": [f[name] for f in found] for name in found[0]},
            }
            results.append(ROOT / "docs/results/serving.jsonl", row | results.environment())
            for part in found:
                print(workers, *(f"{name} {size >> 20} MiB" for name, size in part.items()))


def measured(folder: Path, workers: int) -> list[dict[str, int]]:
    """Each worker's memory after it has served."""
    port = free_port()
    command = [sys.executable, "-m", "gistrec", "serve", "--model", folder / "model"]
    command += ["--store", f"lmdb://{folder}/users", "--port", str(port), "--workers", str(workers)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if "serves at" not in server.stdout.readline():
            raise SystemExit("the server did not start")
        pids = [server.pid] if workers == 1 else children(server.pid)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: asked(port, n), range(50 * workers)))
        return [memory(pid) for pid in pids]
    finally:
        server.terminate()
        server.wait()


def asked(port: int, user: int) -> None:
    """An event, and a list for it, each on a connection of its own."""
    url = f"http://127.0.0.1:{port}/v1/users/{user}"
    body = json.dumps({"events": [{"item_id": user, "timestamp": 1}]}).encode()
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{url}/events", body, headers)).read()
    urllib.request.urlopen(f"{url}/recommendations").read()


def children(pid: int) -> list[int]:
    """Worker processes, without the one that multiprocessing keeps for itself."""
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [n for n in found if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]


def memory(pid: int) -> dict[str, int]:
    """Bytes from smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    size = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
    own = size["Private_Clean"] + size["Private_Dirty"]
    return {"own": own, "share": size["Pss"], "resident": size["Rss"]}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
