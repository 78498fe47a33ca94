"""The compiled kernels, by native/bind_*.cpp; called through `gistrec.kernels` alone.

Tensors are given by their addresses, 0 for none; a kernel's header says which, in this order.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

def instruction_set() -> str: ...
def decode_integers(data: bytes, start: int, values: NDArray[np.int64], varints: bool) -> int: ...
def encode_integers(values: NDArray[np.int64], varints: bool) -> bytes: ...
def nearest(addresses: Sequence[int], shape: Sequence[int]) -> None: ...
def log_partition(address: Sequence[int], shape: tuple[int, int, int], rounded: bool) -> float: ...
def attend(
    address: Sequence[int],
    strides: Sequence[int],
    sizes: Sequence[int],
    scale: float,
    after: float,
    softmax: bool,
) -> None: ...
def attend_backward(
    address: Sequence[int],
    strides: Sequence[int],
    sizes: Sequence[int],
    scale: float,
    after: float,
    softmax: bool,
) -> None: ...
def time_buckets(address: Sequence[int], shape: Sequence[int]) -> None: ...

class States:
    def __init__(
        self,
        addresses: Sequence[int],
        shape: Sequence[int],
        scale: float,
        count: float,
        numbers: Sequence[int],
        specs: Sequence[Sequence[int]],
        codings: Sequence[Sequence[int]],
        steps: Sequence[float],
        places: Sequence[int],
    ) -> None: ...
    def newest(
        self,
        state: bytes | memoryview,
        block: bytes | memoryview | None,
        length: int,
        at: int | None,
        out: int,
        events: bool,
    ) -> tuple[bytes, ...] | None: ...
    def grow(
        self,
        state: bytes | memoryview,
        block: bytes | memoryview | None,
        length: int,
        events: Sequence[int],
        numbers: Sequence[int],
    ) -> tuple[bytes, bytes | None, bool] | None: ...

def checksum(data: bytes | memoryview) -> int: ...
def step(
    address: Sequence[int],
    shape: tuple[int, int, int, int, int],
    scale: float,
    count: float,
    users: Sequence[int],
) -> None: ...
def dropout(x: int, out: int, count: int, dropped: int, seed: int) -> None: ...

class Scan:
    """The catalogue scan of `gistrec.kernels.scan`."""

    def __init__(self, row_VD: NDArray[np.float32], bias_V: NDArray[np.float32]) -> None: ...
    def top_k(
        self,
        query_BD: NDArray[np.float32],
        seen: NDArray[np.int64],
        end_B: NDArray[np.int64],
        item_BK: NDArray[np.int64],
        score_BK: NDArray[np.float32],
    ) -> bool: ...
    @property
    def nbytes(self) -> int: ...
