"""A slot's row as a sum of planes of -1, 0 and 1, each plane with its own scale.

    x' = sum_p a_p t_p        t_p in {-1, 0, 1} per number, p up to `planes`
    a_p = scale * w_p         (w_1, w_2, ...) one of a few fixed ratios of whole numbers

For every ratio in turn: each number takes the nearest of the 3^planes sums, then the scale is the
best one for these trits, scale = v . x / v . v with v = sum_p w_p t_p; this is repeated, and the
ratio that errs least is kept. Heads are joined; `group` numbers share scales.

Level: precision
Source: Xiao et al. 2025, "PTQTP: Post-Training Quantization to Trit-Planes for Large Language
Models", arXiv 2509.16989 (progressive approximation: scales in closed form and the best of the 9
pairs, in turns).
Differs: states instead of weights. The ratio of the scales is one of a table's: solved for freely
(by ridge regression, as in the paper) it errs more, since it ends in poor optima, and costs more
bytes; with one unknown there is nothing for a ridge to mend. Scales must use their largest sum, so
that the largest number of a decoded row tells the scale of every ratio: encoding tries these first,
and a row that one of them gives exactly takes the first such ratio. New rows are encoded twice, the
second time from the decoded row, so that all codes are of this kind and encoding again changes
nothing. 1 to 3 planes.
Cost: `planes` bytes per 5 numbers of a slot, and 3 bytes per group (2 with one plane): 15, 29 or 42
bytes for 64 numbers. Time O(W) a slot, W = H * K; some 100 times that for new ones (with 2 planes
40 microseconds for 64 numbers).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from gistrec.codecs import Quantize, from_rows, row_shape, rows_of
from gistrec.codecs._bits import LARGEST_SCALE, SMALLEST_SCALE, power_of_two
from gistrec.errors import CodecError

# Found by greedy search on Gaussian, Laplace and uniform rows, with and without an outlier; the
# error is within a few percent of that of all ratios of 24ths. The order decides ties.
RATIOS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((1,),),
    2: tuple((24, w) for w in (16, 8, 18, 17, 9, 7, 19, 15)),
    3: tuple(
        (24, *w)
        for w in (
            *((16, 5), (21, 15), (8, 3), (21, 8), (13, 8), (20, 6), (8, 5), (16, 11)),
            *((13, 4), (19, 16), (19, 8), (11, 8), (21, 7), (11, 4), (20, 13), (16, 3)),
        )
    ),
}
ROUNDS = 5
"""Of trits and scale in turns."""
STARTS = {1: 1.4, 2: 2.4, 3: 2.7}
"""The scale starts where the largest sum is max |x|, and where it is so many times the mean |x|."""

# Rows are whole multiples of a step, below 2^20 steps, scales are bf16 and at least 2^8 steps: all
# sums over up to 2^10 numbers are below 2^53 and exact, and no result depends on the rows beside a
# row.
ROW_BITS = 20
LEAST = 2.0**8
BLOCK = 32
"""New rows at a time: bounds the memory, and stays in the cache."""
TRITS_PER_BYTE = 5


class _Sums(NamedTuple):
    """What the planes of each ratio can add up to; tables of all ratios one after the other."""

    weights_TP: Tensor
    top_T: Tensor
    """The largest sum of each ratio."""
    nearest: Tensor
    """The sum nearest to every half of a whole number, from -top to top."""
    digits: Tensor
    """Trits plus 1 of every sum, from -top to top, with a blank line for each ratio."""

    @classmethod
    @cache
    def of(cls, planes: int) -> "_Sums":
        """Of all ratios of so many planes."""
        nearest, digits = [], []
        trits_NP = torch.cartesian_prod(*[torch.arange(-1, 2)] * planes).view(-1, planes)
        for weights in map(torch.tensor, RATIOS[planes]):
            top = int(weights.sum())
            sums_N = trits_NP @ weights
            middles = (torch.arange(-2 * top, 2 * top) + 0.5) / 2
            nearest.append(sums_N[(middles[:, None] - sums_N).abs().argmin(1)].double())
            wholes = torch.arange(-top, top + 2)
            digits.append(trits_NP[(wholes[:, None] - sums_N).abs().argmin(1)] + 1)
        weights_TP = torch.tensor(RATIOS[planes])
        return cls(weights_TP, weights_TP.sum(1), torch.cat(nearest), torch.cat(digits).byte())

    def to(self, x: Tensor, scale: Tensor, ratio: Tensor) -> Tensor:
        """For each number the sum that comes nearest to it when scaled."""
        top = self.top_T[ratio]
        start = (4 * self.top_T).cumsum(0)[ratio] - 4 * top
        halves = (2 * x / scale).floor().clamp(-2 * top, 2 * top - 1)
        return self.nearest.take((halves + (start + 2 * top)).long())

    def digits_of(self, sums: Tensor, ratio: Tensor) -> Tensor:
        """Trits plus 1 of sums, on a new last axis."""
        top = self.top_T[ratio]
        start = (2 * self.top_T + 2).cumsum(0)[ratio] - 2 * top - 2
        return self.digits[start + top + sums.long()]


def _scales(x_RG: Tensor, sums: _Sums) -> Tensor:
    """For every ratio the scale of which the largest number is the largest sum, (R, T)."""
    scale_RT = x_RG.abs().amax(1, keepdim=True) / sums.top_T
    return scale_RT.clamp(SMALLEST_SCALE, LARGEST_SCALE).bfloat16().double()


def _exact(x_RG: Tensor, sums: _Sums) -> Tensor:
    """The first ratio that gives a row exactly, (R,); T where there is none."""
    scale_RT = _scales(x_RG, sums)
    largest_R1 = x_RG.abs().amax(1, keepdim=True)
    # the largest number alone rules out most ratios
    may_be_RT = (scale_RT * sums.top_T == largest_R1) | (largest_R1 == 0)
    row_n, ratio_n = may_be_RT.nonzero(as_tuple=True)
    x_nG, scale_n1 = x_RG[row_n], scale_RT[row_n, ratio_n, None]
    is_exact_n = (sums.to(x_nG, scale_n1, ratio_n[:, None]) * scale_n1 == x_nG).all(1)
    none_R = torch.full((len(x_RG),), len(sums.top_T))
    return none_R.scatter_reduce(0, row_n[is_exact_n], ratio_n[is_exact_n], "amin")


def _approximate(x_RG: Tensor, sums: _Sums) -> Tensor:
    """The nearest rows that codes give; zeros where max |x| is below what a scale can be."""
    largest_R = x_RG.abs().amax(1)
    step_R = power_of_two(torch.frexp(largest_R.clamp(min=2.0**-149)).exponent - ROW_BITS)
    x_RG = (x_RG / step_R[:, None]).round()
    smallest_R, limit_R = (SMALLEST_SCALE / step_R).clamp(min=LEAST), LARGEST_SCALE / step_R
    # C candidates: every ratio from both starts, every round of each
    ratio_C11 = torch.arange(len(sums.top_T)).repeat(2)[:, None, None]
    starts = (largest_R / step_R, STARTS[sums.weights_TP.shape[1]] * x_RG.abs().mean(1))
    scale_CR = torch.cat([start / sums.top_T[:, None] for start in starts])
    best_RG = torch.zeros_like(x_RG)
    least_R = torch.full_like(largest_R, torch.inf)
    for _ in range(ROUNDS):
        scale_CR = scale_CR.clamp(smallest_R, limit_R).bfloat16().double()
        sums_CRG = sums.to(x_RG, scale_CR[..., None], ratio_C11)
        rows_CRG = sums_CRG * scale_CR[..., None]
        error_CR = (x_RG - rows_CRG).square().sum(-1)
        error_CR[sums_CRG.abs().amax(-1) < sums.top_T[ratio_C11[..., 0]]] = torch.inf
        error_R, place_R = error_CR.min(0)
        is_best_R = error_R < least_R
        best_RG[is_best_R] = rows_CRG[place_R, torch.arange(len(x_RG))][is_best_R]
        least_R = torch.minimum(error_R, least_R)
        norm_CR = sums_CRG.square().sum(-1).clamp(min=1)
        scale_CR = (sums_CRG * x_RG).sum(-1) / norm_CR
    return best_RG * step_R[:, None]


@dataclass(frozen=True)
class Trits(Quantize):
    """Between int8 and learned codes in bytes; needs no samples, every row brings its scales."""

    planes: int = 2
    """Trits per number, 1 to 3: 3, 9 or 27 values."""
    group: int = 64
    """Numbers of a row that share scales, 1 to 1024."""

    dial = "planes"
    dial_values = range(1, 4)
    parts = ("trits", "scale", "ratio", "shape")

    def __post_init__(self) -> None:
        if self.planes not in RATIOS or not 1 <= self.group <= 1024:
            raise CodecError(f"{self}: planes must be 1 to 3 and group 1 to 1024")

    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """Trits (P, M, W / 5) five to a byte, scales (M, groups) bf16, ratios (M, groups) uint8.

        With one plane there is one ratio, and none is stored. `shape` (H, K, M, 0) holds nothing:
        packed trits do not tell the width, its dimensions do, which a recipe's manifest keeps once.
        """
        rows_MW = rows_of(x).double()
        slots, width = rows_MW.shape
        group = min(self.group, width)
        groups = -(-width // group)
        x_RG = pad(rows_MW, (0, groups * group - width)).reshape(-1, group)  # zeros have trits 0
        sums = _Sums.of(self.planes)
        x_RG, ratio_R = x_RG.clone(), _exact(x_RG, sums)
        for new_n in (ratio_R == len(sums.top_T)).nonzero()[:, 0].split(BLOCK):
            x_RG[new_n] = x_nG = _approximate(x_RG[new_n], sums)
            ratio_R[new_n] = _exact(x_nG, sums)
        ratio_R1 = ratio_R[:, None]
        scale_R1 = _scales(x_RG, sums).gather(1, ratio_R1)
        digits_RGP = sums.digits_of(sums.to(x_RG, scale_R1, ratio_R1), ratio_R1)
        digits_MWP = digits_RGP.reshape(slots, groups * group, self.planes)[:, :width]
        digits_PMW = pad(digits_MWP.movedim(-1, 0), (0, -width % TRITS_PER_BYTE))
        powers = 3 ** torch.arange(TRITS_PER_BYTE)
        trits = (digits_PMW.unflatten(-1, (-1, TRITS_PER_BYTE)) * powers).sum(-1)
        ratio = ratio_R.reshape(slots, groups).to(torch.uint8)
        return {
            "trits": trits.to(torch.uint8),
            "scale": scale_R1.reshape(slots, groups).bfloat16(),
            "ratio": ratio if self.planes > 1 else ratio[:, :0],
            "shape": torch.empty(*row_shape(x), slots, 0, dtype=torch.uint8),
        }

    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """Rows as sums of scaled planes, (H, M, K) fp32."""
        shape = parts["shape"].shape[:-2]
        group = min(self.group, shape.numel())
        powers = 3 ** torch.arange(TRITS_PER_BYTE)
        digits_PMW = (parts["trits"][..., None] // powers % 3).flatten(-2)
        weights_TP = _Sums.of(self.planes).weights_TP
        scale_MG = parts["scale"].double()
        ratio_MG = parts["ratio"].long() if self.planes > 1 else torch.zeros_like(scale_MG).long()
        scales_PMG = (weights_TP[ratio_MG] * scale_MG[..., None]).movedim(-1, 0)
        scales_PMW = scales_PMG.repeat_interleave(group, dim=-1)[..., : shape.numel()]
        rows_MW = ((digits_PMW[..., : shape.numel()] - 1.0) * scales_PMW).sum(0)
        return from_rows(rows_MW.float(), shape)
