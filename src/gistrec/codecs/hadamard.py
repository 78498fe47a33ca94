"""Each head's numbers rotated by a Walsh-Hadamard transform, so that no channel stands out.

    H_1 = (1)        H_2n = (H_n, H_n; H_n, -H_n)        d = random signs, the same for every slot
    y = 2^-floor(k / 2) H_n (d * x), n = 2^k, rounded to 24 - k bits below the row's largest
    x' = 2^-ceil(k / 2) d * (H_n y)

An outlier is spread over all n numbers, so a quantiser's scale, which follows the largest number,
gets smaller. A width that is no power of two is cut into blocks that are, the widest first
(24 = 16 + 8), each with its own transform.

Level: precision
Source: Ashkboos et al. 2024, "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", arXiv
2404.00456, section 4 (keys and values rotated head by head before they are quantised); the
transform as in Jeon et al. 2025, "QWHA", arXiv 2509.17428.
Differs: the decoded state is rotated back, QuaRot leaves it rotated and moves the rotation into the
weights; blocks instead of one transform of the whole width; rows are longer by sqrt(2) where k is
odd, so that all factors are powers of two; y is rounded so that decoding and encoding again are
exact.
Cost: bytes unchanged, put a precision codec behind it; time O(K log K) a slot and head.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gistrec.codecs import WIDTH, Quantize
from gistrec.codecs._bits import round_rows
from gistrec.errors import CodecError

# A block's y are n whole multiples of a step, less than 2^(24 - k) each. The sums of the rotation
# back are then below 2^24 steps: fp32 holds them, and rotating again gives the same multiples. What
# `| bf16()` or `| int8()` makes of y are multiples of such a step too, hence just as exact.
FP32_BITS = 24
LARGEST_LOG = 8
"""Blocks have at most 2^8 numbers, so that 16 bits are left."""
LIMIT = 2.0**120
"""Blocks with a larger y are divided by 2^16, so that a decoded row is finite in fp32.

At this size alone, 1.3e36, encoding again is not exact: a codec behind may round a y up past it.
"""
SMALLEST_STEP = -140
"""Exponent; fp32 holds its multiples after the rotation back too."""


def _blocks(width: int) -> list[int]:
    """Powers of two that add up to the width, the largest first."""
    largest = 1 << LARGEST_LOG
    rest = width % largest
    powers = [1 << bit for bit in reversed(range(LARGEST_LOG)) if rest >> bit & 1]
    return [largest] * (width // largest) + powers


def _sums(x: Tensor) -> Tensor:
    """Each row times H_n, n = 2^k, by k rounds of sums and differences in a fixed order."""
    half = 1
    while half < x.shape[-1]:
        left, right = x.unflatten(-1, (x.shape[-1] // (2 * half), 2, half)).unbind(-2)
        x = torch.stack((left + right, left - right), -2).flatten(-3)
        half *= 2
    return x


def _rotate(x: Tensor) -> Tensor:
    """One block's y."""
    log = x.shape[-1].bit_length() - 1
    y = _sums(x) * 2.0 ** -(log // 2)
    y = torch.where(y.abs().amax(-1, keepdim=True) <= LIMIT, y, y * 2.0**-16)
    return round_rows(y, FP32_BITS - log, least=SMALLEST_STEP)


def _rotate_back(y: Tensor) -> Tensor:
    log = y.shape[-1].bit_length() - 1
    return _sums(y) * 2.0 ** (log // 2 - log)


@dataclass(frozen=True)
class Hadamard(Quantize):
    """Makes a precision codec behind it err less where a few channels are much larger."""

    signs: int = 1
    """Which pattern of random signs goes in front, from 1; 0 is none."""

    stage = WIDTH
    parts = ("rotated",)

    def __post_init__(self) -> None:
        if self.signs < 0:
            raise CodecError(f"{self}: signs must be 0 (none) or the number of a pattern, from 1")

    def _signs(self, width: int) -> Tensor:
        if not self.signs:
            return torch.ones(width, dtype=torch.float64)
        # a hash, as a random generator's numbers may change between versions
        noise = hashlib.shake_256(str(self.signs).encode()).digest(width)
        return torch.tensor([1.0 - 2 * (byte & 1) for byte in noise], dtype=torch.float64)

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Rotated rows (..., M, K), fp32."""
        width = x.shape[-1]
        blocks = (x.double() * self._signs(width)).split(_blocks(width), dim=-1)
        return {"rotated": torch.cat([_rotate(block) for block in blocks], dim=-1).float()}

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """Rows rotated back, fp32."""
        y = parts["rotated"].double()
        blocks = y.split(_blocks(y.shape[-1]), dim=-1)
        x = torch.cat([_rotate_back(block) for block in blocks], dim=-1)
        return (x * self._signs(x.shape[-1])).float()
