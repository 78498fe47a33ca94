"""What a server may be told beside its model and store."""

from dataclasses import dataclass

from gistrec.server.keys import KeyRing


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of a server."""

    keys: KeyRing | None = None
    """Who may call it; None: anybody who reaches it."""


DEFAULTS = Settings()
