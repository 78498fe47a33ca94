"""Recipes for a ranker measured at equal bytes per user: a row of AUC, bytes and latency each.

Always beside them: `identity()`, the uncompressed fp32 state; `recompute`, which stores the log
alone; and a logistic regression on what counting knows (`ranking.statistics`). Those answer all
impressions of the part, from raw histories. A recipe answers those of a sample of users
(`RankRules.users`), from states; `auc_change` compares it with the uncompressed model on these.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gistrec import codecs, latency, ranking, registry, results
from gistrec.benchmark import (
    IDENTITY,
    Plan,
    Trial,
    carried_out,
    code_digest,
    option_of,
    planned,
)
from gistrec.codecs import Chain
from gistrec.dataset import Ints
from gistrec.impressions import SHARES, Impressions
from gistrec.rank_measure import RankRules, RankSubject
from gistrec.ranking import Replayed
from gistrec.results import Row
from gistrec.train import Model

STATISTICS = "statistics"
"""The baseline that only counts."""
SPLIT = f"time_{SHARES[0]:.0%}_{SHARES[1]:.0%}".replace("%", "")


def run(
    model: Model,
    impressions: Impressions,
    out: str | Path,
    *,
    data: str,
    recipes: Sequence[str] | Mapping[str, Sequence[int]],
    budgets: Sequence[int] = (),
    rules: RankRules | None = None,
    quiet: bool = False,
) -> list[Row]:
    """Measure recipes and the references; append a row for each to a JSONL file.

    Trials in the file, recipes and budgets are treated as by `benchmark.run`.

    Args:
        model: A trained ranker.
        impressions: What it was trained on.
        out: The JSONL file; made if it does not exist.
        data: Name of the impressions, for the rows.
        recipes: Codec specs; or with the budgets of each.
        budgets: Bytes of a user's state.
        rules: How to measure.
        quiet: No progress bar.

    Returns:
        The rows of all these trials, those found in the file included.

    Raises:
        DataError: the impressions are not the model's. ConfigError, CodecError: a wrong recipe.
    """
    bench = _Bench(RankSubject(model, impressions, rules or RankRules()), Path(out), data)
    plan: Plan = [
        (STATISTICS, bench.baseline),
        ("recompute", bench.recompute),
        (IDENTITY, bench.identity),
        *planned(recipes, budgets, bench.recipe),
    ]
    return carried_out(plan, quiet=quiet)


class _Bench:
    """Makes rows and keeps them; every method returns those that are in the file already."""

    def __init__(self, subject: RankSubject, out: Path, data: str) -> None:
        self.subject, self.out = subject, out
        self.done: dict[str, Row] = {}
        if out.exists():
            self.done = {row["trial"]: row for row in results.load(out) if "trial" in row}
        self._trial = Trial(
            kind="recipe",
            data=data,
            split=SPLIT,
            backbone=str(subject.backbone.spec),
            model=subject.backbone.fingerprint(),
            seed=subject.model.training.seed,
            rules=subject.rules,
            code="",
        )

    def baseline(self) -> list[Row]:
        """The logistic regression."""
        trial = self._of(kind="baseline", backbone=STATISTICS, model="", seed=0)
        if trial.key in self.done:
            return [self.done[trial.key]]
        subject = self.subject
        logit_N1 = ranking.statistics(subject.impressions, subject.numbers)
        found = ranking.accuracy(subject.impressions, subject.numbers, logit_N1)
        return [self._write(trial, found | self._log_alone())]

    def recompute(self) -> list[Row]:
        """Only the log is stored, and the model runs over it at every request."""
        trial = self._of(kind="recompute")
        if trial.key in self.done:
            return [self.done[trial.key]]
        rules = self.subject.rules
        times = latency.recomputed(self.subject.timed) if rules.requests else {}
        return [self._write(trial, self._full() | self._log_alone() | times)]

    def identity(self) -> list[Row]:
        """The uncompressed state, which answers as the raw history does: that is measured."""
        trial = self._of(kind="identity", recipe=IDENTITY)
        if trial.key in self.done:
            return [self.done[trial.key]]
        subject = self.subject
        recipe = subject.fit(codecs.parse(IDENTITY))
        states = subject.backbone.prefill(subject.histories, hints=True)
        blob = np.array([len(recipe.to_bytes(state)) for state in states])
        full = np.array([subject.backbone.state_bytes(len(h)) for h in subject.histories])
        times = latency.served(subject.timed, recipe) if subject.rules.requests else {}
        values = self._full() | self._sizes(blob, full) | {"codec": IDENTITY, "shared_bytes": 0}
        return [self._write(trial, values | times)]

    def recipe(self, chain: Chain, budget_bytes: int | None) -> list[Row]:
        """A recipe offline and, if the rules say so, online."""
        subject = self.subject
        trials = [self._of(recipe=str(chain), budget_bytes=budget_bytes)]
        if subject.rules.online:
            trials.append(dataclasses.replace(trials[0], online=True))
        if all(t.key in self.done for t in trials):
            return [self.done[t.key] for t in trials]
        if budget_bytes is not None:
            chain = subject.at_budget(chain, budget_bytes)
        recipe = subject.fit(chain)
        about: Row = {"codec": str(chain), "shared_bytes": recipe.shared_bytes}
        about["shared_bytes_per_user"] = recipe.shared_bytes / len(
            subject.impressions.dataset.user_ids
        )
        if subject.rules.requests:
            about |= latency.served(subject.timed, recipe)
        offline = subject.offline(recipe)
        rows = [self._write(trials[0], about | self._held(offline))]
        if subject.rules.online:
            replayed = subject.online(recipe)
            numbers = subject.numbers[subject.sample]
            drift = ranking.change(
                subject.impressions, numbers, replayed.logit_NT, offline.logit_NT
            )
            about |= {"drift": drift["auc_change"], "drift_interval": drift["auc_change_interval"]}
            rows.append(self._write(trials[1], about | self._held(replayed)))
        return rows

    def _of(self, **changes: Any) -> Trial:
        trial = dataclasses.replace(self._trial, **changes)
        specs = [trial.recipe]
        if trial.kind != "baseline":
            specs += [trial.backbone, str(option_of(self.subject.backbone, "memory") or "")]
        names = {part.name for spec in specs if spec for part in registry.parse_spec(spec)}
        return dataclasses.replace(trial, code=code_digest(frozenset(names)))

    def _full(self) -> Row:
        """The uncompressed model on all impressions, and on the sample's."""
        subject = self.subject
        row = ranking.every_label(subject.impressions, subject.numbers, subject.full_NT)
        numbers, logit_NT = subject.numbers[subject.sample], subject.full_NT[subject.sample]
        sample = ranking.accuracy(subject.impressions, numbers, logit_NT)
        return row | {"sample": {n: sample[n] for n in ("users", "impressions", "auc", "gauc")}}

    def _held(self, held: Replayed) -> Row:
        subject = self.subject
        numbers = subject.numbers[subject.sample]
        row = ranking.every_label(subject.impressions, numbers, held.logit_NT)
        row |= ranking.change(
            subject.impressions, numbers, held.logit_NT, subject.full_NT[subject.sample]
        )
        return row | self._sizes(held.blob_bytes, held.full_bytes)

    def _sizes(self, blob: Ints, full: Ints) -> Row:
        log_bytes = float(self.subject.log_bytes.mean())
        return {
            "bytes_per_user": float(blob.mean()) + log_bytes,
            "log_bytes": log_bytes,
            "state_bytes": float(blob.mean()),
            "state_bytes_p99": float(np.percentile(blob, 99)),
            "full_bytes": float(full.mean()),
            "kept_fraction": float(blob.sum() / max(full.sum(), 1)),
        }

    def _log_alone(self) -> Row:
        log_bytes = float(self.subject.log_bytes.mean())
        return {"bytes_per_user": log_bytes, "log_bytes": log_bytes, "state_bytes": 0.0}

    def _write(self, trial: Trial, values: Row) -> Row:
        subject = self.subject
        about = dataclasses.asdict(trial) | {"trial": trial.key}
        if trial.kind != "baseline":
            about |= {
                "memory": option_of(subject.backbone, "memory"),
                "parameters": sum(p.numel() for p in subject.backbone.parameters()),
                "train_seconds": subject.model.seconds,
                "epochs": subject.model.training.epochs,
            }
        lengths = [len(h) for h in subject.histories]
        about |= {"ndcg_10": None, "hr_10": None, "mean_length": float(np.mean(lengths))}
        row: Row = _plain(about | values | results.environment())
        results.append(self.out, row)
        self.done[trial.key] = row
        return row


def _plain(value: Any) -> Any:
    """With null in place of nan: a user group may have one kind of label only."""
    if isinstance(value, float) and np.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
