"""The k best items of a catalogue for a query, exactly.

    score_i = q . w_i + b_i          (in double precision, rounded to fp32)

in the order of a stable sort: best first, equal scores by the lower item index. Three ways agree on
every item and, but for a rounding in a billion, on every bit:

- native: an int8 copy of the items is scanned, four components and sixteen items an instruction
  where the processor has VNNI. A bound on what the coding may do to a score (`native/scan.h`) tells
  which items can be among the k best; only those, a few hundred, are scored exactly.
- numba: the same with fp32 products and their rounding as the bound.
- torch: a matrix product, then the same.

Shapes: V items, D width, B queries, K length of a list.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gistrec import kernels
from gistrec.errors import ConfigError, DataError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Scan:
    """Items, prepared to be scanned.

    Args:
        row_VD: Item vectors; kept, not copied, and not to be written any more.
        bias_V: What is added to each item's score; None: nothing.
        path: How to compute; None: as `kernels.chosen()`.

    Raises:
        DataError: a number is not finite.
    """

    def __init__(
        self, row_VD: Floats, bias_V: Floats | None = None, *, path: kernels.Path | None = None
    ) -> None:
        none = np.zeros(0, np.float32)
        self.row_VD = np.ascontiguousarray(row_VD, np.float32)
        self.bias_V = none if bias_V is None else np.ascontiguousarray(bias_V, np.float32)
        if not (np.isfinite(self.row_VD).all() and np.isfinite(self.bias_V).all()):
            raise DataError("the items' vectors or biases are not all finite: train again")
        path = path or kernels.chosen()
        self._native: Any = None
        if path == "native":
            from gistrec._native import Scan as Compiled

            self._native = Compiled(self.row_VD, self.bias_V)
            return
        self._scan = _compiled() if path == "numba" else _scan_torch
        self._longest = math.sqrt(np.einsum("vd,vd->v", self.row_VD, self.row_VD).max(initial=0))
        self._highest = float(np.abs(self.bias_V).max(initial=0))

    @property
    def nbytes(self) -> int:
        """Bytes beside the item vectors themselves."""
        return int(self._native.nbytes if self._native else self.bias_V.nbytes)

    def top_k(
        self, query_BD: Floats, k: int, *, exclude: Sequence[Ints] | None = None
    ) -> tuple[Ints, Floats]:
        """The k best items of each query and their scores, best first.

        Lists have min(k, V) places; behind the last item that is left they hold -1 and -inf.

        Args:
            query_BD: Queries.
            k: Length of the lists, at least 1.
            exclude: Items that each query leaves out, in any order.

        Raises:
            ConfigError: k is below 1.
            DataError: a query is not finite or has another width, or an item to leave out does
                not exist.
        """
        if k < 1:
            raise ConfigError(f"k is the length of a recommended list, at least 1; given {k}")
        count, width = self.row_VD.shape
        query_BD = np.ascontiguousarray(query_BD, np.float32)
        if query_BD.shape[1] != width:
            raise DataError(f"queries of width {query_BD.shape[1]} for items of width {width}")
        seen, end_B = _joined(exclude, len(query_BD), count)
        item_BK = np.empty((len(query_BD), min(k, count)), np.int64)
        score_BK = np.empty(item_BK.shape, np.float32)
        if not item_BK.size:  # no query, or no item
            return item_BK, score_BK
        if self._native:
            finite = self._native.top_k(query_BD, seen, end_B, item_BK, score_BK)
        elif finite := bool(np.isfinite(query_BD).all()):
            length_B = np.sqrt(np.square(query_BD.astype(np.float64)).sum(1))
            # between any two ways of adding up in fp32
            slack_B = 2**-22 * (width + 4) * (length_B * self._longest + self._highest)
            self._scan(self.row_VD, self.bias_V, query_BD, slack_B, seen, end_B, item_BK, score_BK)
        if not finite:
            raise DataError(
                "a query of the catalogue is not finite: the model or its state is broken (a "
                "diverged training, or a codec that overflows); train again"
            )
        return item_BK, score_BK


def _joined(exclude: Sequence[Ints] | None, queries: int, count: int) -> tuple[Ints, Ints]:
    """Items to leave out, query after query, and where each query's end."""
    if exclude is None:
        return np.zeros(0, np.int64), np.zeros(queries, np.int64)
    if len(exclude) != queries:
        raise DataError(f"{len(exclude)} lists of items to leave out for {queries} queries")
    seen = exclude[0] if queries == 1 else np.concatenate([np.zeros(0, np.int64), *exclude])
    seen = np.ascontiguousarray(seen, np.int64)
    if len(seen) and seen.view(np.uint64).max() >= count:  # below 0 is beyond 2^63
        raise DataError(
            f"items {seen.min()} to {seen.max()} are to be left out: allowed are indices 0 to "
            f"{count - 1}"
        )
    return seen, np.array([len(items) for items in exclude], np.int64).cumsum()


def _scan_torch(
    row_VD: Floats,
    bias_V: Floats,
    query_BD: Floats,
    slack_B: NDArray[np.float64],
    seen: Ints,
    end_B: Ints,
    item_BK: Ints,
    score_BK: Floats,
) -> None:
    """All products, then what may be among the k best in double precision."""
    score_BV = torch.from_numpy(query_BD) @ torch.from_numpy(row_VD).T
    if len(bias_V):
        score_BV += torch.from_numpy(bias_V)
    k = item_BK.shape[1]
    item_BK[:], score_BK[:] = -1, -np.inf
    for b, (start, end) in enumerate(pairwise([0, *end_B.tolist()])):
        score_BV[b, torch.from_numpy(seen[start:end])] = -torch.inf
        kth = float(score_BV[b].topk(k).values[-1])
        near = score_BV[b] >= (kth - slack_B[b] if kth > -math.inf else -_LARGEST)
        item = near.nonzero()[:, 0].numpy()
        exact = row_VD[item].astype(np.float64) @ query_BD[b].astype(np.float64)
        exact = (exact + bias_V[item] if len(bias_V) else exact).astype(np.float32)
        order = np.argsort(-exact, kind="stable")[:k]
        item_BK[b, : len(order)], score_BK[b, : len(order)] = item[order], exact[order]


@cache
def _compiled() -> Any:
    """The scan by Numba, which compiles it at the first call."""
    import numba

    @numba.njit(nogil=True, fastmath={"reassoc", "contract"})
    def dot(a_D, b_D):  # type: ignore[no-untyped-def]  # for numba
        total = a_D[0] * b_D[0]
        for d in range(1, len(a_D)):
            total += a_D[d] * b_D[d]
        return total

    @numba.njit(nogil=True)
    def settle(item_K, score_K, hole, size, item, score):  # type: ignore[no-untyped-def]  # for numba
        """Put an item into a heap whose root, the worst of it, left a hole."""
        while 2 * hole + 1 < size:
            below = 2 * hole + 1
            other = below + 1
            if other < size and (
                score_K[other] < score_K[below]
                or (score_K[other] == score_K[below] and item_K[other] > item_K[below])
            ):
                below = other
            if score < score_K[below] or (score == score_K[below] and item > item_K[below]):
                break
            item_K[hole], score_K[hole] = item_K[below], score_K[below]
            hole = below
        item_K[hole], score_K[hole] = item, score

    @numba.njit(nogil=True)
    def scan(row_VD, bias_V, query_BD, slack_B, seen, end_B, item_BK, score_BK):  # type: ignore[no-untyped-def]  # for numba
        start = 0
        for b in range(len(query_BD)):
            query_D, item_K, score_K = query_BD[b], item_BK[b], score_BK[b]
            exact_D = query_D.astype(np.float64)
            left_out_V = np.zeros(len(row_VD), np.bool_)
            left_out_V[seen[start : end_B[b]]] = True
            start = end_B[b]
            # a heap of places that nobody has taken: worse than any item
            item_K[:], score_K[:] = -1, -np.inf
            for item in range(len(row_VD)):
                if left_out_V[item]:
                    continue
                bias = bias_V[item] if len(bias_V) else np.float32(0)
                if dot(query_D, row_VD[item]) + bias + slack_B[b] < score_K[0]:
                    continue
                exact = np.float32(dot(exact_D, row_VD[item]) + np.float64(bias))
                if exact > score_K[0]:
                    settle(item_K, score_K, 0, len(item_K), item, exact)
            for size in range(len(item_K) - 1, 0, -1):  # the worst goes to the end
                item, score = item_K[size], score_K[size]
                item_K[size], score_K[size] = item_K[0], score_K[0]
                settle(item_K, score_K, 0, size, item, score)

    return scan


_LARGEST = float(np.finfo(np.float32).max)
