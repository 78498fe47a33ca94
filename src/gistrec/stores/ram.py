"""A dictionary with a lock: for tests, notebooks and one process that may forget.

`ram://` is private to its opener. `ram://name` is shared by all who open that name in this
process, and lives as long as the process.

Source: none.
Differs: nothing survives the process.
Cost: about 150 bytes an entry beside the blob; a get takes about a microsecond.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Self
from urllib.parse import SplitResult

from gistrec.errors import ConfigError
from gistrec.stores import Entry, Put, StateStore, check_version, key_bytes, path_of


class Ram(StateStore):
    """Entries in this process's memory."""

    _named: dict[str, "Ram"] = {}

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._newest = 0  # version of all keys: none comes twice

    @classmethod
    def open(cls, url: SplitResult, **options: str) -> Self:
        """Open the store of a name, or a private one if there is no name."""
        if options:
            raise ConfigError(f"ram:// has no options, given {sorted(options)}: leave them out")
        path = path_of(url)
        store: Self = cls._named.setdefault(path, cls()) if path else cls()  # type: ignore[assignment]  # one class, never subclassed
        return store

    def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """The entries of several keys."""
        for key in keys:
            key_bytes(key)
        with self._lock:
            return [self._entries.get(key) for key in keys]

    def put_many(self, puts: Sequence[Put]) -> list[int]:
        """Check every version, then write."""
        for put in puts:
            key_bytes(put.key)
        with self._lock:
            for put in puts:
                present = self._entries.get(put.key)
                check_version(put, present.version if present else 0)
            return [self._write(put) for put in puts]

    def _write(self, put: Put) -> int:
        if put.blob is None:
            self._entries.pop(put.key, None)
            return 0
        self._newest = max(self._newest + 1, time.time_ns() // 1000)
        self._entries[put.key] = Entry(put.blob, self._newest)
        return self._newest

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that are there at the first step, sorted."""
        with self._lock:
            found = [key for key in self._entries if key.startswith(prefix)]
        yield from sorted(found)  # code points sort as their UTF-8 bytes do

    def written_at(self, version: int) -> float:
        """Versions are microseconds."""
        return version / 1e6

    def close(self) -> None:
        """Nothing to release."""
