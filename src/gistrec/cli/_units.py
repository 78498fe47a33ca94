"""Sizes and times as people write them: 8g, 30d."""

import re

from gistrec.errors import ConfigError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
NONE = "none"
"""Takes a limit away."""


def seconds(option: str, text: str) -> float | None:
    """Of `90s`, `15m`, `12h`, `30d`; None of `none`.

    Raises:
        ConfigError: it is something else.
    """
    return _number(option, text, _SECONDS, "30d (s, m, h or d)")


def num_bytes(option: str, text: str) -> int | None:
    """Of `4096`, `512k`, `200m`, `8g`, `1t`; None of `none`.

    Raises:
        ConfigError: it is something else.
    """
    found = _number(option, text, _BYTES, "8g (k, m, g, t or nothing)")
    return None if found is None else int(found)


def _number(option: str, text: str, units: dict[str, int], example: str) -> float | None:
    if text == NONE:
        return None
    match = re.fullmatch(r"(\d*\.?\d+)([a-z]?)", text)
    if not match or match[2] not in units or not float(match[1]):
        raise ConfigError(f"{option} {text} is not understood: give for example {example}, or none")
    return float(match[1]) * units[match[2]]
