"""Recipes measured at equal bytes per user: a row of accuracy, bytes and latency for each trial.

Always beside them, to be compared with: `identity()`, the uncompressed fp32 state; `recompute`,
which stores the log alone and runs the model over it at every request; and baselines that only
count.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gistrec import codecs, latency, metrics, registry, results
from gistrec.backbones import Backbone
from gistrec.baselines import BASELINES
from gistrec.codecs import Chain
from gistrec.dataset import Dataset, Ints
from gistrec.errors import BudgetError
from gistrec.evaluate import Task
from gistrec.measure import Held, Rules, Subject
from gistrec.metrics import Floats
from gistrec.results import Row
from gistrec.train import Model

IDENTITY = "identity()"
Kind = Literal["recipe", "identity", "recompute", "baseline"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What a row measures; the same trial again gives the same accuracy and bytes."""

    kind: Kind
    data: str
    """Name of the log."""
    split: str
    backbone: str
    """Its spec, or a baseline's name."""
    model: str = ""
    """Its fingerprint; empty for a baseline."""
    recipe: str = ""
    """Codecs as asked for; empty where nothing is encoded."""
    budget_bytes: int | None = None
    seed: int = 0
    """Of the model's training."""
    online: bool = False
    rules: Any
    """How it is measured, a dataclass."""
    code: str
    """Digest of the code that decides the result."""

    @property
    def key(self) -> str:
        """12 hex digits."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class _Measured:
    """A fitted recipe's results."""

    codec: str
    shared_bytes: int
    offline: Held
    online: Held | None
    latency: Row


def has_dial(chain: Chain) -> bool:
    """Whether a recipe can be turned to a budget."""
    return any(codec.dial for codec in chain.codecs)


@torch.no_grad()
def run(
    model: Model,
    dataset: Dataset,
    out: str | Path,
    *,
    data: str,
    recipes: Sequence[str] | Mapping[str, Sequence[int]],
    budgets: Sequence[int] = (),
    rules: Rules | None = None,
    quiet: bool = False,
) -> list[Row]:
    """Measure recipes and the references; append a row for each to a JSONL file.

    A trial that the file already holds is not measured again, so a killed run can be continued. A
    recipe that can't reach a budget is left out there, with a note on stderr.

    Args:
        model: A trained model.
        dataset: The log that it was trained on.
        out: The JSONL file; made if it does not exist.
        data: Name of the log, for the rows.
        recipes: Codec specs, for example `["recent(keep=64) | int8()"]`; or with the budgets of
            each.
        budgets: Bytes of a user's state. A recipe with a dial is measured at each of them, one
            without as it is. None given: all as they are.
        rules: How to measure.
        quiet: No progress bar. There is none either where stderr is not a terminal.

    Returns:
        The rows of all these trials, those found in the file included.

    Raises:
        DataError: the log's items are not the model's. ConfigError, CodecError: a wrong recipe.
    """
    bench = _Bench(Subject(model, dataset, rules or Rules()), Path(out), data)
    plan: Plan = [
        *((name, lambda name=name: bench.baseline(name)) for name in BASELINES),
        ("recompute", bench.recompute),
        (IDENTITY, bench.identity),
        *planned(recipes, budgets, bench.recipe),
    ]
    return carried_out(plan, quiet=quiet)


Plan = list[tuple[str, Callable[[], list[Row]]]]
"""What to call a trial, and what measures it."""


def planned(
    recipes: Sequence[str] | Mapping[str, Sequence[int]],
    budgets: Sequence[int],
    measure: Callable[[Chain, int | None], list[Row]],
) -> Plan:
    """Recipes at their budgets, as `run` takes them; the uncompressed state is left out."""
    if not isinstance(recipes, Mapping):
        recipes = dict.fromkeys(recipes, budgets)
    chains = {str(codecs.parse(spec)): at for spec, at in recipes.items()}
    chains.pop(IDENTITY, None)
    plan: Plan = []
    for spec, at in chains.items():
        chain = codecs.parse(spec)
        for budget in at if at and has_dial(chain) else [None]:
            label = spec if budget is None else f"{spec} at {budget} B"
            plan.append((label, partial(measure, chain, budget)))
    return plan


def carried_out(plan: Plan, *, quiet: bool) -> list[Row]:
    """The rows of a plan, with a progress bar; what can't reach its budget is left out."""
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    rows: list[Row] = []
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(plan))
        for label, measure in plan:
            progress.update(bar, description=label)
            try:
                rows += measure()
            except BudgetError as error:
                console.print(f"left out: {label}: {error}", markup=False, soft_wrap=True)
            progress.advance(bar)
    return rows


class _Bench:
    """Makes rows and keeps them; every method returns those that are in the file already."""

    def __init__(self, subject: Subject, out: Path, data: str) -> None:
        self.subject, self.out = subject, out
        self.done: dict[str, Row] = {}
        if out.exists():
            self.done = {row["trial"]: row for row in results.load(out) if "trial" in row}
        self._trial = Trial(
            kind="recipe",
            data=data,
            split=subject.scheme,
            backbone=str(subject.backbone.spec),
            model=subject.backbone.fingerprint(),
            seed=subject.model.training.seed,
            rules=subject.rules,
            code="",
        )
        self._measured: dict[str, _Measured] = {}

    def baseline(self, name: str) -> list[Row]:
        """A recommender that counts. It reads the log, except for popularity without a filter."""
        trial = self._of(kind="baseline", backbone=name, model="", seed=0)
        if trial.key in self.done:
            return [self.done[trial.key]]
        dataset, task = self.subject.dataset, self.subject.task
        scorer = BASELINES[name](dataset, dataset.split(self.subject.scheme))
        lists = task.lists(lambda users: scorer([task.history(n) for n in users]))
        needs_log = task.filter_seen or name != "popularity"
        log_bytes = float(self.subject.log_bytes.mean()) if needs_log else 0.0
        sizes = {"log_bytes": log_bytes, "state_bytes": 0.0, "bytes_per_user": log_bytes}
        return [self._write(trial, self._accuracy(task, lists) | sizes)]

    def recompute(self) -> list[Row]:
        """Only the log is stored, and the model runs over it at every request."""
        trial = self._of(kind="recompute")
        if trial.key in self.done:
            return [self.done[trial.key]]
        log_bytes = float(self.subject.log_bytes.mean())
        sizes = {"log_bytes": log_bytes, "state_bytes": 0.0, "bytes_per_user": log_bytes}
        accuracy = self._accuracy(self.subject.task, self.subject.full.lists)
        times = latency.recomputed(self.subject.timed) if self.subject.rules.requests else {}
        return [self._write(trial, accuracy | sizes | times)]

    def identity(self) -> list[Row]:
        """The uncompressed state. Without loss there is no drift, so it is not replayed."""
        return self._rows(codecs.parse(IDENTITY), [self._of(kind="identity", recipe=IDENTITY)])

    def recipe(self, chain: Chain, budget_bytes: int | None) -> list[Row]:
        """A recipe offline and, if the rules say so, online."""
        offline = self._of(recipe=str(chain), budget_bytes=budget_bytes)
        trials = [offline]
        if self.subject.rules.online_users:
            trials.append(dataclasses.replace(offline, online=True))
        return self._rows(chain, trials)

    def _of(self, **changes: Any) -> Trial:
        trial = dataclasses.replace(self._trial, **changes)
        specs = [trial.recipe]
        if trial.kind != "baseline":
            specs += [trial.backbone, str(option_of(self.subject.backbone, "memory") or "")]
        names = {part.name for spec in specs if spec for part in registry.parse_spec(spec)}
        return dataclasses.replace(trial, code=code_digest(frozenset(names)))

    def _rows(self, chain: Chain, trials: Sequence[Trial]) -> list[Row]:
        if all(t.key in self.done for t in trials):
            return [self.done[t.key] for t in trials]
        measured = self._measure(chain, trials[0].budget_bytes, online=len(trials) > 1)
        return [self._state_row(t, measured) for t in trials]

    def _measure(self, chain: Chain, budget_bytes: int | None, *, online: bool) -> _Measured:
        subject = self.subject
        if budget_bytes is not None:
            chain = subject.at_budget(chain, budget_bytes)
        if str(chain) not in self._measured:  # two budgets may lead to the same setting
            recipe = subject.fit(chain)
            self._measured[str(chain)] = _Measured(
                str(chain),
                recipe.shared_bytes,
                subject.offline(recipe),
                subject.online(recipe) if online else None,
                latency.served(subject.timed, recipe) if subject.rules.requests else {},
            )
        return self._measured[str(chain)]

    def _state_row(self, trial: Trial, measured: _Measured) -> Row:
        subject, users = self.subject, np.arange(len(self.subject.task))
        held = measured.offline
        drift: Row = {}
        if trial.online and measured.online is not None:
            held, users = measured.online, subject.online_sample
            before = subject.task.per_user(measured.offline.lists)["ndcg_10"][users]
            change = subject.task.take(users).per_user(held.lists)["ndcg_10"] - before
            drift = {"drift": float(change.mean()), "drift_interval": metrics.interval(change)}
        log_bytes = float(subject.log_bytes[users].mean())
        state_bytes, full_bytes = held.blob_bytes.mean(), subject.full.blob_bytes[users].mean()
        accuracy = self._accuracy(subject.task.take(users), held.lists, subject.full.lists[users])
        sizes = {
            "bytes_per_user": float(state_bytes) + log_bytes,
            "log_bytes": log_bytes,
            "state_bytes": float(state_bytes),
            "state_bytes_p99": float(np.percentile(held.blob_bytes, 99)),
            "state_parts": held.parts,
            "full_bytes": float(full_bytes),
            "kept_fraction": float(state_bytes / full_bytes),
            "shared_bytes": measured.shared_bytes,
            "shared_bytes_per_user": measured.shared_bytes / subject.dataset.num_users,
        }
        about = {"codec": measured.codec}
        return self._write(trial, about | accuracy | drift | sizes | measured.latency)

    def _accuracy(self, task: Task, lists: Ints, full: Ints | None = None) -> Row:
        per_user: dict[str, Floats] = task.per_user(lists)
        row: Row = {"users": len(task)}
        row |= {name: float(per_user[name].mean()) for name in ("ndcg_10", "hr_10", "recall_10")}
        row |= {"auc": None, "gauc": None, "logloss": None}  # of rankers; one schema for all files
        row["interval"] = metrics.interval(per_user["ndcg_10"])
        row["by_length"] = metrics.by_length(per_user["ndcg_10"], task.lengths)
        row["mean_length"] = float(task.lengths.mean())
        if full is not None:
            row["overlap_10"] = float(metrics.overlap(lists, full).mean())
            base = task.per_user(full)["ndcg_10"]
            if base.any():
                row["ndcg_kept"] = float(per_user["ndcg_10"].mean() / base.mean())
                row["ndcg_kept_interval"] = metrics.ratio_interval(per_user["ndcg_10"], base)
        return row

    def _write(self, trial: Trial, values: Row) -> Row:
        backbone = self.subject.backbone
        about = dataclasses.asdict(trial) | {"trial": trial.key}
        if trial.kind != "baseline":
            about |= {
                "memory": option_of(backbone, "memory"),
                "request_time": option_of(backbone, "request_time"),
                "parameters": sum(p.numel() for p in backbone.parameters()),
                "train_seconds": self.subject.model.seconds,
            }
        row = about | values | results.environment()
        results.append(self.out, row)
        self.done[trial.key] = row
        return row


def option_of(backbone: Backbone, name: str) -> Any:
    """An option's value, written in the spec or by default; None if there is no such option."""
    return (registry.options_of(type(backbone)) | backbone.spec.options).get(name)


@cache
def code_digest(names: frozenset[str]) -> str:
    """8 hex digits of all code that can change a result of the methods of these names."""
    folder = Path(__file__).parent
    no_part = {"cli", "server", "testing", "stores", "download.py", "log_stats.py"}
    no_part |= {"impression_stats.py"}
    no_part |= {"demo.py", "doctor.py", "reference_docs.py", "report.py", "results.py"}
    no_part |= {"_figure.py", "summary.py", "catalogue.py", "plan", "standings", "build.py"}
    no_part |= {"__init__.py"}
    methods = {"codecs", "memories", "backbones"}
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder)
        other = name.parts[0] in methods and name.stem not in names and name.stem[0] != "_"
        if name.parts[0] not in no_part and not other:
            digest.update(name.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:8]
