"""What states of long histories cost, and what they remember; rows for docs/results.

    make long                                      both parts
    python benchmarks/long_histories.py served     bytes and time at 1,000 events and more
    python benchmarks/long_histories.py planted    accuracy where only old events tell, at 10,000

`served` asks whether a state that is no larger than the ids-only log answers in a fraction of the
time that recomputing from the log takes. It needs the models of `make accuracy` and a machine that
does nothing else. `planted` trains its own models on a synthetic log and asks which methods still
find what was planted thousands of events back; nothing is timed there.

A measurement that the file holds is not made again, so a killed run can be continued.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch loads; see gistrec.cli.main

import argparse
import contextlib
import dataclasses
import itertools
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from accuracy import RUNS, load
from numpy.typing import NDArray

from gistrec import catalogue, codecs, metrics, registry, results
from gistrec.backbones import Backbone
from gistrec.benchmark import IDENTITY, Trial, code_digest, has_dial
from gistrec.codecs import Chain, is_row_tensor
from gistrec.dataset import Dataset, History, Ints
from gistrec.errors import BudgetError
from gistrec.events import Events
from gistrec.events.synthetic import Synthetic
from gistrec.history_log import HistoryLog
from gistrec.measure import Rules, Subject, log_history
from gistrec.recommender import Event, Recommender
from gistrec.results import Row
from gistrec.state_cache import Recipe, StateCache
from gistrec.stores import open_store
from gistrec.train import Model, train

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "runs" / "long_histories"

Floats = NDArray[np.float64]
Request = Callable[[int, int], object]
"""Called with the user's place in the sample and the number of the request."""


class Rows:
    """The rows of a file, by trial; a new one is written at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = results.load(path) if path.exists() else []
        self.done: dict[str, Row] = {row["trial"]: row for row in found}

    def write(self, trial: Trial, values: Row) -> Row:
        """Append a row that says what was measured, and where."""
        row = dataclasses.asdict(trial) | {"trial": trial.key} | values | results.environment()
        results.append(self.path, row)
        self.done[trial.key] = row
        return row


def say(*parts: object) -> None:
    print(time.strftime("%H:%M:%S"), *parts, flush=True)


def code_of(backbone: Backbone, recipe: str) -> str:
    """Digest of the code that makes a row; files of other methods may change."""
    memory = str(backbone.spec.options.get("memory", "full()"))
    specs = [spec for spec in (str(backbone.spec), memory, recipe) if spec]
    names = {part.name for spec in specs for part in registry.parse_spec(spec)}
    return code_digest(frozenset(names))


# ---- served: a state no larger than the log, and its time beside recomputing ----

SERVED = ("completejourney-hstu", "ml-1m-hstu")
EDGES = (1000, 2000)
"""Histories from one to the next, and beyond the last, are measured apart."""
LEAST_USERS = 20
"""A group of fewer joins the one before it."""
SMALL = (
    "recent(keep=9) | itemtable(layers=1) | itemresidual() | rvq(levels=1)",
    "recent(keep=9) | itemtable(layers=1) | itemresidual() | stack() | rvq(levels=1)",
    "recent(keep=9) | itemtable()",
    "recent(keep=9) | stack() | rvq(levels=1)",
    "recent(keep=9) | rvq(levels=1)",
    "recent(keep=9) | int8()",
    "itemtable()",
)
"""Those with a dial are turned until the mean stored state is no larger than the mean log."""
SAID = ("codec", "state_bytes", "stored_bytes", "ndcg_kept", "overlap_10", "online_overlap_10")
TIMED_USERS = 64
WARM_UP = 3


def served(rows: Rows, arguments: argparse.Namespace) -> None:
    """Measure all recipes on all groups of users."""
    for name in arguments.models or SERVED:
        model = Model.load(ROOT / "runs" / "accuracy" / name)
        dataset = Dataset.from_events(load(RUNS[name].data), min_events=3)
        rules = Rules(online_users=arguments.online_users, requests=arguments.requests)
        lengths = Subject(model, dataset, rules).task.lengths
        for low, high in groups(lengths):
            subject = Subject(model, dataset, rules)
            chosen = np.flatnonzero((lengths >= low) & (lengths < (high or np.inf)))
            subject.task = subject.task.take(chosen)
            label = (
                f"{RUNS[name].data}, {low} to {high - 1} events"
                if high
                else (f"{RUNS[name].data}, {low} events and more")
            )
            served_group(rows, subject, label)


def groups(lengths: Ints) -> list[tuple[int, int | None]]:
    """Bounds of history lengths, the last one open."""
    lows = [EDGES[0], *(e for e in EDGES[1:] if (lengths >= e).sum() >= LEAST_USERS)]
    return list(zip(lows, [*lows[1:], None], strict=True))


def served_group(rows: Rows, subject: Subject, label: str) -> None:
    """Measure every recipe on some users, and time all of them in turns."""
    trials = {
        spec: Trial(
            kind="recipe",
            data=label,
            split=subject.scheme,
            backbone=str(subject.backbone.spec),
            model=subject.backbone.fingerprint(),
            recipe=spec,
            seed=subject.model.training.seed,
            rules=subject.rules,
            code=code_of(subject.backbone, spec),
        )
        for spec in SMALL
    }
    if all(trial.key in rows.done for trial in trials.values()):
        return
    task, log_bytes = subject.task, subject.log_bytes
    say(f"{label}: {len(task)} users, log {log_bytes.mean():.0f} B")
    full = task.per_user(subject.full.lists)["ndcg_10"]
    sample = subject.online_sample
    recipes: dict[str, Recipe] = {}
    found: dict[str, Row] = {}
    for spec in SMALL:
        try:
            recipe, stored = no_larger_than(subject, codecs.parse(spec), float(log_bytes.mean()))
        except BudgetError as error:
            say(f"left out: {spec}: {error}")
            continue
        held = subject.offline(recipe)
        offline = task.per_user(held.lists)["ndcg_10"]
        recipes[spec] = recipe
        found[spec] = {
            "codec": recipe.manifest.codec,
            "users": len(task),
            "mean_length": float(task.lengths.mean()),
            "full_ndcg_10": float(full.mean()),
            **kept(offline, full),
            "overlap_10": float(metrics.overlap(held.lists, subject.full.lists).mean()),
            "log_bytes": float(log_bytes.mean()),
            "state_bytes": float(held.blob_bytes.mean()),
            "stored_bytes": stored,
            "stored_within_log": stored <= float(log_bytes.mean()),
            "kept_fraction": float(held.blob_bytes.mean() / subject.full.blob_bytes.mean()),
            "shared_bytes": recipe.shared_bytes,
        }
        if len(sample):
            lists = subject.online(recipe).lists
            replayed = task.take(sample).per_user(lists)["ndcg_10"]
            overlap = metrics.overlap(lists, subject.full.lists[sample])
            found[spec] |= {
                "online_users": len(sample),
                "online_overlap_10": float(overlap.mean()),
                **{f"online_{n}": v for n, v in kept(replayed, full[sample]).items()},
                "drift": float((replayed - offline[sample]).mean()),
                "drift_interval": metrics.interval(replayed - offline[sample]),
            }
        say({n: v for n, v in found[spec].items() if n in SAID})
    times = timed(subject, recipes) if subject.rules.requests else {}
    for spec, values in found.items():
        row = rows.write(trials[spec], values | times.get(spec, {}))
        share = row.get("share_of_recompute", float("nan"))
        say(f"{label}: {row['codec']}: {100 * share:.2f} % of recomputing")


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
        turned = subject.at_budget(chain, int(asked)) if has_dial(chain) else chain
        recipe = subject.fit(turned)
        stored = float(np.mean(list(stored_bytes(subject, recipe))))
        if stored <= budget or not has_dial(chain):
            return recipe, stored
        asked *= min(0.998, budget / stored)


def stored_bytes(subject: Subject, recipe: Recipe) -> Iterator[int]:
    """What every user's state takes in a store."""
    with open_store("ram://") as store:
        cache = StateCache(recipe, store)
        for _, states in subject.states():
            for state in states:
                yield cache.save("user", state).stored_bytes


def timed(subject: Subject, recipes: dict[str, Recipe]) -> dict[str, Row]:
    """Append and recommend of each recipe, and recomputing from the log, taking turns.

    `floor` is what the model alone takes for an append and a recommendation from the uncompressed
    state in memory, without log, codec and store.
    """
    rng = np.random.default_rng(3)
    count = min(TIMED_USERS, len(subject.task))
    users = rng.choice(len(subject.task), count, replace=False)
    histories = [subject.task.history(n) for n in users]
    plain = subject.backbone.prefill(histories)
    states = subject.backbone.prefill(histories, hints=True)
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
                log_history(server.log, name, subject.dataset, subject.task.history(n))
                server.states.save(name, state)
            servers[spec] = server
            requests[spec, "append"] = partial(append, server)
            requests[spec, "recommend"] = partial(recommend, server)
        log = HistoryLog(stack.enter_context(open_store("ram://")))
        for name, n in zip(names, users, strict=True):
            log_history(log, name, subject.dataset, subject.task.history(n))
        requests["", "recompute"] = partial(recompute, log)
        requests["", "floor"] = floor
        ms = in_turns(requests, count, subject.rules.requests, rng)
        base = ms["", "recompute"]
        out: dict[str, Row] = {}
        for spec, server in servers.items():
            added, asked = ms[spec, "append"], ms[spec, "recommend"]
            parts = {
                "append": added,
                "recommend": asked,
                "append_recommend": added + asked,
                "recompute": base,
                "floor": ms["", "floor"],
            }
            out[spec] = {
                f"{kind}_ms_p{p}": float(np.percentile(taken, p))
                for kind, taken in parts.items()
                for p in (50, 99)
            }
            out[spec] |= {
                "share_of_recompute": float(np.median(added + asked) / np.median(base)),
                "share_interval": median_ratio_interval(added + asked, base),
                "floor_share": float(np.median(ms["", "floor"]) / np.median(base)),
                "timed_users": count,
                # as the store holds them once events were appended
                "later_stored_bytes": float(
                    np.mean([server.states.stored_bytes(name) for name in names])
                ),
                "later_log_bytes": float(np.mean([server.log.nbytes(name) for name in names])),
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


# ---- planted: what is still found of events thousands back ----

LOG = Synthetic(users=200, items=1000, length=10_000)
"""What models are trained on; those measured are other users of the same world."""
LENGTH = 12_000
"""Targets of measured users are drawn from their events 10,000 to 12,000."""
AFTER = 1500
"""No event nearer than this tells a planted target."""
GUESSED = 0.2
"""HR@10 on planted targets of one who knows the topic, 50 items, and no favourites."""
PLANTED_USERS, OTHER_USERS, FIT_USERS = 160, 80, 32
BUDGETS = (512, 2048, 8192, 32_768)
TRAINING = {
    "scheme": "last_basket",
    "max_len": 1024,
    "batch_tokens": 1024,
    "learning_rate": 4e-3,
    "epochs": 5,
}
"""Events have times of their own, so that a basket is one event; bought items stay in the lists."""
BACKBONES = (
    "hstu()",
    "hstu(memory='longformer()')",
    "hstu(memory='beacon()')",
    "hstu(memory='linformer()')",
    "linear()",
    "ssm()",
    "rwkv()",
    "ttt()",
)
FULL = BACKBONES[0]
REFERENCE = "recent(keep=9) | rvq(levels=1)"
"""What a method has to beat at the same budget."""
COMPOSED = (
    "recent(keep=9) | int8()",
    "recent(keep=9) | itemtable()",
    "recent(keep=9) | itemtable(layers=1) | rvq(levels=1)",
    "recent(keep=9) | itemtable(layers=1) | itemresidual() | rvq(levels=1)",
    "recent(keep=9) | stack() | rvq(levels=1)",
    "recent(keep=9) | itemtable(layers=1) | itemresidual() | stack() | rvq(levels=1)",
    "epicache(keep=9) | itemtable(layers=1) | itemresidual() | stack() | rvq(levels=1)",
)
FIXED = ("int8()", "rvq(levels=1)")
"""For states of a constant size, which have no slots to drop."""


def planted(rows: Rows, arguments: argparse.Namespace) -> None:
    """Train the models that are missing, and measure them."""
    specs = arguments.models or BACKBONES
    for spec in sorted(specs, key=lambda s: s != FULL):  # all others are compared with it
        folder = MODELS / re.sub(r"\W+", "-", spec).strip("-")
        if not (folder / "model.json").exists():
            fit(spec, folder)
        model = Model.load(folder)
        if not planted_model(rows, model, people(model)) and spec == FULL:
            return


def fit(spec: str, folder: Path) -> None:
    spoken = time.monotonic()

    def show(p) -> None:  # type: ignore[no-untyped-def]
        nonlocal spoken
        if time.monotonic() - spoken > 60:
            spoken = time.monotonic()
            say(f"{spec}: {100 * p.fraction:.0f} %, loss {p.loss:.3f}, {p.tokens_per_s:,.0f}/s")

    train(Dataset.from_events(LOG.read()), spec, folder=folder, report=show, **TRAINING)  # type: ignore[arg-type]


def people(model: Model) -> Dataset:
    """Users to be measured, then users to fit recipes on; everybody's last event is the target.

    The first have a planted target, the next ones any other of their events.
    """
    world, rng = LOG.world(), np.random.default_rng(0)
    longer = dataclasses.replace(LOG, length=LENGTH)
    late = np.arange(LOG.length, LENGTH)
    columns: list[tuple[Ints, Ints, Ints]] = []
    for user in itertools.count(LOG.users):
        if len(columns) == PLANTED_USERS + OTHER_USERS + FIT_USERS:
            break
        person = longer.person(user, world)
        returning = np.intersect1d(late, person.returning(AFTER))
        if len(columns) >= PLANTED_USERS:
            returning = np.setdiff1d(late, returning)
        if len(returning):
            end = int(rng.choice(returning)) + 1
            columns.append((np.full(end, user), person.item_id[:end], person.timestamp[:end]))
    user_id, item_id, timestamp = (np.concatenate(c) for c in zip(*columns, strict=True))
    found = Dataset.from_events(Events(user_id, item_id, timestamp))
    index = np.searchsorted(model.items.ids, found.items.ids)[found.item_index]
    return dataclasses.replace(found, items=model.items, item_index=index)


def part(dataset: Dataset, start: int, stop: int) -> Dataset:
    """Some of the users, all items."""
    first, last = dataset.offsets[start], dataset.offsets[stop]
    return dataclasses.replace(
        dataset,
        user_ids=dataset.user_ids[start:stop],
        offsets=dataset.offsets[start : stop + 1] - first,
        item_index=dataset.item_index[first:last],
        timestamp=dataset.timestamp[first:last],
    )


def planted_model(rows: Rows, model: Model, dataset: Dataset) -> bool:
    """Measure one model with all its recipes, if it finds what was planted; whether it does."""
    measured = PLANTED_USERS + OTHER_USERS
    rules = Rules(fit_users=FIT_USERS, online_users=0, requests=0)
    subject = Subject(model, part(dataset, 0, measured), rules, held_bytes=5 << 30)
    sample = Subject(model, part(dataset, measured, dataset.num_users), rules)
    for trial in planted_trials(model, subject):
        row = rows.done.get(trial.key) or planted_measured(rows, trial, subject, sample)
        if row and trial.recipe == IDENTITY and row["planted"]["hr_10_interval"][0] <= GUESSED:
            say(f"{trial.backbone} does not find what was planted, so codecs can't be compared")
            return False
    return True


def planted_measured(rows: Rows, trial: Trial, subject: Subject, sample: Subject) -> Row | None:
    """A new row, or None where no setting fits the budget."""
    begun = time.perf_counter()
    try:
        values = planted_row(rows, trial, subject, sample)
    except BudgetError as error:
        say(f"left out: {trial.backbone}, {trial.recipe} at {trial.budget_bytes} B: {error}")
        return None
    row = rows.write(trial, values)
    say(
        f"{trial.backbone:12} {trial.budget_bytes or '':>5} {row['state_bytes']:8.0f} B",
        f"planted {row['planted']['hr_10']:.3f} others {row['others']['hr_10']:.3f}",
        f"more than recent {row.get('planted_gain')} {row.get('planted_gain_interval')}",
        f"{row['codec']} {time.perf_counter() - begun:.0f} s",
    )
    return row


def planted_trials(model: Model, subject: Subject) -> Iterator[Trial]:
    """The state as it is, then every recipe at every budget; the reference before all others."""
    backbone = str(model.backbone.spec)
    recipes = [*(f"{slots} | rvq(levels=1)" for slots in catalogue.SLOTS), *COMPOSED]
    if backbone != FULL:
        empty = model.backbone.empty()
        grows = any(is_row_tensor(name, x) for name, x in empty.slots())
        recipes = [REFERENCE] if grows else list(FIXED)
    plan: list[tuple[str, int | None]] = [(IDENTITY, None)]
    for chain in map(codecs.parse, recipes):
        plan += [(str(chain), budget) for budget in (BUDGETS if has_dial(chain) else [None])]
    for recipe, budget in dict.fromkeys(plan):
        yield Trial(
            kind="identity" if recipe == IDENTITY else "recipe",
            data=str(LOG),
            split="planted",
            backbone=backbone,
            model=model.backbone.fingerprint(),
            recipe=recipe,
            budget_bytes=budget,
            seed=model.training.seed,
            rules=subject.rules,
            code=code_of(model.backbone, recipe),
        )


def planted_row(rows: Rows, trial: Trial, subject: Subject, sample: Subject) -> Row:
    """Accuracy on planted targets and on the others, and what it is above the reference's."""
    if trial.recipe == IDENTITY:
        codec, held = IDENTITY, subject.full
        shared_bytes = 0
    else:
        chain = codecs.parse(trial.recipe)
        if trial.budget_bytes is not None:
            chain = sample.at_budget(chain, trial.budget_bytes)
        recipe = sample.fit(chain)
        codec, held, shared_bytes = str(chain), subject.offline(recipe), recipe.shared_bytes
    found = subject.task.per_user(held.lists)
    state_bytes = float(held.blob_bytes.mean())
    row: Row = {
        "codec": codec,
        "state_bytes": state_bytes,
        "log_bytes": float(subject.log_bytes.mean()),
        "kept_fraction": float(state_bytes / subject.full.blob_bytes.mean()),
        "shared_bytes": shared_bytes,
        "mean_length": float(subject.task.lengths.mean()),
        "train_seconds": subject.model.seconds,
    }
    parts = {"planted": slice(PLANTED_USERS), "others": slice(PLANTED_USERS, None)}
    reference = reference_at(rows, trial, state_bytes)
    for name, users in parts.items():
        hit_U, ndcg_U = found["hr_10"][users], found["ndcg_10"][users]
        row[name] = {
            "users": len(hit_U),
            "hr_10": float(hit_U.mean()),
            "hr_10_interval": metrics.interval(hit_U),
            "ndcg_10": float(ndcg_U.mean()),
            "ndcg_10_interval": metrics.interval(ndcg_U),
            "hits": "".join(str(int(hit)) for hit in hit_U),
        }
        if reference is not None:
            base_U = np.array([int(hit) for hit in reference[name]["hits"]])
            row[f"{name}_gain"] = float((hit_U - base_U).mean())
            row[f"{name}_gain_interval"] = metrics.interval(hit_U - base_U)
    if reference is not None:
        row["finds_planted"] = row["planted_gain_interval"][0] > 0
        row["compared_at"] = reference["budget_bytes"]
    return row


def reference_at(rows: Rows, trial: Trial, state_bytes: float) -> Row | None:
    """The full model's reference at the budget, or at the least that such a state fits in.

    None for the reference itself, and beyond the largest budget.
    """
    fitting = [b for b in BUDGETS if b >= (trial.budget_bytes or state_bytes)]
    if not fitting or (trial.recipe == REFERENCE and trial.backbone == FULL):
        return None
    same = {"data": trial.data, "backbone": FULL, "budget_bytes": fitting[0], "split": trial.split}
    for row in reversed(rows.done.values()):
        if codecs.parse(row["recipe"] or IDENTITY) == codecs.parse(REFERENCE) and all(
            row[name] == value for name, value in same.items()
        ):
            return row
    return None


PARTS = {"served": served, "planted": planted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="none: both")
    parser.add_argument("--models", nargs="+", help="only these; see SERVED and BACKBONES")
    parser.add_argument("--requests", type=int, default=200, help="timed, of each kind")
    parser.add_argument("--online-users", type=int, default=128, help="replayed; 0 for none")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/long_histories.jsonl")
    arguments = parser.parse_args()
    if arguments.models and len(arguments.parts) != 1:
        parser.error("--models needs one part, since each has models of its own")
    rows = Rows(arguments.out)
    for name in arguments.parts or PARTS:
        PARTS[name](rows, arguments)


if __name__ == "__main__":
    main()
