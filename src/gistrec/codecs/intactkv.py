"""The first slots of a state stay as they are, all others are quantised.

    slot j < pivots:   x' = bf16(x)
    all others:        x' = (q + zero) * scale, per slot and head, n = 15 (4 bits) or 254 (8 bits)
        scale = bf16(max((max x - min x) / n, max |x| / 127))
        zero = round(min x / scale), kept from -127 to 127 - n
        q = round(x / scale) - zero, from 0 to n, and n where x is the largest

Re-encoding changes nothing. Where the span sets the scale, q reaches 0 and n, so the span of x' is
n * scale and gives back the scale. Where max |x| sets it, rounding the scale moves max |x| / scale
by at most 127 / 256 < 1/2, so max |x'| is 127 * scale and does. q + zero, at most 127, has 7
bits and the scale 8: fp32 holds x' exactly, and the same zero and q come back.

Shapes: P pivots.

Source: Liu et al. 2024, "IntactKV: Improving Large Language Model Quantization by Keeping Pivot
Tokens Intact", arXiv 2403.01241, section 3.
Differs: the paper takes the pivots (of a shared prompt) from the model before it quantises that;
here nothing but the state is quantised, and each user has pivots of his own. Intact means bf16: the
paper's caches have 16 bits too, fp32 would double the cost, and 0.2 % of error is far less than the
others have. Pivots matter where first slots draw attention: softmax (SASRec) tends to that, HSTU's
SiLU need not. Behind an eviction, give it as many sinks as there are pivots, or slots that move up
become pivots with what they have lost.
Cost: 2 * K bytes for a pivot; for another slot K * bits / 8 rounded up, 2 bytes of scale and 3 to 4
bits (none at 8 bits) of zero (an int16 that the wire format writes in as few bits as needed), each
per head: 64 bytes at K = 32, and 18.4 (4 bits) or 34 (8 bits).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gistrec.codecs import Quantize
from gistrec.errors import CodecError

LEVELS = {4: 15, 8: 254}
"""The largest code of `bits`; with 254, a zero of -127 fits all rows and costs nothing."""
SMALLEST_SCALE = torch.finfo(torch.bfloat16).tiny
LARGEST_SCALE = 2.0**121
"""127 times it is finite in fp32; numbers further than n times it above the least are cut off."""
LIMIT = torch.finfo(torch.bfloat16).max


@dataclass(frozen=True)
class IntactKV(Quantize):
    """int4 or int8 where the first slots matter more than others, as attention sinks do."""

    pivots: int = 4
    """First slots of the state that stay in bf16, at least 1."""
    bits: int = 4
    """Of a number of any other slot, 4 or 8."""

    dial = "bits"
    parts = ("codes", "pivot", "scale", "zero")

    def __post_init__(self) -> None:
        if self.pivots < 1 or self.bits not in LEVELS:
            raise CodecError(
                f"{self}: pivots must be at least 1 and bits 4 or 8; without pivots use int4() or "
                "int8()"
            )

    @property
    def dial_values(self) -> Sequence[int]:
        """Few or many."""
        return tuple(LEVELS)

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Pivots (..., P, K) bf16; of the others codes (..., M - P, bytes), scale and zero."""
        # rows that are no slots have no first one
        pivots = 0 if name.startswith("fixed.") else min(self.pivots, x.shape[-2])
        codes, scale, zero = _affine(x[..., pivots:, :], LEVELS[self.bits])
        return {
            "codes": _pack(codes) if self.bits == 4 else codes,
            "pivot": x[..., :pivots, :].clamp(-LIMIT, LIMIT).bfloat16(),
            "scale": scale,
            "zero": zero,
        }

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """Pivots, then (codes + zero) times scale, fp32."""
        pivot, codes = parts["pivot"].float(), parts["codes"]
        if self.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)
        codes = codes[..., : pivot.shape[-1]]
        rest = (codes.float() + parts["zero"].float()) * parts["scale"].float()
        return torch.cat([pivot, rest], dim=-2)


def _affine(x: Tensor, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (uint8), scale (bf16) and zero (int16) of the last axis."""
    x = x.double()
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    span = (high - low) / levels
    least = (torch.maximum(-low, high) / 127).clamp(min=SMALLEST_SCALE)
    scale = torch.maximum(span, least).clamp(max=LARGEST_SCALE).bfloat16()
    zero = (low / scale.double()).round().clamp(-127, 127 - levels)
    codes = ((x / scale.double()).round() - zero).clamp(0, levels)
    codes[(span >= least) & (x == high)] = levels
    return codes.to(torch.uint8), scale, zero.to(torch.int16)


def _pack(codes: Tensor) -> Tensor:
    """Two codes a byte, the first in the low half; a last byte is filled up with 0."""
    codes = F.pad(codes, (0, codes.shape[-1] % 2))
    return codes[..., ::2] | codes[..., 1::2] << 4
