"""What standings say in words: only what the intervals bear out, and each with its numbers."""

from collections.abc import Callable
from dataclasses import dataclass

from gistrec import registry
from gistrec.catalogue import BUDGETS
from gistrec.codecs import EvictByAttention
from gistrec.standings._places import (
    FOCUS,
    REFERENCE,
    Best,
    Kept,
    Place,
    Standing,
    Standings,
)
from gistrec.summary import human_bytes

CLAIMS = ((0.008, 0.995), (0.0025, 0.98))
"""Of the full fp32 state so much suffices to keep so much of the full model, online."""


@dataclass(frozen=True)
class Belief:
    """An ordering that the literature leads one to expect."""

    title: str
    better: str
    is_better: Callable[[Standing], bool]
    worse: str
    is_worse: Callable[[Standing], bool]


def _level(level: str) -> Callable[[Standing], bool]:
    return lambda method: method.level == level


def _named(name: str) -> Callable[[Standing], bool]:
    return lambda method: method.name == name


def _by_attention(method: Standing) -> bool:
    if method.family != "codecs":
        return False
    return issubclass(registry.find(method.family, method.name), EvictByAttention)


BELIEFS = (
    Belief(
        "Heads against pruning",
        "sharing heads or keeping latents",
        _level("head and latent"),
        "dropping events",
        _level("token eviction"),
    ),
    Belief(
        "Merging against eviction",
        "merging events",
        _level("token merging"),
        "dropping events",
        _level("token eviction"),
    ),
    Belief(
        "Attention against chance",
        "eviction by attention",
        _by_attention,
        "random eviction",
        _named("random"),
    ),
    Belief(
        "Attention against recency",
        "eviction by attention",
        _by_attention,
        "keeping the newest",
        _named("recent"),
    ),
    Belief(
        "Trained against post-hoc",
        "a trained method",
        lambda method: method.is_trained,
        "a codec on the full model",
        lambda method: not method.is_trained,
    ),
)


def said_of(place: Place) -> str:
    """`codec`, on which variant if it is not the full model."""
    return f"`{place.point.name}`" + (f" on `{place.model}`" if place.model else "")


def with_interval(kept: Kept) -> str:
    """`97.3% (96.8% to 97.9%)`."""
    low, high = kept.interval
    return f"{kept.share:.1%} ({low:.1%} to {high:.1%})"


def _with_numbers(best: Best) -> str:
    return f"{said_of(best[1])} {with_interval(best[1].offline)}"


def claims(found: Standings) -> list[str]:
    """What was claimed of the best recipe, reached or missed; also without another training."""
    said = []
    for part, share in CLAIMS:
        claim = f"**{100 * part:g}% of the full state keeps at least {share:.1%}, online**: "
        if found.full_bytes is None:
            said.append(claim + "not measured yet.")
            continue
        limit = part * found.full_bytes
        best = _most_online(found, limit, lambda method: True)
        line = claim + _verdict(best, share, found.full_bytes, limit)
        if best and best[1].model:
            codec = _most_online(found, limit, lambda method: not method.is_trained)
            line += f" On the full model: {_verdict(codec, share, found.full_bytes, limit)}"
        said.append(line)
    return said


def _most_online(
    found: Standings, limit: float, among: Callable[[Standing], bool]
) -> tuple[Kept, Place] | None:
    """The place that keeps most online in at most so many bytes, without any tolerance."""
    fitting = [
        (place.online, place)
        for method in found.methods
        for place in method.places
        if method.level != REFERENCE and among(method)
        if place.online and place.online.state_bytes <= limit
    ]
    return max(fitting, key=lambda f: f[0].share, default=None)


def _verdict(best: tuple[Kept, Place] | None, share: float, full_bytes: float, limit: float) -> str:
    if best is None:
        return f"missed, for nothing measured fits {human_bytes(limit)}."
    kept, place = best
    return (
        f"{'reached' if kept.share >= share else 'missed'}, {said_of(place)} keeps "
        f"{with_interval(kept)} in {human_bytes(kept.state_bytes)}, "
        f"{kept.state_bytes / full_bytes:.2%} of {human_bytes(full_bytes)}."
    )


def findings(found: Standings) -> list[str]:
    """Orderings that are sure, as expected or not; then what parameters alone explain."""
    said = [line for belief in BELIEFS for line in _checked(found, belief)]
    said += [line for budget in FOCUS if (line := _precisions(found, budget))]
    for method, control in controls(found):
        gain = method.offline.interval[0] > 1
        if gain and control and not method.offline.surely_above(control.offline):
            said.append(
                f"**Parameters, not compression**: uncompressed, `{method.model}` "
                f"({parameters(found, method)}) reaches {with_interval(method.offline)}; "
                f"`{control.model}` ({parameters(found, control)}), which compresses nothing, "
                f"{with_interval(control.offline)}."
            )
    return said


def _checked(found: Standings, belief: Belief) -> list[str]:
    expected: list[tuple[int, Best, Best]] = []
    contrary: list[tuple[int, Best, Best]] = []
    for budget in BUDGETS:
        a, b = found.best(budget, belief.is_better), found.best(budget, belief.is_worse)
        if a and b and a[1].offline.surely_above(b[1].offline):
            expected.append((budget, a, b))
        elif a and b and b[1].offline.surely_above(a[1].offline):
            contrary.append((budget, b, a))
    said = []
    for sure, opening, more, less in (
        (contrary, "against what is expected", belief.worse, belief.better),
        (expected, "as expected", belief.better, belief.worse),
    ):
        if sure:
            widest, a, b = max(sure, key=lambda s: s[1][1].offline.share - s[2][1].offline.share)
            budgets = ", ".join(human_bytes(budget) for budget, _, _ in sure)
            said.append(
                f"**{belief.title}**: {opening}, {more} keeps more than {less} at {budgets}. "
                f"Widest at {human_bytes(widest)}: {_with_numbers(a)} against {_with_numbers(b)}."
            )
    return said


def _precisions(found: Standings, budget: int) -> str | None:
    """The best precision behind a window, and those that are surely worse."""
    is_precision = _level("precision")
    best = found.best(budget, is_precision)
    others = [(m, p) for m in found.methods if is_precision(m) if (p := m.at(budget))]
    behind = [o for o in others if best and best[1].offline.surely_above(o[1].offline)]
    if not best or not behind:
        return None
    behind.sort(key=lambda o: -o[1].offline.share)
    worse = ", ".join(f"`{m.name}` {p.offline.share:.1%}" for m, p in behind)
    return (
        f"**Precisions at {human_bytes(budget)}**: {_with_numbers(best)} keeps surely more than "
        f"the best of {worse}."
    )


def controls(found: Standings) -> list[tuple[Place, Place | None]]:
    """Uncompressed variants with more parameters than the full model, each with its control.

    The control is the reference whose number of parameters is nearest.
    """

    def uncompressed(*, of_references: bool) -> list[Place]:
        return [
            place
            for method in found.methods
            if (method.level == REFERENCE) == of_references
            for place in method.places
            if place.model and place.point.kind == "identity"
        ]

    pairs = []
    for place in uncompressed(of_references=False):
        if (more := _more_parameters(found, place)) > 0:
            pairs.append(
                (
                    place,
                    min(
                        uncompressed(of_references=True),
                        key=lambda c, more=more: abs(_more_parameters(found, c) - more),  # type: ignore[misc]  # the default binds the loop's variable
                        default=None,
                    ),
                )
            )
    return pairs


def parameters(found: Standings, place: Place) -> str:
    """How many more than the full model's: `+33,000 parameters`."""
    return f"{_more_parameters(found, place):+,.0f} parameters"


def _more_parameters(found: Standings, place: Place) -> float:
    full = found.base.full
    least = full.row.get("parameters") if full else None
    return float((place.point.row.get("parameters") or 0) - (least or 0))
