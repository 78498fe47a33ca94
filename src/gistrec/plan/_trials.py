"""Trials: recipes drawn, turned to the budget and measured on more and more users.

Each is a line of a JSONL file. What Optuna knows of it stands there, too, so that a search that is
started again continues where it was.
"""

import dataclasses
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gistrec import benchmark, registry, results
from gistrec.codecs import Chain
from gistrec.dataset import Dataset
from gistrec.errors import BudgetError, ConfigError, GistrecError
from gistrec.evaluate import Task
from gistrec.measure import Held, Rules, Subject
from gistrec.plan._space import Space, said
from gistrec.recipe import Recipe
from gistrec.results import Row
from gistrec.train import Model

if TYPE_CHECKING:
    import optuna

VALIDATION = 1
"""`holdout` of the split that recipes are compared on."""
_RULES = Rules(online_users=64, online_events=32)
_HALVING = 3
"""A rung has so many times the users of the one before; the best of so many trials reach it."""
_DRAWS = 5
"""Draws per trial, at most; one that gives a recipe of before is no trial."""
_HELD_BYTES = 3 << 30
"""Prefilled states kept in memory, of all models and rungs."""

Report = Callable[[int, Row], None]
"""Called after every draw with how many recipes were tried, and the newest row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a recipe must keep to, and how long to look for it."""

    budget_bytes: int
    """Stored bytes of a user's state, on average."""
    p99_ms: float | None = None
    """Of a recommendation, through the real recommender; None: as long as it takes."""
    trials: int = 40
    """Recipes to try."""
    users: int = 200
    """Users on the first rung; three times as many on the second, all on the last."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        for name in ("budget_bytes", "trials", "users"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, given {getattr(self, name)}")
        if self.p99_ms is not None and not self.p99_ms > 0:
            raise ConfigError(f"p99_ms must be more than 0, given {self.p99_ms}")


class Candidate:
    """A model, and its task with more and more users."""

    def __init__(self, model: Model, dataset: Dataset, users: int, held_bytes: int) -> None:
        self.model = model
        self.name = str(model.backbone.spec)
        everybody = len(Task.of(dataset, model.training.scheme, holdout=VALIDATION))
        sizes = sorted({min(n, everybody) for n in (users, users * _HALVING, everybody)})
        self.rungs = [
            Subject(
                model,
                dataset,
                dataclasses.replace(_RULES, users=size),
                holdout=VALIDATION,
                held_bytes=held_bytes * size // sum(sizes),
            )
            for size in sizes
        ]
        self.everybody = self.rungs[-1]

    @cached_property
    def full(self) -> Row:
        """Accuracy and bytes of the uncompressed model."""
        return {"backbone": self.name} | found(self.everybody, self.everybody.full)


class Trials:
    """The trials of a search, those that its file holds first."""

    def __init__(
        self, models: Sequence[Model], dataset: Dataset, out: Path, wanted: Wanted
    ) -> None:
        share = _HELD_BYTES // len(models)
        candidates = [Candidate(model, dataset, wanted.users, share) for model in models]
        self.models = {candidate.name: candidate for candidate in candidates}
        self.out, self.wanted = out, wanted
        tasks = [candidate.everybody for candidate in candidates]
        self.space = Space.of(
            [t.backbone.prefill([t.task.history(0)], hints=True)[0] for t in tasks]
        )
        self.key = self._key(dataset)
        rows = results.load(out) if out.exists() else []
        self.found = [row for row in rows if row.get("plan") == self.key]
        """Rows of this very search that the file held."""
        self.rows = [row for row in self.found if row["kind"] == "trial"]
        self._held: dict[tuple[str, str], tuple[Recipe, Held]] = {}

    def _key(self, dataset: Dataset) -> str:
        """Of all that decides a trial: 12 hex digits."""
        digest = hashlib.sha256()
        for column in (dataset.offsets, dataset.item_index, dataset.timestamp):
            digest.update(column.tobytes())
        names = {*self.space.examples, *registry.names("memories")}
        names |= {candidate.model.backbone.spec.name for candidate in self.models.values()}
        decides = {
            "log": digest.hexdigest(),
            "models": [c.everybody.backbone.fingerprint() for c in self.models.values()],
            "wanted": [self.wanted.budget_bytes, self.wanted.users, self.wanted.seed],
            "rules": dataclasses.asdict(_RULES),
            "space": dict(self.space.names),
            "code": benchmark.code_digest(frozenset(names)),
        }
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]

    @property
    def tried(self) -> int:
        """Recipes that were tried, each counted once."""
        return sum("same_as" not in row for row in self.rows)

    def of(self, state: str) -> list[Row]:
        """Trials that ended in a state, each recipe once.

        States are `complete`, `stopped`, `too big`, `rejected` and `failed`.
        """
        return [r for r in self.rows if r["state"] == state and "same_as" not in r]

    def write(self, row: Row) -> Row:
        """Add a row of this search to the file."""
        row = {"plan": self.key, "budget_bytes": self.wanted.budget_bytes} | row
        results.append(self.out, row | results.environment())
        return row

    def run(self, report: Report | None = None) -> None:
        """Try recipes until there are enough, or hardly any new ones are drawn."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=_HALVING)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        for before in self.rows:
            study.add_trial(_frozen(before))
        while self.tried < self.wanted.trials and len(self.rows) < _DRAWS * self.wanted.trials:
            number = len(self.rows)
            with warnings.catch_warnings(action="ignore"):  # `group` counts as experimental
                # all randomness follows from (seed, number): a continued search is the same search
                seed = (self.wanted.seed * 100_003 + number) % 2**32
                study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
            trial, began = study.ask(), time.perf_counter()
            row: Row = {"kind": "trial", "number": number} | self._try(trial)
            done = row["state"] == "complete"
            state = optuna.trial.TrialState.COMPLETE if done else optuna.trial.TrialState.PRUNED
            told = study.tell(trial, row["ndcg_10"] if done else None, state)
            row |= {"seconds": time.perf_counter() - began, "optuna": _thawed(told)}
            self.rows.append(self.write(row))
            if report is not None:
                report(self.tried, row)

    def _try(self, trial: "optuna.Trial") -> Row:
        row: Row = {}
        try:
            name = trial.suggest_categorical("backbone", list(self.models))
            chain = self.space.draw(trial)
            row |= {"backbone": name, "asked": str(chain)}
            if same := self._before(row, "asked"):
                return row | _again(trial, same)
            candidate = self.models[name]
            chain = candidate.everybody.at_budget(chain, self.wanted.budget_bytes)
            row |= {"turned": str(chain), "codec": str(chain)}
            if same := self._before(row, "turned"):
                return row | _again(trial, same)
            return row | self._climb(trial, candidate, chain)
        except BudgetError as error:
            return row | {"state": "too big", "why": said(error)}
        except GistrecError as error:
            return row | {"state": "rejected", "why": said(error)}
        except Exception as error:  # a method's bug: the others can still be tried
            return row | {"state": "failed", "why": said(error)}

    def _before(self, row: Row, what: str) -> Row | None:
        """The trial that tried the same recipe, as asked for or as turned to the budget."""
        same = (r for r in self.rows if r.get(what) == row[what] and "same_as" not in r)
        return next((r for r in same if r["backbone"] == row["backbone"]), None)

    def _climb(self, trial: "optuna.Trial", candidate: Candidate, chain: Chain) -> Row:
        """Measure on more and more users, as long as it is worth it."""
        recipe = candidate.everybody.fit(chain)
        rungs: list[float] = []
        for rung, subject in enumerate(candidate.rungs[:-1]):
            row = found(subject, subject.offline(recipe))
            rungs.append(row["ndcg_10"])
            trial.report(rungs[-1], _HALVING**rung)
            if trial.should_prune():
                return {"state": "stopped", "rungs": rungs} | row
        recipe, held = self.on_everybody(candidate, chain)
        row = found(candidate.everybody, held)
        trial.report(row["ndcg_10"], _HALVING ** len(rungs))
        rungs.append(row["ndcg_10"])
        return {"state": "complete", "rungs": rungs, "codec": str(recipe.chain)} | row

    def on_everybody(
        self, candidate: Candidate, chain: Chain, budget_bytes: int | None = None
    ) -> tuple[Recipe, Held]:
        """A recipe, turned down until all users' mean fits the budget, and what it keeps.

        Raises:
            BudgetError: it can't be turned down so far.
        """
        budget = allowed = budget_bytes or self.wanted.budget_bytes
        while True:
            key = (candidate.name, str(chain))
            if key not in self._held:
                recipe = candidate.everybody.fit(chain)
                self._held[key] = recipe, candidate.everybody.offline(recipe)
            mean = self._held[key][1].blob_bytes.mean()
            if mean <= budget:
                return self._held[key]
            # it fits the users that dials are turned on, who are not all of them
            allowed = min(allowed - 1, int(allowed * budget / mean))
            chain = candidate.everybody.at_budget(chain, allowed)


def found(subject: Subject, held: Held) -> Row:
    """Accuracy and bytes, as the file will hold them: a search continued from it is the same."""
    ndcg = subject.task.per_user(held.lists)["ndcg_10"].mean()
    return {
        "users": len(subject.task),
        "ndcg_10": float(f"{ndcg:.6g}"),
        "state_bytes": float(f"{held.blob_bytes.mean():.6g}"),
    }


def _again(trial: "optuna.Trial", same: Row) -> Row:
    """The outcome of a recipe that was tried before."""
    for rung, ndcg in enumerate(same.get("rungs", [])):
        trial.report(ndcg, _HALVING**rung)
    outcome = ("state", "why", "turned", "codec", "rungs", "users", "ndcg_10", "state_bytes")
    return {k: same[k] for k in outcome if k in same} | {"same_as": same["number"]}


def _thawed(trial: "optuna.trial.FrozenTrial") -> Row:
    """What Optuna knows of a trial, as plain data."""
    from optuna.distributions import distribution_to_json

    return {
        "params": trial.params,
        "distributions": {n: distribution_to_json(d) for n, d in trial.distributions.items()},
        "system_attrs": trial.system_attrs,
    }


def _frozen(row: Row) -> "optuna.trial.FrozenTrial":
    """The trial of a row."""
    from optuna.distributions import json_to_distribution
    from optuna.trial import TrialState, create_trial

    known, rungs = row["optuna"], row.get("rungs", [])
    done = row["state"] == "complete"
    return create_trial(
        state=TrialState.COMPLETE if done else TrialState.PRUNED,
        value=rungs[-1] if rungs else None,
        params=known["params"],
        distributions={n: json_to_distribution(d) for n, d in known["distributions"].items()},
        system_attrs=known["system_attrs"],
        intermediate_values={_HALVING**n: ndcg for n, ndcg in enumerate(rungs)},
    )
