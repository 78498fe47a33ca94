"""`gistrec data`: fetch, look at and write logs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclopts import App

from gistrec.cli._output import MARKDOWN, PARAMETER, Output, Table, Work

app = App(
    name="data",
    help="Fetch, look at and write interaction logs.",
    default_parameter=PARAMETER,
    **MARKDOWN,
)


@app.command(name="list")
def list_(*, output: Output = Output()) -> None:
    """List the logs that `data get` knows, with their sizes and terms."""
    from gistrec.download import DATASETS

    document = {
        name: {"url": d.url, "size_bytes": d.size_bytes, "terms": d.terms}
        for name, d in DATASETS.items()
    }
    rows = [[name, f"{d.size_bytes / 1e6:,.0f} MB", d.terms] for name, d in DATASETS.items()]
    output.show(document, Table(rows, left=3))


@app.command
def get(name: str, /, *, out: Path = Path("data"), work: Work = Work()) -> None:
    """Fetch a public log from its provider and check it.

    Args:
        name: One of `gistrec data list`.
        out: Folder to put it in; made if it does not exist.
    """
    from gistrec.download import DATASETS, fetch

    with work.progress("bytes") as progress:
        bar = progress.add_task(name)
        folder = fetch(
            name,
            out,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    work.note(DATASETS[name].terms)
    work.show({"data": str(folder)}, f"read it with --data {folder}")


@app.command
def stats(data: str, /, *, work: Work = Work()) -> None:
    """Say what a log looks like: users, items, lengths, ties, repeats; of impressions, labels, too.

    Args:
        data: A file, a MovieLens folder, or a spec such as "csv(path='log.csv', user='uid')"; or
            impressions, such as "labelled(path='log.parquet', label='is_click')".
    """
    from gistrec import impression_stats, impressions, log_stats
    from gistrec.events import read

    with work.waiting(f"reading {data}"):
        found = (
            impression_stats.describe(impressions.read(data))
            if impressions.is_source(data)
            else log_stats.describe(read(data))
        )
    work.show(found, "\n".join(found.lines()))


@app.command
def make(data: str = "synthetic()", /, *, out: Path, work: Work = Work()) -> None:
    """Write a log as Parquet, by default a synthetic one.

    Titles of items, where known, go to `<out>-items.parquet`, where `read` finds them.

    Args:
        data: Another log: a file, a folder, or a spec such as "synthetic(users=50, seed=1)".
        out: The Parquet file; replaced as a whole if it exists.
    """
    from gistrec import impressions
    from gistrec.errors import ConfigError
    from gistrec.events import read

    if impressions.is_source(data):
        raise ConfigError(
            f"{data} names impressions, which are made from a log whenever they are read: write "
            "the log, and give the spec where impressions are asked for"
        )
    with work.waiting(f"reading {data}"):
        events = read(data)
    columns = {
        "user_id": events.user_id,
        "item_id": events.item_id,
        "timestamp": events.timestamp,
        "action": events.action,
    }
    if events.titles:
        titles = {"item_id": [*events.titles], "title": [*events.titles.values()]}
        _write(out.with_name(f"{out.stem}-items.parquet"), titles)
    _write(out, {name: c for name, c in columns.items() if c is not None})
    work.show({"data": str(out), "events": len(events)}, f"{out}: {len(events):,} events")


def _write(out: Path, columns: Mapping[str, Any]) -> None:
    import numpy as np

    from gistrec import parquet

    arrays = {name: np.asarray(column) for name, column in columns.items()}
    kinds = ["BIGINT" if array.dtype == np.int64 else "VARCHAR" for array in arrays.values()]
    parquet.write(out, map(" ".join, zip(arrays, kinds, strict=True)), [arrays])
