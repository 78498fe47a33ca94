"""Whole numbers from -127 to 127 and one scale per slot and head.

    scale = bf16(max |x| / 127)        q = round(x / scale)        x' = q * scale

Re-encoding changes nothing: the scale is rounded before it divides, which moves max |x| / scale by
at most 127 / 256 < 1/2, so max |q| is 127 and 127 * scale / 127 gives back the scale; q * scale has
15 significant bits, so fp32 holds it exactly.

Level: precision
Source: Dettmers et al. 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale",
arXiv 2208.07339, section 2.1 (absmax quantisation, one constant per row as in its section 3.1).
Differs: only storage is 8-bit, arithmetic is fp32; no outlier part; the scale is bf16.
Cost: K + 2 bytes for K numbers of a slot and head; error at most scale / 2 a number.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gistrec.codecs import Quantize
from gistrec.codecs._bits import LARGEST_SCALE, SMALLEST_SCALE
from gistrec.kernels.packed import Coded


@dataclass(frozen=True)
class Int8(Quantize):
    """A quarter of fp32's bytes, near lossless for ranking."""

    parts = ("q", "scale")

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Numbers (..., M, K) int8 and scales (..., M, 1) bf16."""
        scale = x.abs().amax(-1, keepdim=True) / 127
        scale = scale.clamp(SMALLEST_SCALE, LARGEST_SCALE).bfloat16()
        q = (x / scale.float()).round().clamp(-127, 127)
        return {"q": q.to(torch.int8), "scale": scale}

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """Numbers times scales, fp32."""
        return parts["q"].float() * parts["scale"].float()

    def coded(self, name: str, rows: Coded) -> Coded | None:
        """Numbers and scales."""
        parts = f"{name}.q", f"{name}.scale"
        return Coded("int8", parts) if rows.kind == "plain" else None
