"""Exact arithmetic for codecs: bf16 and its scales, steps that are powers of two, packed codes."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

SMALLEST_SCALE = torch.finfo(torch.bfloat16).tiny
"""Below it a bf16 loses digits; rows of smaller numbers, and of zeros, use it too."""
LARGEST_SCALE = 2.0**121
"""127 times it is finite in fp32; numbers that need a larger scale are cut off."""


def to_bf16(x: Tensor) -> Tensor:
    """Rounded to bf16; what is above its largest finite number becomes that."""
    limit = torch.finfo(torch.bfloat16).max
    return x.clamp(-limit, limit).bfloat16()


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent in fp64, by its bits: torch.exp2 does not promise to be exact."""
    return (exponent.long() + 1023 << 52).view(torch.float64)


def step_of(x: Tensor, steps: int, *, least: int, most: int = 127) -> float:
    """The power of two of which x's largest number is at most so many; 1 where all are zeros.

    `least` and `most` limit its exponent.
    """
    exponent = math.frexp(float(x.abs().max()) / steps)[1]
    return 2.0 ** min(max(exponent, least), most)


def round_rows(x: Tensor, bits: int, *, least: int) -> Tensor:
    """Every row (the last axis) rounded to `bits` bits below its largest number.

    So it holds whole multiples of a step, a power of two from 2^least on, which changes where the
    largest number passes edge * 2^e. The edge lies half a step off the multiples, and below all
    that bf16 rounds up to 2^e: so neither a smaller error nor `| bf16()` or `| int8()` moves a row
    to a larger step, which would round it anew. A smaller step is harmless.
    """
    edge = 1 - 2.0**-9 - 2.0 ** -(bits + 1)
    exponent = torch.frexp(x.abs().amax(-1, keepdim=True) / edge).exponent - bits
    step = power_of_two(exponent.clamp(min=least))
    return (x / step).round() * step


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes (uint8) of 1, 2, 4 or 8 bits, as many as fit a byte, low bits first; filled with 0."""
    count = 8 // bits
    codes = pad(codes, (0, -codes.shape[-1] % count))
    packed = codes[..., ::count]
    for place in range(1, count):
        packed = packed | codes[..., place::count] << bits * place
    return packed


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`, its filling included."""
    codes = [packed >> bits * place & 2**bits - 1 for place in range(8 // bits)]
    return torch.stack(codes, dim=-1).flatten(-2)
