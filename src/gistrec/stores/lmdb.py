"""LMDB: a memory-mapped B-tree in a folder; many reading processes, one writer at a time.

`lmdb:///absolute/folder` or `lmdb://relative/folder`, made if absent. Options:

- `map_size=64g`: the most that it may grow to (bytes, or with k, m, g, t). The file grows as it is
  filled. All processes should give the same size.
- `sync=full`: what is acknowledged survives a power cut, as far as the disk keeps what it was told
  to flush. `sync=on` flushes once instead of twice; a power cut may take back the last transaction,
  never more, and tears nothing. `sync=off` leaves writing to the operating system: nothing is lost
  when the process is killed, but a power cut may lose much or damage the file.

Threads that write while a flush is under way wait for it, and then share one transaction and its
flush (group commit): eight waiting clients cost about what one does.

An entry is its version (8 bytes, little-endian) and the blob. The version is the Unix second in
which it was written, and below it 31 bits of the transaction's number, which LMDB never gives
twice.

Source: Howard Chu, LMDB 0.9; py-lmdb.
Differs: none known.
Cost: a get about 2 us, a write with `sync=off` about 20 us, otherwise one or two flushes of the
disk, divided by the threads that wait for them. Blobs up to about 2000 bytes share pages of 4096
bytes; a larger one takes whole pages, so 4080 bytes cost one page and 4096 cost two.
"""

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Self
from urllib.parse import SplitResult

import lmdb

from gistrec.errors import ConfigError, ConflictError, StoreError, StoreUnavailableError
from gistrec.stores import Entry, Put, Size, StateStore, check_version, key_bytes, path_of

_SYNC = {"full": (True, True), "on": (True, False), "off": (False, False)}
_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}
_VERSION_BYTES = 8
_NUMBER_BITS = 31
_FAULTS = tuple(os.strerror(number) for number in (errno.EIO, errno.EFBIG, errno.EDQUOT))
"""What LMDB says of a write that the system cut short or refused."""
_MAX_READERS = 1024  # threads of all processes together; 64 bytes each
_KEYS_PER_SCAN = 1024


@dataclass
class _Environment:
    """An open folder and how many stores use it: a process must not open it twice."""

    env: lmdb.Environment
    map_size: int
    sync: str
    users: int = 0
    waiting: "list[_Write]" = field(default_factory=list)
    """Asked for and not begun."""
    committing: bool = False
    """Whether a thread commits now, for itself and for those who waited."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Around all that changes."""
    arrived: threading.Condition = field(init=False)
    """Told of every write that is added."""
    committed: threading.Condition = field(init=False)
    """Told when a thread has committed."""
    last_writes: int = 0
    """How many were committed together last."""
    last_s: float = 0.0
    """How long that took."""

    def __post_init__(self) -> None:
        self.arrived = threading.Condition(self.lock)
        self.committed = threading.Condition(self.lock)


@dataclass
class _Write:
    """The puts of one call."""

    raw: list[bytes]
    """Their keys."""
    puts: Sequence[Put]
    result: list[int] | StoreError | None = None
    """New versions or what went wrong; None while it is not known."""


_open: dict[str, _Environment] = {}  # by real path
_lock = threading.Lock()


def _after_fork() -> None:
    """LMDB must not be used across a fork: in the child, stores are closed and can be reopened."""
    global _lock
    _lock = threading.Lock()
    for shared in _open.values():
        shared.env.close()
    _open.clear()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


class Lmdb(StateStore):
    """Entries in a folder on disk."""

    def __init__(self, path: str, shared: _Environment) -> None:
        self._path = path
        self._shared: _Environment | None = shared

    @classmethod
    def open(
        cls, url: SplitResult, *, map_size: str = "64g", sync: str = "full", **unknown: str
    ) -> Self:
        """Open a folder, once per process: later openers share the first one's environment."""
        if unknown:
            raise ConfigError(f"lmdb:// has no options {sorted(unknown)}: allowed: map_size, sync")
        path = path_of(url)
        if not path:
            raise ConfigError("lmdb:// needs a folder: write lmdb:///absolute/path")
        if sync not in _SYNC:
            raise ConfigError(f"sync={sync} is unknown to lmdb://: allowed: {', '.join(_SYNC)}")
        size = _bytes_of(map_size)
        path = os.path.realpath(path)
        with _lock:
            if path not in _open:
                _open[path] = _Environment(_opened(path, size, sync), size, sync)
            shared = _open[path]
            if (shared.map_size, shared.sync) != (size, sync):
                raise ConfigError(
                    f"{path} is open in this process with map_size={shared.map_size} and "
                    f"sync={shared.sync}: give the same, or close the other store first"
                )
            shared.users += 1
        return cls(path, shared)

    def get_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """The entries of several keys, read in one transaction."""
        raw = [key_bytes(key) for key in keys]
        with self._transaction() as txn:
            return [_entry(txn.get(key)) for key in raw]

    def sizes(self, keys: Sequence[str]) -> list[Size | None]:
        """Sizes and versions, without a copy of the blobs."""
        raw = [key_bytes(key) for key in keys]
        with self._transaction() as txn:
            return [_size(txn.get(key)) for key in raw]

    def put_many(self, puts: Sequence[Put]) -> list[int]:
        """Check and write, in one transaction with all who wait for the one under way."""
        write = _Write([key_bytes(put.key) for put in puts], puts)
        shared = self._environment()
        with shared.lock:
            shared.waiting.append(write)
            shared.arrived.notify()
            shared.committed.wait_for(lambda: write.result is not None or not shared.committing)
            leads = write.result is None
            shared.committing |= leads
        if leads:
            self._lead(shared)
        if isinstance(write.result, StoreError):
            raise write.result
        return write.result or []

    def _lead(self, shared: _Environment) -> None:
        """Commit for all who wait."""
        writes: list[_Write] = []
        begun = time.perf_counter()
        try:
            with shared.lock:
                # who was answered a moment ago is about to write again: without this wait one goes
                # ahead alone, and all others wait for two flushes
                shared.arrived.wait_for(
                    lambda: len(shared.waiting) >= shared.last_writes, shared.last_s / 4
                )
                writes, shared.waiting = shared.waiting, []
            begun = time.perf_counter()
            self._commit(writes)
        finally:
            with shared.lock:
                for write in writes:
                    if write.result is None:  # an interrupt must not leave the others waiting
                        write.result = StoreError(
                            f"{self._path}: interrupted; read again what was written"
                        )
                shared.last_writes, shared.last_s = len(writes), time.perf_counter() - begun
                shared.committing = False
                shared.committed.notify_all()

    def _commit(self, writes: list[_Write]) -> None:
        """Write what can be written together, then what has the same keys, in order."""
        while writes:
            together: list[_Write] = []
            later: list[_Write] = []
            keys: set[bytes] = set()
            for write in writes:
                # a version has a transaction's number: a key changes once in it
                (together if keys.isdisjoint(write.raw) else later).append(write)
                keys.update(write.raw)
            self._write(together)
            writes = later

    def _write(self, writes: list[_Write]) -> None:
        """One transaction; if it fails, one for each, so that only the guilty are told."""
        try:
            with self._transaction(write=True) as txn:
                now = int(time.time()) << _NUMBER_BITS | txn.id() % (1 << _NUMBER_BITS)
                results = [_apply(txn, write, now) for write in writes]
        except StoreError as error:
            if len(writes) > 1:
                for write in writes:
                    self._write([write])
                return
            results = [error]
        for write, result in zip(writes, results, strict=True):
            write.result = result

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Keys in byte order, without reading blobs; what is written meanwhile may be missed."""
        raw = start = prefix.encode()
        while True:
            # in short transactions: one that an idle iterator holds open would keep old pages alive
            with self._transaction() as txn, txn.cursor() as cursor:
                found = cursor.set_range(start)
                steps = cursor.iternext(values=False) if found else iter(())
                chunk = [bytes(key) for key in islice(steps, _KEYS_PER_SCAN)]
            for key in chunk:
                if not key.startswith(raw):
                    return
                yield key.decode()
            if len(chunk) < _KEYS_PER_SCAN:
                return
            start = chunk[-1] + b"\0"  # the next possible key

    def written_at(self, version: int) -> float:
        """The second that a version begins with; now, if it is of a gistrec that noted none.

        What has no date must never count as old: a history would be lost.
        """
        return float(version >> _NUMBER_BITS) or time.time()

    def room(self) -> int:
        """What is left of `map_size` or of the disk, whichever is less."""
        env = self._environment().env
        used = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        return min(self._environment().map_size - used, shutil.disk_usage(self._path).free)

    def close(self) -> None:
        """Give the folder back; the last one to do so closes it."""
        with _lock:
            if self._shared is None:
                return
            shared, self._shared = self._shared, None
            shared.users -= 1
            if not shared.users and _open.get(self._path) is shared:
                shared.env.close()
                del _open[self._path]

    def _environment(self) -> _Environment:
        if self._shared is None:
            raise StoreError(f"the store at {self._path} was closed: open it again")
        return self._shared

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator["lmdb.Transaction[memoryview]"]:
        shared = self._environment()
        try:
            with shared.env.begin(write=write, buffers=True) as txn:
                yield txn
        except lmdb.MapFullError:
            raise StoreError(
                f"{self._path} is full at map_size={shared.map_size} bytes: open it with a "
                f"larger one, for example ?map_size={2 * shared.map_size}; nothing was written"
            ) from None
        except lmdb.DiskError:
            raise StoreUnavailableError(
                f"No space left on the disk of {self._path}: nothing was written, free some"
            ) from None
        except lmdb.Error as error:
            if str(error).endswith(_FAULTS):
                raise StoreUnavailableError(
                    f"The disk of {self._path} is full or failing ({error}): nothing was written, "
                    "free some space or mend it"
                ) from None
            raise StoreError(f"{self._path}: {error}; nothing was written") from error


def _apply(txn: "lmdb.Transaction[memoryview]", write: _Write, now: int) -> list[int] | StoreError:
    """Check all, then write all; new versions, `now` if they can be, or the conflict."""
    old = []
    for key, put in zip(write.raw, write.puts, strict=True):
        present = _size(txn.get(key))
        old.append(present.version if present else 0)
        try:
            check_version(put, old[-1])
        except ConflictError as conflict:
            return conflict
    versions = []
    for key, put, before in zip(write.raw, write.puts, old, strict=True):
        if put.blob is None:
            txn.delete(key)
            versions.append(0)
            continue
        # clocks are set back, and transactions are counted anew in a compacted copy of the folder
        versions.append(max(now, before + 1))
        txn.put(key, versions[-1].to_bytes(_VERSION_BYTES, "little") + put.blob)
    return versions


def _opened(path: str, map_size: int, sync: str) -> lmdb.Environment:
    data, meta = _SYNC[sync]
    try:
        os.makedirs(path, exist_ok=True)
        env = lmdb.open(path, map_size=map_size, sync=data, metasync=meta, max_readers=_MAX_READERS)
        env.reader_check()  # frees the places of readers that were killed
    except (lmdb.Error, OSError) as error:
        raise StoreUnavailableError(
            f"can't open the lmdb folder {path}: {error}; give a folder that can be written"
        ) from error
    return env


def _entry(found: memoryview | None) -> Entry | None:
    if found is None:
        return None
    version = int.from_bytes(found[:_VERSION_BYTES], "little")
    return Entry(bytes(found[_VERSION_BYTES:]), version)


def _size(found: memoryview | None) -> Size | None:
    if found is None:
        return None
    version = int.from_bytes(found[:_VERSION_BYTES], "little")
    return Size(len(found) - _VERSION_BYTES, version)


def _bytes_of(size: str) -> int:
    """`8g` -> 8 * 2**30."""
    digits, unit = (size[:-1], size[-1:].lower()) if size[-1:].lower() in _UNITS else (size, "")
    if not digits.isdecimal() or not int(digits):
        raise ConfigError(f"map_size={size} is not a size: write bytes, or for example 8g")
    return int(digits) << _UNITS.get(unit, 0)
