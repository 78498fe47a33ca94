"""A slot's row minus the average row of its item; codecs behind it then store what is left.

    mean[i] = (sum of x_j with item_j = i  +  shrink * overall) / (n_i + shrink)
    r_j = x_j - mean[item_j]        x'_j = mean[item_j] + r'_j

One table of means per tensor (layer, keys or values), learned from sample states and shared by all
users; `overall` is the mean of all sample slots, and the mean of items that have none.

Source: own method, no paper. The item's id is kept anyway, so the part of a row that it explains
costs nothing; the idea is that of a gate or table per token id in EG-MLA (arXiv 2509.16686), but
subtracted after training. Shrinkage as in Efron, Morris 1975, "Data Analysis Using Stein's
Estimator and its Generalizations", JASA 70(350), with a given strength.
Differs: rows, means and residuals are whole multiples of a step, about 2^-22 of the largest sample
number, so that adding and subtracting lose nothing and encoding again changes nothing, also with
`| bf16()`, `| int8()` or `| rvq(...)` behind. `lowrank` rounds finer than the step, so behind it
the last digits may change, and quantizers with a zero point may code rows of some tens to hundreds
of steps anew. Where all sample residuals are below 2^-7 of that number, such rows are dropped.
Cost: as many bytes as without it, 4 * W a slot and tensor, but smaller numbers: a shorter code for
the same error. Time: one gather. Shared: 2 * V * W bytes a tensor, V = largest sample id + 2.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from gistrec.codecs import WIDTH, Codec, from_rows, is_row_tensor, rows_of
from gistrec.errors import CodecError
from gistrec.state import UserState, item_name

# In steps. Whole numbers below 2^24 are exact in fp32, so x' = mean + r and x' - mean = r are:
# alone the codec loses nothing after its first rounding. A quantizer behind it gives back some r'
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
"""What a quantizer makes of LIMIT may be more than that, but not more than this: it stays."""
MEAN_UNIT = 2**7
"""Means are multiples of it, so that they fit 16 bits."""
# `rvq` steps are above 2^-13 of the largest sample residual, ours or larger if that reaches FLOOR.
# Where it does not, rows below FLOOR are dropped, and `rvq` learns zeros. FLOOR is a number that
# `bf16` and `int8` keep, so they bring no row from above it to below.
FLOOR = 127 * 2**7


@dataclass(frozen=True)
class ItemResidual(Codec):
    """What the item does not explain; put a precision codec behind it."""

    shrink: float = 1.0
    """How many slots of the overall mean each item's mean is mixed with, at least 0."""
    tables: Mapping[str, Tensor] = field(
        default_factory=dict, repr=False, compare=False, kw_only=True
    )
    """`<tensor>.means`, int16, the last row that of unknown items; `<tensor>.step` and `.floor`."""

    stage = WIDTH
    needs = frozenset({"item"})

    def __post_init__(self) -> None:
        if not (self.shrink >= 0 and math.isfinite(self.shrink)):
            raise CodecError(f"{self}: shrink must be a finite number of at least 0")

    def fit(self, states: Sequence[UserState]) -> Self:
        """Learn each item's mean row.

        Raises:
            CodecError: no slot to learn from, no items, or infinite or NaN values.
        """
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for state in states:
            for name, x in state.slots():
                if is_row_tensor(name, x) and x.shape[-2]:
                    self._check_finite(name, x)
                    self.require(state)
                    found.setdefault(name, []).append((state.tensors[item_name(state)], x))
        if not found:
            raise CodecError(
                f"{self} can't learn from {len(states)} states without a slot of floating numbers: "
                "give states of users with some history"
            )
        tables: dict[str, Tensor] = {}
        for name, samples in found.items():
            item_N = torch.cat([item for item, _ in samples])
            x = torch.cat([x for _, x in samples], dim=-2)
            tables |= {f"{name}.{table}": t for table, t in self._learn(item_N, x).items()}
        return replace(self, tables=tables)

    def _learn(self, item_N: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Means (V, H, K), the step, a power of two, and in steps what is dropped."""
        exponent = math.frexp(float(x.abs().max()) / LARGEST)[1]
        step = 2.0 ** min(max(exponent, -100), 96)  # residuals and their int8 scales are normal
        rows_NW = rows_of(x).double() / step
        count_V1 = torch.bincount(item_N)[:, None]
        sum_VW = rows_NW.new_zeros(len(count_V1), rows_NW.shape[1]).index_add_(0, item_N, rows_NW)
        overall_W = rows_NW.mean(0)
        weight_V1 = count_V1 + self.shrink
        mean_VW = torch.where(
            weight_V1 > 0, (sum_VW + self.shrink * overall_W) / weight_V1, overall_W
        )
        mean_VW = torch.cat([mean_VW, overall_W[None]]) / MEAN_UNIT
        mean_VW = mean_VW.round().clamp(1 - 2**15, 2**15 - 1)
        largest = (rows_NW.round() - mean_VW[item_N] * MEAN_UNIT).abs().max()
        return {
            "means": mean_VW.to(torch.int16).reshape(-1, *x.shape[:-2], x.shape[-1]),
            "step": torch.tensor(step),
            "floor": torch.tensor(FLOOR if largest < FLOOR else 0),
        }

    def _check_finite(self, name: str, x: Tensor) -> None:
        if not x.isfinite().all():
            raise CodecError(
                f"{self} was given a state whose {name!r} holds infinite or NaN values: "
                "repair the model that wrote it and rebuild the state from the log"
            )

    def _means(self, name: str, state: UserState) -> Tensor:
        """The mean row of each slot's item, (H, M, K), in steps."""
        means_VHK = self.table(f"{name}.means")
        item_M = state.tensors[item_name(state)]
        unknown = len(means_VHK) - 1
        known_M = (item_M >= 0) & (item_M < unknown)
        rows_MHK = means_VHK[torch.where(known_M, item_M, unknown)]
        return from_rows(rows_MHK.flatten(1).double() * MEAN_UNIT, means_VHK.shape[1:])

    def encode(self, state: UserState) -> UserState:
        """Every row minus its item's mean, under the tensor's own name."""
        self.require(state)
        out = dict(state.tensors)
        for name, x in state.tensors.items():
            if is_row_tensor(name, x):
                self._check_finite(name, x)
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
            if is_row_tensor(name, x):
                step = self.table(f"{name}.step").double()
                rest = (x.double() / step).round().clamp(-BEYOND, BEYOND)
                out[name] = ((self._means(name, state) + rest) * step).float()
        return state.replace(out)
