"""A slot's row as a sum of codewords, one from each level's codebook; the codes are stored.

    r_1 = x        c_l = argmin_c |r_l - C_l[c]|        r_(l+1) = r_l - C_l[c_l]
    x' = C_1[c_1] + ... + C_L[c_L]

Codebooks are shared by all users, one set per tensor (layer, keys or values), heads joined. Level l
is a k-means of what the levels before it leave over.

Level: precision
Source: Chen, Guan, Wang 2010, "Approximate Nearest Neighbor Search by Residual Vector
Quantization", Sensors 10(12), doi 10.3390/s101211259, section 2.
Differs: greedy codes can change when the decoded row is encoded again. So from level 2 on codeword
0 is the zero vector, and a row whose codes would change gives up its last levels (code 0) until
they do not; level 1 alone never changes. Rows and codewords are whole multiples of a step, so every
distance is exact and a row's codes do not depend on the rows beside it or on the machine.
Cost: `levels` bytes a slot and tensor; time O(levels * codes * W) a slot, W = H * K, twice that for
new slots. Shared: 2 * levels * codes * W bytes a tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gistrec.codecs import Learned, from_rows, row_shape
from gistrec.codecs._bits import step_of
from gistrec.codecs._kmeans import SMALLEST_STEP, centroids, in_steps
from gistrec.errors import CodecError
from gistrec.kernels.nearest import Codebook, Codes, Floats
from gistrec.kernels.packed import Coded

# in steps
LARGEST_SAMPLE = 2**13
LARGEST_WORD = 2**15 - 1


class _Books(NamedTuple):
    """The codebooks of one tensor, in steps."""

    words_LCW: Floats
    words32_LCW: NDArray[np.float32]
    """The same, for decoding: sums of 16 are exact in 24 bits."""
    levels: list[Codebook]
    step: float
    shape: tuple[int, ...]

    def greedy(self, rows_MW: Floats) -> Codes:
        """Each row's codes, level by level, (M, L)."""
        rest_MW = rows_MW.copy()
        codes_ML = np.empty((len(rows_MW), len(self.words_LCW)), np.int64)
        for level, book in enumerate(self.levels):
            codes_ML[:, level] = book.nearest(rest_MW)
            rest_MW -= book.words_CW[codes_ML[:, level]]
        return codes_ML

    def sums(self, codes_ML: Codes) -> Floats:
        """Sums of codewords, (M, W)."""
        rows_MW: Floats = self.words_LCW[np.arange(len(self.words_LCW)), codes_ML].sum(1)
        return rows_MW

    def stable(self, rows_MW: Floats) -> Codes:
        """Greedy codes that encode their own sum, giving up last levels where need be."""
        codes_ML = self.greedy(rows_MW)
        # a row that was decoded before is its own sum: most rows when a served state is re-encoded
        moving_m = np.flatnonzero((self.sums(codes_ML) != rows_MW).any(1))
        for kept in range(len(self.words_LCW), 1, -1):
            codes_ML[moving_m, kept:] = 0
            wanted_mL = codes_ML[moving_m]
            moving_m = moving_m[(self.greedy(self.sums(wanted_mL)) != wanted_mL).any(1)]
        codes_ML[moving_m, 1:] = 0
        return codes_ML


@dataclass(frozen=True)
class RVQ(Learned):
    """The fewest bytes per slot of all codecs here, where rows of different users are alike."""

    levels: int = 2
    """Codewords added up per row, 1 to 16; a byte each."""
    codes: int = 256
    """Codewords per level, 2 to 256."""

    dial = "levels"
    dial_values = range(1, 17)
    parts = ("codes",)

    def __post_init__(self) -> None:
        if not (1 <= self.levels <= 16 and 2 <= self.codes <= 256):
            raise CodecError(f"{self}: levels must be 1 to 16 and codes 2 to 256")

    def learn(self, x: Tensor) -> dict[str, Tensor]:
        """Codebooks (L, C, H, K) int16 in steps, and the step, a power of two."""
        step = step_of(x, LARGEST_SAMPLE, least=SMALLEST_STEP)
        rest_NW = in_steps(x, step)
        books = np.zeros((self.levels, self.codes, rest_NW.shape[1]))
        for level, words_CW in enumerate(books):
            reserved = min(level, 1)  # the zero vector, from level 2 on
            found = np.rint(centroids(rest_NW, self.codes - reserved))
            words_CW[reserved : reserved + len(found)] = found.clip(-LARGEST_WORD, LARGEST_WORD)
            words_CW[reserved + len(found) :] = words_CW[0]  # never chosen, being a later equal
            rest_NW -= words_CW[Codebook(words_CW).nearest(rest_NW)]
        codebooks = books.astype(np.int16).reshape(*books.shape[:2], *row_shape(x))
        return {"codebooks": torch.from_numpy(codebooks), "step": torch.tensor(step)}

    @cached_property
    def _books(self) -> dict[str, _Books]:
        return {}

    def _books_of(self, name: str) -> _Books:
        if name not in self._books:
            codebooks = self.table(f"{name}.codebooks")
            words_LCW = codebooks.flatten(2).double().numpy()
            step = float(self.table(f"{name}.step"))
            levels = [Codebook(words_CW) for words_CW in words_LCW]
            words32_LCW = words_LCW.astype(np.float32)
            self._books[name] = _Books(words_LCW, words32_LCW, levels, step, codebooks.shape[2:])
        return self._books[name]

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Codes (M, levels), uint8."""
        books = self._books_of(name)
        codes_ML = books.stable(in_steps(x, books.step))
        return {"codes": torch.from_numpy(codes_ML.astype(np.uint8))}

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """Sums of codewords: (H, M, K)."""
        books = self._books_of(name)
        codes_ML = parts["codes"].numpy()
        rows_MW = books.words32_LCW[0].take(codes_ML[:, 0], axis=0)
        for level in range(1, codes_ML.shape[1]):
            rows_MW += books.words32_LCW[level].take(codes_ML[:, level], axis=0)
        rows_MW *= np.float32(books.step)
        return from_rows(torch.from_numpy(rows_MW), books.shape)

    def coded(self, name: str, rows: Coded) -> Coded | None:
        """Codes and codebooks; rows that stand in no codebook are as they are."""
        if rows.kind != "plain":
            return rows if rows.kind == "items" else None
        books = self._books_of(name)
        columns = [book.columns for book in books.levels]
        parts = [words_WC for words_WC, _ in columns] + [bias_C for _, bias_C in columns]
        joined = np.concatenate([part.ravel() for part in parts])
        return Coded("codes", (f"{name}.codes",), books.words32_LCW, joined, step=books.step)
