"""Whole numbers of 4 bits, two per byte; a scale and a zero point per slot and group of channels.

    scale = bf16(max((max x - min x) / 15, max |x| / 127))
    zero = round(min x / scale), kept from -127 to 112
    q = round(x / scale) - zero, from 0 to 15, and 15 where x is the largest
    x' = (q + zero) * scale

Re-encoding changes nothing: a decoded group has the same scale and zero point.

Level: precision
Source: Dettmers, Zettlemoyer 2023, "The case for 4-bit precision: k-bit Inference Scaling Laws",
arXiv 2212.09720 (4 bits, a scale per block of a tensor), for weights; Jacob et al. 2017, arXiv
1712.05877, section 2.1, equation 1 (scale and zero point).
Differs: for states, not weights; blocks lie within a slot and head. The zero point may lie outside
0 to 15, so that rows far from 0 use all codes, but no scale is finer than int8's. Not symmetric
about 0: SiLU lets through no number below -0.28, and half the codes would be wasted (1.3 to 1.8
times the error on trained HSTU states, 1.2 times on SASRec's, for 0.4 bytes less).
Cost: K / 2 bytes rounded up, and per group 2 bytes of scale and 3 to 4 bits of zero point (an int16
that the wire format writes in as few bits as needed): 18.4 bytes for a head of width 32. Error at
most 0.56 of the scale.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gistrec.codecs import Quantize
from gistrec.codecs._affine import affine, grouped, restored
from gistrec.codecs._bits import pack, unpack
from gistrec.errors import CodecError
from gistrec.kernels.packed import Coded


@dataclass(frozen=True)
class Int4(Quantize):
    """Little more than half of int8's bytes, at some 14 times its error."""

    group: int = 32
    """Channels that share a scale and a zero point, at least 1; a narrower head is one group."""

    parts = ("pairs", "odd", "scale", "zero")

    def __post_init__(self) -> None:
        if self.group < 1:
            raise CodecError(f"{self}: group must be at least 1 channel, 32 is a good choice")

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Packed codes, and scale and zero (..., M, groups).

        A byte of `pairs` (..., M, K // 2) holds two numbers, low half first; the last one of an odd
        width has `odd` (..., M, K % 2) to itself, so that the width can be told from the parts.
        """
        width = x.shape[-1]
        codes, scale, zero = affine(grouped(x, self.group), 15)
        codes = codes.flatten(-2)[..., :width]
        even = width - width % 2
        return {
            "pairs": pack(codes[..., :even], 4),
            "odd": codes[..., even:],
            "scale": scale.squeeze(-1),
            "zero": zero.squeeze(-1),
        }

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """(Codes + zero) times scale, fp32."""
        codes = torch.cat([unpack(parts["pairs"], 4), parts["odd"]], dim=-1)
        return restored(codes, parts, self.group)

    def coded(self, name: str, rows: Coded) -> Coded | None:
        """All parts."""
        parts = tuple(f"{name}.{part}" for part in self.parts)
        return Coded("int4", parts, group=self.group) if rows.kind == "plain" else None
