"""A slot's row cut into sub-vectors, each stored as the number of its nearest codeword.

    x = (x_1, ..., x_P)        c_p = argmin_c |x_p - C_p[c]|        x' = (C_1[c_1], ..., C_P[c_P])

C_p is a k-means of the sample rows' p-th sub-vectors, shared by all users; one set of codebooks per
tensor (layer, keys or values), heads side by side. Where P does not divide the width W, the first
W mod P sub-vectors have one number more; where W < P there is a sub-vector per number.

Source: Jegou, Douze, Schmid 2011, "Product Quantization for Nearest Neighbor Search", IEEE TPAMI
33(1), doi 10.1109/TPAMI.2010.57, section II; as codes of a network's vectors: R V, Goyal 2025,
"Breaking Token Into Concepts" (ASG), arXiv 2509.17737.
Differs: the codebooks are not trained on with the model as in ASG. Rows and codewords are whole
multiples of a step, so every distance is exact: a row's codes do not depend on the rows beside it
or on the machine, and a codeword's code is its own (of equal codewords, the first one's).
Cost: `subvectors` bytes a slot and tensor, half of that where `codes` is at most 16; time
O(codes * W) a slot. Shared: 2 * codes * W bytes a tensor.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gistrec.codecs import Learned, from_rows, rows_of
from gistrec.errors import CodecError

# Magnitudes in steps. A product of a sub-vector and a codeword, summed over up to 2^14 columns,
# stays below 2^53, so that fp64 holds it exactly whatever the order of summation.
LARGEST_WORD = 2**13
LARGEST_ROW = 2**22
SMALLEST_STEP = -126
"""Exponent; below it fp32 loses digits."""
BLOCK = 1024
"""Rows compared with a codebook at a time: bounds the memory, and stays in the cache."""

SAMPLE = 2**14
"""At most so many sub-vectors are clustered."""

Floats = NDArray[np.float64]
Codes = NDArray[np.uint8]


def _columns(width: int, count: int) -> list[slice]:
    """The columns of each sub-vector."""
    count = min(width, count)
    size, longer = divmod(width, count)
    ends = [(p + 1) * size + min(p + 1, longer) for p in range(count)]
    return [slice(start, end) for start, end in pairwise([0, *ends])]


def _centroids(rows_NW: Floats, count: int) -> Floats:
    """Codewords of k-means in whole steps, (count, W); where too few, repeats (never chosen)."""
    if len(rows_NW) > count:
        kmeans = faiss.Kmeans(
            rows_NW.shape[1],
            count,
            niter=10,
            seed=0,
            min_points_per_centroid=1,
            max_points_per_centroid=SAMPLE // count,
        )
        kmeans.train(rows_NW.astype(np.float32))
        rows_NW = np.asarray(kmeans.centroids, np.float64)
    words_CW = np.resize(rows_NW, (count, rows_NW.shape[1]))
    return np.rint(words_CW).clip(-LARGEST_WORD, LARGEST_WORD)


def _nearest(rows_MW: Floats, words_CW: Floats) -> Codes:
    """Number of the codeword nearest to each row, the lowest of equally near ones."""
    half_norm_C = (words_CW**2).sum(1) / 2
    blocks = [rows_MW[start : start + BLOCK] for start in range(0, len(rows_MW), BLOCK)]
    found = [(block @ words_CW.T - half_norm_C).argmax(1).astype(np.uint8) for block in blocks]
    return np.concatenate([np.empty(0, np.uint8), *found])


@dataclass(frozen=True)
class PQ(Learned):
    """A few bytes per slot with small codebooks; `codes ** subvectors` rows can be told apart."""

    subvectors: int = 8
    """Pieces of a row, from 1; a byte each."""
    codes: int = 256
    """Codewords per sub-vector, 2 to 256; up to 16 take half a byte."""

    dial = "subvectors"
    dial_values = tuple(2**n for n in range(11))
    parts = ("codes",)

    def __post_init__(self) -> None:
        if not (self.subvectors >= 1 and 2 <= self.codes <= 256):
            raise CodecError(f"{self}: subvectors must be at least 1 and codes 2 to 256")

    def learn(self, x: Tensor) -> dict[str, Tensor]:
        """Codewords (C, H, K) int16 in steps, side by side, and the step, a power of two."""
        exponent = math.frexp(float(x.abs().max()) / LARGEST_WORD)[1]
        step = 2.0 ** max(exponent, SMALLEST_STEP)
        rows_NW = np.rint(rows_of(x).double().numpy() / step)
        columns = _columns(rows_NW.shape[1], self.subvectors)
        words_CW = np.concatenate([_centroids(rows_NW[:, c], self.codes) for c in columns], axis=1)
        words = words_CW.astype(np.int16).reshape(self.codes, *x.shape[:-2], x.shape[-1])
        return {"codewords": torch.from_numpy(words), "step": torch.tensor(step)}

    def _codebooks(self, name: str) -> tuple[Floats, list[slice], float]:
        words_CW = self.table(f"{name}.codewords").flatten(1).double().numpy()
        columns = _columns(words_CW.shape[1], self.subvectors)
        return words_CW, columns, float(self.table(f"{name}.step"))

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Codes (M, P) uint8; two to a byte, (M, P / 2 rounded up), where half a byte will do."""
        words_CW, columns, step = self._codebooks(name)
        rows_MW = np.rint(rows_of(x).double().numpy() / step).clip(-LARGEST_ROW, LARGEST_ROW)
        codes_MP = np.stack([_nearest(rows_MW[:, c], words_CW[:, c]) for c in columns], axis=1)
        if self.codes <= 16:
            codes_MP = np.pad(codes_MP, ((0, 0), (0, len(columns) % 2)))
            codes_MP = (codes_MP[:, ::2] + 16 * codes_MP[:, 1::2]).astype(np.uint8)
        return {"codes": torch.from_numpy(codes_MP)}

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """Codewords side by side: (H, M, K)."""
        words_CW, columns, step = self._codebooks(name)
        codes_MP = parts["codes"].numpy()
        if self.codes <= 16:
            codes_MP = np.stack((codes_MP % 16, codes_MP // 16), axis=2).reshape(len(codes_MP), -1)
        found = [words_CW[codes_MP[:, p], c] for p, c in enumerate(columns)]
        rows_MW = torch.from_numpy(np.concatenate(found, axis=1) * step)
        return from_rows(rows_MW.float(), self.table(f"{name}.codewords").shape[1:])
