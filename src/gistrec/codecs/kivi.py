"""Keys in 2 bits per channel, over groups of consecutive slots; values in 2 bits per slot.

    over a group of numbers x, n = 2^bits - 1:
    scale = bf16(max((max x - min x) / n, max |x| / 127))
    zero = round(min x / scale), kept from -127 to 127 - n
    q = round(x / scale) - zero, from 0 to n, and n where x is the largest
    x' = (q + zero) * scale

A group is one channel of `group` consecutive slots for keys, `group` channels of one slot for all
else. Groups of keys are counted from the oldest slot, so a full one never changes; the newest keys,
which do not fill one, stay in bf16.

Re-encoding changes nothing: a decoded group has the same scale and zero point.

Shapes: F slots that are quantised, the oldest.

Level: precision
Source: Liu et al. 2024, "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", arXiv
2402.02750, section 3 and Algorithm 1.
Differs: what is not yet grouped is bf16 (fp32 would double it), and by default that is only the
keys that do not fill a group, where the paper keeps 128 slots of keys and values (`recent` adds
slots of both). The zero point is a whole number, not a float: 3 % more error for 1.7 bytes less a
group; no scale is finer than int8()'s. Groups of channels run across heads. Behind an eviction that
drops old slots the others move up, so keys are grouped anew from decoded ones: their error doubles
in a hundred appends at `recent(keep=64)`; int4() does not have that. Behind `lowrank()`, which
rounds to 2^-17 of a slot's largest coefficient, re-encoding may change the codes of channels
hundreds of times smaller than that one.
Cost: per number `bits`, and per group 2 bytes of scale and 2 to 4 bits of zero point (an int16 that
the wire format writes in as few bits as needed): 10.3 bytes for 32 numbers at 2 bits, 18.4 at 4.
Keys that do not fill a group take 64 bytes for 32 numbers; with whole histories that are half a
group on average.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gistrec.codecs import Quantize, from_rows, row_shape, rows_of
from gistrec.codecs._affine import affine, grouped, restored
from gistrec.codecs._bits import pack, to_bf16, unpack
from gistrec.errors import CodecError


@dataclass(frozen=True)
class KIVI(Quantize):
    """Two bits a number, for long histories of keys whose channels differ in size."""

    bits: int = 2
    """Of a code, 2 or 4."""
    group: int = 32
    """Slots (keys) or channels (all else) that share a scale and a zero point, at least 1."""
    recent: int = 0
    """Newest slots kept in bf16 besides those of the keys that do not fill a group."""

    slotwise = False
    dial = "bits"
    dial_values = (2, 4)
    parts = ("codes", "rest", "scale", "zero")

    def __post_init__(self) -> None:
        if self.bits not in self.dial_values or self.group < 1 or self.recent < 0:
            raise CodecError(f"{self}: bits must be 2 or 4, group at least 1, recent at least 0")

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Packed codes (F, bytes) of the F oldest slots, the rest (H, M - F, K) bf16.

        Scales and zeros are (F / group, W) for keys and (F, groups of channels) for all else.
        """
        slots = x.shape[-2]
        full = max(slots - self.recent, 0)
        if name.startswith("fixed."):
            full = slots  # its rows are no slots, none is newer
        is_key = _is_key(name)
        if is_key:
            full -= full % self.group
        rows_FW = rows_of(x[..., :full, :])
        width = rows_FW.shape[1]
        groups = (
            rows_FW.reshape(-1, self.group, width).transpose(1, 2)
            if is_key
            else grouped(rows_FW, self.group)
        )
        codes, scale, zero = affine(groups, 2**self.bits - 1)
        codes_FW = codes.transpose(1, 2).flatten(0, 1) if is_key else codes.flatten(1)
        return {
            "codes": pack(codes_FW[:, :width], self.bits),
            "rest": to_bf16(x[..., full:, :]),
            "scale": scale.squeeze(-1),
            "zero": zero.squeeze(-1),
        }

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """(Codes + zero) times scale, then the rest: (H, M, K) fp32."""
        rest = parts["rest"].float()
        shape = row_shape(rest)
        codes_FW = unpack(parts["codes"], self.bits)[:, : math.prod(shape)]
        rows_FW = restored(codes_FW, parts, self.group, axis=0 if _is_key(name) else 1)
        return torch.cat([from_rows(rows_FW, shape), rest], dim=-2)


def _is_key(name: str) -> bool:
    return name.partition(".")[0] == "k"
