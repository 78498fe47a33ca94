"""Whole numbers of 4 bits, two per byte, with a scale and an offset per slot and group of channels.

    scale = bf16(max((max x - min x) / 15, max |x| / 127))
    zero = round(min x / scale), kept from -127 to 112
    q = round(x / scale) - zero, from 0 to 15, and 15 where x is the largest
    x' = (q + zero) * scale

Re-encoding changes nothing. Where the span sets the scale, q reaches 0 and 15, so the span of x' is
15 * scale and gives back the scale. Where max |x| sets it, rounding the scale moves max |x| / scale
by at most 127 / 256 < 1/2, so max |x'| is 127 * scale and does. q + zero, at most 127, has 7
bits and the scale 8: fp32 holds x' exactly, and the same zero and q come back.

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
from gistrec.errors import CodecError

LEVELS = 15
SMALLEST_SCALE = torch.finfo(torch.bfloat16).tiny
LARGEST_SCALE = 2.0**121
"""127 times it is finite in fp32; numbers further than 15 times it above the least are cut off."""


@dataclass(frozen=True)
class Int4(Quantize):
    """Little more than half of int8's bytes, at some 14 times its error."""

    group: int = 32
    """Channels that share a scale and an offset, at least 1; a narrower head is one group."""

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
        group = min(self.group, width)
        groups = -(-width // group)
        # a last group that is not full repeats its last channel: that changes neither end
        index = torch.arange(groups * group).clamp(max=width - 1)
        codes, scale, zero = _affine(x[..., index].unflatten(-1, (groups, group)))
        codes = codes.flatten(-2)[..., :width]
        even = width - width % 2
        return {
            "pairs": codes[..., 0:even:2] | codes[..., 1:even:2] << 4,
            "odd": codes[..., even:],
            "scale": scale.squeeze(-1),
            "zero": zero.squeeze(-1),
        }

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """(Codes + zero) times scale, fp32."""
        pairs = parts["pairs"]
        codes = torch.stack([pairs & 15, pairs >> 4], dim=-1).flatten(-2)
        codes = torch.cat([codes, parts["odd"]], dim=-1)
        width = codes.shape[-1]
        group = min(self.group, width)
        scale, zero = (
            parts[part].float().repeat_interleave(group, dim=-1)[..., :width]
            for part in ("scale", "zero")
        )
        return (codes.float() + zero) * scale


def _affine(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (uint8), scale (bf16) and zero (int16) of the last axis."""
    x = x.double()
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    span = (high - low) / LEVELS
    least = (torch.maximum(-low, high) / 127).clamp(min=SMALLEST_SCALE)
    scale = torch.maximum(span, least).clamp(max=LARGEST_SCALE).bfloat16()
    zero = (low / scale.double()).round().clamp(-127, 127 - LEVELS)
    codes = ((x / scale.double()).round() - zero).clamp(0, LEVELS)
    codes[(span >= least) & (x == high)] = LEVELS
    return codes.to(torch.uint8), scale, zero.to(torch.int16)
