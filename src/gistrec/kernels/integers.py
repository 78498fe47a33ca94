"""Coding of arrays of integers, compiled: written in a tenth of the time, read in less than half.

`gistrec.integers` has the NumPy form that this is tested against.
"""

import numpy as np
from numpy.typing import NDArray

from gistrec import kernels

Ints = NDArray[np.int64]


def decode(
    data: bytes, start: int, count: int, *, varints: bool = False
) -> tuple[Ints, int] | None:
    """At least one value from a place on, and the bytes that they took.

    None where nothing is compiled, and where the bytes end early or make no sense: `Reader` then
    decodes, or says what is wrong.
    """
    if not kernels.native():
        return None
    from gistrec._native import decode_integers

    values = np.empty(count, np.int64)
    taken = decode_integers(data, start, values, varints)
    return None if taken < 0 else (values, taken)


def encode(values: Ints, *, varints: bool = False) -> bytes | None:
    """The bytes of at least one value; None where nothing is compiled."""
    if not kernels.native():
        return None
    from gistrec._native import encode_integers

    return encode_integers(np.ascontiguousarray(values), varints)
