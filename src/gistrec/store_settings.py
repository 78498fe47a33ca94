"""What all who use a store agree on, kept in the store itself.

Which versions have states in it, which one serves, and how long and how much is kept. A command
changes it, and running servers follow within a second: they read it anew when what they know is
older than that.
"""

import logging
import time
from collections.abc import Callable

import msgspec

from gistrec.errors import ConflictError, StateError
from gistrec.stored_states import UNVERSIONED, versions_in
from gistrec.stores import Entry, Put, StateStore
from gistrec.wire import frame, unframe

KEY = "v/settings"
_FRESH_S = 1.0

log = logging.getLogger(__name__)


class Version(msgspec.Struct, frozen=True):
    """A model and a recipe that states were written with."""

    model: str = ""
    """The model's fingerprint."""
    codec: str = ""
    """Spec of its chain of codecs."""


class Settings(msgspec.Struct, frozen=True, omit_defaults=True):
    """The settings of a store; None where there is no limit."""

    versions: dict[str, Version] = {}
    """By name, all that may have states."""
    serving: str = ""
    """The version that answers; empty: the first one that a server was given."""
    state_ttl_s: float | None = None
    """A state that nobody used for so long is dropped, and rebuilt when its user comes back."""
    state_budget_bytes: int | None = None
    """Of all states together; beyond it, the ones used longest ago are dropped."""
    log_ttl_s: float | None = None
    """A user who had no new event for so long is forgotten, history and states."""

    @property
    def touch_s(self) -> float:
        """A state that is read is written anew if it was written longer ago: only writes are dated.

        Infinite if nothing depends on it.
        """
        return min(
            self.state_ttl_s / 4 if self.state_ttl_s is not None else float("inf"),
            3600.0 if self.state_budget_bytes is not None else float("inf"),
        )


class StoreSettings:
    """Reads and changes the settings of a store; safe between threads and processes."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._known: Settings | None = None
        self._until = 0.0

    def recent(self) -> Settings:
        """The settings as they were within the last second."""
        known, now = self._known, time.monotonic()
        if known is not None and now <= self._until:
            return known
        self._until = now + _FRESH_S  # this thread asks; the others go on with what is known
        return self.read()

    def read(self) -> Settings:
        """The settings as they are now; damaged ones give the versions that have states."""
        return self._noted(self._decoded(self._store.get(KEY)))

    def change(self, change: Callable[[Settings], Settings]) -> Settings:
        """Replace the settings by what a function makes of them.

        It is called again if somebody else was faster.
        """
        while True:
            entry = self._store.get(KEY)
            old = self._decoded(entry)
            new = change(old)
            if new == old and entry is not None:
                return self._noted(new)
            blob = frame(msgspec.json.encode(new))
            try:
                self._store.put_many([Put(KEY, blob, entry.version if entry else 0)])
            except ConflictError:
                continue
            return self._noted(new)

    def register(self, name: str, version: Version) -> None:
        """Say that a version has states, if that is not known yet."""
        if self.recent().versions.get(name) != version:
            self.change(
                lambda old: msgspec.structs.replace(old, versions={**old.versions, name: version})
            )

    def switch(self, name: str, version: Version) -> str:
        """Make a version the one that serves; the name of the one before, which may be empty."""
        before = self.read().serving
        self.register(name, version)
        self.change(lambda old: msgspec.structs.replace(old, serving=name))
        return before

    def unregister(self, name: str) -> None:
        """Say that a version has no states any more."""

        def without(old: Settings) -> Settings:
            kept = {other: v for other, v in old.versions.items() if other != name}
            return msgspec.structs.replace(old, versions=kept)

        self.change(without)

    def _noted(self, settings: Settings) -> Settings:
        self._known, self._until = settings, time.monotonic() + _FRESH_S
        return settings

    def _decoded(self, entry: Entry | None) -> Settings:
        if entry is None:
            return Settings()
        try:
            reader = unframe(entry.blob, "settings of the store", "they are made anew")
            return msgspec.json.decode(reader.take(reader.left), type=Settings)
        except (StateError, msgspec.DecodeError) as error:
            log.warning(
                "%s; limits and the version that serves are not known any more: set them again "
                "with gistrec state limit and gistrec state switch",
                error,
            )
            names = (name for name in versions_in(self._store) if name != UNVERSIONED)
            return Settings(versions={name: Version() for name in names})
