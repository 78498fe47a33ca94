"""Standings as Markdown: `docs/catalogue.md`, and a line for each method's own section."""

import re
from collections.abc import Sequence

from gistrec.catalogue import BUDGETS
from gistrec.reference_docs import MADE
from gistrec.registry import Family
from gistrec.report import PARTS
from gistrec.standings._places import FOCUS, REFERENCE, Place, Standing, Standings, distinct
from gistrec.standings._words import (
    claims,
    controls,
    findings,
    parameters,
    said_of,
    with_interval,
)
from gistrec.summary import decimal, how_measured, human_bytes

LEGEND = (
    "Share of the full model's NDCG@10 in %, offline, at the best setting within the budget (mean "
    "bytes of a state); bold: the best but for references. ▾ ▴ the same setting is surely worse or "
    "better online, encoded after every event. A method whose state has one size stands where "
    "that size first fits. Recomputing and counting need the log alone, whose bytes are given."
)

SURE = (
    "Offline, where 95 % intervals do not overlap. The intervals hold the chance of users, not "
    "that of a training, so a trained variant is only as sure as its seeds are many."
)
_FEW = 10


def page(found: Sequence[Standings]) -> str:
    """The text of `docs/catalogue.md`."""
    parts = [
        "# Catalogue",
        MADE,
        "What every method keeps when a user's state may take so many bytes, all measured under "
        "the same rules. [Methods](methods.md) says what each one is; every number is computed "
        "from [the rows](results/catalogue.jsonl). *Of the full model* means: of the uncompressed "
        "base model's NDCG@10 with the same users, also for trained methods; *of its own* means: "
        "of a trained variant's own uncompressed state. The history log is kept with every state "
        "and not counted here.",
    ]
    for standings in found:
        parts += _section(standings)
    return "\n\n".join(parts) + "\n"


def drawing_name(found: Standings) -> str:
    """File name of the figure."""
    return f"catalogue-{re.sub(r'[^a-z0-9]+', '-', found.data.lower()).strip('-')}.svg"


def _section(found: Standings) -> list[str]:
    full = found.base.full
    parts = [f"## {found.data}", how_measured(found.base)]
    if full:
        size = human_bytes(full.row.get("full_bytes"))
        parts.append(
            f"Full model: `{found.base.backbone}`, NDCG@10 {decimal(full.row['ndcg_10'])}, "
            f"{size} of fp32 state per user."
        )
    parts.append(f"![Kept by bytes, a line for each level](results/{drawing_name(found)})")
    parts += [_markdown(_cells(found, markdown=True)), LEGEND]
    parts += ["### Claims", _bullets(claims(found))]
    if said := findings(found):
        parts += ["### Orderings that are sure", SURE, _bullets(said)]
    parts += ["### The best at a budget", *_frontier(found)]
    if pairs := controls(found):
        parts += ["### Equal-parameter controls", _controls(found, pairs)]
    if points := [m for m in found.methods if m.is_constant]:
        parts += ["### States of one size", _points(points)]
    return parts


def table(found: Standings) -> list[list[str]]:
    """Levels, methods and what they keep at each budget in %, for a terminal."""
    return _cells(found, markdown=False)


def _cells(found: Standings, *, markdown: bool) -> list[list[str]]:
    best = {budget: found.best(budget, lambda method: True) for budget in BUDGETS}
    top = {budget: _percent(b[1]) for budget, b in best.items() if b}
    lines = [["level", "method", *map(human_bytes, BUDGETS)]]
    level = ""
    for method in found.methods:
        line = [
            method.level if method.level != level else "",
            _link(method) if markdown else method.name,
        ]
        level, before = method.level, None
        for budget in BUDGETS:
            place = method.at(budget)
            text = ""
            if place and not (method.is_constant and place is before):
                text = _percent(place)
                if markdown and text == top.get(budget) and method.level != REFERENCE:
                    text = f"**{text}**"
                text += _mark(place)
            before = place
            line.append(text)
        lines.append(line)
    return lines


def _percent(place: Place) -> str:
    return f"{100 * place.offline.share:.1f}"


def _mark(place: Place) -> str:
    """Whether online differs, and how."""
    drift = place.point.drift if place.point.drifts else None
    return "" if drift is None else "▾" if drift < 0 else "▴"


def _link(method: Standing) -> str:
    if method.family is not None:
        return f"[`{method.name}`](methods.md#{method.name})"
    if method.level == REFERENCE:
        return f"{method.name} ({human_bytes(method.places[0].offline.state_bytes)})"
    return f"`{method.name}`"


def _frontier(found: Standings) -> list[str]:
    """The best at some budgets, also without another training: what it keeps, costs, is made of."""
    rows = [["within", "recipe", "bytes", "offline", "online", "of its own", "same list"]]
    rows[0] += ["shared", "append", "recommend"]
    more = [["within", "recipe", "of the full model by length of history", "bytes by kind"]]
    close = []
    for budget in FOCUS:
        within, best = human_bytes(budget), found.best(budget, lambda method: True)
        untrained = found.best(budget, lambda method: not method.is_trained)
        for place in distinct(b[1] for b in (best, untrained) if b):
            rows.append([within, said_of(place), *_numbers(place)])
            more.append([within, said_of(place), _by_length(found, place), _kinds(place)])
        if best and (near := _not_surely_worse(found, budget, best[1])):
            names = ", ".join(f"`{name}`" for name in near[:_FEW])
            others = f" and {len(near) - _FEW} more" if len(near) > _FEW else ""
            close.append(f"Within {within}, not surely worse than the best: {names}{others}.")
    return [_markdown(rows), _markdown(more), *([_bullets(close)] if close else [])]


def _numbers(place: Place) -> list[str]:
    row = place.point.row
    return [
        human_bytes(place.offline.state_bytes),
        with_interval(place.offline),
        with_interval(place.online) if place.online else "–",
        _maybe(place.own if place.model else None),
        _maybe(row.get("overlap_10")),
        human_bytes(row.get("shared_bytes_per_user")),
        _ms(row.get("append_ms_p50")),
        _ms(row.get("recommend_ms_p50")),
    ]


def _kinds(place: Place) -> str:
    sizes = place.point.row.get("state_parts") or {}
    return ", ".join(
        f"{kind} {human_bytes(sizes[kind])}"
        for kind in dict.fromkeys((*PARTS, *sizes))
        if sizes.get(kind)
    )


def _not_surely_worse(found: Standings, budget: int, best: Place) -> list[str]:
    close = [
        (place.offline.share, method.name)
        for method in found.methods
        if method.level != REFERENCE and (place := method.at(budget)) and place is not best
        if not best.offline.surely_above(place.offline)
    ]
    return [name for _, name in sorted(close, reverse=True)]


def _by_length(found: Standings, place: Place) -> str:
    full = (found.base.full.row if found.base.full else {}).get("by_length") or {}
    own = place.point.row.get("by_length") or {}
    shares = [
        f"{name}: {own[name]['mean'] / full[name]['mean']:.1%}"
        for name in own
        if full.get(name, {}).get("mean")
    ]
    return ", ".join(shares) or "–"


def _controls(found: Standings, pairs: Sequence[tuple[Place, Place | None]]) -> str:
    def cells(place: Place | None) -> list[str]:
        if place is None:
            return ["not measured", "–"]
        said = f"`{place.model}`, {parameters(found, place)}"
        return [said, with_interval(place.offline)]

    head = ["uncompressed", "of the full model", "its control", "of the full model"]
    return _markdown([head, *([*cells(place), *cells(control)] for place, control in pairs)])


def _points(methods: Sequence[Standing]) -> str:
    rows = [["method", "recipe", "bytes", "of the full model", "online", "of its own"]]
    for method in methods:
        for place in sorted(method.places, key=lambda p: p.offline.state_bytes):
            rows.append(
                [
                    _link(method),
                    f"`{place.point.name}`",
                    human_bytes(place.offline.state_bytes) + _mark(place),
                    with_interval(place.offline),
                    with_interval(place.online) if place.online else "–",
                    _maybe(place.own),
                ]
            )
    return _markdown(rows)


def measured(found: Sequence[Standings]) -> dict[tuple[Family, str], str]:
    """For each method what it keeps, in words for its own section of `docs/methods.md`."""
    said: dict[tuple[Family, str], list[str]] = {}
    for standings in found:
        for method in standings.methods:
            places = distinct(map(method.at, FOCUS))
            if method.family is not None and places:
                kept = ", ".join(
                    f"{_percent(p)}%{_mark(p)} in {human_bytes(p.offline.state_bytes)}"
                    for p in places
                )
                key = method.family, method.name
                said.setdefault(key, []).append(f"{standings.data}: {kept}")
    opening = "**Measured**, of the full model's NDCG@10 ([how](catalogue.md)): "
    return {key: f"{opening}{'; '.join(lines)}." for key, lines in said.items()}


def _maybe(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} ms"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *lines = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(r)} |" for r in (head, ["---"] * len(head), *lines))


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
