"""Train the models of the README's accuracy table and append their rows to docs/results.

    make accuracy                  all of them: under two hours on 2 cores
    python benchmarks/accuracy.py ml-1m-sasrec

A killed run resumes at its last epoch; a finished one is measured, not trained, again. Data come
from ../shared/data where present, else from `gistrec data get` (data/) and the PyPI package.
Settings were chosen on the event (or basket) before the last, with `--holdout 2`; the final fits
include it, as the published rows do.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; see gistrec.cli.main

import argparse
import dataclasses
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gistrec.benchmark import run
from gistrec.dataset import Dataset
from gistrec.errors import DataError
from gistrec.evaluate import evaluate
from gistrec.events import Events, read
from gistrec.measure import Rules
from gistrec.train import Model, train

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Run:
    data: str
    backbone: str
    settings: dict[str, object]


MOVIES = {"epochs": 24, "max_len": 512}
BASKETS = {"epochs": 6, "max_len": 512, "scheme": "last_basket"}
RUNS = {
    "ml-1m-hstu": Run("ml-1m", "hstu()", MOVIES),
    "ml-1m-hstu-own-time": Run("ml-1m", "hstu(request_time=False)", MOVIES),
    "ml-1m-sasrec": Run("ml-1m", "sasrec()", MOVIES),
    "completejourney-hstu": Run(
        "completejourney", "hstu(repeats=True, negatives=2048, temperature=0.1)", BASKETS
    ),
}


def load(name: str) -> Events:
    shared = ROOT.parent / "shared" / "data" / f"{name}.parquet"
    if shared.exists():
        return read(shared)
    if name == "completejourney":
        return read("completejourney()")
    folder = ROOT / "data" / name
    if not folder.exists():
        raise DataError(f"{folder} is missing: run `gistrec data get {name} --out data` first")
    return read(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*RUNS, []], help="runs; none: all")
    parser.add_argument("--holdout", type=int, default=1, help="2: leave the validation event out")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/accuracy.jsonl")
    arguments = parser.parse_args()
    for name in arguments.names or RUNS:
        one(name, RUNS[name], arguments.holdout, arguments.out)


def one(name: str, planned: Run, holdout: int, out: Path) -> None:
    dataset = Dataset.from_events(load(planned.data), min_events=3)
    folder = ROOT / "runs" / "accuracy" / (name if holdout == 1 else f"{name}-holdout")
    if not (folder / "model.json").exists():
        columns = (TextColumn(name), BarColumn(), TextColumn("{task.fields[state]}"))
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task("", total=1.0, state="")

            def show(p) -> None:  # type: ignore[no-untyped-def]
                state = f"loss {p.loss:.3f}, {p.tokens_per_s:,.0f} events/s"
                bar.update(task, completed=p.fraction, state=state)

            train(
                dataset,
                planned.backbone,
                folder=folder,
                report=show,
                holdout=holdout,
                **planned.settings,
            )  # type: ignore[arg-type]
    model = Model.load(folder)
    if holdout == 2:
        split = dataset.split(model.training.scheme, holdout=1)
        found = evaluate(model.backbone, dataset, split, scheme=model.training.scheme)
        print(name, "validation", {k: round(float(v.mean()), 4) for k, v in found.items()})
        return
    rules = Rules(requests=0, online_users=0)
    out.parent.mkdir(parents=True, exist_ok=True)
    for row in run(model, dataset, out, data=planned.data, recipes=[], rules=rules):
        print(
            f"{row['data']:16} {row['backbone']:60} {row['kind']:10} "
            f"HR@10 {row['hr_10']:.4f}  NDCG@10 {row['ndcg_10']:.4f}"
        )


if __name__ == "__main__":
    main()
