"""Standings as SVG: what the best of each level keeps, by bytes."""

import math
from html import escape
from itertools import cycle

from gistrec.catalogue import BUDGETS
from gistrec.standings._places import REFERENCE, Standings, distinct
from gistrec.summary import human_bytes

_WIDTH, _HEIGHT = 960, 470
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 170, 30, 50
_COLORS = (
    *("#2f62d0", "#d9660b", "#128a57", "#b8337e", "#7a4fd0", "#0c8aa6"),
    *("#a8830c", "#c93a3a", "#6a7380", "#7b5b36", "#16191f"),
)


def drawing(found: Standings) -> str:
    """A picture that needs nothing else; methods whose state has one size are dots."""
    levels = [m.level for m in found.methods if m.level != REFERENCE]
    levels = list(dict.fromkeys(levels))
    lines: list[tuple[str, str, list[tuple[float, float]]]] = []
    for level, color in zip(levels, cycle(_COLORS), strict=False):
        best = (
            found.best(b, lambda m, level=level: m.level == level and not m.is_constant)  # type: ignore[misc]  # the default binds the loop's variable
            for b in BUDGETS
        )
        places = distinct(b[1] for b in best if b)
        path = [(p.offline.state_bytes, p.offline.share) for p in places]
        lines.append((level, color, path))
    color_of = {level: color for level, color, _ in lines}
    dots = [
        (method.name, color_of[method.level], place.offline)
        for method in found.methods
        if method.is_constant and method.level != REFERENCE
        for place in method.places
        if place.offline.state_bytes <= BUDGETS[-1]
    ]
    shares = [share for _, _, path in lines for _, share in path]
    shares += [kept.share for _, _, kept in dots] + [1.0]
    low, high = math.floor(10 * min(shares)) / 10, max(1.02, max(shares) + 0.01)

    def x(size: float) -> float:
        first, last = math.log2(BUDGETS[0]) - 0.5, math.log2(BUDGETS[-1])
        place = (math.log2(max(size, 1)) - first) / (last - first)
        return round(_LEFT + place * (_WIDTH - _RIGHT - _LEFT), 1)

    def y(share: float) -> float:
        return round(_TOP + (high - share) / (high - low) * (_HEIGHT - _BOTTOM - _TOP), 1)

    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>']
    parts.append(f'<text x="{_LEFT}" y="{_TOP - 12}">of the full model\'s NDCG@10, offline</text>')
    parts.append(
        f'<text x="{right}" y="{bottom + 40}" text-anchor="end">'
        f"{escape(found.data)}: bytes of state per user, logarithmic</text>"
    )
    for step in range(round(10 * low), math.floor(10 * high) + 1):
        at = y(step / 10)
        stroke = "#16191f" if step == 10 else "#e3e6eb"
        parts.append(f'<path d="M{_LEFT} {at}H{right}" stroke="{stroke}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4}" text-anchor="end">{10 * step}%</text>')
    for budget in BUDGETS:
        label = f'<text x="{x(budget)}" y="{bottom + 18}" text-anchor="middle">'
        parts.append(f'<path d="M{x(budget)} {_TOP}V{bottom}" stroke="#eceff3"/>')
        parts.append(f"{label}{human_bytes(budget)}</text>")
    for name, color, kept in dots:
        where = f'cx="{x(kept.state_bytes)}" cy="{y(kept.share)}" r="4"'
        parts.append(f'<circle {where} fill="{color}"><title>{escape(name)}</title></circle>')
    for number, (level, color, path) in enumerate(lines):
        points = " ".join(f"{x(size)},{y(share)}" for size, share in path)
        if path:
            style = f'fill="none" stroke="{color}" stroke-width="2"'
            parts.append(f'<polyline points="{points}" {style}/>')
        below = _TOP + 10 + 20 * number
        parts.append(f'<circle cx="{right + 20}" cy="{below - 4}" r="5" fill="{color}"/>')
        parts.append(f'<text x="{right + 32}" y="{below}">{escape(level)}</text>')
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
    opening += 'font-family="system-ui, sans-serif" font-size="12.5" fill="#5b6472">'
    return "\n".join([opening, *parts, "</svg>"]) + "\n"
