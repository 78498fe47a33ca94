"""Keys in 2 bits per channel, over groups of consecutive slots; values in 2 bits per slot.

    over a group of numbers x, n = 2^bits - 1:
    scale = bf16(max((max x - min x) / n, max |x| / 127))
    zero = round(min x / scale), kept from -127 to 127 - n
    q = round(x / scale) - zero, from 0 to n, and n where x is the largest
    x' = (q + zero) * scale

A group is one channel of `group` consecutive slots for keys, `group` channels of one slot for all
else. Groups of keys are counted from the oldest slot, so a full one never changes; the newest keys,
which do not fill one, stay in bf16.

Re-encoding changes nothing. Where the span sets the scale, q reaches 0 and n, so the span of x' is
n * scale and gives back the scale. Where max |x| sets it, rounding the scale moves max |x| / scale
by at most 127 / 256 < 1/2, so max |x'| is 127 * scale and does. q + zero, at most 127, has 7
bits and the scale 8: fp32 holds x' exactly, and the same zero and q come back.

Shapes: F slots that are quantised, the oldest.

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
Cost: per number `bits`, and per group 2 bytes of scale and 2 to 4 bits of zero (an int16 that the
wire format writes in as few bits as needed): 10.3 bytes for 32 numbers at 2 bits, 18.4 at 4. Keys
that do not fill a group take 64 bytes for 32 numbers; with whole histories that are half a group on
average.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gistrec.codecs import Quantize, from_rows, rows_of
from gistrec.errors import CodecError

SMALLEST_SCALE = torch.finfo(torch.bfloat16).tiny
LARGEST_SCALE = 2.0**121
"""127 times it is finite in fp32; numbers further than n times it above the least are cut off."""
LIMIT = torch.finfo(torch.bfloat16).max


@dataclass(frozen=True)
class KIVI(Quantize):
    """Two bits a number, for long histories of keys whose channels differ in size."""

    bits: int = 2
    """Of a code, 2 or 4."""
    group: int = 32
    """Slots (keys) or channels (all else) that share a scale and a zero, at least 1."""
    recent: int = 0
    """Newest slots kept in bf16 besides those of the keys that do not fill a group."""

    dial = "bits"
    parts = ("codes", "rest", "scale", "zero")

    def __post_init__(self) -> None:
        if self.bits not in self.dial_values or self.group < 1 or self.recent < 0:
            raise CodecError(f"{self}: bits must be 2 or 4, group at least 1, recent at least 0")

    @property
    def dial_values(self) -> Sequence[int]:
        """Few enough that packed codes fill bytes."""
        return (2, 4)

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Packed codes (F, bytes) of the F oldest slots, the rest (H, M - F, K) bf16.

        Scales and zeros are (F / group, W) for keys and (F, groups of channels) for all else.
        """
        slots = x.shape[-2]
        full = max(slots - self.recent, 0)
        if name.startswith("fixed."):
            full = slots  # its rows are no slots, none is newer
        if _is_key(name):
            full -= full % self.group
        rows_FW = rows_of(x[..., :full, :])
        codes, scale, zero = _affine(self._grouped(name, rows_FW), 2**self.bits - 1)
        codes_FW = codes.transpose(1, 2).flatten(0, 1) if _is_key(name) else codes.flatten(1)
        return {
            "codes": _pack(codes_FW[:, : rows_FW.shape[1]], self.bits),
            "rest": x[..., full:, :].clamp(-LIMIT, LIMIT).bfloat16(),
            "scale": scale.squeeze(-1),
            "zero": zero.squeeze(-1),
        }

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """(Codes + zero) times scale, then the rest: (H, M, K) fp32."""
        rest = parts["rest"].float()
        shape = (*rest.shape[:-2], rest.shape[-1])
        width = rest.shape[-1] * rest.shape[:-2].numel()
        codes_FW = _unpack(parts["codes"], self.bits)[:, :width]
        axis = 0 if _is_key(name) else 1
        scale_FW, zero_FW = (
            parts[part].float().repeat_interleave(self.group, dim=axis)[:, :width]
            for part in ("scale", "zero")
        )
        rows_FW = (codes_FW.float() + zero_FW) * scale_FW
        return torch.cat([from_rows(rows_FW, shape), rest], dim=-2)

    def _grouped(self, name: str, rows_FW: Tensor) -> Tensor:
        """Each group's numbers on the last axis: (F / group, W, group) or (F, groups, group)."""
        full, width = rows_FW.shape
        if _is_key(name):
            return rows_FW.reshape(full // self.group, self.group, width).transpose(1, 2)
        groups = -(-width // self.group)
        # a last group that is not full repeats its last channel: that changes neither end
        index = torch.arange(groups * self.group).clamp(max=width - 1)
        return rows_FW[:, index].reshape(full, groups, self.group)


def _is_key(name: str) -> bool:
    return name.partition(".")[0] == "k"


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


def _pack(codes: Tensor, bits: int) -> Tensor:
    """Several codes a byte, low bits first; a last byte is filled up with 0."""
    count = 8 // bits
    codes = F.pad(codes, (0, -codes.shape[-1] % count))
    packed = codes[..., ::count]
    for place in range(1, count):
        packed = packed | codes[..., place::count] << bits * place
    return packed


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse, the filling included."""
    parts = [packed >> bits * n & 2**bits - 1 for n in range(8 // bits)]
    return torch.stack(parts, dim=-1).flatten(-2)
