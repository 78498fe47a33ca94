"""What a server may be told beside its model and store."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gistrec.errors import ConfigError
from gistrec.server.budget import ResultFiles
from gistrec.server.keys import KeyRing

LogFormat = Literal["text", "json"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of a server; what a request may hold is fixed, see `schema`.

    Raises:
        ConfigError: one of them is out of its range.
    """

    keys: KeyRing | None = None
    """Who may call it; None: anybody who reaches it."""
    max_body_bytes: int = 1 << 20
    """Longest body of a request."""
    in_flight: int = os.cpu_count() or 1
    """Calls of the recommender at the same time. More than cores gain nothing where the model is
    the bottleneck; where the store is far away, they do."""
    waiting: int = 128
    """Requests that may wait for one of these; further ones are refused at once (429). So one that
    is answered has waited for at most this many calls, divided by those in flight."""
    timeout_s: float = 30.0
    """Longest time from a request's first byte to its answer."""
    linger_s: float = 0.0
    """How long new requests are answered after SIGTERM, while /readyz says no already: time for a
    load balancer to notice."""
    results: ResultFiles = field(default_factory=ResultFiles)
    """What the dashboard's picture of bytes and accuracy is made of."""
    rankers: tuple[tuple[Path, int], ...] = ()
    """Model folders behind the model, each with the candidates that it is given."""
    log_format: LogFormat | None = None
    """Log every request to stderr as a line of text or JSON; None: only what goes wrong."""

    def __post_init__(self) -> None:
        for name, least in (
            ("max_body_bytes", 1024),
            ("in_flight", 1),
            ("waiting", 0),
            ("timeout_s", 0.001),
            ("linger_s", 0),
        ):
            if not getattr(self, name) >= least:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}, allowed is {least} or more: give that"
                )


DEFAULTS = Settings()
