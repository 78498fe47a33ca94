"""Stores and what happens to them, as `Case`s of `gistrec.testing.chaos`, by name.

Disks that fill up are memory mounted as a disk, which takes root.
"""

import contextlib
import errno
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from gistrec.errors import ConfigError
from gistrec.testing.chaos import Case, Served, Trouble, kill_gistrec
from gistrec.testing.servers import (
    ValkeyServer,
    migrate_slot,
    valkey_cluster,
    valkey_server,
)

_FULL_FOR_S = 0.5
_LMDB = "?map_size=4g"


@contextlib.contextmanager
def small_disk(folder: Path, *, size: str = "16m") -> Iterator[Path]:
    """Memory as a disk of that size; it ends with the block.

    Raises:
        ConfigError: it can't be mounted here.
    """
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        raise ConfigError(f"there is no mount here: {error}") from None
    if done.returncode:
        raise ConfigError(f"a tmpfs can't be mounted here: {done.stderr.strip()}; be root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write a file until nothing more fits; the file, to be removed."""
    stuffing = disk / "stuffing"
    with stuffing.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return stuffing


def filling(disk: Path) -> Trouble:
    """A disk that is full for half a second, or, every other time, gistrec killed."""

    def trouble(servers: Sequence[Served], number: int) -> None:
        if number % 2:
            kill_gistrec(servers, number)
        else:
            stuffing = fill(disk)
            time.sleep(_FULL_FOR_S)
            stuffing.unlink()

    return trouble


def killing(victim: ValkeyServer) -> Trouble:
    """The store's server killed."""

    def trouble(servers: Sequence[Served], number: int) -> None:
        victim.kill()
        victim.start()

    return trouble


def unsettling(nodes: Sequence[ValkeyServer]) -> Trouble:
    """By turns a node of a cluster killed, used slots moved to other nodes, gistrec killed."""

    def trouble(servers: Sequence[Served], number: int) -> None:
        turn, what = divmod(number, 3)
        if what == 0:
            killing(nodes[turn % len(nodes)])(servers, turn)
        elif what == 1:
            moved = [migrate_slot(nodes, source) for source in range(len(nodes))]
            assert any(moved)
        else:
            kill_gistrec(servers, turn)

    return trouble


def lmdb(folder: Path) -> Iterator[Case]:
    """One server killed; the store has its default options."""
    yield Case(f"lmdb://{folder}{_LMDB}")


def lmdb_shared(folder: Path) -> Iterator[Case]:
    """Two servers on one folder, one of them killed."""
    yield Case(f"lmdb://{folder}{_LMDB}", servers=2)


def lmdb_full(folder: Path) -> Iterator[Case]:
    """By turns a full disk, and gistrec killed."""
    with small_disk(folder) as disk:
        yield Case(f"lmdb://{disk / 'store'}{_LMDB}", filling(disk))


def _around(scheme: str) -> Callable[[Path], Iterator[Case]]:
    def case(folder: Path) -> Iterator[Case]:
        truth = f"lmdb://{folder}{_LMDB}"
        yield Case(f"{scheme}&store={truth.replace('?', '%3F')}", truth=truth)

    return case


def _redis(policy: str, *, primary: bool) -> Callable[[Path], Iterator[Case]]:
    def case(folder: Path) -> Iterator[Case]:
        with valkey_server(folder, "--appendfsync", policy) as server:
            trouble = killing(server) if primary else kill_gistrec
            # its process writes what it acknowledges, but not while the disk is still flushing
            keeps_all = policy == "always" or not primary
            yield Case(server.url, trouble, keeps_all=keeps_all)

    return case


def redis_full(folder: Path) -> Iterator[Case]:
    """By turns a full disk, and gistrec killed."""
    policy = ("--appendfsync", "everysec")
    with small_disk(folder, size="512m") as disk, valkey_server(disk / "v", *policy) as server:
        yield Case(server.url, filling(disk))


def _cluster(policy: str) -> Callable[[Path], Iterator[Case]]:
    def case(folder: Path) -> Iterator[Case]:
        with valkey_cluster(folder, "--appendfsync", policy) as nodes:
            url = f"{nodes[0].url}?cluster=on"
            yield Case(url, unsettling(nodes), keeps_all=policy == "always")

    return case


_CASES: dict[str, Callable[[Path], Iterator[Case]]] = {
    "lmdb sync=full": lmdb,
    "lmdb sync=full, two servers": lmdb_shared,
    "lmdb sync=full, disk full": lmdb_full,
    "slow ms=20, lmdb sync=full": _around("slow://?ms=20"),
    "flaky rate=0.1, lmdb sync=full": _around("flaky://?rate=0.1"),
    "redis appendfsync=always": _redis("always", primary=False),
    "redis appendfsync=always, its primary": _redis("always", primary=True),
    "redis appendfsync=everysec, its primary": _redis("everysec", primary=True),
    "redis appendfsync=everysec, disk full": redis_full,
    "cluster appendfsync=always": _cluster("always"),
    "cluster appendfsync=everysec": _cluster("everysec"),
}

CASES: dict[str, Callable[[Path], AbstractContextManager[Case]]] = {
    name: contextlib.contextmanager(case) for name, case in _CASES.items()
}
"""Cases by name: called with a new folder on the disk, each is there within a `with` block."""
