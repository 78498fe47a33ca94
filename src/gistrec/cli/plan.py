"""`gistrec plan`: the recipe that keeps most accuracy within a budget."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gistrec.cli._output import Table, Work
from gistrec.cli._settings import TrainingSettings, dataset_of, run_of, trained, write_run
from gistrec.errors import ConfigError

if TYPE_CHECKING:
    from gistrec.dataset import Dataset
    from gistrec.plan import Plan
    from gistrec.results import Row
    from gistrec.train import Model


def plan(
    *,
    data: str,
    budget_bytes: int,
    p99_ms: float | None = None,
    model: Path | None = None,
    backbone: str | None = None,
    memories: Annotated[list[str], Parameter(show_default=False)] = [],
    trials: int = 40,
    users: int = 200,
    out: Path = Path("plan.toml"),
    epochs: int = 5,
    min_events: int = 5,
    settings: TrainingSettings = TrainingSettings(),
    work: Work = Work(),
) -> None:
    """Search for the recipe that keeps most accuracy within a byte budget.

    Chains of codecs (which slots stay, how wide a row is, one precision, bytes) are drawn by
    Optuna, turned to the budget, and compared on each user's target before the last; the test split
    is not looked at. Most are stopped after a few users; the best are replayed and timed. Trials
    are kept beside the run file, so a search can be killed and continued. Needs `gistrec[plan]`.

    Args:
        data: Log: a file, a MovieLens folder, or a spec such as "csv(path='log.csv', user='uid')".
        budget_bytes: Bytes that a user's state may take, on average.
        p99_ms: Milliseconds that a recommendation may take, 99 of 100 times.
        model: Model folder, trained on this log, best with --holdout 2; only codecs are searched.
        backbone: Instead of a model: architecture to train first, in a folder beside the run file,
            with --holdout 2.
        memories: With --backbone: memories to train it with and to choose from, such as
            "mla(rank=16)"; repeatable; `all` stands for every one that works with its defaults.
        trials: Recipes to try.
        users: Users that every recipe is tried on; three times as many on the next rung, then all.
        out: Run file to write, for `gistrec train --run` and `gistrec serve --run`.
        epochs: Passes over the log, with --backbone; for each of the memories.
        min_events: Users with fewer events are left out; what the model was trained with.
    """
    from gistrec.plan import Wanted, search
    from gistrec.train import Model

    if (model is None) == (backbone is None):
        raise ConfigError("give either --model FOLDER or --backbone SPEC, for example hstu()")
    plain = dataclasses.replace(settings, seed=0)  # the seed is also that of the search
    if model is not None and (memories or (epochs, plain) != (5, TrainingSettings())):
        raise ConfigError("--model is trained already: leave out the options of a training")
    if out.suffix == ".jsonl":
        raise ConfigError(
            f"--out is a run file, such as plan.toml; trials go beside it; given {out}"
        )
    wanted = Wanted(
        budget_bytes=budget_bytes, p99_ms=p99_ms, trials=trials, users=users, seed=settings.seed
    )
    dataset = dataset_of(data, min_events, work)
    if model is not None:
        models = {model: Model.load(model)}
    else:
        models = {}
        for spec in _with_memories(str(backbone), memories, dataset.num_items, work):
            run = run_of(dataset, spec, settings, epochs=epochs, holdout=2)
            key = hashlib.sha256(json.dumps(run).encode()).hexdigest()[:8]
            folder = out.with_name(f"{out.stem}-model-{key}")
            work.note(f"training {spec}")
            models[folder] = trained(dataset, run, folder, work, data=data, min_events=min_events)
    with work.progress("recipes", "{task.fields[best]}") as progress:
        bar = progress.add_task("searching", total=trials, best="")
        best = 0.0

        def report(tried: int, row: "Row") -> None:
            nonlocal best
            best = max(best, row["ndcg_10"] if row["state"] == "complete" else 0.0)
            progress.update(bar, completed=tried, best=f"best NDCG@10 {best:.4f}" if best else "")

        rows = out.with_suffix(".jsonl")
        found = search(list(models.values()), dataset, rows, wanted, report=report)
    for failure in found.failures:
        work.note(f"left out: {failure}")
    (folder,) = [f for f, m in models.items() if str(m.backbone.spec) == found.chosen["backbone"]]
    about = {"data": data, "min_events": min_events, "codec": found.chosen["codec"]}
    facts = _facts(found, wanted, folder)
    write_run(out, about | _final_run(dataset, models[folder]) | {"plan": facts})
    document = dataclasses.asdict(found) | {"out": str(out), "trials": str(rows)}
    work.show(document, *_in_words(found, out, rows))


def _with_memories(backbone: str, memories: list[str], num_items: int, work: Work) -> list[str]:
    """Specs of the backbone with each of the memories; its own if none is named."""
    import numpy as np

    from gistrec import backbones, registry
    from gistrec.dataset import History

    two = History(np.zeros(2, np.int64), np.zeros(2, np.int64))  # some memories fail only at work
    parts = registry.parse_spec(backbone)
    if len(parts) != 1:
        raise ConfigError(f"--backbone names one architecture, given {backbone!r}")
    names = registry.names("memories") if memories == ["all"] else memories
    specs = []
    for memory in names:
        chain = " | ".join(map(str, registry.parse_spec(memory)))
        spec = str(registry.Spec(parts[0].name, parts[0].options | {"memory": chain}))
        try:
            backbones.build(spec, num_items=num_items).prefill([two])
        except ConfigError as error:
            if memories != ["all"]:
                raise
            work.note(f"left out: {memory}: {error}")
        else:
            specs.append(spec)
    return list(dict.fromkeys(specs)) if memories else [str(parts[0])]


def _final_run(dataset: "Dataset", model: "Model") -> dict[str, Any]:
    """The run that trains a model like this one with nothing but the last target left out."""
    training = model.training
    fields = [field.name for field in dataclasses.fields(TrainingSettings)]
    settings = TrainingSettings(**{name: getattr(training, name) for name in fields})
    spec = str(model.backbone.spec)
    return run_of(dataset, spec, settings, epochs=training.epochs, holdout=1)


def _facts(found: "Plan", wanted: Any, folder: Path) -> dict[str, Any]:
    """What the run file says about the search."""
    chosen = found.chosen
    names = (
        "state_bytes",
        "shared_bytes",
        "ndcg_10",
        "served",
        "kept",
        "drift",
        "recommend_ms_p99",
    )
    numbers = {n: chosen[n] and float(f"{chosen[n]:.6g}") for n in names}
    facts = {"model": str(folder), **dataclasses.asdict(wanted), "tried": found.tried}
    return facts | numbers | {"validation_users": chosen["users"], "warning": found.warning}


def _in_words(found: "Plan", out: Path, rows: Path) -> tuple[Table, str]:
    from gistrec.summary import decimal, human_bytes

    chosen = found.chosen
    several = len({row["backbone"] for row in found.references}) > 1

    def line(row: "Row", name: str) -> list[str]:
        ms, kept = row.get("recommend_ms_p99"), row["kept"]
        return [
            f"{name}  of {row['backbone']}" if several else name,
            human_bytes(row["state_bytes"]),
            decimal(row["ndcg_10"]),
            "–" if kept is None else f"{kept:.1%}",
            "–" if ms is None else f"{ms:.3g}",
        ]

    names = {"full": "uncompressed", "recompute": "only the log, recomputed"}
    table = [["recipe", "state", "NDCG@10", "of full", "p99 ms"]]
    table += [line(row, names[row["kind"]]) for row in found.references]
    what = (chosen["backbone"], chosen["codec"])
    others = [r for r in found.frontier if (r["backbone"], r["codec"]) != what]
    points = sorted([*others, chosen], key=lambda row: row["state_bytes"])
    table += [line(row, row["codec"]) for row in points]
    low, high = chosen["interval"]
    said = f"chosen: {chosen['codec']}" + (f"\n  of {chosen['backbone']}" if several else "")
    said += f"\n  {human_bytes(chosen['state_bytes'])} of state, NDCG@10 {chosen['ndcg_10']:.4f} "
    said += f"({low:.4f} to {high:.4f}) on the target before the last of {chosen['users']:,} users"
    if chosen["kept"] is not None:
        low, high = chosen["kept_interval"]
        said += f"\n  {chosen['kept']:.1%} ({low:.1%} to {high:.1%}) of the uncompressed model's"
    said += f"\n  drift {chosen['drift']:+.4f} when encoded after every event; "
    said += f"recommends in {chosen['recommend_ms_p99']:.3g} ms (p99)"
    if (shared := chosen["shared_bytes_per_user"]) > 0.05 * chosen["budget_bytes"]:
        said += f"\n  beside the budget: {human_bytes(chosen['shared_bytes'])} of tables that all "
        said += f"users share, {human_bytes(shared)} per user of this log"
    (log,) = [row for row in found.references if row["kind"] == "recompute"]
    if log["log_bytes"] <= chosen["budget_bytes"]:
        said += f"\nthe log alone ({human_bytes(log['log_bytes'])}) fits as well, and recomputing "
        said += f"from it is exact; it takes {log['recommend_ms_p99']:.3g} ms"
    if found.warning:
        said += f"\nwarning: {found.warning}"
    said += f"\n{out} holds it, {rows} the {found.tried} recipes that were tried"
    said += f"\ntrain the final model: gistrec train --run {out} --out model"
    said += f"\nserve the one that was measured: gistrec serve --run {out}"
    return Table(table, head=True), said
