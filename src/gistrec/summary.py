"""Result rows summed up: points, benches, the Pareto frontier, and the choice at a budget.

Everything is computed from the rows alone. A *point* is one recipe at one budget, averaged over
the seeds that were measured; a *bench* is all points of one log, split, model and rules.

Bytes are a state's bytes; the history log is kept with every recipe and shown apart. The accuracy
that counts is what a server sees: offline plus the online drift, where the drift's interval
excludes zero.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from gistrec.errors import DataError
from gistrec.results import Row

SPLITS = {
    "leave_last_out": "each user's last event is predicted",
    "last_basket": "each user's last basket is predicted",
}
_NEEDED = {"kind", "data", "split", "backbone", "ndcg_10", "interval", "by_length"}
_NEEDED |= {"state_bytes", "log_bytes"}


@dataclasses.dataclass(frozen=True)
class Point:
    """A recipe at a budget, or a reference, averaged over seeds."""

    kind: str
    """`recipe`, `identity`, `recompute` or `baseline`."""
    name: str
    """What was measured: the codecs with their settings, or a reference's name."""
    recipe: str
    """The codecs as asked for; points of one recipe differ in the budget."""
    budget_bytes: int | None
    seeds: tuple[int, ...]
    row: Row
    """The mean of the rows, offline."""
    drift: float | None
    """Online minus offline NDCG@10 of the same users; None if it was not replayed."""
    drift_interval: tuple[float, float] | None

    @property
    def state_bytes(self) -> float:
        """Mean stored bytes of a user's state."""
        return float(self.row["state_bytes"])

    @property
    def drifts(self) -> bool:
        """Whether the drift's interval excludes zero."""
        low, high = self.drift_interval or (0, 0)
        return low > 0 or high < 0

    @property
    def served(self) -> float:
        """NDCG@10 as a server would see it."""
        return float(self.row["ndcg_10"]) + (self.drift or 0.0 if self.drifts else 0.0)


@dataclasses.dataclass(frozen=True)
class Bench:
    """All points of one log, split, model and rules."""

    data: str
    split: str
    backbone: str
    points: tuple[Point, ...]
    rows: tuple[Row, ...]

    def one(self, kind: str) -> Point | None:
        """The reference of a kind."""
        return next((p for p in self.points if p.kind == kind), None)

    @property
    def recipes(self) -> list[Point]:
        """Points whose state is encoded, the uncompressed one included, by bytes."""
        encoded = [p for p in self.points if p.kind in ("recipe", "identity")]
        return sorted(encoded, key=lambda p: p.state_bytes)

    @property
    def full(self) -> Point | None:
        """The uncompressed model."""
        return self.one("identity") or self.one("recompute")

    @property
    def best_baseline(self) -> Point | None:
        """The trivial baseline that is hardest to beat."""
        baselines = [p for p in self.points if p.kind == "baseline"]
        return max(baselines, key=lambda p: p.served, default=None)

    def kept(self, point: Point) -> float | None:
        """A point's accuracy as a share of the uncompressed model's."""
        return point.served / self.full.served if self.full and self.full.served else None


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a bench recommends at a budget."""

    budget_bytes: int
    point: Point | None
    """The most accurate recipe that fits, or None if none does."""
    log_fits: bool
    """Whether the history log alone fits the budget, so that recomputing is exact within it."""
    baseline: Point | None
    """A trivial baseline that is at least as accurate, or None."""
    text: str
    """The same in words."""


def benches(rows: Sequence[Row]) -> list[Bench]:
    """Rows grouped by log, split, model and rules, in the order of their first row.

    Raises:
        DataError: a row lacks what every row has.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for number, row in enumerate(rows, start=1):
        if lacking := _NEEDED - row.keys():
            raise DataError(
                f"row {number} is not a benchmark's: {', '.join(sorted(lacking))} is missing; give "
                "a file that `gistrec bench` wrote"
            )
        model = "" if row["kind"] == "baseline" else row["backbone"]
        groups.setdefault((*_task_of(row), model), []).append(row)
    out = []
    for (data, split, rules, model), own in groups.items():
        baselines = groups.get((data, split, rules, ""), [])
        if model:
            both = [*own, *baselines]
            out.append(Bench(data, split, model, _points(both), tuple(both)))
        elif not any(key[:3] == (data, split, rules) and key[3] for key in groups):
            out.append(Bench(data, split, "", _points(own), tuple(own)))
    return out


def _task_of(row: Row) -> tuple[str, str, str]:
    return row["data"], row["split"], json.dumps(row.get("rules"), sort_keys=True)


def _points(rows: Iterable[Row]) -> tuple[Point, ...]:
    # the newest row of a seed counts, should the file hold several
    newest: dict[tuple[Any, ...], dict[tuple[bool, int], Row]] = {}
    for row in rows:
        name = row["backbone"] if row["kind"] == "baseline" else row.get("recipe", "")
        key = (row["kind"], name, row.get("budget_bytes"))
        newest.setdefault(key, {})[bool(row.get("online")), row.get("seed", 0)] = row
    points = []
    for (kind, name, budget), by_seed in newest.items():
        offline = [row for (online, _), row in by_seed.items() if not online]
        online = [row for (online, _), row in by_seed.items() if online]
        if not offline:  # a run killed between the two rows of a recipe
            continue
        codecs = " or ".join(dict.fromkeys(row.get("codec") or name or kind for row in offline))
        replayed = _mean(online) if online else {}
        points.append(
            Point(
                kind=kind,
                name=codecs,
                recipe=name or kind,
                budget_bytes=budget,
                seeds=tuple(sorted(row.get("seed", 0) for row in offline)),
                row=_mean(offline),
                drift=replayed.get("drift"),
                drift_interval=replayed.get("drift_interval"),
            )
        )
    # a dial at its end gives the same codec at every larger budget
    unique: dict[tuple[str, str], Point] = {}
    for point in sorted(points, key=lambda p: p.budget_bytes or 0):
        unique.setdefault((point.kind, point.name), point)
    return tuple(unique.values())


def _mean(values: Sequence[Any]) -> Any:
    """Numbers averaged, also inside dicts and lists; of anything else the last one."""
    first = values[0]
    if isinstance(first, dict):
        keys = [k for k in first if all(isinstance(v, dict) and k in v for v in values)]
        return {k: _mean([v[k] for v in values]) for k in keys}
    if isinstance(first, list | tuple):
        return tuple(_mean(list(part)) for part in zip(*values, strict=True))
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return sum(values) / len(values)
    return values[-1]


def frontier(rows: Sequence[Row]) -> list[Point]:
    """The recipes of each bench that no other beats in both bytes and accuracy, by bytes."""
    return [point for bench in benches(rows) for point in frontier_of(bench)]


def frontier_of(bench: Bench) -> list[Point]:
    """`frontier` of one bench."""
    best: list[Point] = []
    for point in sorted(bench.recipes, key=lambda p: (p.state_bytes, -p.served)):
        if not best or point.served > best[-1].served:
            best.append(point)
    return best


def choose(rows: Sequence[Row], budget_bytes: int) -> list[Choice]:
    """Which recipe each bench would take, if a state may cost this many bytes."""
    return [choose_of(bench, budget_bytes) for bench in benches(rows)]


def choose_of(bench: Bench, budget_bytes: int) -> Choice:
    """`choose` of one bench."""
    fitting = [
        p
        for p in bench.recipes
        # a dial is turned on a sample of users, so that all of them may be a little over
        if p.state_bytes <= budget_bytes or (p.budget_bytes or math.inf) <= budget_bytes
    ]
    point = max(fitting, key=lambda p: (p.served, -p.state_bytes), default=None)
    baseline, recompute = bench.best_baseline, bench.one("recompute")
    log_fits = bool(recompute and recompute.row["log_bytes"] <= budget_bytes)
    if baseline and point and baseline.served < point.served:
        baseline = None
    choice = Choice(budget_bytes, point, log_fits, baseline, "")
    return dataclasses.replace(choice, text=_in_words(bench, choice))


def _in_words(bench: Bench, choice: Choice) -> str:
    point, recompute = choice.point, bench.one("recompute")
    said = f"With {human_bytes(choice.budget_bytes)} per user "
    if point is None:
        said += "no measured recipe fits."
    else:
        kept = bench.kept(point)
        said += f"take {point.name}: NDCG@10 {decimal(point.served)}"
        if kept is not None:
            said += ", " + (f"{kept:.0%} of" if kept < 1 else "no less than") + " the full model"
        said += f", in {human_bytes(point.state_bytes)}"
        shared = point.row.get("shared_bytes_per_user", 0)
        if shared > 0.05 * choice.budget_bytes:
            said += f" and {human_bytes(shared)} of shared tables per user"
        said += f", answered in {_ms(point, 'recommend')}." if _ms(point, "recommend") else "."
    if choice.log_fits and recompute is not None:
        log = human_bytes(recompute.row["log_bytes"])
        took = _ms(recompute, "recommend")
        said += f" The ids alone ({log}) fit as well, and recomputing from them is exact"
        said += f"; it takes {took}." if took else "."
    if choice.baseline is not None:
        log = human_bytes(choice.baseline.row.get("log_bytes"))
        said += f" {choice.baseline.name}, which only counts over the log ({log}), reaches "
        said += decimal(choice.baseline.served)
        said += " and is at least as good." if point else "."
    return said


def _ms(point: Point, request: str) -> str:
    value = point.row.get(f"{request}_ms_p50")
    return "" if value is None else f"{value:.3g} ms"


def how_measured(bench: Bench) -> str:
    """Users, rules, machine, commit and date of a bench in words."""
    return f"Measured: {'; '.join(measured_facts(bench).values())}. 1 KB is 1,024 bytes."


def measured_facts(bench: Bench) -> dict[str, str]:
    """The same, each by what it answers."""
    newest = max(bench.rows, key=lambda row: str(row.get("date", "")))
    machine, rules = newest.get("machine") or {}, newest.get("rules") or {}
    model = bench.full.row if bench.full else newest
    seeds = sorted({row.get("seed", 0) for row in bench.rows if row["kind"] != "baseline"})
    replayed = next((row for row in bench.rows if row.get("online")), None)
    said = {
        "whom": f"{model.get('users', 0):,.0f} users",
        "task": SPLITS.get(bench.split, bench.split),
        "ranking": "whole catalogue ranked",
        "training": f"training seed{'s' if len(seeds) > 1 else ''} "
        + (", ".join(map(str, seeds)) or "none"),
    }
    if model.get("request_time") is not None:
        uses = "uses" if model["request_time"] else "does not use"
        said["request time"] = f"the model {uses} request time"
    if replayed:
        events = rules.get("online_events")
        span = "all events" if events is None else f"the newest {events} events"
        said["online"] = f"online: encoded after each of {span} of {replayed['users']:,.0f} users"
    if rules.get("requests"):
        said["times"] = f"{rules['requests']} requests of each kind timed on {rules.get('store')}"
    if machine:
        said["machine"] = f"{machine.get('cpu')}, {machine.get('cores')} cores"
    said["code"] = "commit " + ", ".join(dict.fromkeys(str(r.get("commit")) for r in bench.rows))
    said["date"] = str(newest.get("date", ""))[:10]
    return {name: text for name, text in said.items() if text}


def decimal(value: float | None, digits: int = 4) -> str:
    """`0.1724`, or a dash for nothing."""
    return "–" if value is None else f"{value:.{digits}f}"


def human_bytes(value: float | None) -> str:
    """`243 B`, `1.9 KB` (1,024 bytes), `3.1 MB`, or a dash for nothing.

    >>> human_bytes(1945), human_bytes(65536), human_bytes(64.4)
    ('1.9 KB', '64 KB', '64 B')
    """
    if value is None:
        return "–"
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1024
    digits = 0 if unit == "B" or value >= 100 or value == round(value) else 1
    return f"{value:.{digits}f} {unit}"
