"""The first slots of a state stay as they are, all others are quantised.

    slot j < pivots:   x' = bf16(x)
    all others:        x' = (q + zero) * scale, per slot and head, n = 15 (4 bits) or 254 (8 bits)
        scale = bf16(max((max x - min x) / n, max |x| / 127))
        zero = round(min x / scale), kept from -127 to 127 - n
        q = round(x / scale) - zero, from 0 to n, and n where x is the largest

Re-encoding changes nothing: a decoded row has the same scale and zero point.

Shapes: P pivots.

Level: precision
Source: Liu et al. 2024, "IntactKV: Improving Large Language Model Quantization by Keeping Pivot
Tokens Intact", arXiv 2403.01241, section 3.
Differs: the paper takes the pivots (of a shared prompt) from the model before it quantises that;
here nothing but the state is quantised, and each user has pivots of his own. Intact means bf16: the
paper's caches have 16 bits too, fp32 would double the cost, and 0.2 % of error is far less than the
others have. Pivots matter where first slots draw attention: softmax (SASRec) tends to that, HSTU's
SiLU need not. Behind an eviction, give it as many sinks as there are pivots, or slots that move up
become pivots with what they have lost.
Cost: 2 * K bytes for a pivot; for another slot K * bits / 8 rounded up, 2 bytes of scale and 3 to 4
bits (none at 8 bits) of zero point (an int16 that the wire format writes in as few bits as needed),
each per head: 64 bytes at K = 32, and 18.4 (4 bits) or 34 (8 bits).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gistrec.codecs import Quantize
from gistrec.codecs._affine import affine, restored
from gistrec.codecs._bits import pack, to_bf16, unpack
from gistrec.errors import CodecError

LEVELS = {4: 15, 8: 254}
"""The largest code of `bits`; with 254, a zero of -127 fits all rows and costs nothing."""


@dataclass(frozen=True)
class IntactKV(Quantize):
    """int4 or int8 where the first slots matter more than others, as attention sinks do."""

    pivots: int = 4
    """First slots of the state that stay in bf16, at least 1."""
    bits: int = 4
    """Of a number of any other slot, 4 or 8."""

    slotwise = False
    dial = "bits"
    dial_values = tuple(LEVELS)
    parts = ("codes", "pivot", "scale", "zero")

    def __post_init__(self) -> None:
        if self.pivots < 1 or self.bits not in LEVELS:
            raise CodecError(
                f"{self}: pivots must be at least 1 and bits 4 or 8; without pivots use int4() or "
                "int8()"
            )

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Pivots (..., P, K) bf16; of the others codes (..., M - P, bytes), scale and zero."""
        # rows that are no slots have no first one
        pivots = 0 if name.startswith("fixed.") else min(self.pivots, x.shape[-2])
        codes, scale, zero = affine(x[..., pivots:, :], LEVELS[self.bits])
        return {
            "codes": pack(codes, self.bits),
            "pivot": to_bf16(x[..., :pivots, :]),
            "scale": scale,
            "zero": zero,
        }

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """Pivots, then (codes + zero) times scale, fp32."""
        pivot = parts["pivot"].float()
        codes = unpack(parts["codes"], self.bits)[..., : pivot.shape[-1]]
        return torch.cat([pivot, restored(codes, parts)], dim=-2)
