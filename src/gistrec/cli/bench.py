"""`gistrec bench`: what recipes cost and lose on a log."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from gistrec.cli._output import Work
from gistrec.cli._settings import (
    MIN_EVENTS,
    TrainingSettings,
    data_of,
    name_of,
    run_of,
    trained,
)
from gistrec.cli.report import of_rankers, tables
from gistrec.errors import ConfigError

if TYPE_CHECKING:
    from gistrec.results import Row


def bench(
    *,
    data: str,
    model: Path | None = None,
    backbone: str | None = None,
    codec: Annotated[list[str], Parameter(show_default=False)] = [],
    budget_bytes: Annotated[list[int], Parameter(show_default=False)] = [],
    grid: Literal["catalogue", "finalists"] | None = None,
    part: str = "1/1",
    models: Path | None = None,
    online: bool = False,
    users: int | None = None,
    out: Path = Path("results.jsonl"),
    epochs: int = 5,
    min_events: int = MIN_EVENTS,
    settings: TrainingSettings = TrainingSettings(),
    work: Work = Work(),
) -> None:
    """Measure what recipes cost and what they lose on a log.

    Accuracy, bytes per user and latency; beside them always the uncompressed state, recomputing
    from the log, and baselines that only count. Rows are appended; what the file holds already is
    not measured again. With impressions, accuracy is AUC, GAUC and logloss of a ranker.

    Args:
        data: Log: a file, a MovieLens folder, or a spec such as "csv(path='log.csv', user='uid')".
            Or impressions, such as "labelled(path='log.parquet', label='is_click')".
        model: Model folder, trained on this log.
        backbone: Instead of a model: architecture to train first, in a folder beside the results.
        codec: Codecs to measure, such as "recent(keep=64) | int8()"; repeatable.
        budget_bytes: Bytes of a user's state that codecs with a dial are turned to; repeatable.
        grid: Instead of codecs. catalogue: every method at 64 B to 64 KB, offline and online, with
            --backbone as the full model; trains some twenty models, can be killed and continued.
            finalists: the best of a catalogue in --out, with another --seed or --backbone.
        part: With --grid: the models to take, such as 1/2 and 2/2 for two processes.
        models: With --grid: folder of trained models; beside the results if not given. What is
            finished stands in <out>-jobs.jsonl, and is done again if its line is removed.
        online: Measure the drift, too: encode after every append, as a server does.
        users: Users evaluated, drawn at random; all of them if not given. With impressions, users
            answered from states: 200 if not given; uncompressed, all are answered.
        out: File of result rows.
        epochs: Passes over the log, with --backbone.
        min_events: Users with fewer events are left out; what the model was trained with.
    """
    from gistrec import benchmark, catalogue, codecs, rank_benchmark, results
    from gistrec.impressions import Impressions
    from gistrec.measure import Rules
    from gistrec.rank_measure import RankRules
    from gistrec.train import Model

    if (model is None) == (backbone is None):
        raise ConfigError("give either --model FOLDER or --backbone SPEC, for example hstu()")
    if model is not None and (epochs, settings) != (5, TrainingSettings()):
        raise ConfigError("--model is trained already: leave out the options of a training")
    for spec in codec:
        codecs.parse(spec)  # wrong ones are told before the training
    if grid is not None and (model is not None or codec or budget_bytes):
        raise ConfigError("--grid names its codecs and budgets: give --backbone and none of those")
    dataset = data_of(data, min_events, work)
    if grid is not None:
        if isinstance(dataset, Impressions):
            raise ConfigError("--grid is of logs; for impressions name codecs with --codec")
        known = results.load(out) if out.exists() else []
        if grid == "finalists":
            jobs, rules = catalogue.finalists(str(backbone), known, name_of(data)), catalogue.FINAL
        else:
            jobs, rules = catalogue.jobs(str(backbone)), catalogue.RULES
        rows = []
        finished = out.with_name(f"{out.stem}-jobs.jsonl")
        for job in (job for number, job in enumerate(jobs) if _in_part(part, number)):
            run = run_of(dataset, job.backbone, settings, epochs=epochs, holdout=1)
            line = {"job": dataclasses.asdict(job) | {"users": users}, "run": run}
            line = json.loads(json.dumps(line))
            if finished.exists() and any(row | line == row for row in results.load(finished)):
                work.note(f"{job.backbone}: {finished} says that this is done; it is left out")
                continue
            work.note(job.backbone)
            key = hashlib.sha256(json.dumps(run).encode()).hexdigest()[:8]
            folder = (models or out.with_name(f"{out.stem}-models")) / key
            rows += benchmark.run(
                trained(dataset, run, folder, work, data=data, min_events=min_events),
                dataset,
                out,
                data=name_of(data),
                recipes=job.recipes,
                rules=dataclasses.replace(rules, users=users),
                quiet=work.json or work.quiet,
            )
            results.append(finished, line | {"commit": results.commit()})
        _show(rows, out, work)
        return
    if model is not None:
        fitted = Model.load(model)
    else:
        run = run_of(dataset, str(backbone), settings, epochs=epochs, holdout=1)
        key = hashlib.sha256(json.dumps(run).encode()).hexdigest()[:8]
        folder = out.with_name(f"{out.stem}-model-{key}")
        fitted = trained(dataset, run, folder, work, data=data, min_events=min_events)
    asked: dict[str, Any] = {"data": name_of(data), "recipes": codec, "budgets": budget_bytes}
    quiet = work.json or work.quiet
    if isinstance(dataset, Impressions):
        sample = RankRules(online=online)
        if users is not None:
            sample = dataclasses.replace(sample, users=users)
        rows = rank_benchmark.run(fitted, dataset, out, rules=sample, quiet=quiet, **asked)
    else:
        rules = Rules(users=users) if online else Rules(users=users, online_users=0)
        rows = benchmark.run(fitted, dataset, out, rules=rules, quiet=quiet, **asked)
    _show(rows, out, work)


def _in_part(part: str, number: int) -> bool:
    try:
        which, parts = (int(n) for n in part.split("/"))
        if 1 <= which <= parts:
            return number % parts == which - 1
    except ValueError:
        pass
    raise ConfigError(f"--part is written 1/2, 2/2 and so on, given {part!r}")


def _show(rows: "list[Row]", out: Path, work: Work) -> None:
    page = "" if of_rankers(rows)[0] else f" --html {out.with_suffix('.html')}"
    report = f"gistrec report {out}{page}"
    work.show(
        {"results": str(out), "rows": rows, "report": report},
        *tables(rows),
        f"{len(rows)} rows are in {out}; see them: {report}",
    )
