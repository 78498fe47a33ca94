"""Codes of a few bits, with a scale and a zero point per group of numbers.

    over a group of numbers x, with codes from 0 to n:
    scale = bf16(max((max x - min x) / n, max |x| / 127))
    zero = round(min x / scale), kept from -127 to 127 - n
    q = round(x / scale) - zero, from 0 to n, and n where x is the largest
    x' = (q + zero) * scale

Doing it again changes nothing. Where the span sets the scale, q reaches 0 and n, so the span of x'
is n * scale and gives back the scale. Where max |x| sets it, rounding the scale moves
max |x| / scale by at most 127 / 256 < 1/2, so max |x'| is 127 * scale and does. q + zero, at most
127, has 7 bits and the scale 8: fp32 holds x' exactly, and the same zero and q come back.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gistrec.codecs._bits import LARGEST_SCALE, SMALLEST_SCALE


def grouped(x: Tensor, size: int) -> Tensor:
    """Groups of channels, (..., groups, size); of one that is wider than all channels, just those.

    A last group that is not full repeats its last channel: that changes neither end.
    """
    width = x.shape[-1]
    size = min(size, width)
    groups = -(-width // size)
    index = torch.arange(groups * size).clamp(max=width - 1)
    return x[..., index].reshape(*x.shape[:-1], groups, size)


def affine(x: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (uint8), and scale (bf16) and zero (int16) of each group, the last axis."""
    x = x.double()
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    span = (high - low) / n
    least = (torch.maximum(-low, high) / 127).clamp(min=SMALLEST_SCALE)
    scale = torch.maximum(span, least).clamp(max=LARGEST_SCALE).bfloat16()
    zero = (low / scale.double()).round().clamp(-127, 127 - n)
    codes = ((x / scale.double()).round() - zero).clamp(0, n)
    codes[(span >= least) & (x == high)] = n
    return codes.to(torch.uint8), scale, zero.to(torch.int16)


def restored(codes: Tensor, parts: Mapping[str, Tensor], size: int = 1, axis: int = -1) -> Tensor:
    """(Codes + zero) * scale, fp32; `size` numbers along the axis share a scale and zero."""
    size = min(size, codes.shape[axis])
    scale, zero = (
        parts[part].float().repeat_interleave(size, dim=axis)[..., : codes.shape[-1]]
        for part in ("scale", "zero")
    )
    return (codes.float() + zero) * scale
