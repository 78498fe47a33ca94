"""More names than fit into memory, sorted: by parts, which wait in temporary files.

Cost: memory for `at_once` names (some 130 bytes each), and for more of them their bytes on the disk
of temporary files, and an open file for every part until the last name is taken.
"""

import heapq
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import BinaryIO

_HEAD_BYTES = 2


def distinct(names: Iterable[bytes], *, at_once: int = 500_000) -> Iterator[bytes]:
    """Each name once, in byte order.

    Args:
        names: Up to 65,535 bytes each.
        at_once: How many are held in memory.
    """
    left = iter(names)
    first = sorted(set(itertools.islice(left, at_once)))
    part = sorted(set(itertools.islice(left, at_once)))
    if not part:
        yield from first
        return
    with ExitStack() as files:
        parts = [_kept(files.enter_context(tempfile.TemporaryFile()), first)]
        del first
        while part:
            parts.append(_kept(files.enter_context(tempfile.TemporaryFile()), part))
            part = sorted(set(itertools.islice(left, at_once)))
        yield from (name for name, _ in itertools.groupby(heapq.merge(*parts)))


def _kept(file: BinaryIO, names: Iterable[bytes]) -> Iterator[bytes]:
    """The same names, from a file."""
    for name in names:
        file.write(len(name).to_bytes(_HEAD_BYTES, "little") + name)
    file.seek(0)
    return _read(file)


def _read(file: BinaryIO) -> Iterator[bytes]:
    while head := file.read(_HEAD_BYTES):
        yield file.read(int.from_bytes(head, "little"))
