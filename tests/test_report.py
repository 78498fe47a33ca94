"""The report says what the rows say: aggregation, frontier, choice, tables and page."""

import html.parser
import re
from pathlib import Path
from typing import Any

import pytest

from gistrec import results
from gistrec._figure import draw, draw_by_length
from gistrec.errors import DataError
from gistrec.report import (
    accuracy_markdown,
    choose,
    frontier,
    load,
    to_html,
    to_markdown,
)
from gistrec.results import Row
from gistrec.summary import benches, human_bytes

COMMON = {
    "data": "groceries",
    "split": "last_basket",
    "seed": 0,
    "online": False,
    "budget_bytes": None,
    "users": 2000,
    "mean_length": 580.0,
    "rules": {"online_events": 64, "requests": 100, "store": "ram://"},
    "machine": {"cpu": "Nice CPU", "cores": 2},
    "commit": "abc123",
    "date": "2026-01-02T03:04:05+00:00",
}


def row(kind: str, ndcg: float, size: float, **more: Any) -> Row:
    made = {
        "kind": kind,
        "backbone": "hstu(width=64)",
        "recipe": "",
        "ndcg_10": ndcg,
        "hr_10": 2 * ndcg,
        "recall_10": ndcg / 2,
        "interval": [ndcg - 0.01, ndcg + 0.01],
        "by_length": {"<50": {"mean": ndcg, "users": 900}, "50-199": {"mean": ndcg, "users": 1100}},
        "log_bytes": 2000.0,
        "state_bytes": size,
        "bytes_per_user": size + 2000.0,
    }
    if kind in ("recipe", "identity"):
        made |= {"full_bytes": 600_000.0, "kept_fraction": size / 600_000, "request_time": True}
        made |= {"state_parts": {"floats": size, "header": 9.0}, "shared_bytes_per_user": 0.0}
        made |= {"recommend_ms_p50": 4.0, "recommend_ms_p99": 6.0}
    return COMMON | made | more


def recipe(spec: str, budget: int, ndcg: float, size: float, **more: Any) -> Row:
    codec = spec.replace("64", str(budget // 10))
    return row("recipe", ndcg, size, recipe=spec, codec=codec, budget_bytes=budget, **more)


A, B = "recent(keep=64) | rvq()", "recent(keep=64) | int8()"
ROWS = [
    row("baseline", 0.08, 0, backbone="popularity", log_bytes=0.0),
    row("baseline", 0.15, 0, backbone="own_frequent"),
    row("recompute", 0.20, 0, recommend_ms_p50=45.0, recommend_ms_p99=90.0),
    row("identity", 0.20, 600_000, recipe="identity()", codec="identity()"),
    recipe(A, 64, 0.14, 62),
    recipe(A, 256, 0.17, 250),
    recipe(A, 4096, 0.19, 4000),
    recipe(B, 256, 0.12, 251),
    recipe(B, 4096, 0.18, 4090),
]


def online(of: Row, drift: float, low: float, high: float) -> Row:
    return of | {"online": True, "drift": drift, "drift_interval": [low, high], "users": 128}


def names(points: list[Any]) -> list[str]:
    return [p.name for p in points]


def test_the_frontier_is_what_nothing_beats() -> None:
    kept = frontier(ROWS)
    assert names(kept) == [
        "recent(keep=6) | rvq()",
        "recent(keep=25) | rvq()",
        "recent(keep=409) | rvq()",
        "identity()",
    ]


def test_the_choice_is_the_best_that_fits() -> None:
    (choice,) = choose(ROWS, 300)
    assert choice.point is not None
    assert choice.point.name == "recent(keep=25) | rvq()"
    assert not choice.log_fits
    assert choice.baseline is None
    assert choice.text == (
        "With 300 B per user take recent(keep=25) | rvq(): NDCG@10 0.1700, 85% of the full model, "
        "in 250 B, answered in 4 ms."
    )


def test_what_is_better_by_chance_is_not_praised() -> None:
    (choice,) = choose([*ROWS[:4], recipe(A, 256, 0.21, 250)], 256)
    assert "NDCG@10 0.2100, no less than the full model" in choice.text


def test_the_choice_says_when_counting_or_the_ids_are_better() -> None:
    (small,) = choose(ROWS, 64)
    assert small.baseline is not None
    assert "own_frequent, which only counts over the log (2.0 KB), reaches 0.1500" in small.text
    (large,) = choose(ROWS, 4096)
    assert large.log_fits
    assert "The ids alone (2.0 KB) fit as well, and recomputing from them is exact" in large.text
    assert "45 ms" in large.text
    (none,) = choose(ROWS, 16)
    assert none.point is None
    assert "no measured recipe fits" in none.text


def test_a_point_a_little_over_the_budget_it_was_made_for_fits() -> None:
    (choice,) = choose([*ROWS[:4], recipe(A, 256, 0.17, 258)], 256)
    assert choice.point is not None


def test_shared_tables_are_told_where_they_matter() -> None:
    (choice,) = choose([*ROWS[:4], recipe(A, 256, 0.17, 250, shared_bytes_per_user=106.0)], 256)
    assert "in 250 B and 106 B of shared tables per user" in choice.text


@pytest.mark.parametrize(
    ("interval", "served"), [((-0.06, -0.02), 0.15), ((-0.09, 0.01), 0.19), ((0.0, 0.0), 0.19)]
)
def test_drift_counts_where_it_is_sure(interval: tuple[float, float], served: float) -> None:
    drifting = online(ROWS[6], -0.04, *interval)
    (bench,) = benches([*ROWS, drifting])
    (point,) = [p for p in bench.recipes if p.name == "recent(keep=409) | rvq()"]
    assert point.served == pytest.approx(served)
    assert point.drift == -0.04
    (choice,) = choose([*ROWS, drifting], 5000)
    assert choice.point is not None
    assert ("rvq" in choice.point.name) == (served == 0.19)


def test_seeds_are_averaged_and_the_newest_row_of_a_seed_counts() -> None:
    more = [
        recipe(A, 256, 0.99, 999),  # measured again below: the first one is forgotten
        recipe(A, 256, 0.17, 250),
        recipe(A, 256, 0.19, 254, seed=1),
        row("identity", 0.22, 600_000, recipe="identity()", codec="identity()", seed=1),
    ]
    (bench,) = benches([*ROWS, *more])
    (point,) = [p for p in bench.recipes if p.budget_bytes == 256 and p.recipe == A]
    assert point.seeds == (0, 1)
    assert point.row["ndcg_10"] == pytest.approx(0.18)
    assert point.state_bytes == 252
    assert point.row["interval"] == pytest.approx((0.17, 0.19))
    assert point.row["by_length"]["<50"]["mean"] == pytest.approx(0.18)
    assert bench.full is not None
    assert bench.full.served == pytest.approx(0.21)


def test_a_dial_at_its_end_is_one_point() -> None:
    twice = [row("recipe", 0.19, 900, recipe=A, codec="x", budget_bytes=b) for b in (4096, 1024)]
    (bench,) = benches([*ROWS[:4], *twice])
    assert [p.budget_bytes for p in bench.recipes] == [1024, None]


def test_logs_models_and_rules_are_kept_apart() -> None:
    other = [r | {"data": "films", "split": "leave_last_out"} for r in ROWS]
    model = [r | {"backbone": "sasrec()"} for r in ROWS if r["kind"] != "baseline"]
    sample = [r | {"rules": {"users": 50}} for r in ROWS]
    found = benches([*ROWS, *other, *model, *sample])
    assert [(b.data, b.backbone) for b in found] == [
        ("groceries", "hstu(width=64)"),
        ("films", "hstu(width=64)"),
        ("groceries", "sasrec()"),
        ("groceries", "hstu(width=64)"),
    ]
    assert all(b.best_baseline and b.best_baseline.name == "own_frequent" for b in found)


def test_baselines_alone_can_be_shown() -> None:
    (bench,) = benches(ROWS[:2])
    assert bench.full is None
    assert "popularity" in to_html(ROWS[:2])
    assert "own_frequent" in accuracy_markdown(ROWS[:2])


def cells(line: str) -> list[str]:
    return [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_is_a_table_with_the_numbers() -> None:
    text = to_markdown(ROWS)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(ROWS)
    assert len({len(cells(line)) for line in lines}) == 1
    found = {cells(line)[0]: cells(line) for line in lines}
    assert found[r"`recent(keep=25) \| rvq()`"][1:4] == ["250 B", "2.2 KB", "0.042%"]
    assert "0.1700" in found[r"`recent(keep=25) \| rvq()`"]
    for said in ("2,000 users", "Nice CPU, 2 cores", "commit abc123", "2026-01-02", "seed 0"):
        assert said in text
    short = to_markdown(ROWS, only_frontier=True)
    assert "rvq" in short
    assert "int8" not in short


def test_accuracy_table_is_sorted_and_has_every_model_once() -> None:
    seeds = [r | {"seed": 1} for r in ROWS if r["kind"] == "identity"]
    text = accuracy_markdown([*ROWS, *seeds])
    lines = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == ["model", "NDCG@10", "95 %", "HR@10", "Recall@10", "seeds"]
    assert [line[0] for line in lines[2:]] == ["`hstu(width=64)`", "own_frequent", "popularity"]
    assert lines[2][1] == "0.2000"
    assert lines[2][5] == "2"


class Page(html.parser.HTMLParser):
    """Tags as they nest, and text by the tag it stands in."""

    void = ("meta", "line", "circle", "path", "polyline", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.void or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_needs_no_network() -> None:
    drifting = online(ROWS[5], -0.004, -0.005, -0.003)
    text = to_html([*ROWS, drifting], title="Tried")
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert not [tag for tag, attrs in page.tags if "src" in attrs or tag == "link"]
    marks = [attrs for tag, attrs in page.tags if tag == "g" and "data-recipe" in attrs]
    assert len(marks) == 6
    tip = next(m["aria-label"] for m in marks if "keep=25) | rvq" in (m["aria-label"] or ""))
    assert tip == (
        "recent(keep=25) | rvq()\n250 B of state, 0.042% of fp32, for 256 B\n"
        "NDCG@10 0.1700 (0.160–0.180), 83.0% of the full model\n"
        "online drift -0.0040 (-0.0050 to -0.0030)\nrecommend 4 ms (p50)"
    )
    shown = " ".join(" ".join(page.text).split())
    for choice in (c for b in (64, 256, 4096) for c in choose([*ROWS, drifting], b)):
        assert choice.text.split(":")[-1] in shown
    assert "request time" in shown


def test_everything_that_comes_from_rows_is_escaped() -> None:
    nasty = "<script>alert(1)</script>\"'>"
    text = to_html([r | {"data": nasty, "commit": nasty, "machine": {"cpu": nasty}} for r in ROWS])
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert nasty in "".join(Page(text).text)


def test_the_page_says_how_it_was_measured_and_whom_the_bytes_serve() -> None:
    text = to_html(ROWS)
    page = Page(text)
    shown = " ".join(" ".join(page.text).split())
    for fact in ("2,000 users", "Nice CPU, 2 cores", "commit abc123", "whole catalogue ranked"):
        assert fact in shown
    for panel in ("<50 events , 900 users", "50-199 events , 1,100 users"):
        assert panel in shown
    bars = [attrs["style"] for tag, attrs in page.tags if tag == "i" and "left" in str(attrs)]
    assert len(bars) == len(ROWS)
    assert "left:0.0%;width:14.3%" in bars  # popularity, 0.07 to 0.09 of 0.07 to 0.21


def test_panels_are_drawn_to_one_scale() -> None:
    short = {"<50": {"mean": 0.1, "users": 9}, "50-199": {"mean": 0.3, "users": 9}}
    (bench,) = benches([r | {"by_length": short} for r in ROWS])
    first, second = draw_by_length(bench)
    assert (first.events, second.events) == ("<50", "50-199")
    assert first.y_ticks == second.y_ticks
    assert first.model_y > second.model_y  # further down is less accurate
    assert [x for x, _, _ in first.dots] == sorted(x for x, _, _ in second.dots)
    assert draw_by_length(benches(ROWS[:2])[0]) == []
    lacking = [r | {"by_length": {}} for r in ROWS]
    assert draw_by_length(benches(lacking)[0]) == []


def test_a_page_of_very_many_recipes_stays_below_a_megabyte() -> None:
    many = [
        recipe(f"{A} | zstd(level={n})", budget, n / 2e3, budget - n / 100)
        for n in range(200, 300)
        for budget in (64, 128, 256, 512, 1024, 2048, 4096, 8192)
    ]
    other = [row | {"data": "films"} for row in (*ROWS[:4], *many)]
    text = to_html([*ROWS[:4], *many, *other])
    assert len(text) < 1 << 20
    assert "717 recipes are left out, each less accurate than ten others of its budget" in text
    assert text.count("zstd(level=299)") > 16
    assert "zstd(level=205)" not in text
    assert "are left out" not in to_html(ROWS)


def test_a_model_that_loses_to_counting_is_called_out() -> None:
    better = row("baseline", 0.25, 0, backbone="own_frequent")
    said = "The full model does not beat own_frequent"
    assert said in to_html([*ROWS, better])
    assert said not in to_html(ROWS)


def test_all_marks_lie_inside_the_figure_and_in_order() -> None:
    (bench,) = benches([*ROWS, online(ROWS[4], 0.09, 0.08, 0.1)])
    figure = draw(bench)
    for mark in figure.marks:
        assert figure.left < mark.x < figure.right
        assert all(
            figure.top < y < figure.bottom for y in (*mark.whisker, mark.y, mark.online_y) if y
        )
    assert [m.x for m in figure.marks] == sorted(m.x for m in figure.marks)
    by_accuracy = sorted(figure.marks, key=lambda m: -m.point.row["ndcg_10"])
    assert [m.y for m in by_accuracy] == sorted(m.y for m in figure.marks)
    assert figure.frontier[-1][0] == figure.right
    assert len(figure.x_ticks) >= 4
    assert len(figure.y_ticks) >= 3


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no result row"):
        to_html([])
    with pytest.raises(DataError, match="row 2 is not a benchmark's: state_bytes is missing"):
        benches([ROWS[0], {k: v for k, v in ROWS[1].items() if k != "state_bytes"}])
    results.append(tmp_path / "r.jsonl", ROWS[0])
    assert load(tmp_path / "r.jsonl")[0]["backbone"] == "popularity"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (64.4, "64 B"), (999, "999 B"), (1024, "1 KB"), (626_700, "612 KB"),
     (3.3e6, "3.1 MB"), (5e9, "4.7 GB"), (None, "–")],
)  # fmt: skip
def test_bytes_are_written_for_people(size: float | None, text: str) -> None:
    assert human_bytes(size) == text
