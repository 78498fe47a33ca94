"""Rows -> what each method keeps, and in how many bytes."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from gistrec import registry
from gistrec.codecs import SLOTS, ByteCodec
from gistrec.registry import Family, Spec
from gistrec.results import Row
from gistrec.summary import Bench, Point, benches

FOCUS = (64, 512, 4096, 32768)
"""The budgets that a page speaks about at length."""
LEVELS = (
    "reference",
    "token eviction",
    "token merging",
    "register",
    "sequence",
    "head and latent",
    "layer",
    "cross-user",
    "precision",
    "architecture",
    "composition",
)
"""Where a method saves: what its file says after `Level:`; several methods are a composition."""
REFERENCE, COMPOSITION = LEVELS[0], LEVELS[-1]

_OVER = 1.03
"""A dial is turned on a sample of users, so that all of them may be a little over the budget."""
_WINDOW = "recent"
"""What stands before a codec for no other purpose than to reach a budget."""


@dataclass(frozen=True)
class Kept:
    """What is left of the full model's NDCG@10, of the same users, and in how many bytes."""

    share: float
    interval: tuple[float, float]
    """95 %. With users paired for codecs on the full model; for trained methods of the numerator
    alone, which is wider."""
    state_bytes: float

    def surely_above(self, other: "Kept") -> bool:
        """Whether the intervals do not overlap."""
        return self.interval[0] > other.interval[1]


@dataclass(frozen=True)
class Place:
    """One setting of a method, measured."""

    model: str
    """The trained variant by what differs from the full model; empty for the full model."""
    point: Point
    offline: Kept
    online: Kept | None

    @property
    def own(self) -> float | None:
        """Offline, what the codecs keep of this variant's own uncompressed state."""
        return self.point.row.get("ndcg_kept")


@dataclass(frozen=True)
class Standing:
    """A method, or a composition of several, on one log."""

    family: Family | None
    """None for a composition, and for references that are no component."""
    name: str
    level: str
    is_constant: bool
    """Whether its state has a size that no history changes."""
    places: tuple[Place, ...]

    @property
    def is_trained(self) -> bool:
        """Whether it needs a model of its own."""
        return any(place.model for place in self.places)

    def at(self, budget_bytes: float, *, online: bool = False) -> Place | None:
        """Its best setting within a budget; of equally good ones the smallest."""
        fitting = [
            (kept.share, -kept.state_bytes, -number)
            for number, place in enumerate(self.places)
            if (kept := place.online if online else place.offline)
            and kept.state_bytes <= budget_bytes * _OVER
        ]
        return self.places[-max(fitting)[2]] if fitting else None


Best = tuple[Standing, Place]
_Key = tuple[str, str, int | None]
"""Model, recipe and budget."""


@dataclass(frozen=True)
class Standings:
    """All methods on one log."""

    data: str
    split: str
    base: Bench
    """The full model."""
    full_bytes: float | None
    """Of its fp32 state, mean of the users that were replayed online."""
    methods: tuple[Standing, ...]
    """By level and name."""

    def best(self, budget_bytes: float, among: Callable[[Standing], bool]) -> Best | None:
        """The best of some methods within a budget, offline; references never count."""
        found = [
            (method, place)
            for method in self.methods
            if method.level != REFERENCE and among(method) and (place := method.at(budget_bytes))
        ]
        return max(found, key=lambda f: f[1].offline.share, default=None)


def distinct(places: Iterable[Place | None]) -> list[Place]:
    """Places in their order, each once."""
    return list({id(place): place for place in places if place}.values())


def of(rows: Sequence[Row]) -> list[Standings]:
    """Standings of each log whose full model is among the rows.

    A log that was measured by several rules counts with those that came last.
    """
    groups: dict[tuple[str, str], dict[str, list[Bench]]] = {}
    for bench in benches(rows):
        rules = json.dumps(bench.rows[0].get("rules"), sort_keys=True)
        groups.setdefault((bench.data, bench.split), {}).setdefault(rules, []).append(bench)
    found = []
    for (data, split), by_rules in groups.items():
        *_, last = by_rules.values()
        base, online = _base(last), _replayed(last)
        if base and (full := _full(p.row for p in base.recipes)):
            of_online = _full(row for key, row in online.items() if key[0] == base.backbone)
            methods = _methods(base, last, online, full, of_online)
            found.append(Standings(data, split, base, of_online and of_online[1], methods))
    return found


def _replayed(found: Sequence[Bench]) -> dict[_Key, Row]:
    """Online rows, averaged over seeds as the offline ones of a bench are."""
    rows = [row | {"online": False} for b in found for row in b.rows if row.get("online")]
    return {_key(bench, p): p.row for bench in benches(rows) for p in bench.points}


def _key(bench: Bench, point: Point) -> _Key:
    return bench.backbone, point.recipe, point.budget_bytes


def _base(found: Sequence[Bench]) -> Bench | None:
    """The full model: with whole keys and values, and options that all its variants have."""

    def spec(bench: Bench) -> Spec:
        return registry.parse_spec(bench.backbone)[0]

    models = [(bench, spec(bench)) for bench in found if bench.backbone]
    fit = [
        bench
        for bench, own in models
        if any(row.get("memory") == "full()" for row in bench.rows)
        if all(own.options.keys() <= s.options.keys() for _, s in models if s.name == own.name)
    ]
    return max(fit, key=lambda bench: len(bench.recipes), default=None)


def _full(rows: Iterable[Row]) -> tuple[float, float] | None:
    """NDCG@10 and bytes of the uncompressed full model with the users of these rows of its own.

    Where it was not measured with them, every row says what it keeps of it.
    """
    fit = [row for row in rows if row.get("ndcg_kept")]
    row = min(fit, key=lambda r: abs(r["ndcg_kept"] - 1), default=None)
    return (row["ndcg_10"] / row["ndcg_kept"], row["full_bytes"]) if row else None


def _kept(row: Row | None, full: tuple[float, float] | None, *, trained: bool) -> Kept | None:
    if not row or not full:
        return None
    if trained:  # what the row itself says is relative to its own uncompressed state
        low, high = (value / full[0] for value in row["interval"])
        return Kept(row["ndcg_10"] / full[0], (low, high), row["state_bytes"])
    if row.get("ndcg_kept") is None:
        return None
    low, high = row["ndcg_kept_interval"]
    return Kept(row["ndcg_kept"], (low, high), row["state_bytes"])


def _methods(
    base: Bench,
    found: Sequence[Bench],
    online: dict[_Key, Row],
    full: tuple[float, float],
    of_online: tuple[float, float] | None,
) -> tuple[Standing, ...]:
    places: dict[tuple[Family | None, str], list[Place]] = {}
    constant = set()
    for bench in found:
        trained = bench is not base
        model = _changed(bench.backbone, base.backbone) if trained else ""
        behind = _companions(bench)
        for point in bench.recipes:
            offline = _kept(point.row, full, trained=trained)
            if offline is None:
                continue
            replayed = _kept(online.get(_key(bench, point)), of_online, trained=trained)
            place = Place(model, point, offline, replayed)
            for key in [_variant(bench)] if trained else _about(point.recipe, behind):
                places.setdefault(key, []).append(place)
                if trained and _is_constant(bench):
                    constant.add(key)
    methods = [
        Standing(family, name, _level(family, name), (family, name) in constant, tuple(own))
        for (family, name), own in places.items()
    ]
    for point in base.points:  # these store the log and no state
        if point.kind in ("recompute", "baseline"):
            share, spread = point.row["ndcg_10"] / full[0], point.row["interval"]
            low, high = (value / full[0] for value in spread)
            kept = Kept(share, (low, high), point.row["log_bytes"])
            place = Place("", point, kept, None)
            methods.append(Standing(None, point.name, REFERENCE, False, (place,)))
    return tuple(sorted(methods, key=lambda m: (_order(m.level), m.name)))


def _order(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def _changed(backbone: str, base: str) -> str:
    """A variant's spec without the options that it shares with the full model."""
    (variant,), (whole,) = registry.parse_spec(backbone), registry.parse_spec(base)
    options = {n: v for n, v in variant.options.items() if whole.options.get(n) != v}
    return str(Spec(variant.name, options))


def _variant(bench: Bench) -> tuple[Family | None, str]:
    """What a trained variant is about: its memory, or else its architecture."""
    memory = next((r["memory"] for r in bench.rows if r.get("memory")), "full()")
    names = [part.name for part in registry.parse_spec(memory) if part.name != "full"]
    if not names:
        return "backbones", registry.parse_spec(bench.backbone)[0].name
    return (None if names[1:] else "memories"), " | ".join(names)


def _is_constant(bench: Bench) -> bool:
    """Whether all users' states have one size, and there is no slot that a window could drop."""
    row = bench.full.row if bench.full else {}
    one_size = row.get("state_bytes_p99", float("inf")) <= 1.1 * row.get("state_bytes", 0)
    chains = [registry.parse_spec(p.recipe) for p in bench.recipes]
    return bool(one_size and all(chain[0].name != _WINDOW for chain in chains))


def _about(recipe: str, behind: set[str]) -> list[tuple[Family | None, str]]:
    """The methods that a chain on the full model is a setting of.

    The window in front reaches budgets. Of two codecs that are left, the second is the precision
    that the first stands before, unless it codes bytes; more than two are a composition.
    """
    parts = registry.parse_spec(recipe)
    core = [part for part in parts if part.name != _WINDOW] or parts
    names = [part.name for part in core]
    if len(names) > 2:
        return [(None, " | ".join(names))]
    codes_bytes = issubclass(registry.find("codecs", names[-1]), ByteCodec)
    about: list[tuple[Family | None, str]] = [("codecs", names[-1 if codes_bytes else 0])]
    if parts[0].name == _WINDOW and str(parts[-1]) in behind and len(parts) == 2:
        about.append(("codecs", _WINDOW))  # compared with what else stands before the same codec
    return about


def _companions(bench: Bench) -> set[str]:
    """Codecs that stand behind a choice of slots other than the window."""
    chains = [registry.parse_spec(p.recipe) for p in bench.recipes]
    return {
        str(chain[1])
        for chain in chains
        if len(chain) == 2
        and chain[0].name != _WINDOW
        and registry.find("codecs", chain[0].name).stage == SLOTS
    }


@cache
def _level(family: Family | None, name: str) -> str:
    if family is None:
        return COMPOSITION
    module = sys.modules[registry.find(family, name).__module__]
    said = re.search(r"^Level: (.+)$", module.__doc__ or "", re.MULTILINE)
    return said[1] if said else "other"
