"""A slot's row in the few directions in which all users' rows vary most.

    B = the first `rank` eigenvectors of sum x x^T over sample rows      (rank, W), W = H * K
    c = B x, rounded to 17 bits below the row's largest coefficient        x' = B^T c

One basis per tensor (layer, keys or values), shared by all users; heads are joined, so rank is per
slot and tensor.

Level: head and latent
Source: Saxena et al. 2024, "Eigen Attention: Attention in Low-Rank Space for KV Cache Compression",
arXiv 2408.05646 (basis from an SVD of calibration keys and values, not centred).
Differs: heads share one basis, `rank` is given instead of an error threshold, queries are not
projected (the state is decoded before attention), coefficients are rounded so that re-encoding
changes nothing.
Cost: 4 * rank bytes a slot and tensor, 2 * rank with `| bf16()`, rank + 2 with `| int8()`; time
O(rank * W) a slot. Shared: 4 * rank * W bytes a tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gistrec.codecs import WIDTH, Learned, from_rows, row_shape, rows_of
from gistrec.codecs._bits import round_rows
from gistrec.errors import CodecError

# Decoding to fp32 and projecting again moves a coefficient by some 1e-7 of the row's largest, far
# less than half a rounding step: the same multiples of the same step come back.
BITS = 17
LIMIT = 2.0**120
"""Larger coefficients are cut off here, so that a decoded row is finite in fp32."""
SMALLEST_STEP = -120
"""Exponent; it keeps every coefficient a normal number of fp32."""


@dataclass(frozen=True)
class LowRank(Learned):
    """Fewer numbers per slot; put a precision codec behind it."""

    rank: int
    """Coefficients per slot and tensor, at most the width of the row."""

    stage = WIDTH
    dial = "rank"
    dial_values = range(1, 1025)
    parts = ("coef",)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise CodecError(f"{self}: rank must be at least 1")

    def learn(self, x: Tensor) -> dict[str, Tensor]:
        """Basis (rank, H, K)."""
        rows_NW = rows_of(x).double()
        vectors_WW = torch.linalg.eigh(rows_NW.T @ rows_NW).eigenvectors  # ascending
        basis_RW = vectors_WW.flip(1).T[: self.rank]
        return {"basis": basis_RW.reshape(-1, *row_shape(x)).float()}

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Coefficients (M, rank), fp32."""
        basis_RW = self.table(f"{name}.basis").flatten(1).double()
        coef_MR = (rows_of(x).double() @ basis_RW.T).clamp(-LIMIT, LIMIT)
        return {"coef": round_rows(coef_MR, BITS, least=SMALLEST_STEP).float()}

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """Rows from their coefficients: (H, M, K)."""
        basis = self.table(f"{name}.basis")
        rows_MW = parts["coef"].double() @ basis.flatten(1).double()
        return from_rows(rows_MW.float(), basis.shape[1:])
