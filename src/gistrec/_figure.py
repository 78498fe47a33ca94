"""The Pareto picture as numbers: where on a drawing the points, lines and labels of a bench lie.

The template makes SVG of them. Bytes are on a logarithmic axis.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from gistrec.summary import Bench, Point, decimal, frontier_of, human_bytes

WIDTH, HEIGHT = 960, 470
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 26, 54
PANEL_WIDTH, PANEL_HEIGHT, PANEL_LEFT, PANEL_BOTTOM = 240, 132, 40, 12

Path = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Mark:
    """A point's place."""

    point: Point
    series: int
    """Number of its recipe."""
    x: float
    y: float
    online_y: float | None
    """Where the online replay puts it."""
    whisker: tuple[float, float]
    """Ends of the interval."""
    on_frontier: bool


@dataclasses.dataclass(frozen=True)
class Line:
    """A horizontal reference."""

    label: str
    y: float
    label_y: float
    is_model: bool


@dataclasses.dataclass(frozen=True)
class Series:
    """The points of one recipe."""

    recipe: str
    path: Path


@dataclasses.dataclass(frozen=True)
class Figure:
    """All of it, in the drawing's units."""

    width: int
    height: int
    left: int
    top: int
    right: int
    bottom: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marks: list[Mark]
    series: list[Series]
    frontier: Path
    """The stairs that no recipe lies above."""
    lines: list[Line]
    recompute: tuple[float, float] | None
    """Where the log alone stands."""


def draw(bench: Bench) -> Figure:
    """Lay a bench's points out."""
    points, best = bench.recipes, frontier_of(bench)
    recompute = bench.one("recompute")
    sizes = [p.state_bytes for p in points]
    sizes += [float(recompute.row["log_bytes"])] if recompute else []
    values = [v for p in points for v in (*_interval(p), p.row["ndcg_10"] + (p.drift or 0))]
    values += [p.served for p in (recompute, bench.best_baseline) if p]
    x_of = _scale([math.log2(max(size, 1)) for size in sizes], LEFT, WIDTH - RIGHT)
    y = _scale(values, HEIGHT - BOTTOM, TOP)

    def x(size: float) -> float:
        return x_of(math.log2(max(size, 1)))

    recipes = list(dict.fromkeys(p.recipe for p in points))
    marks = [
        Mark(
            point=p,
            series=recipes.index(p.recipe),
            x=x(p.state_bytes),
            y=y(p.row["ndcg_10"]),
            online_y=None if p.drift is None else y(p.row["ndcg_10"] + p.drift),
            whisker=(y(_interval(p)[0]), y(_interval(p)[1])),
            on_frontier=p in best,
        )
        for p in points
    ]
    series = [
        Series(r, [(m.x, m.y) for m in marks if m.series == n]) for n, r in enumerate(recipes)
    ]
    return Figure(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        top=TOP,
        right=WIDTH - RIGHT,
        bottom=HEIGHT - BOTTOM,
        x_ticks=[
            (x(2.0**n), human_bytes(2.0**n))
            for n in range(0, 64, 2)
            if LEFT <= x(2.0**n) <= WIDTH - RIGHT
        ],
        y_ticks=_y_ticks(min(values), max(values), y),
        marks=marks,
        series=series,
        frontier=_stairs([(x(p.state_bytes), y(p.served)) for p in best]),
        lines=_lines(bench, y),
        recompute=(x(recompute.row["log_bytes"]), y(recompute.served)) if recompute else None,
    )


@dataclasses.dataclass(frozen=True)
class Panel:
    """Accuracy by bytes for the users whose histories have so many events."""

    events: str
    users: float
    dots: list[tuple[float, float, str]]
    """Place and words of each recipe of the frontier."""
    model_y: float
    baseline_y: float | None
    y_ticks: list[tuple[float, str]]


def draw_by_length(bench: Bench) -> list[Panel]:
    """A small picture for each range of lengths, all to the same scales; shortest first."""
    best, full, baseline = frontier_of(bench), bench.full, bench.best_baseline
    ranges = full.row.get("by_length", {}) if full and best else {}

    def at(point: Point, events: str) -> float | None:
        found = point.row.get("by_length", {}).get(events)
        return None if found is None else float(found["mean"])

    shown = [p for p in (*best, full, baseline) if p]
    values = [v for p in shown for events in ranges if (v := at(p, events)) is not None]
    if not values:
        return []
    y = _scale(values, PANEL_HEIGHT - PANEL_BOTTOM, 8)
    x = _scale([math.log2(max(p.state_bytes, 1)) for p in best], PANEL_LEFT, PANEL_WIDTH - 8)
    ticks = _y_ticks(min(values), max(values), y, 8, PANEL_HEIGHT - PANEL_BOTTOM)
    panels = []
    for events, of in ranges.items():
        dots = [
            (x(math.log2(max(p.state_bytes, 1))), y(v), f"{p.name}\n{human_bytes(p.state_bytes)}, "
             f"NDCG@10 {decimal(v)} with {events} events")
            for p in best
            if (v := at(p, events)) is not None
        ]  # fmt: skip
        counted = at(baseline, events) if baseline else None
        panels.append(
            Panel(
                events=events,
                users=of["users"],
                dots=dots,
                model_y=y(of["mean"]),
                baseline_y=None if counted is None else y(counted),
                y_ticks=ticks[::2],
            )
        )
    return panels


def _interval(point: Point) -> tuple[float, float]:
    low, high = point.row.get("interval") or (point.row["ndcg_10"],) * 2
    return float(low), float(high)


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """Maps the values' range, with some room at both ends, to start..end."""
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 1.0
    low, high = low - room, high + room
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _y_ticks(
    low: float,
    high: float,
    y: Callable[[float], float],
    top: float = TOP,
    bottom: float = HEIGHT - BOTTOM,
) -> list[tuple[float, str]]:
    span = (high - low) or 1.0
    step = min(
        (m * 10.0**e for e in range(-5, 1) for m in (1, 2, 5)), key=lambda s: abs(span / s - 5)
    )
    digits = max(0, -math.floor(math.log10(step)))
    ticks = [n * step for n in range(math.floor(low / step), math.ceil(high / step) + 1)]
    return [(y(v), f"{v:.{digits}f}") for v in ticks if top <= y(v) <= bottom]


def _stairs(corners: Path) -> Path:
    """What is reached with at most so many bytes: level, then up at the next recipe."""
    path = corners[:1]
    for (_, y_before), (x, y) in pairwise(corners):
        path += [(x, y_before), (x, y)]
    return [*path, (WIDTH - RIGHT, corners[-1][1])] if path else []


def _lines(bench: Bench, y: Callable[[float], float]) -> list[Line]:
    lines = []
    if full := bench.full:
        at, label = y(full.served), f"full model {decimal(full.served)}"
        lines.append(Line(label, at, at - 7, is_model=True))
    if baseline := bench.best_baseline:
        at, label = y(baseline.served), f"{baseline.name} {decimal(baseline.served)}"
        # under its line where the model's label stands above it
        close = bool(lines) and abs(lines[0].label_y - (at - 7)) < 16
        lines.append(Line(label, at, at + 15 if close else at - 7, is_model=False))
    return lines
