"""Result files at hand, for the dashboard's picture of bytes and accuracy."""

import functools
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gistrec import results, summary
from gistrec.errors import GistrecError
from gistrec.server.errors import detail
from gistrec.server.schema import ErrorDetail
from gistrec.server.shown import BenchReport, Measured
from gistrec.summary import Bench, Point

BESIDE = "results.jsonl"
"""Taken if no file is named: from the model's folder, or beside it."""
_RUN = "run.toml"


@dataclass(frozen=True)
class ResultFiles:
    """Files of `gistrec bench`, read anew when they change, so a running bench can be watched.

    Args:
        paths: The files.
        models: Folders of the models that are served.
    """

    paths: tuple[Path, ...] = ()
    models: tuple[Path, ...] = ()

    @classmethod
    def found(cls, paths: Sequence[Path], models: Sequence[Path]) -> "ResultFiles":
        """The files that are named, or else those in or beside the models' folders."""
        beside = [place / BESIDE for folder in models for place in (folder, folder.parent)]
        chosen = paths or [path for path in dict.fromkeys(beside) if path.is_file()]
        return cls(tuple(chosen), tuple(models))

    def read(self) -> tuple[list[BenchReport], list[ErrorDetail]]:
        """What they hold, and why some can't be read."""
        benches: list[BenchReport] = []
        errors = []
        for path in self.paths:
            try:
                found = path.stat() if path.is_file() else os.stat_result([0] * 10)
                benches += _reports(path, self.models, found.st_mtime_ns, found.st_size)
            except GistrecError as error:
                errors.append(detail(error))
        return benches, errors


@functools.lru_cache(maxsize=16)
def _reports(
    path: Path, models: Sequence[Path], mtime_ns: int, size: int
) -> tuple[BenchReport, ...]:
    rows = results.load(path)
    return tuple(_report(path, bench, models) for bench in summary.benches(rows))


def _report(path: Path, bench: Bench, models: Sequence[Path]) -> BenchReport:
    best = summary.frontier_of(bench)
    points = sorted(bench.points, key=lambda p: (p.state_bytes, -p.served))
    return BenchReport(
        file=path.name,
        data=bench.data,
        split=bench.split,
        backbone=bench.backbone,
        measured=summary.how_measured(bench),
        points=[_measured(bench, point, point in best) for point in points],
        run=_run(bench, models),
    )


def _measured(bench: Bench, point: Point, on_frontier: bool) -> Measured:
    row = point.row
    return Measured(
        kind=point.kind,
        name=point.name,
        recipe=point.recipe,
        budget_bytes=point.budget_bytes,
        state_bytes=point.state_bytes,
        state_bytes_p99=row.get("state_bytes_p99"),
        log_bytes=float(row["log_bytes"]),
        shared_bytes=row.get("shared_bytes"),
        ndcg_10=point.served,
        interval=list(row.get("interval") or ()),
        kept=bench.kept(point),
        append_ms_p99=row.get("append_ms_p99"),
        recommend_ms_p50=row.get("recommend_ms_p50"),
        recommend_ms_p99=row.get("recommend_ms_p99"),
        on_frontier=on_frontier,
    )


def _run(bench: Bench, models: Sequence[Path]) -> dict[str, Any]:
    """What `gistrec train --run` and `gistrec serve --run` need beside the codec."""
    fingerprints = {row.get("model") for row in bench.rows if row["kind"] != "baseline"}
    for folder in models:
        try:
            about: Mapping[str, Any] = json.loads((folder / "model.json").read_bytes())
            run = tomllib.loads((folder / _RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if about.get("fingerprint") in fingerprints:
            run.pop("codec", None)
            return run | {"plan": {"model": str(folder)}}
    return {"data": bench.data, "backbone": bench.backbone, "scheme": bench.split}
