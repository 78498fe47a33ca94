"""A slot's row minus the average row of its item; codecs behind it then store what is left.

    mean[i] = (sum of x_j with item_j = i  +  shrink * overall) / (n_i + shrink)
    r_j = x_j - mean[item_j]        x'_j = mean[item_j] + r'_j

One table of means per tensor (layer, keys or values), learned from sample states and shared by all
users; `overall` is the mean of all sample slots, and the mean of items that have none.

Level: cross-user
Source: own method, no paper. The item's id is kept anyway, so the part of a row that it explains
costs nothing; the idea is that of a gate or table per token id in EG-MLA (arXiv 2509.16686), but
subtracted after training. Shrinkage as in Efron, Morris 1975, "Data Analysis Using Stein's
Estimator and its Generalizations", JASA 70(350), with a given strength.
Differs: rows, means and residuals are whole multiples of a step, about 2^-22 of the largest sample
number, so that adding and subtracting lose nothing and encoding again changes nothing, also with
`| bf16()`, `| int8()` or `| rvq(...)` behind. `lowrank` rounds finer than the step, so behind it
the last digits may change, and quantisers with a zero point may code rows of some tens to hundreds
of steps anew. Where all sample residuals are below 2^-7 of that number, such rows are dropped.
Cost: as many bytes as without it, 4 * W a slot and tensor, but smaller numbers: a shorter code for
the same error. Time: one gather. Shared: 2 * V * W bytes a tensor, V = largest sample id + 2.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gistrec.codecs import check_finite, row_shape, rows_of
from gistrec.codecs._bits import step_of
from gistrec.codecs._items import ItemMeans, item_means
from gistrec.errors import CodecError
from gistrec.state import UserState

# In steps. Whole numbers below 2^24 are exact in fp32, so x' = mean + r and x' - mean = r are:
# alone the codec loses nothing after its first rounding. A quantiser behind it gives back some r'
# near r; decoding rounds r' to whole steps, and the code of that must be the code of r:
# - `bf16` of a whole number is whole, so nothing is rounded.
# - `rvq` counts in steps of its own, which are ours or larger (see FLOOR): nothing either.
# - `int8` with a scale below 1 errs by less than 1/2, so rounding gives back r. With a larger scale
#   rounding moves r' by at most 1/2, at most half a scale, so each code stays. The row's largest,
#   127 scales, moves back to the number that the scale was made from (scale below 2: that is less
#   than 1/2 away) or to one that makes the same scale (which then spans 0.99 or more to each side,
#   but for powers of two, where 127 scales are whole), so the scale stays.
LARGEST = 2**22
"""What no sample and no mean exceeds."""
LIMIT = 2**23
"""What residuals that go BEYOND are cut off to."""
BEYOND = LIMIT * 3 // 2
"""What a quantiser makes of LIMIT may be more than that, but not more than this: it stays."""
MEAN_UNIT = 2**7
"""Means are multiples of it, so that they fit 16 bits."""
# `rvq` steps are above 2^-13 of the largest sample residual, ours or larger if that reaches FLOOR.
# Where it does not, rows below FLOOR are dropped, and `rvq` learns zeros. FLOOR is a number that
# `bf16` and `int8` keep, so they bring no row from above it to below.
FLOOR = 127 * 2**7


@dataclass(frozen=True)
class ItemResidual(ItemMeans):
    """What the item does not explain; put a precision codec behind it."""

    shrink: float = 1.0
    """How many slots of the overall mean each item's mean is mixed with, at least 0."""

    def __post_init__(self) -> None:
        if not (self.shrink >= 0 and math.isfinite(self.shrink)):
            raise CodecError(f"{self}: shrink must be a finite number of at least 0")

    def learn(self, item_N: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Means (V, H, K), int16, the step, a power of two, and in steps what is dropped."""
        # residuals and their int8 scales are normal
        step = step_of(x, LARGEST, least=-100, most=96)
        rows_NW = rows_of(x).double() / step
        mean_VW = item_means(item_N, rows_NW, self.shrink) / MEAN_UNIT
        mean_VW = mean_VW.round().clamp(1 - 2**15, 2**15 - 1)
        largest = (rows_NW.round() - mean_VW[item_N] * MEAN_UNIT).abs().max()
        return {
            "means": mean_VW.to(torch.int16).reshape(-1, *row_shape(x)),
            "step": torch.tensor(step),
            "floor": torch.tensor(FLOOR if largest < FLOOR else 0),
        }

    def _means(self, name: str, state: UserState) -> Tensor:
        """The mean row of each slot's item, (H, M, K), in steps."""
        return self.means(name, state).double() * MEAN_UNIT

    def encode(self, state: UserState) -> UserState:
        """Every row minus its item's mean, under the tensor's own name."""
        self.require(state)
        out = dict(state.tensors)
        for name, x in state.tensors.items():
            if self.is_mine(name, x):
                check_finite(self, name, x)
                step = self.table(f"{name}.step").double()
                rest = (x.double() / step).round() - self._means(name, state)
                rest = torch.where(rest.abs() > BEYOND, rest.sign() * LIMIT, rest)
                rest[(rest.abs().amax(-1) < self.table(f"{name}.floor"))] = 0
                out[name] = (rest * step + 0.0).float()  # + 0.0: no negative zeros
        return state.replace(out)

    def decode(self, state: UserState) -> UserState:
        """Every row plus its item's mean, fp32."""
        self.require(state)
        out = dict(state.tensors)
        for name, x in state.tensors.items():
            if self.is_mine(name, x):
                step = self.table(f"{name}.step").double()
                rest = (x.double() / step).round().clamp(-BEYOND, BEYOND)
                out[name] = ((self._means(name, state) + rest) * step).float()
        return state.replace(out)
