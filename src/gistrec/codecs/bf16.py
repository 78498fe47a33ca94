"""Every number rounded to bfloat16: the exponent of fp32 with 8 significant bits.

    y = round_to_even(x, 8 significant bits), |x| limited to the largest finite bfloat16

Level: precision
Source: Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training", arXiv 1905.12322.
Differs: numbers above the largest finite bfloat16 (3.39e38) become it, not infinity.
Cost: 2 bytes a number; relative error at most 2^-8.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from gistrec.codecs import Quantize
from gistrec.codecs._bits import to_bf16
from gistrec.kernels.packed import Coded


@dataclass(frozen=True)
class BF16(Quantize):
    """Half the bytes of fp32, without a table or a scale."""

    parts = ("bf16",)

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """The tensor in bfloat16."""
        return {"bf16": to_bf16(x)}

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """The tensor in fp32."""
        return parts["bf16"].float()

    def coded(self, name: str, rows: Coded) -> Coded | None:
        """Read as they are."""
        return Coded("bf16", (f"{name}.bf16",)) if rows.kind == "plain" else None
