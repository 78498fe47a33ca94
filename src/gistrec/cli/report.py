"""`gistrec report`: result rows as a page or tables."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gistrec.cli._output import Table, Work
from gistrec.errors import DataError

if TYPE_CHECKING:
    from gistrec.results import Row
    from gistrec.summary import Bench, Point

MANY = 40
"""More recipes of a log than that are shown by method: the best of each within each budget."""


def report(
    results: Path,
    /,
    *,
    html: Path | None = None,
    markdown: bool = False,
    log_to: str | None = None,
    work: Work = Work(),
) -> None:
    """Show what `bench` measured, as a table or as a page, or tell a tracker.

    Args:
        results: File of result rows.
        html: Write a page that needs no network to this file.
        markdown: Print full Markdown tables instead of a short one.
        log_to: Tell every row, as a run, to mlflow (at MLFLOW_TRACKING_URI) or
            "tensorboard(folder='runs')"; those that are there already are left out.
    """
    from gistrec import results as files
    from gistrec.report import to_html, to_markdown
    from gistrec.summary import benches

    everything = files.load(results)
    if not everything:
        raise DataError(f"{results} holds no result row: run `gistrec bench` first")
    ranked, rows = of_rankers(everything)
    if not rows and (html is not None or markdown):
        raise DataError(f"{results} holds rows of rankers alone: they are shown without options")
    document: dict[str, Any] = {"benches": [_plain(bench) for bench in benches(rows)]}
    if ranked:
        document["rankers"] = ranked
    parts: list[str | Table] = [to_markdown(rows)] if markdown else [*tables(everything)]
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        part = html.with_name(html.name + ".part")
        part.write_text(to_html(rows), encoding="utf-8")
        os.replace(part, html)
        document["html"] = str(html)
        parts.append(f"open {html} in a browser")
    if log_to is not None:
        from gistrec.trackers import push, tracker

        to = tracker(log_to)
        with work.progress("rows") as progress:
            bar = progress.add_task("telling", total=len(rows))
            document["told"] = push(rows, to, report=lambda: progress.advance(bar))
        parts.append(f"{document['told']} of {len(rows)} rows were new to {log_to}")
    work.show(document, *parts)


def catalogues(rows: Sequence["Row"]) -> dict[tuple[str, str], Table]:
    """By log and split, for those with many recipes: what each method keeps at each budget."""
    recipes = {(r["data"], r["split"], r["backbone"], r.get("recipe")) for r in rows}
    counts = Counter((data, split) for data, split, _, _ in recipes)
    if max(counts.values(), default=0) <= MANY:
        return {}
    from gistrec import standings

    return {
        (found.data, found.split): Table(
            standings.table(found),
            left=2,
            title=f"{found.data}, {found.split}: % of the NDCG@10 of {found.base.backbone} kept, "
            "offline, within so many bytes",
            head=True,
        )
        for found in standings.of(rows)
        if counts[found.data, found.split] > MANY
    }


def tables(rows: Sequence["Row"]) -> list[Table]:
    """A short table for each bench, references first, then states by bytes; or a catalogue's.

    Rows of rankers have tables of their own, at the end.
    """
    from gistrec.summary import benches, decimal, human_bytes

    def cells(bench: "Bench", point: "Point") -> list[str]:
        row, kept = point.row, bench.kept(point)
        low, high = row.get("interval") or (None, None)
        took = row.get("recommend_ms_p50")
        return [
            point.name,
            human_bytes(point.state_bytes),
            human_bytes(row.get("log_bytes")),
            f"{decimal(row['ndcg_10'])} ({decimal(low, 3)} to {decimal(high, 3)})",
            "" if point.drift is None else f"{point.drift:+.4f}",
            "" if kept is None else f"{kept:.1%}",
            "" if took is None else f"{took:.2f} ms",
        ]

    ranked, rows = of_rankers(rows)
    many = catalogues(rows)
    out = list(many.values())
    for bench in benches(rows):
        if (bench.data, bench.split) in many:
            continue
        references = [p for p in bench.points if p.kind in ("baseline", "recompute")]
        head = ["kept of a user", "state", "log", "NDCG@10 (95 %)", "drift", "of full", "recommend"]
        table = [head, *(cells(bench, point) for point in (*references, *bench.recipes))]
        title = f"{bench.data}, {bench.split}, {bench.backbone}"
        out.append(Table(table, title=title, head=True))
    return out + _ranker_tables(ranked)


def of_rankers(rows: Sequence["Row"]) -> tuple[list["Row"], list["Row"]]:
    """Rows of rankers, and the others."""
    ranked = [row for row in rows if row.get("auc") is not None]
    return ranked, [row for row in rows if row.get("auc") is None]


def _ranker_tables(rows: Sequence["Row"]) -> list[Table]:
    """A table for each data set and ranker: seeds one by one, in the order of the rows."""
    from gistrec.summary import human_bytes

    head = ["kept of a user", "seed", "state", "log", "AUC (95 %)", "GAUC", "logloss", "change"]
    tables: dict[tuple[str, str], list[list[str]]] = {}
    for row in rows:
        low, high = row["auc_interval"]
        change = row.get("auc_change")
        name = row.get("codec") or (row["backbone"] if row["kind"] == "baseline" else row["kind"])
        model = "counting" if row["kind"] == "baseline" else row["backbone"]
        tables.setdefault((row["data"], model), [head]).append(
            [
                name + (", online" if row["online"] else ""),
                str(row["seed"]),
                human_bytes(row["state_bytes"]),
                human_bytes(row["log_bytes"]),
                f"{row['auc']:.4f} ({low:.4f} to {high:.4f})",
                "" if row["gauc"] is None else f"{row['gauc']:.4f}",
                f"{row['logloss']:.4f}",
                "" if change is None else f"{change:+.4f}",
            ]
        )
    return [
        Table(table, title=f"{data}, {model}", head=True) for (data, model), table in tables.items()
    ]


def _plain(bench: "Bench") -> dict[str, Any]:
    from gistrec.summary import frontier_of

    best = frontier_of(bench)
    points = [
        {
            "name": point.name,
            "served_ndcg_10": point.served,
            "on_frontier": point in best,
            "drift": point.drift,
            "seeds": point.seeds,
            **point.row,
        }
        for point in bench.points
    ]
    return {"data": bench.data, "split": bench.split, "backbone": bench.backbone, "points": points}
