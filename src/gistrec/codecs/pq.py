"""A slot's row cut into sub-vectors, each stored as the number of its nearest codeword.

    x = (x_1, ..., x_P)        c_p = argmin_c |x_p - C_p[c]|        x' = (C_1[c_1], ..., C_P[c_P])

C_p is a k-means of the sample rows' p-th sub-vectors, shared by all users; one set of codebooks per
tensor (layer, keys or values), heads side by side. Where P does not divide the width W, the first
W mod P sub-vectors have one number more; where W < P there is a sub-vector per number.

Level: precision
Source: Jegou, Douze, Schmid 2011, "Product Quantization for Nearest Neighbor Search", IEEE TPAMI
33(1), doi 10.1109/TPAMI.2010.57, section II; as codes of a network's vectors: R V, Goyal 2025,
"Breaking Token Into Concepts" (ASG), arXiv 2509.17737.
Differs: the codebooks are not trained on with the model as in ASG. Rows and codewords are whole
multiples of a step, so every distance is exact: a row's codes do not depend on the rows beside it
or on the machine, and a codeword's code is its own (of equal codewords, the first one's).
Cost: `subvectors` bytes a slot and tensor, half of that where `codes` is at most 16; time
O(codes * W) a slot. Shared: 2 * codes * W bytes a tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gistrec.codecs import Learned, from_rows, row_shape
from gistrec.codecs._bits import pack, step_of, unpack
from gistrec.codecs._kmeans import SMALLEST_STEP, centroids, in_steps
from gistrec.errors import CodecError
from gistrec.kernels.nearest import Codebook, Floats

LARGEST_WORD = 2**13
"""Steps; the largest number of all samples has at most so many."""
SAMPLE = 2**14
"""At most so many sub-vectors are clustered."""


def _columns(width: int, count: int) -> list[slice]:
    """The columns of each sub-vector."""
    count = min(width, count)
    size, longer = divmod(width, count)
    ends = [(p + 1) * size + min(p + 1, longer) for p in range(count)]
    return [slice(start, end) for start, end in pairwise([0, *ends])]


def _codewords(rows_NW: Floats, count: int) -> Floats:
    """Codewords in whole steps, (count, W); where too few, repeats (never chosen)."""
    found = centroids(rows_NW, count, sample=SAMPLE // count)
    words_CW = np.resize(found, (count, found.shape[1]))
    return np.rint(words_CW).clip(-LARGEST_WORD, LARGEST_WORD)


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
        step = step_of(x, LARGEST_WORD, least=SMALLEST_STEP)
        rows_NW = in_steps(x, step)
        columns = _columns(rows_NW.shape[1], self.subvectors)
        words_CW = np.concatenate([_codewords(rows_NW[:, c], self.codes) for c in columns], axis=1)
        words = words_CW.astype(np.int16).reshape(self.codes, *row_shape(x))
        return {"codewords": torch.from_numpy(words), "step": torch.tensor(step)}

    @property
    def _bits(self) -> int:
        return 4 if self.codes <= 16 else 8

    def _codebooks(self, name: str) -> tuple[Floats, list[slice], float]:
        words_CW = self.table(f"{name}.codewords").flatten(1).double().numpy()
        columns = _columns(words_CW.shape[1], self.subvectors)
        return words_CW, columns, float(self.table(f"{name}.step"))

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Codes (M, P) uint8; two to a byte, (M, P / 2 rounded up), where half a byte will do."""
        words_CW, columns, step = self._codebooks(name)
        rows_MW = in_steps(x, step)
        found = [Codebook(words_CW[:, c]).nearest(rows_MW[:, c]) for c in columns]
        codes_MP = np.stack(found, axis=1)
        return {"codes": pack(torch.from_numpy(codes_MP.astype(np.uint8)), self._bits)}

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """Codewords side by side: (H, M, K)."""
        words_CW, columns, step = self._codebooks(name)
        codes_MP = unpack(parts["codes"], self._bits).numpy()
        found = [words_CW[codes_MP[:, p], c] for p, c in enumerate(columns)]
        rows_MW = torch.from_numpy(np.concatenate(found, axis=1) * step)
        return from_rows(rows_MW.float(), self.table(f"{name}.codewords").shape[1:])
