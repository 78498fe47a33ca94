"""One thing looked at."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "missing", "warning", "broken"]


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    status: Status
    """`missing` is optional, a `warning` may be meant so, `broken` is needed."""
    detail: str
    """What was found, or what to do."""


def attempt(name: str, look: Callable[[], str | Check]) -> Check:
    """What a look gives; `broken` with what it raises."""
    try:
        found = look()
    except Exception as error:  # whatever it is, it belongs in the list
        return Check(name, "broken", str(error) or type(error).__name__)
    return Check(name, "ok", found) if isinstance(found, str) else found
