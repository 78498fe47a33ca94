"""What a request through the recommender takes by stage, beside the sum of its parts' floors.

    make requests                # an idle machine; rows to docs/results/floors.jsonl

A request is one event and the list after it, of a random user: the state and the history are read
from lmdb, the event is run through four layers and written with the state, 10,000 items are scored
and seen ones left out. Beside it, in turns, its parts alone, once each: the same bytes read from
lmdb, the compiled step over uncompressed rows in memory, the scan of the catalogue, a head and a
tail written. Their sum is the floor. And our own compiled recompute of the whole history, with the
same scan. Weights and histories are random.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads

import argparse
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch

from gistrec import backbones, results
from gistrec.dataset import History, Vocabulary
from gistrec.kernels.step import Events as StepEvents
from gistrec.recipe import Recipe
from gistrec.recommender import Event, Recommender
from gistrec.state import UserState
from gistrec.stores import Put, open_store
from gistrec.train import Model, Training

ITEMS, K, START = 10_000, 10, 1_600_000_000
BACKBONES = ("hstu(num_layers=4)", "sasrec(num_layers=4)")
CHAINS = (
    "recent(keep=14) | itemtable()",
    "itemtable()",
    "rvq(levels=1)",
    "rvq(levels=2)",
    "recent(keep=64) | rvq()",
    "int4()",
    "int8()",
    "bf16()",
    "identity()",
)
WARM_UP = 5
RARE = {"recompute": 12, "staged": 3}
"""Calls that come only every so many turns."""
PARTS = ("read floor", "step floor", "scan floor", "write floor")
Call = Callable[[int], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lengths", nargs="*", type=int, default=[200, 1000, 8192])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60, help="in each round")
    parser.add_argument("--megabytes", type=int, default=256, help="of states, at most")
    parser.add_argument("--only", default="", help="chains whose spec holds this")
    parser.add_argument("--note", default="", help="of the machine")
    parser.add_argument("--out", default="docs/results/floors.jsonl")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for spec in BACKBONES:
        backbone = random_backbone(spec)
        for chain in CHAINS:
            if given.only not in chain:
                continue
            for length in given.lengths:
                row = measured(backbone, chain, length, given)
                row = {"kind": "request", "backbone": spec, "codec": chain, **row}
                results.append(given.out, row | {"note": given.note} | results.environment())
                print(
                    f"{spec:22}{chain:32}{length:6}  request {row['request_ms_p50']:.3f} ms  "
                    f"{row['floors']:.1f} x floors  {row['share_of_recompute']:.2%} of recompute",
                    flush=True,
                )


def measured(
    backbone: backbones.Backbone, chain: str, length: int, given: argparse.Namespace
) -> results.Row:
    rng = np.random.default_rng(0)
    sizes = sorted({1, 2, 5, 30, min(200, length), min(1000, length)})
    samples = backbone.prefill([history(rng, n) for n in sizes], hints=True)
    empty = backbone.empty(hints=True)
    recipe = Recipe.fit(chain, [empty, *samples], model=backbone.fingerprint())
    model = Model(backbone, Vocabulary(np.arange(ITEMS)), Training())
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"lmdb://{folder}/store?sync=off&map_size=16g")
        recommender = Recommender(model, recipe, store)
        (state,) = backbone.prefill([history(rng, length)], hints=True)
        each = len(recipe.to_bytes(state))
        users = int(np.clip(given.megabytes * 2**20 // each, 8, 256))
        histories = [history(rng, length) for _ in range(min(users, 16))]
        states = backbone.prefill(histories, hints=True)
        for n in range(users):
            own = histories[n % len(histories)]
            recommender.log.append(str(n), own.item_index.tolist(), own.timestamp.tolist())
            recommender.states.save(str(n), states[n % len(histories)])
        stages: dict[str, list[float]] = {}
        calls = requests(recommender, histories, states, stages)
        taken = in_rounds(calls, users, rng, given.rounds, given.requests)
        bytes_of_state = recommender.states.stored_bytes("0")
        log_bytes = recommender.log.nbytes("0")
        recommender.close()
    del taken["staged"]
    taken["request"] = taken["observe"] + taken["recommend"]
    floors = sum(np.median(taken[part]) for part in PARTS)
    best = sum(np.percentile(taken[part], 10) for part in PARTS)
    p50 = float(np.median(taken["request"]))
    row: results.Row = {
        "kernel": "request",
        "events": length,
        "users": users,
        "items": ITEMS,
        "state_bytes": bytes_of_state,
        "log_bytes": log_bytes,
        "floors": p50 / float(floors),
        "floors_p10": float(np.percentile(taken["request"], 10) / best),
        "share": float(floors) / p50,
        "share_of_recompute": p50 / float(np.median(taken["recompute"])),
        "share_of_recompute_p10": float(
            np.percentile(taken["request"], 10) / np.percentile(taken["recompute"], 10)
        ),
        "rounds": given.rounds,
    }
    for name, ms in taken.items():
        for p in (10, 50, 99):
            row[f"{name.replace(' ', '_')}_ms_p{p}"] = float(np.percentile(ms, p))
    for name, ms_of_stage in stages.items():
        row[f"stage_{name}_ms_p50"] = float(np.median(ms_of_stage))
    return row


def requests(
    recommender: Recommender,
    histories: list[History],
    states: list[UserState],
    stages: dict[str, list[float]],
) -> dict[str, Call]:
    """What takes turns; milliseconds of each stage are added to `stages`."""
    backbone, store = recommender.backbone, recommender.store
    now = 1_900_000_000
    found = store.get_many(["h/0", recommender.states.keys("0")[0]])
    written = [entry.blob for entry in found if entry]
    keys = recommender.states.keys
    some = torch.randn(1, 64).numpy()
    scan, none = backbone.head.scan(), np.zeros(0, np.int64)
    compiled = backbone._fused.stack()
    if compiled is None:
        raise SystemExit("these floors are those of the compiled kernels: install with a compiler")
    one, layers = torch.tensor([now]), range(len(backbone.layers))
    rows = [
        StepEvents(
            torch.tensor([7]),
            one,
            one,
            len(histories[0]) - 1,
            [s.tensors[f"{name}.{layer}"] for layer in layers for name in "kv"],
            s.tensors.get("time"),
            s.tensors.get("pos"),
        )
        for s in map(recommender.recipe.round_trip, states)
    ]

    def observe(user: int) -> None:
        nonlocal now
        now += 60
        recommender.observe(str(user), [Event(now * 7919 % ITEMS, now)])

    def recommend(user: int) -> None:
        recommender.recommend(str(user), k=K)

    def staged(user: int) -> None:
        recommender.on_stage = told
        for verb, call in (("observe", observe), ("recommend", recommend)):
            spent.clear()
            begun = time.perf_counter()
            call(user)
            spent["rest"] = time.perf_counter() - begun - sum(spent.values())
            for stage, seconds in spent.items():
                stages.setdefault(f"{verb}_{stage}", []).append(seconds * 1e3)
        recommender.on_stage = unwatched

    spent: dict[str, float] = {}
    unwatched = recommender.on_stage

    def told(stage: str, seconds: float) -> None:
        spent[stage] = spent.get(stage, 0.0) + seconds

    def read(user: int) -> None:
        store.get_many([f"h/{user}", *keys(str(user))])

    def step(user: int) -> None:
        compiled.run([rows[user % len(rows)]])

    def write(user: int) -> None:
        store.put_many([Put(f"{n}/{user}", blob) for n, blob in enumerate(written)])

    def recompute(user: int) -> None:
        backbone.top_k(backbone.prefill([histories[user % len(histories)]]), K)

    return {
        "observe": observe,
        "recommend": recommend,
        "read floor": read,
        "step floor": step,
        "scan floor": lambda _: scan.top_k(some, K, exclude=[none]),
        "write floor": write,
        "recompute": recompute,
        "staged": staged,
    }


def in_rounds(
    calls: dict[str, Call], users: int, rng: np.random.Generator, rounds: int, count: int
) -> dict[str, np.ndarray]:
    """Milliseconds of each call: every turn has another user, who meets all of them."""
    ms: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds * count + WARM_UP):
        user = int(rng.integers(users))
        for name, call in calls.items():
            if name in RARE and number % RARE[name]:
                continue
            begun = time.perf_counter()
            call(user)
            if number >= WARM_UP:
                ms[name].append((time.perf_counter() - begun) * 1e3)
    return {name: np.array(taken) for name, taken in ms.items()}


def history(rng: np.random.Generator, length: int) -> History:
    """Some items much more often than others, hours apart."""
    item = (ITEMS * rng.random(length) ** 2).astype(np.int64)
    return History(item, START + rng.integers(1, 36_000, length).cumsum())


def random_backbone(spec: str) -> backbones.Backbone:
    torch.manual_seed(0)
    backbone = backbones.build(spec, num_items=ITEMS)
    for name, parameter in backbone.named_parameters():
        if "position" in name or "time" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return backbone.eval()


if __name__ == "__main__":
    sys.exit(main())
