"""Rankers and what is kept for them: AUC at equal bytes; rows for docs/results/ranking.jsonl.

    make ranking                                    everything; can be interrupted and continued
    python benchmarks/ranking.py --list             the pieces, and which are done
    python benchmarks/ranking.py ml-1m twin         pieces whose names hold all of these words
    python benchmarks/ranking.py peer               rankers of other packages on the same split

A piece is one trained ranker with what is measured on it: every ranker on every data set with three
seeds; on `MEMORY_DATA` also every memory in the place of the full one, and codecs. The item table
comes first, and its bytes are a budget of all others. A finished piece stands in
docs/results/ranking-pieces.jsonl and is done again if its line is removed.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; see gistrec.cli.main

import argparse
import dataclasses
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ranking_peers

from gistrec import backbones, impressions, rank_benchmark, registry, results
from gistrec.errors import DataError
from gistrec.impressions import Impressions
from gistrec.rank_measure import RankRules
from gistrec.train import Model, train

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs/results/ranking.jsonl"
PIECES = ROOT / "docs/results/ranking-pieces.jsonl"
MODELS = ROOT / "runs/ranking"

SEEDS = (0, 1, 2)
RULES = RankRules(users=150, probe_users=24, requests=20)
MOVIES = {"epochs": 3, "max_len": 200, "batch_tokens": 20_000}


@dataclasses.dataclass(frozen=True)
class Data:
    """Impressions and how long rankers are trained on them, chosen on the validation part."""

    spec: str
    """With {folder} where data sets lie."""
    training: Mapping[str, Any]
    needs: tuple[str, ...]
    """Files of the folder."""


DATA = {
    "ml-1m": Data(
        "labelled(path='{folder}/ml-1m.parquet', label='rating', positive=4, "
        "items='{folder}/ml-1m-items.parquet', features='genres|year')",
        MOVIES,
        ("ml-1m.parquet", "ml-1m-items.parquet"),
    ),
    "ml-1m-liked": Data(
        "labelled(path='{folder}/ml-1m.parquet', label='rating', positive=4, history='positive')",
        MOVIES,
        ("ml-1m.parquet",),
    ),
    "interests": Data("interests()", {"epochs": 6, "max_len": 1500, "batch_tokens": 20_000}, ()),
    "kuairand": Data(
        "labelled(path='{folder}/kuairand-pure-14d.parquet', label='is_click|long_view|is_like', "
        "context='tab', items='{folder}/kuairand-pure-14d-items.parquet', "
        "features='author_id|category|video_type')",
        {"epochs": 3, "max_len": 150, "batch_tokens": 20_000},
        ("kuairand-pure-14d.parquet", "kuairand-pure-14d-items.parquet"),
    ),
    "completejourney": Data(
        "baskets(log='{folder}/completejourney.parquet', "
        "items='{folder}/completejourney-items.parquet', features='category|department|brand')",
        {"epochs": 2, "max_len": 400, "batch_tokens": 20_000},
        ("completejourney.parquet", "completejourney-items.parquet"),
    ),
}
PEERS = {"ml-1m-liked": ("deepctr_din",)}
MEMORY_DATA = ("ml-1m", "completejourney")
MEMORY_RANKERS = ("twin", "din", "hsturank")
MEMORIES: tuple[dict[str, Any], ...] = (
    {"memory": "collective(own=4)"},
    {"memory": "control(pool=256)"},
    {"memory": "mqa()"},
    {"memory": "gqa(groups=2)", "num_heads": 4},
    {"memory": "mla(rank=8)"},
)
"""`control` has as many parameters as `collective` adds, and nothing else of it."""
TABLES = ("itemtable()", "itemtable(layers=1) | int8()")
WINDOW = "recent(keep=9, sink=0)"
CODECS = (
    "int8()",
    "rvq(levels=1)",
    "rvq(levels=4)",
    f"{WINDOW} | int8()",
    f"{WINDOW} | rvq(levels=1)",
    f"{WINDOW} | itemtable()",
    "keynorm(keep=9) | int8()",
)
LIKE_THE_TABLE = (f"{WINDOW} | int8()", f"{WINDOW} | rvq(levels=1)")
"""At the bytes that the item table takes, and four times as many."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A ranker to train on some data, and what to measure on it."""

    data: str
    backbone: str
    """Its spec, or the name of a peer's script."""
    seed: int
    recipes: tuple[str, ...] = ()
    like_the_table: tuple[str, ...] = ()
    peer: bool = False

    @property
    def name(self) -> str:
        """For people, and for the model's folder."""
        return f"{self.data} {'peer ' * self.peer}{self.backbone} {self.seed}"


def pieces() -> Iterator[Piece]:
    """All of them, what tells most first."""
    rankers = [name for name in registry.names("backbones") if backbones.is_ranker(name)]
    rankers.sort(key=lambda name: (*(name != known for known in MEMORY_RANKERS), name))
    for seed in SEEDS:
        for data in DATA:
            for peer in PEERS.get(data, ()):
                yield Piece(data, peer, seed, peer=True)
            for name in rankers:
                measured = seed == 0 and data in MEMORY_DATA and name in MEMORY_RANKERS
                recipes = (*TABLES[: 1 + (name == "hsturank")], *CODECS) if measured else ()
                yield Piece(data, f"{name}()", seed, recipes, LIKE_THE_TABLE if measured else ())
                if "lain" in registry.options_of(registry.find("backbones", name)):
                    yield Piece(data, f"{name}(lain=True)", seed)
                if data in MEMORY_DATA and name in MEMORY_RANKERS:
                    for options in MEMORIES:
                        spec = str(registry.Spec(name, options))
                        yield Piece(data, spec, seed, ("int8()",) * measured, LIKE_THE_TABLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="of the names of pieces; none: all")
    parser.add_argument("--list", action="store_true", help="say what there is to do")
    arguments = parser.parse_args()
    done = {row["piece"] for row in results.load(PIECES)} if PIECES.exists() else set()
    shown: dict[str, Impressions] = {}
    chosen = [p for p in pieces() if all(word in p.name for word in arguments.words)]
    for piece in chosen:
        if arguments.list:
            print("done" if piece.name in done else "    ", piece.name)
        elif piece.name not in done:
            if piece.data not in shown:
                shown = {piece.data: load(piece.data)}
            print(time.strftime("%H:%M"), piece.name, flush=True)
            measure(piece, shown[piece.data])
            results.append(PIECES, {"piece": piece.name, "commit": results.commit()})


def load(name: str) -> Impressions:
    """The impressions of a data set."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.exists():
        folder = ROOT / "data"
    for file in DATA[name].needs:
        if not (folder / file).exists():
            raise DataError(f"{folder / file} is missing: bring it here, or name other pieces")
    return impressions.read(DATA[name].spec.format(folder=folder))


def measure(piece: Piece, shown: Impressions) -> None:
    """Train the piece's model where it is not trained yet, and write its rows."""
    if piece.peer:
        ranking_peers.run(piece.backbone, piece.data, shown, OUT, seed=piece.seed)
        return
    model = trained(piece, shown)
    rows = bench(model, shown, piece, dict.fromkeys(piece.recipes, ()))
    if piece.like_the_table:
        budget = table_bytes(piece, rows)
        bench(model, shown, piece, dict.fromkeys(piece.like_the_table, (budget, 4 * budget)))


def bench(
    model: Model, shown: Impressions, piece: Piece, recipes: Mapping[str, tuple[int, ...]]
) -> list[results.Row]:
    return rank_benchmark.run(model, shown, OUT, data=piece.data, recipes=recipes, rules=RULES)


def table_bytes(piece: Piece, rows: list[results.Row]) -> int:
    """What the item table takes of a state with this data, whichever ranker it was measured on."""
    known = [*rows, *results.load(OUT)]
    sizes = [
        row["state_bytes"]
        for row in known
        if row["data"] == piece.data and row.get("recipe") == TABLES[0] and not row["online"]
    ]
    if not sizes:
        raise DataError(f"the item table is not measured on {piece.data} yet: begin with twin")
    return round(sizes[0])


def trained(piece: Piece, shown: Impressions) -> Model:
    """The model of a piece; a killed training goes on at its last epoch."""
    folder = MODELS / re.sub(r"\W+", "-", piece.name).strip("-")
    if not (folder / "model.json").exists():
        train(shown, piece.backbone, folder=folder, seed=piece.seed, **DATA[piece.data].training)
    return Model.load(folder)


if __name__ == "__main__":
    main()
