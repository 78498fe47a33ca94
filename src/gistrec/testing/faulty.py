"""Stores with faults, around another one: `flaky://?rate=0.1&store=URL`, `slow://?ms=5&store=URL`.

A query inside the other store's URL is written with %3F and %26.
"""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Self
from urllib.parse import SplitResult

from gistrec.errors import ConfigError, StoreUnavailableError
from gistrec.stores import Entry, Put, StateStore, open_store


class _Around(StateStore):
    """Passes everything on."""

    def __init__(self, inner: StateStore) -> None:
        self.inner = inner

    def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """The other store's answer."""
        return self.inner.get_many(keys)

    def put_many(self, puts: Sequence[Put]) -> list[int]:
        """The other store's answer."""
        return self.inner.put_many(puts)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The other store's answer."""
        return self.inner.keys(prefix)

    def written_at(self, version: int) -> float:
        """The other store's answer."""
        return self.inner.written_at(version)

    def close(self) -> None:
        """Close the other store."""
        self.inner.close()


class Flaky(_Around):
    """Calls fail at random: reads before they are done, writes half of the time after it.

    Args:
        inner: The store that it stands before.
        rate: Share of the calls that fail.
        seed: Of what fails.
    """

    def __init__(self, inner: StateStore, *, rate: float = 0.1, seed: int = 0) -> None:
        super().__init__(inner)
        self._rate = rate
        self._rng = random.Random(seed)
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        url: SplitResult,
        *,
        store: str = "ram://",
        rate: str = "0.1",
        seed: str = "0",
        **unknown: str,
    ) -> Self:
        """Open the other store."""
        if unknown:
            raise ConfigError(
                f"flaky:// has no options {sorted(unknown)}: allowed: store, rate, seed"
            )
        return cls(open_store(store), rate=_number("rate", rate), seed=int(_number("seed", seed)))

    def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """Entries, or a failure."""
        if self._fails():
            raise StoreUnavailableError("a fault on purpose: nothing was read; try again")
        return super().get_many(keys)

    def put_many(self, puts: Sequence[Put]) -> list[int]:
        """New versions, or a failure before or after the write."""
        fails, after = self._fails(), self._draw() < 0.5
        if fails and not after:
            raise StoreUnavailableError("a fault on purpose: it may have been written; try again")
        versions = super().put_many(puts)
        if fails:
            raise StoreUnavailableError("a fault on purpose: it may have been written; try again")
        return versions

    def _fails(self) -> bool:
        return self._draw() < self._rate

    def _draw(self) -> float:
        with self._lock:
            return self._rng.random()


class Slow(_Around):
    """Every read and write takes longer.

    Args:
        inner: The store that it stands before.
        ms: How much longer, milliseconds.
    """

    def __init__(self, inner: StateStore, *, ms: float = 5) -> None:
        super().__init__(inner)
        self._pause_s = ms / 1e3

    @classmethod
    def open(
        cls, url: SplitResult, *, store: str = "ram://", ms: str = "5", **unknown: str
    ) -> Self:
        """Open the other store."""
        if unknown:
            raise ConfigError(f"slow:// has no options {sorted(unknown)}: allowed: store, ms")
        return cls(open_store(store), ms=_number("ms", ms))

    def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """The entries, later."""
        time.sleep(self._pause_s)
        return super().get_many(keys)

    def put_many(self, puts: Sequence[Put]) -> list[int]:
        """The new versions, later."""
        time.sleep(self._pause_s)
        return super().put_many(puts)


def _number(name: str, given: str) -> float:
    try:
        return float(given)
    except ValueError:
        raise ConfigError(f"{name}={given} is not a number: give one") from None
