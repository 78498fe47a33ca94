"""Which methods still find what was planted thousands of events back; rows for docs/results.

    make planted                                    all models; can be interrupted and continued
    python benchmarks/planted.py "hstu()" "ssm()"   some

Every model gets the same small training on the log of `events/planted.py` and is asked for every
user's last event, which nothing in the 5,000 events before it tells. One who knows all rules and
remembers less has HR@10 0.25. Methods on finished states are measured on the full model, all others
with a precision that hardly changes them. Nothing is timed, so the machine may be busy.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; see gistrec.cli.main

import argparse
import re
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gistrec import catalogue
from gistrec.benchmark import run
from gistrec.dataset import Dataset
from gistrec.events import read
from gistrec.measure import Rules
from gistrec.train import Model, train

ROOT = Path(__file__).resolve().parents[1]

LOG = "planted()"
RULES = Rules(users=96, fit_users=16, probe_users=8, online_users=0, requests=0)
BUDGETS = (512, 4096, 32_768)
TRAINING = {
    "scheme": "last_basket",
    "epochs": 2,
    "max_len": 1024,
    "batch_tokens": 1024,
    "learning_rate": 4e-3,
}
"""Purchases repeat, so they must not be filtered. Steps matter more than events per step."""
FULL = "hstu()"
BACKBONES = ("linear()", "rwkv()", "ssm()", "ttt()", "blossomrec()")
MEMORIES = ("longformer", "beacon", "cbsa", "linformer", "mla", "collective", "register")
MODELS = (FULL, *(f"hstu(memory='{name}()')" for name in MEMORIES), *BACKBONES)

WINDOW = "recent(keep=9, sink=0)"
RECIPES = (
    f"{WINDOW} | itemtable()",
    f"{WINDOW} | stack() | rvq(levels=1)",
    f"{WINDOW} | itemtable(layers=1) | itemresidual() | rvq(levels=1)",
    f"{WINDOW} | itemtable(layers=1) | itemresidual() | stack() | rvq(levels=1)",
    f"{WINDOW} | kivi(bits=2)",
    *(f"{slots} | {behind}" for behind in ("rvq(levels=1)", "int8()") for slots in catalogue.SLOTS),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="specs; none: all")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/long.jsonl")
    arguments = parser.parse_args()
    dataset = Dataset.from_events(read(LOG))
    for spec in arguments.models or MODELS:
        model = trained(spec, dataset)
        recipes = RECIPES if spec == FULL else tuple(catalogue.recipes(spec))
        run(model, dataset, arguments.out, data=LOG, recipes=recipes, budgets=BUDGETS, rules=RULES)


def trained(spec: str, dataset: Dataset) -> Model:
    """The model of a spec, trained if it is not yet; a killed training goes on."""
    folder = ROOT / "runs" / "planted" / re.sub(r"\W+", "-", spec).strip("-")
    if not (folder / "model.json").exists():
        with Progress(
            TextColumn(spec),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
        ) as bar:
            task = bar.add_task("", total=1.0, loss="")
            train(
                dataset,
                spec,
                folder=folder,
                report=lambda p: bar.update(task, completed=p.fraction, loss=f"{p.loss:.3f}"),
                **TRAINING,
            )
    return Model.load(folder)


if __name__ == "__main__":
    main()
