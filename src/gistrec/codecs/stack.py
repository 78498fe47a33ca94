"""All rows of a slot side by side, so that a codec behind it sees them as one.

    y = [2^e_1 x_1 ; 2^e_2 x_2 ; ...]        e_n = -round(log2(root mean square of x_n))

Keys and values of all layers belong to one event and are far from independent. One code for all of
them, `stack() | rvq()`, costs the bytes of one tensor.

Level: precision
Source: own. Joining correlated vectors before quantising them is what vector quantisation is for:
Gersho and Gray 1992, "Vector Quantization and Signal Compression".
Differs: powers of two bring the tensors to about the same size, because a quantiser behind it
weighs all numbers alike; they are exact, so nothing is lost.
Cost: nothing by itself; time O(W), W = numbers of a slot in all tensors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from gistrec.codecs import WIDTH, Codec, from_rows, is_row_tensor, row_samples, row_shape, rows_of
from gistrec.errors import CodecError
from gistrec.state import UserState

LARGEST_EXPONENT = 60


def _is_mine(name: str, x: Tensor) -> bool:
    return is_row_tensor(name, x) and not name.startswith("fixed.")


@dataclass(frozen=True)
class Stack(Codec):
    """For codecs whose cost is per tensor: fewer codes, or fewer coefficients, for all at once."""

    tables: Mapping[str, Tensor] = field(
        default_factory=dict, repr=False, compare=False, kw_only=True
    )
    """`<tensor>.shape`, without its slots, and `<tensor>.exponent`."""

    stage = WIDTH
    slotwise = True

    def fit(self, states: Sequence[UserState]) -> Self:
        """Learn the sizes of the tensors' numbers.

        Raises:
            CodecError: no slot to learn from, or infinite or NaN values.
        """
        tables: dict[str, Tensor] = {}
        for name, samples in row_samples(self, states, _is_mine).items():
            mean = float(torch.cat([x.flatten() for _, x in samples]).double().square().mean())
            exponent = -round(math.log2(mean) / 2) if mean else 0
            limited = max(-LARGEST_EXPONENT, min(exponent, LARGEST_EXPONENT))
            tables[f"{name}.shape"] = torch.tensor(row_shape(samples[0][1]))
            tables[f"{name}.exponent"] = torch.tensor(limited)
        return replace(self, tables=tables)

    def _names(self) -> list[str]:
        names = [name[:-6] for name in self.tables if name.endswith(".shape")]
        return sorted(names, key=lambda name: (name.rpartition(".")[2], name))

    def encode(self, state: UserState) -> UserState:
        """`stack` (M, W) in place of the row tensors.

        Raises:
            CodecError: it was fitted on other tensors, or not at all.
        """
        kept, given = {}, set()
        for name, x in state.tensors.items():
            if _is_mine(name, x):
                self.table(f"{name}.exponent")  # or there would be no way back
                given.add(name)
            else:
                kept[name] = x
        if missing := set(self._names()) - given:
            raise CodecError(f"{self} was fitted on {sorted(missing)}, which the state lacks")
        rows = [self._scaled(name, rows_of(state.tensors[name]), 1) for name in self._names()]
        return state.replace(kept | {"stack": torch.cat(rows, dim=1)})

    def decode(self, state: UserState) -> UserState:
        """The row tensors out of `stack`."""
        out = dict(state.tensors)
        shapes = {name: self.table(f"{name}.shape").tolist() for name in self._names()}
        parts = out.pop("stack").split([math.prod(shape) for shape in shapes.values()], dim=1)
        for (name, shape), rows in zip(shapes.items(), parts, strict=True):
            out[name] = from_rows(self._scaled(name, rows, -1), shape)
        return state.replace(out)

    def _scaled(self, name: str, rows: Tensor, sign: int) -> Tensor:
        limit = torch.finfo(torch.float32).max
        factor = 2.0 ** (sign * int(self.table(f"{name}.exponent")))
        scaled: Tensor = (rows.double() * factor).clamp(-limit, limit).float()
        return scaled
