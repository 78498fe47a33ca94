"""8-bit floating numbers (4 bits of exponent, 3 of mantissa) and a scale per slot and head.

    scale = the power of two with 232.5 <= max |x| / scale < 465        q = e4m3(x / scale)
    x' = q * scale

Re-encoding changes nothing: a power of two scales without loss, and 465 (232.5 is half of it) lies
between the largest e4m3 number, 448, and where the next one would be, 480, just beyond the
midpoint. So max |x'| / scale is 240 to 448, which gives the same scale, and q * scale gives q.

Level: precision
Source: Micikevicius et al. 2022, "FP8 Formats for Deep Learning", arXiv 2209.05433, sections 2
(scaling before the cast) and 3 (E4M3).
Differs: only storage is 8-bit, arithmetic is fp32; a scale per slot and head, not per tensor, and a
power of two: another factor would gain nothing, as e4m3 is as exact at any size. Numbers below 2^-5
of the scale are rounded to 2^-8 of it, e4m3 has 2^-9: so `lowrank` in front, which rounds too, gets
back numbers that it leaves as they are.
Cost: K bytes for K numbers of a slot and head, and about 2 bits for the scale (its exponent, an
int16 that the wire format writes in as few bits as needed): 32.2 bytes at K = 32. Error at most
1/16 of a number or 2^-9 of the scale. On trained states 3 to 5 times int8's error for 5 % fewer
bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gistrec.codecs import Quantize
from gistrec.codecs._bits import power_of_two

LARGEST = torch.finfo(torch.float8_e4m3fn).max
EDGE = 465
"""A scale doubles where the largest number passes it: no rounding carries a number across."""
FINEST = 2.0**-8
"""Smallest step, in scales."""
SMALLEST = EDGE * 2.0**-118
"""Rows of smaller numbers, and of zeros, have its scale, 2^-117: it keeps FINEST normal in fp32."""
LIMIT = 240 * 2.0**120
"""Larger numbers are cut off at it: what e4m3 has next is infinite in fp32."""


@dataclass(frozen=True)
class FP8(Quantize):
    """The same relative error for small and large numbers of a row; int8 favours large ones."""

    parts = ("q", "scale")

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Numbers (..., M, K) e4m3 and the scales' exponents (..., M, 1) int16."""
        x = x.float().clamp(-LIMIT, LIMIT)
        largest = x.abs().amax(-1, keepdim=True).double().clamp(min=SMALLEST)
        exponent = torch.frexp(largest / EDGE).exponent
        q = (x / power_of_two(exponent).float()).clamp(-LARGEST, LARGEST)
        q = torch.where(q.abs() < 8 * FINEST, (q / FINEST).round() * FINEST, q)
        return {"q": q.to(torch.float8_e4m3fn), "scale": exponent.to(torch.int16)}

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """Numbers times scales, fp32."""
        return parts["q"].float() * power_of_two(parts["scale"]).float()
