"""Result rows -> a self-contained HTML page, and Markdown tables for README and docs.

Everything shown is computed from the rows alone; `summary` says how.
"""

import dataclasses
from collections.abc import Callable, Sequence
from importlib.resources import files

import jinja2

from gistrec._figure import PANEL_HEIGHT, PANEL_LEFT, PANEL_WIDTH, draw, draw_by_length
from gistrec.errors import DataError
from gistrec.results import Row, load
from gistrec.summary import (
    SPLITS,
    Bench,
    Point,
    benches,
    choose,
    choose_of,
    decimal,
    frontier,
    frontier_of,
    how_measured,
    human_bytes,
    measured_facts,
)

__all__ = ["accuracy_markdown", "choose", "frontier", "load", "to_html", "to_markdown"]

BUDGETS = (64, 128, 256, 512, 1024, 4096, 16384)
"""Budgets that a page speaks about where the rows name none."""
MOST, BEST_OF_BUDGET = 150, 10
"""More recipes of a model than that are not all on a page: so many of each budget are."""
PARTS = ("header", "positions", "tail", "indices", "scales", "floats")
"""Kinds of bytes, in the order in which a bar shows them."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table: what is shown and by what it is sorted."""

    name: str
    help: str
    show: Callable[[Bench, Point], str]
    value: Callable[[Bench, Point], float | str | None]


def _number(
    name: str, help: str, key: str, show: Callable[[float | None], str], *, unit: str = ""
) -> Column:
    def value(bench: Bench, point: Point) -> float | None:
        return point.row.get(key)

    return Column(name, help, lambda b, p: show(value(b, p)), value)


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{share:.1%}" if share >= 0.001 or not share else f"{share:.3%}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _interval(point: Point) -> str:
    low, high = point.row.get("interval") or (None, None)
    return "" if low is None else f"{decimal(low, 3)}–{decimal(high, 3)}"


def _drift(point: Point) -> str:
    return "–" if point.drift is None else f"{point.drift:+.4f}{'' if point.drifts else ' ≈ 0'}"


NAME = Column("recipe", "what is kept between requests", lambda b, p: p.name, lambda b, p: p.name)
NDCG = _number("NDCG@10", "whole catalogue ranked, offline", "ndcg_10", decimal)
COLUMNS = (
    _number("state", "mean stored bytes of a user's state", "state_bytes", human_bytes),
    _number("with log", "state and history log together", "bytes_per_user", human_bytes),
    _number("p99", "bytes that 99 % of users stay below", "state_bytes_p99", human_bytes),
    _number("of fp32", "share of the uncompressed state's bytes", "kept_fraction", _percent),
    _number("shared", "tables shared by all users, per user", "shared_bytes_per_user", human_bytes),
    NDCG,
    Column("95 %", "bootstrap over users", lambda b, p: _interval(p), lambda b, p: None),
    Column(
        "drift",
        "online minus offline NDCG@10; ≈ 0 where its 95 % interval holds zero",
        lambda b, p: _drift(p),
        lambda b, p: p.drift,
    ),
    Column(
        "of full",
        "accuracy as a server sees it, as a share of the uncompressed model's",
        lambda b, p: _percent(b.kept(p)),
        lambda b, p: b.kept(p),
    ),
    _number("HR@10", "users with a hit in the list", "hr_10", decimal),
    _number("overlap", "of the list with the uncompressed model's", "overlap_10", _percent),
    *(
        _number(f"{name} {p}", f"{what}, p{p}, ms", f"{key}_ms_p{p}", _ms)
        for key, name, what in (
            ("append", "append", "load, decode, step, encode, store"),
            ("rank", "rank 100", "rank 100 candidates"),
            ("rank_1000", "rank 1000", "rank 1,000 candidates"),
            ("recommend", "recommend", "10 best of the catalogue"),
        )
        for p in (50, 99)
    ),
)
RECALL = _number("Recall@10", "share of the basket in the list", "recall_10", decimal)


# ---- Markdown ----


def to_markdown(rows: Sequence[Row], *, only_frontier: bool = False) -> str:
    """A table per bench, references first and then by bytes, and how it was measured.

    Args:
        rows: As loaded.
        only_frontier: Leave out recipes that another beats in both bytes and accuracy.
    """
    wanted = {"state", "with log", "of fp32", "shared", "NDCG@10", "95 %", "drift", "of full"}
    wanted |= {"append 50", "append 99", "recommend 50", "recommend 99"}
    columns = [_code(NAME), *(c for c in COLUMNS if c.name in wanted)]
    parts = []
    for bench in benches(rows):
        references = [p for p in bench.points if p.kind in ("recompute", "baseline")]
        shown = references + (frontier_of(bench) if only_frontier else bench.recipes)
        parts.append(f"**{bench.data}**, {bench.split}, `{bench.backbone}`")
        parts.append(_table(columns, [(bench, p) for p in shown]))
        parts.append(how_measured(bench))
    return "\n\n".join(parts) + "\n"


def accuracy_markdown(rows: Sequence[Row]) -> str:
    """Accuracy of uncompressed models and trivial baselines: a table per log, best first."""
    groups: dict[tuple[str, str], dict[str, tuple[Bench, Point]]] = {}
    for bench in benches(rows):
        found = groups.setdefault((bench.data, bench.split), {})
        if bench.full:
            found[bench.backbone] = bench, bench.full
        found |= {p.name: (bench, p) for p in bench.points if p.kind == "baseline"}
    parts = []
    for (data, split), found in groups.items():
        model = Column("model", "", lambda b, p: _model_name(b, p), lambda b, p: None)
        seeds = Column("seeds", "", lambda b, p: _seeds(p), lambda b, p: None)
        columns = [c for c in COLUMNS if c.name in ("NDCG@10", "95 %", "HR@10")]
        columns += [RECALL] if split == "last_basket" else []
        best_first = sorted(found.values(), key=lambda f: -f[1].row["ndcg_10"])
        parts.append(f"**{data}**, {split}, {best_first[0][1].row.get('users', 0):,.0f} users")
        parts.append(_table([model, *columns, seeds], best_first))
    return "\n\n".join(parts) + "\n"


def _model_name(bench: Bench, point: Point) -> str:
    return point.name if point.kind == "baseline" else f"`{bench.backbone}`"


def _seeds(point: Point) -> str:
    return "–" if point.kind == "baseline" else str(len(point.seeds))


def _code(column: Column) -> Column:
    return dataclasses.replace(column, show=lambda b, p: f"`{column.show(b, p)}`")


def _table(columns: Sequence[Column], cells: Sequence[tuple[Bench, Point]]) -> str:
    lines = [[c.name for c in columns], ["---"] * len(columns)]
    lines += [[c.show(b, p).replace("|", "\\|") for c in columns] for b, p in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---- HTML ----


def _tip(point: Point, bench: Bench) -> str:
    """What the figure tells about a point, a line each."""
    row, budget = point.row, point.budget_bytes
    stored = f"{human_bytes(point.state_bytes)} of state"
    if "kept_fraction" in row:
        stored += f", {_percent(row['kept_fraction'])} of fp32"
    lines = [point.name, stored + (f", for {human_bytes(budget)}" if budget else "")]
    lines.append(f"NDCG@10 {decimal(row['ndcg_10'])} ({_interval(point)})")
    lines[-1] += f", {_percent(bench.kept(point))} of the full model"
    if point.drift is not None:
        low, high = point.drift_interval or (0.0, 0.0)
        lines.append(f"online drift {point.drift:+.4f} ({low:+.4f} to {high:+.4f})")
    took = [
        f"{k} {_ms(row[f'{k}_ms_p50'])}" for k in ("append", "recommend") if f"{k}_ms_p50" in row
    ]
    return "\n".join([*lines, *([", ".join(took) + " ms (p50)"] if took else [])])


def to_html(rows: Sequence[Row], title: str = "What a user costs") -> str:
    """A page that needs no network: words per budget, the Pareto picture, a sortable table.

    Raises:
        DataError: no row, or one that is not a benchmark's.
    """
    if not rows:
        raise DataError("there is no result row to report on: run `gistrec bench` first")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"bytes": human_bytes, "decimal": decimal, "ms": _ms, "tip": _tip}
    environment.filters["sortable"] = _sortable
    template = environment.from_string(files("gistrec").joinpath("_report.html").read_text("utf-8"))
    pages = []
    for whole in benches(rows):
        bench = _best_of(whole)
        budgets = sorted({p.budget_bytes for p in bench.recipes if p.budget_bytes}) or BUDGETS
        baskets = bench.split == "last_basket"
        pages.append(
            {
                "bench": bench,
                "task": SPLITS.get(bench.split, bench.split),
                "choices": [choose_of(bench, b) for b in budgets] if bench.recipes else [],
                "figure": draw(bench) if bench.recipes else None,
                "columns": (NAME, *COLUMNS[:10], *([RECALL] if baskets else []), *COLUMNS[10:]),
                "frontier": frontier_of(bench),
                "measured": measured_facts(bench),
                "by_length": draw_by_length(bench),
                "span": _span(bench),
                "left_out": len(whole.points) - len(bench.points),
                "parts": PARTS,
            }
        )
    panel = {"width": PANEL_WIDTH, "height": PANEL_HEIGHT, "left": PANEL_LEFT}
    return template.render(title=title, pages=pages, panel=panel)


def _best_of(bench: Bench) -> Bench:
    """Of very many recipes the frontier and the best of each budget: a page has to stay small."""
    if len(bench.recipes) <= MOST:
        return bench
    kept = [p for p in bench.points if p.kind != "recipe"] + frontier_of(bench)
    for budget in {p.budget_bytes for p in bench.recipes}:
        within = [p for p in bench.recipes if p.budget_bytes == budget]
        kept += sorted(within, key=lambda p: -p.served)[:BEST_OF_BUDGET]
    return dataclasses.replace(bench, points=tuple(p for p in bench.points if p in kept))


def _sortable(value: float | str | None) -> str:
    """By what a cell is sorted."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _span(bench: Bench) -> tuple[float, float]:
    """Of all intervals: where bars begin and end."""
    ends = [end for p in bench.points for end in p.row.get("interval") or (p.row["ndcg_10"],)]
    return min(ends), max(max(ends), min(ends) + 1e-9)
