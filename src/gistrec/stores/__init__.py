"""Stores: bytes by key. Synchronous, thread-safe; they know nothing of users or tensors.

One file per engine; a file's name is the scheme of its URLs (`ram://`, `lmdb:///path`).
Subclass `StateStore`: `open`, `get_many`, `put_many`, `keys`, `written_at` and `close`.

Keys are text of 1 to `MAX_KEY_BYTES` bytes in UTF-8. Versions of a key grow and are never used
again, not even after the key was deleted: a writer that still holds an old version always fails.
They also tell when an entry was written, so that what is old is found without dates of its own.

Keys of one group (`group_of`: `h/ann`, `s/ann`, `b/ann/0`) are written all or none and read as of
one moment. Engines that spread keys over machines promise no more than that; the others promise it
for all keys.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from gistrec import registry
from gistrec.errors import ConfigError, ConflictError, DataError

MAX_KEY_BYTES = 511
"""The limit of lmdb, kept by all engines so that a log can move from one to another."""
NUMBERED = "b/"
"""Keys with this prefix end in a slash and a number, which is no part of their group."""
_SAME_PROTOCOL = {"rediss": "redis", "valkey": "redis", "valkeys": "redis"}
"""Schemes of an engine that other programs write, too."""


class Entry(NamedTuple):
    """What a key holds."""

    blob: bytes
    version: int
    """Grows with every write of the key; 0 stands for "no entry"."""


class Put(NamedTuple):
    """One write of an atomic group."""

    key: str
    blob: bytes | None
    """None removes the entry."""
    if_version: int | None = None
    """Write only if the entry's version is this one (0: only if there is none)."""
    ttl_s: float | None = None
    """After so many seconds the entry is not needed any more. An engine that can drops it then; the
    others keep it until it is removed."""


class Size(NamedTuple):
    """What is known of an entry without reading its blob."""

    nbytes: int
    version: int


class StateStore(ABC):
    """Bytes by key, with compare-and-set.

    Laws (shipped as `gistrec.testing.stores.StoreTests`): read your write; missing is None; a
    conflict changes nothing; a group is written whole or not at all; versions are not used again;
    what was written is there on reopening.
    """

    @classmethod
    @abstractmethod
    def open(cls, url: SplitResult, **options: str) -> Self:
        """Open by the URL; its query comes as options.

        Raises:
            ConfigError: an option is unknown. StoreUnavailableError: it can't be opened.
        """

    @abstractmethod
    def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """The entries of several keys, in order; those of one group as of one moment."""

    @abstractmethod
    def put_many(self, puts: Sequence[Put]) -> list[int]:
        """Write entries with different keys, those of one group all or none.

        Returns:
            The new versions, in order; 0 where an entry was removed.

        Raises:
            ConflictError: one of the expected versions is not the present one; nothing of its group
                is written.
            StoreUnavailableError: the store does not answer; the message says what is known of the
                writes.
        """

    @abstractmethod
    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys with a prefix, in byte order."""

    @abstractmethod
    def written_at(self, version: int) -> float:
        """When an entry with this version was written, Unix seconds; right to a second."""

    @abstractmethod
    def close(self) -> None:
        """Release files and connections; closing twice is harmless."""

    def room(self) -> int | None:
        """Bytes that it can still grow by; None where the engine does not say."""
        return None

    def get(self, key: str) -> Entry | None:
        """The entry of a key, or None."""
        return self.get_many([key])[0]

    def sizes(self, keys: Sequence[str]) -> list[Size | None]:
        """Sizes and versions of several entries, in order, for counting; not as of one moment."""
        return [Size(len(e.blob), e.version) if e else None for e in self.get_many(keys)]

    def put(self, key: str, blob: bytes, *, if_version: int | None = None) -> int:
        """Write one entry; its new version."""
        return self.put_many([Put(key, blob, if_version)])[0]

    def delete(self, key: str) -> bool:
        """Remove a key; whether it was there."""
        while (entry := self.get(key)) is not None:
            try:
                self.put_many([Put(key, None, entry.version)])
            except ConflictError:
                continue  # written or removed in between
            return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


COMPONENT_BASES = (StateStore,)


def key_bytes(key: str) -> bytes:
    """A key in UTF-8.

    Raises:
        DataError: it is empty, too long, or not valid text.
    """
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        raise DataError(f"key {key!r} has half a surrogate pair: give valid text") from None
    if not 0 < len(raw) <= MAX_KEY_BYTES:
        raise DataError(
            f"key {key[:40]!r} has {len(raw)} bytes, allowed are 1 to {MAX_KEY_BYTES}: shorten it"
        )
    return raw


def group_of(key: str) -> str:
    """What keys have in common that are written together: the part after the first slash.

    >>> group_of("h/ann/1"), group_of("b/ann/1/7"), group_of("lone")
    ('ann/1', 'ann/1', 'lone')
    """
    if key.startswith(NUMBERED):
        return key.removeprefix(NUMBERED).rpartition("/")[0]
    return key.partition("/")[2] or key


def check_version(put: Put, present: int) -> None:
    """Compare-and-set: whether a write may go ahead when its key is at version `present`.

    Raises:
        ConflictError: the versions differ.
    """
    if put.if_version is not None and put.if_version != present:
        raise ConflictError(
            f"{put.key!r} is at version {present}, not at {put.if_version}: somebody else wrote "
            "it; read it again and repeat the change"
        )


def path_of(url: SplitResult) -> str:
    """The folder or name that a URL without a host stands for."""
    return unquote(url.netloc + url.path)


def without_password(url: str) -> str:
    """A URL as it may be shown: no user, no password.

    >>> without_password("redis://ann:s/ecret@host:6379/0")
    'redis://***@host:6379/0'
    """
    scheme, found, rest = url.partition("://")
    hidden = re.sub(r".*@", "***@", rest if found else url, flags=re.DOTALL)
    return f"{scheme}://{hidden}" if found else hidden


def open_store(url: str) -> StateStore:
    """Open a store by its URL: `ram://`, `lmdb:///absolute/path`, `redis://host:6379/0`.

    Query options go to the engine: `lmdb:///path?sync=off`.

    Raises:
        ConfigError: not a URL of a known engine. StoreUnavailableError: it can't be opened.
    """
    shown = without_password(url)
    scheme, found, _ = url.partition("://")
    if not found:
        raise ConfigError(f"{shown!r} is not a store URL: write ram:// or lmdb:///path/of/a/folder")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{shown!r} is not a store URL: {error}") from None
    options: Mapping[str, str] = dict(parse_qsl(parts.query, keep_blank_values=True))
    engine = registry.find("stores", _SAME_PROTOCOL.get(scheme.lower(), scheme))
    store: StateStore = engine.open(parts, **options)
    return store
