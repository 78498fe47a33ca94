"""The first table of README and of the site: bytes against accuracy, from the catalogue's rows."""

from collections.abc import Sequence

from gistrec.standings import FOCUS, Standing, Standings
from gistrec.summary import decimal, human_bytes

_LOGS = {
    "ml-1m.parquet": "MovieLens-1M, next film",
    "completejourney.parquet": "Complete Journey, next basket",
}


def block(found: Sequence[Standings]) -> str:
    """What a user's state may take, and what is then kept of the full model on each log."""
    logs = [_LOGS.get(s.data, s.data) for s in found]
    rows = [["kept of a user", *logs]]
    rows.append(["everything, in fp32", *map(_full, found)])
    for budget in FOCUS[:-1]:
        rows.append([f"a state of at most {human_bytes(budget)}", *(_at(s, budget) for s in found)])
    rows.append(["the item ids alone, recomputed at every request", *map(_recomputed, found)])
    rows.append(["counts in place of a model", *map(_counted, found)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{'---|' * len(rows[0])}")
    quality = ", ".join(decimal(s.base.full.row["ndcg_10"]) for s in found if s.base.full)
    return (
        "\n".join(lines) + "\n\nShare of the full model's NDCG@10 "
        f"({quality}) with its 95 % interval over users: whole catalogue ranked, recipe "
        "chosen offline, shown as encoded after every event, one training seed."
    )


def _full(found: Standings) -> str:
    return f"100 % in {human_bytes(found.full_bytes)}"


def _at(found: Standings, budget_bytes: int) -> str:
    """The best without a training of its own."""
    best = found.best(budget_bytes, lambda method: not method.is_trained)
    if best is None:
        return "–"
    kept = best[1].online or best[1].offline
    low, high = kept.interval
    return f"{kept.share:.1%} ({100 * low:.1f}–{100 * high:.1f})"


def _recomputed(found: Standings) -> str:
    (recompute,) = (m for m in found.methods if m.name == "recompute")
    return f"100 % in {human_bytes(recompute.places[0].offline.state_bytes)}"


def _counted(found: Standings) -> str:
    def share(method: Standing) -> float:
        return method.places[0].offline.share

    counts = [m for m in found.methods if m.level == "reference" and _counts(m)]
    best = max(counts, key=share)
    return f"{share(best):.1%} (`{best.name}`)"


def _counts(method: Standing) -> bool:
    return method.family is None and method.name != "recompute"
