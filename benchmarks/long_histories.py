"""What states of histories of 1,000 events and more cost in bytes and time; rows for docs/results.

    make long                                               the models of `make accuracy`
    python benchmarks/long_histories.py --model FOLDER --data ml-1m.parquet

Asks whether a state that is no larger than the ids-only log answers in a fraction of the time that
recomputing from the log takes. It needs trained models and a machine that does nothing else. What
is in the file already is not measured again, so a killed run can be continued.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; see gistrec.cli.main

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from accuracy import ROOT, RUNS, load
from numpy.typing import NDArray

from gistrec import codecs, metrics, registry, results
from gistrec.benchmark import Trial, code_digest, has_dial
from gistrec.codecs import Chain
from gistrec.dataset import Dataset, History
from gistrec.errors import BudgetError
from gistrec.events import read
from gistrec.history_log import HistoryLog
from gistrec.measure import Rules, Subject, log_history
from gistrec.recipe import Recipe
from gistrec.recommender import Event, Recommender
from gistrec.results import Row
from gistrec.state_cache import StateCache
from gistrec.stores import open_store
from gistrec.train import Model

MODELS = ("completejourney-hstu", "ml-1m-hstu")
EDGES = (1000, 2000)
"""Histories from one to the next, and beyond the last, are measured apart."""
LEAST_USERS = 20
"""A group of fewer joins the one before it."""
RECIPES = (
    "recent(keep=9) | itemtable(layers=1) | itemresidual() | rvq(levels=1)",
    "recent(keep=9) | itemtable(layers=1) | itemresidual() | stack() | rvq(levels=1)",
    "recent(keep=9) | itemtable()",
    "recent(keep=9) | stack() | rvq(levels=1)",
    "recent(keep=9) | rvq(levels=1)",
    "recent(keep=9) | int8()",
    "itemtable()",
)
"""Those with a dial are turned until the mean stored state is no larger than the mean log."""
SAID = ("codec", "state_bytes", "stored_bytes", "ndcg_kept", "overlap_10", "share_of_recompute")
WARM_UP = 3

Floats = NDArray[np.float64]
Request = Callable[[int, int], object]
"""Called with the user's place in the sample and the number of the request."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model folder; all of `make accuracy` without")
    parser.add_argument("--data", help="the log that it was trained on")
    parser.add_argument("--requests", type=int, default=200, help="timed, of each kind")
    parser.add_argument("--users", type=int, help="drawn at random; all without")
    parser.add_argument("--online-users", type=int, default=128, help="replayed; 0 for none")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/long_histories.jsonl")
    arguments = parser.parse_args()
    rules = Rules(
        users=arguments.users,
        online_users=arguments.online_users,
        requests=arguments.requests,
    )
    if arguments.model:
        trained = [(arguments.model, arguments.data, read(arguments.data), 5)]
    else:
        logs = ((name, RUNS[name].data) for name in MODELS)
        trained = [(ROOT / "runs/accuracy" / name, log, load(log), 3) for name, log in logs]
    for folder, log, events, min_events in trained:
        model, dataset = Model.load(folder), Dataset.from_events(events, min_events=min_events)
        lengths = Subject(model, dataset, rules).task.lengths
        lows = [EDGES[0], *(e for e in EDGES[1:] if (lengths >= e).sum() >= LEAST_USERS)]
        for low, high in zip(lows, [*lows[1:], None], strict=True):
            subject = Subject(model, dataset, rules)
            chosen = (lengths >= low) & (lengths < (high or np.inf))
            if not chosen.any():
                continue
            subject.task = subject.task.take(np.flatnonzero(chosen))
            until = f"to {high - 1} events" if high else "events and more"
            group(subject, f"{Path(log).name}, {low} {until}", arguments.out)


def group(subject: Subject, label: str, out: Path) -> None:
    """Measure every recipe on some users, and time all of them in turns."""
    backbone = subject.backbone
    trials = {
        spec: Trial(
            kind="recipe",
            data=label,
            split=subject.scheme,
            backbone=str(backbone.spec),
            model=backbone.fingerprint(),
            recipe=spec,
            seed=subject.model.training.seed,
            rules=subject.rules,
            code=code_of(
                str(backbone.spec), str(backbone.spec.options.get("memory", "full()")), spec
            ),
        )
        for spec in RECIPES
    }
    done = {row["trial"] for row in results.load(out)} if out.exists() else set()
    if done >= {trial.key for trial in trials.values()}:
        return
    log_bytes = float(subject.log_bytes.mean())
    say(f"{label}: {len(subject.task)} users, log {log_bytes:.0f} B")
    recipes: dict[str, Recipe] = {}
    found: dict[str, Row] = {}
    for spec in RECIPES:
        try:
            recipes[spec], stored = no_larger_than(subject, codecs.parse(spec), log_bytes)
        except BudgetError as error:
            say(f"left out: {spec}: {error}")
            continue
        found[spec] = measured(subject, recipes[spec]) | {
            "log_bytes": log_bytes,
            "stored_bytes": stored,
            "stored_within_log": stored <= log_bytes,
        }
    times = timed(subject, recipes) if subject.rules.requests else {}
    for spec, values in found.items():
        trial, row = trials[spec], values | times.get(spec, {})
        about = dataclasses.asdict(trial) | {"trial": trial.key}
        results.append(out, about | row | results.environment())
        say(label, {name: row[name] for name in SAID if name in row})


def say(*parts: object) -> None:
    print(time.strftime("%H:%M:%S"), *parts, flush=True)


def code_of(*specs: str) -> str:
    """Digest of the code that makes a row; files of other methods may change."""
    return code_digest(frozenset(p.name for spec in specs for p in registry.parse_spec(spec)))


def measured(subject: Subject, recipe: Recipe) -> Row:
    """Accuracy and bytes, encoded once and encoded after each of the newest events."""
    task, full, sample = subject.task, subject.full, subject.online_sample
    base, held = task.per_user(full.lists)["ndcg_10"], subject.offline(recipe)
    offline = task.per_user(held.lists)["ndcg_10"]
    row: Row = {
        "codec": recipe.manifest.codec,
        "users": len(task),
        "mean_length": float(task.lengths.mean()),
        "full_ndcg_10": float(base.mean()),
        **kept(offline, base),
        "overlap_10": float(metrics.overlap(held.lists, full.lists).mean()),
        "state_bytes": float(held.blob_bytes.mean()),
        "kept_fraction": float(held.blob_bytes.mean() / full.blob_bytes.mean()),
        "shared_bytes": recipe.shared_bytes,
    }
    if not len(sample):
        return row
    lists = subject.online(recipe).lists
    online = task.take(sample).per_user(lists)["ndcg_10"]
    drift = online - offline[sample]
    return row | {
        "online_users": len(sample),
        "online_overlap_10": float(metrics.overlap(lists, full.lists[sample]).mean()),
        **{f"online_{name}": value for name, value in kept(online, base[sample]).items()},
        "drift": float(drift.mean()),
        "drift_interval": metrics.interval(drift),
    }


def kept(values: Floats, base: Floats) -> Row:
    """NDCG, and its ratio to the full model's where that finds anything."""
    row: Row = {"ndcg_10": float(values.mean()), "ndcg_10_interval": metrics.interval(values)}
    if base.any():
        row["ndcg_kept"] = float(values.mean() / base.mean())
        row["ndcg_kept_interval"] = metrics.ratio_interval(values, base)
    return row


def no_larger_than(subject: Subject, chain: Chain, budget: float) -> tuple[Recipe, float]:
    """The recipe whose states take at most so many bytes in a store, and what they take.

    The dial is turned on a sample and knows nothing of a store's blocks, so the budget shrinks
    until it holds for all users. A recipe without a dial is taken as it is.
    """
    asked = budget
    while True:
        recipe = subject.fit(subject.at_budget(chain, int(asked)) if has_dial(chain) else chain)
        with open_store("ram://") as store:
            cache = StateCache(recipe, store)
            held = (state for _, states in subject.states() for state in states)
            stored = float(np.mean([cache.save("user", state).stored_bytes for state in held]))
        if stored <= budget or not has_dial(chain):
            return recipe, stored
        asked *= min(0.998, budget / stored)


def timed(subject: Subject, recipes: dict[str, Recipe]) -> dict[str, Row]:
    """Append and recommend of each recipe, and recomputing from the log, taking turns.

    `floor` is what the model alone takes for an append and a recommendation from the uncompressed
    state in memory, without log, codec and store.
    """
    rng = np.random.default_rng(3)
    users, states = subject.timed_sample
    plain = subject.backbone.prefill([subject.task.history(n) for n in users])
    at = subject.task.request_times[users].tolist()
    items = subject.dataset.items.ids
    names = [f"timed-{n}" for n in users]
    targets = [items[subject.task.targets(n)[:1]].tolist()[0] for n in users]

    def append(server: Recommender, user: int, number: int) -> None:
        server.observe(names[user], [Event(targets[user], at[user] + number)])

    def recommend(server: Recommender, user: int, _: int) -> None:
        server.recommend(names[user], at=at[user])

    def recompute(log: HistoryLog, user: int, _: int) -> None:
        logged = log.read(names[user])
        history = History(np.searchsorted(items, logged.item_id), logged.timestamp)
        score = subject.backbone.score(subject.backbone.prefill([history]), at=[at[user]])
        subject.task.top_k(score, users[user : user + 1])

    def floor(user: int, number: int) -> None:
        one = History(subject.task.targets(users[user])[:1], np.array([at[user] + number]))
        grown = subject.backbone.append([plain[user]], [one])
        score = subject.backbone.score(grown, at=[at[user]])
        subject.task.top_k(score, users[user : user + 1])

    with contextlib.ExitStack() as stack:
        requests: dict[tuple[str, str], Request] = {}
        servers: dict[str, Recommender] = {}
        for spec, recipe in recipes.items():
            server = stack.enter_context(Recommender(subject.model, recipe, open_store("ram://")))
            for name, n, state in zip(names, users, states, strict=True):
                log_history(server.log, name, subject.dataset.items, subject.task.history(n))
                server.states.save(name, state)
            servers[spec] = server
            requests[spec, "append"] = partial(append, server)
            requests[spec, "recommend"] = partial(recommend, server)
        log = HistoryLog(stack.enter_context(open_store("ram://")))
        for name, n in zip(names, users, strict=True):
            log_history(log, name, subject.dataset.items, subject.task.history(n))
        requests["", "recompute"] = partial(recompute, log)
        requests["", "floor"] = floor
        ms = in_turns(requests, len(users), subject.rules.requests, rng)
        base, least = ms["", "recompute"], ms["", "floor"]
        out: dict[str, Row] = {}
        for spec, server in servers.items():
            parts = {kind: ms[spec, kind] for kind in ("append", "recommend")}
            parts["append_recommend"] = both = parts["append"] + parts["recommend"]
            parts |= {"recompute": base, "floor": least}
            out[spec] = {
                f"{kind}_ms_p{p}": float(np.percentile(taken, p))
                for kind, taken in parts.items()
                for p in (50, 99)
            }
            out[spec] |= {
                "share_of_recompute": float(np.median(both) / np.median(base)),
                "share_interval": median_ratio_interval(both, base),
                "floor_share": float(np.median(least) / np.median(base)),
                "timed_users": len(users),
                # as the store holds them once events were appended
                "later_stored_bytes": float(np.mean([*map(server.states.stored_bytes, names)])),
                "later_log_bytes": float(np.mean([*map(server.log.nbytes, names)])),
            }
    return out


def in_turns(
    requests: dict[tuple[str, str], Request], users: int, count: int, rng: np.random.Generator
) -> dict[tuple[str, str], Floats]:
    """Time of each kind, ms: every round has the same random user meet all kinds."""
    ms: dict[tuple[str, str], list[float]] = {kind: [] for kind in requests}
    for number in range(count + WARM_UP):
        user = int(rng.integers(users))
        for kind, request in requests.items():
            start = time.perf_counter()
            request(user, number)
            ms[kind].append((time.perf_counter() - start) * 1e3)
    return {kind: np.array(taken[WARM_UP:]) for kind, taken in ms.items()}


def median_ratio_interval(values: Floats, base: Floats, draws: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of median(values) / median(base), requests drawn for both at once."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(base), size=(draws, len(base)))
    ratios = np.median(values[drawn], axis=1) / np.median(base[drawn], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
