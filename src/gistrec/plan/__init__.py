"""Search for the recipe that keeps most accuracy within a byte budget, on a validation split.

A recipe is drawn from the registry by stages: which slots stay, how wide a row is, one precision,
bytes. Optuna's TPE sampler draws, its successive halving stops what is behind on few users, and the
first codec with a dial is turned to the budget by measuring. The best are then timed and replayed
event by event, as they would be served, and one of them is chosen.

The last target of every user, the test split, is never looked at.

Shapes: U users.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from gistrec import codecs, latency, metrics
from gistrec.dataset import Dataset
from gistrec.errors import BudgetError, CodecError, ConfigError, GistrecError
from gistrec.measure import Held, Subject
from gistrec.plan._space import smallest
from gistrec.plan._trials import Report, Trials, Wanted, found
from gistrec.recipe import Recipe
from gistrec.results import Row
from gistrec.train import Model

__all__ = ["HONEST", "Plan", "Wanted", "search", "warning_of"]

HONEST = 2
"""`holdout` of a training that has not seen the targets that recipes are compared on."""
_FINALISTS = 3
_SMALLER = (2, 4, 8)
"""The chosen recipe is measured at the budget divided by these, too."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was found. Rows hold backbone, codec, ndcg_10, kept, state_bytes and more."""

    chosen: Row
    """With intervals, drift and milliseconds."""
    frontier: list[Row]
    """Recipes that no other beats in both bytes and accuracy, by bytes; smaller budgets, too."""
    references: list[Row]
    """The uncompressed models, and the chosen one computed from the log at every request."""
    tried: int
    """Recipes."""
    failures: list[str]
    """Codecs and recipes that broke in ways they should not."""
    warning: str | None
    """Why the accuracy may look too good."""


@torch.no_grad()
def search(
    models: Sequence[Model],
    dataset: Dataset,
    out: str | Path,
    wanted: Wanted,
    *,
    report: Report | None = None,
) -> Plan:
    """Find the recipe that keeps most accuracy.

    Args:
        models: Trained models to choose from, for example with different memories.
        dataset: The log that they were trained on.
        out: JSONL file of the trials; those of this very search that it holds are not repeated.
        wanted: What to keep to.
        report: Called after every draw.

    Raises:
        ConfigError: Optuna is not installed, or no recipe is fast enough. BudgetError: none is
            small enough. DataError: the log's items are not the models'.
    """
    try:
        import optuna  # noqa: F401 - to be told before the work, not in the middle of it
    except ImportError:
        raise ConfigError('plan needs Optuna: pip install "gistrec[plan]"') from None
    trials = Trials(models, dataset, Path(out), wanted)
    trials.run(report)
    return _Choice(trials).plan()


def warning_of(models: Sequence[Model]) -> str | None:
    """What to know about models that have seen what recipes are compared on; None: nothing."""
    seen = sorted(m.training.holdout for m in models if m.training.holdout < HONEST)
    if not seen:
        return None
    return (
        f"the model was trained with holdout {seen[0]}, so it has seen the events that recipes are "
        "compared on: every accuracy here is too high, and on new events another recipe may be "
        f"best; a model trained with holdout {HONEST} gives an honest choice"
    )


class _Choice:
    """The best trials as they would be served, and the one to take."""

    def __init__(self, trials: Trials) -> None:
        self.trials, self.models, self.wanted = trials, trials.models, trials.wanted
        self.known = {
            (row["kind"], row["backbone"], row.get("asked"), row["budget_bytes"]): row
            for row in trials.found
            if row["kind"] != "trial"
        }
        best = max(self.models.values(), key=lambda c: c.full["ndcg_10"])
        self.full = best.full["ndcg_10"]
        self.full_U = best.everybody.task.per_user(best.everybody.full.lists)["ndcg_10"]

    def plan(self) -> Plan:
        complete = sorted(
            self.trials.of("complete"), key=lambda r: (-r["ndcg_10"], r["state_bytes"])
        )
        if not complete:
            raise self._nothing_fits()
        stopped = sorted(self.trials.of("stopped"), key=lambda r: (-len(r["rungs"]), -r["ndcg_10"]))
        finals: list[Row] = []
        for row in [*complete, *stopped]:
            # one that was stopped is behind in accuracy: only if no other is fast enough
            enough = _FINALISTS if row["state"] == "complete" else 1
            if len(self._fast(finals)) < enough:
                finals.append(self._final(row))
        if not (fast := self._fast(finals)):
            raise self._too_slow(finals)
        chosen = _best(fast)
        smaller = self._smaller(chosen)
        # now and then the same recipe does better in fewer bytes
        finals += [self._final(r) for r in smaller if r["ndcg_10"] >= chosen["ndcg_10"]]
        fast = self._fast(finals)
        slow = [(r["backbone"], r["asked"]) for r in finals if r not in fast]
        points = [r for r in [*complete, *smaller] if (r["backbone"], r["codec"]) not in slow]
        best = _frontier([*fast, *points])
        broken = [f"{r.get('asked')}: {r['why']}" for r in self.trials.of("failed")]
        return Plan(
            self._with_kept(_best(fast)),
            [self._with_kept(row) for row in best],
            [self._with_kept(row) for row in self._references(_best(fast))],
            self.trials.tried,
            [*self.trials.space.left_out, *broken],
            warning_of([candidate.model for candidate in self.models.values()]),
        )

    def _with_kept(self, row: Row) -> Row:
        """With the share of the best uncompressed model's accuracy."""
        return row | {"kept": row["ndcg_10"] / self.full if self.full else None}

    def _fast(self, finals: Sequence[Row]) -> list[Row]:
        """Those within the limit of time, measured to the end."""
        return [r for r in finals if self._is_fast(r) and "served" in r]

    def _is_fast(self, row: Row) -> bool:
        limit = self.wanted.p99_ms
        return limit is None or row["recommend_ms_p99"] <= limit

    def _final(self, row: Row) -> Row:
        """A trial's recipe as it would be served: timed and, if fast enough, replayed."""
        candidate, asked = self.models[row["backbone"]], row["codec"]
        key = ("final", candidate.name, asked, self.wanted.budget_bytes)
        if key in self.known and (
            "served" in self.known[key] or not self._is_fast(self.known[key])
        ):
            return self.known[key]
        subject, chain = candidate.everybody, codecs.parse(asked)
        final: Row = {"kind": "final", "backbone": candidate.name, "asked": asked, "codec": asked}
        final |= latency.served(subject.timed, subject.fit(chain))
        if self._is_fast(final):
            try:
                recipe, held = self.trials.on_everybody(candidate, chain)
            except BudgetError:  # stopped on few users; on all of them it is too big
                return final
            final |= found(subject, held) | _replayed(subject, recipe, held)
            if self.full:
                ndcg_U = subject.task.per_user(held.lists)["ndcg_10"]
                final["kept_interval"] = metrics.ratio_interval(ndcg_U, self.full_U)
            final |= {"codec": str(recipe.chain), "shared_bytes": recipe.shared_bytes}
            final["shared_bytes_per_user"] = recipe.shared_bytes / subject.dataset.num_users
        return self._keep(final)

    def _smaller(self, chosen: Row) -> list[Row]:
        """What the chosen recipe keeps in less."""
        candidate, asked = self.models[chosen["backbone"]], chosen["codec"]
        rows = []
        for part in _SMALLER:
            budget = max(self.wanted.budget_bytes // part, 1)
            row = self.known.get(("smaller", candidate.name, asked, budget))
            if row is None:
                try:
                    chain = candidate.everybody.at_budget(codecs.parse(asked), budget)
                    recipe, held = self.trials.on_everybody(candidate, chain, budget)
                except BudgetError:
                    break
                about = {"kind": "smaller", "backbone": candidate.name, "asked": asked}
                about |= {"budget_bytes": budget, "codec": str(recipe.chain)}
                row = self._keep(about | found(candidate.everybody, held))
            rows.append(row)
        return rows

    def _references(self, chosen: Row) -> list[Row]:
        candidate, budget = self.models[chosen["backbone"]], self.wanted.budget_bytes
        log = self.known.get(("recompute", candidate.name, None, budget))
        if log is None:
            log = {"kind": "recompute", "backbone": candidate.name, "state_bytes": 0.0}
            log |= {"log_bytes": float(candidate.everybody.log_bytes.mean())}
            log |= {"ndcg_10": candidate.full["ndcg_10"], "users": candidate.full["users"]}
            log = self._keep(log | latency.recomputed(candidate.everybody.timed))
        return [*({"kind": "full"} | c.full for c in self.models.values()), log]

    def _keep(self, row: Row) -> Row:
        """The row, written down for the next time."""
        return self.trials.write(row)

    def _too_slow(self, finals: Sequence[Row]) -> GistrecError:
        least = min(finals, key=lambda r: r["recommend_ms_p99"])
        return ConfigError(
            f"no recipe within {self.wanted.budget_bytes} bytes answers in {self.wanted.p99_ms} ms "
            f"(p99): the fastest of {len(finals)}, {least['codec']}, takes "
            f"{least['recommend_ms_p99']:.3g} ms; allow more, or take a smaller model"
        )

    def _nothing_fits(self) -> GistrecError:
        """Why no trial came through, with the fewest bytes that one would take."""
        sizes: list[tuple[float, str]] = []
        for row in self.trials.of("too big"):
            try:
                subject = self.models[row["backbone"]].rungs[0]
                recipe = subject.fit(smallest(codecs.parse(row["asked"])))
                sizes.append((subject.offline(recipe).blob_bytes.mean(), str(recipe.chain)))
            except GistrecError:
                continue
        tried = self.trials.tried
        if not sizes:
            return CodecError(
                f"none of {tried} recipes can be used here, the first because "
                f"{self.trials.rows[0].get('why')}"
            )
        size, spec = min(sizes)
        return BudgetError(
            f"nothing fits {self.wanted.budget_bytes} bytes: the smallest of {tried} recipes, "
            f"{spec}, takes {size:.0f}; allow more bytes, or take a smaller model or memory"
        )


def _replayed(subject: Subject, recipe: Recipe, held: Held) -> Row:
    """Encoded after every event, as a server does; the drift counts where it is one."""
    offline, users = subject.task.per_user(held.lists)["ndcg_10"], subject.online_sample
    online = subject.task.take(users).per_user(subject.online(recipe).lists)["ndcg_10"]
    drift = online - offline[users]
    low, high = metrics.interval(drift)
    return {
        "interval": metrics.interval(offline),
        "drift": float(drift.mean()),
        "drift_interval": (low, high),
        "served": float(offline.mean() + (drift.mean() if low > 0 or high < 0 else 0)),
    }


def _best(finals: Sequence[Row]) -> Row:
    """The most accurate as served; of equals the smallest."""
    return max(finals, key=lambda r: (r["served"], -r["state_bytes"]))


def _frontier(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other beats in both bytes and accuracy, by bytes."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda r: (r["state_bytes"], -r["ndcg_10"])):
        if not best or row["ndcg_10"] > best[-1]["ndcg_10"]:
            best.append(row)
    return best
