"""The nearest codeword of each row, exact: rows and codewords are whole numbers.

Shapes: M rows, C codewords, W their width.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gistrec import kernels

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

_BLOCK = 1024
"""Rows compared with a codebook at a time: bounds the memory, and stays in the cache."""
LANES = 8
"""Codewords compared at once; `Codebook.columns` is filled up to a multiple."""


class Codebook:
    """Codewords laid out to be searched.

    Args:
        words_CW: Whole numbers; a product of a row and a codeword stays below 2^53.
    """

    def __init__(self, words_CW: Floats) -> None:
        self.words_CW = words_CW
        self._half_norm_C = (words_CW**2).sum(1) / 2

    def nearest(self, rows_MW: Floats) -> Codes:
        """Code of the codeword nearest to each row, the lowest of equally near ones: (M,)."""
        codes_M = np.empty(len(rows_MW), np.int64)
        if kernels.native():
            from gistrec._native import nearest

            rows_MW = np.ascontiguousarray(rows_MW)
            words_WC, bias_C = self.columns
            arrays = (rows_MW, words_WC, bias_C, codes_M)
            shape = (len(rows_MW), words_WC.shape[1], words_WC.shape[0])
            nearest([a.ctypes.data for a in arrays], shape)
            return codes_M
        for start in range(0, len(rows_MW), _BLOCK):
            block = slice(start, start + _BLOCK)
            score = rows_MW[block] @ self.words_CW.T
            score -= self._half_norm_C
            codes_M[block] = score.argmax(1)
        return codes_M

    @cached_property
    def columns(self) -> tuple[Floats, Floats]:
        """Codewords as columns, (W, C), filled up with some that are infinitely far."""
        missing = -len(self.words_CW) % LANES
        words_WC = np.ascontiguousarray(np.pad(self.words_CW, ((0, missing), (0, 0))).T)
        return words_WC, np.pad(self._half_norm_C, (0, missing), constant_values=np.inf)
