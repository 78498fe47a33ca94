"""Bases of codecs that store a row of numbers in fewer bytes.

Shapes: M slots, H heads, K head width, W = H * K.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from gistrec.codecs._codec import Codec
from gistrec.errors import CodecError
from gistrec.state import UserState


def is_row_tensor(name: str, tensor: Tensor) -> bool:
    """Whether a state's tensor holds rows of numbers.

    One per slot, such as keys and values, or those of a `fixed.*` summary.
    """
    return tensor.is_floating_point() and tensor.ndim > 1 and not name.startswith("tail.")


def rows_of(x: Tensor) -> Tensor:
    """One row per slot, heads side by side: (H, M, K) -> (M, H * K)."""
    return x.movedim(-2, 0).flatten(1)


def row_shape(x: Tensor) -> tuple[int, ...]:
    """The shape of a slot's row: (H, K), or (K,) where there are no heads."""
    return (*x.shape[:-2], x.shape[-1])


def from_rows(rows_MW: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `rows_of`; the shape is that of `row_shape`."""
    return rows_MW.reshape(len(rows_MW), *shape).movedim(0, -2)


def check_finite(codec: Codec, name: str, x: Tensor) -> None:
    """Refuse numbers that no code stands for.

    Raises:
        CodecError: a number is infinite or NaN.
    """
    if not x.isfinite().all():
        raise CodecError(
            f"{codec} was given a state whose {name!r} holds infinite or NaN values: "
            "repair the model that wrote it and rebuild the state from the log"
        )


def row_samples(
    codec: Codec,
    states: Sequence[UserState],
    is_mine: Callable[[str, Tensor], bool] = is_row_tensor,
) -> dict[str, list[tuple[UserState, Tensor]]]:
    """By name the tensors that a codec learns from, those with slots, each with its state.

    Raises:
        CodecError: there is none, or it holds infinite or NaN values.
    """
    found: dict[str, list[tuple[UserState, Tensor]]] = {}
    for state in states:
        for name, x in state.tensors.items():
            if is_mine(name, x) and x.shape[-2]:
                check_finite(codec, name, x)
                found.setdefault(name, []).append((state, x))
    if not found:
        raise CodecError(
            f"{codec} can't learn from {len(states)} states without a slot of floating numbers: "
            "give states of users with some history"
        )
    return found


class Quantize(Codec):
    """Base of codecs that map every row tensor (`is_row_tensor`) to something smaller.

    `quantize` maps one tensor to named parts, stored as `<tensor>.<part>`; `dequantize` maps back.
    Integers and numbers that stand alone in their slot stay as they are.
    """

    slotwise = True
    parts: ClassVar[tuple[str, ...]]
    """Names of the parts that `quantize` returns."""

    @abstractmethod
    def quantize(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """The parts of one tensor, each with slots, or groups of slots, on axis -2."""

    @abstractmethod
    def dequantize(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """The tensor (fp32) from its parts."""

    def encode(self, state: UserState) -> UserState:
        """Every row tensor replaced by its parts.

        Raises:
            CodecError: a number is infinite or NaN.
        """
        self.require(state)
        out: dict[str, Tensor] = {}
        for name, tensor in state.tensors.items():
            if is_row_tensor(name, tensor):
                check_finite(self, name, tensor)
                parts = self.quantize(name, tensor)
                out |= {f"{name}.{part}": parts[part] for part in self.parts}
            else:
                out[name] = tensor
        return state.replace(out)

    def decode(self, state: UserState) -> UserState:
        """Every group of parts replaced by its tensor."""
        out: dict[str, Tensor] = {}
        for name, tensor in state.tensors.items():
            stem, _, part = name.rpartition(".")
            if stem and part == self.parts[0]:
                found = {p: state.tensors[f"{stem}.{p}"] for p in self.parts}
                out[stem] = self.dequantize(stem, found)
            elif not stem or part not in self.parts:
                out[name] = tensor
        return state.replace(out)


@dataclasses.dataclass(frozen=True)
class Learned(Quantize):
    """Base of quantisers with tables that are learned per tensor and shared by all users."""

    tables: Mapping[str, Tensor] = dataclasses.field(
        default_factory=dict, repr=False, compare=False, kw_only=True
    )
    """Fitted tables, named `<tensor>.<table>`."""

    sample_rows: ClassVar[int] = 1 << 16
    """At most so many slots are learned from, drawn at random (always the same ones)."""

    @abstractmethod
    def learn(self, x: Tensor) -> dict[str, Tensor]:
        """The tables of one tensor, from its slots of all sample states joined on axis -2."""

    def fit(self, states: Sequence[UserState]) -> Self:
        """Learn the tables of every row tensor.

        Raises:
            CodecError: the states hold nothing to learn from, or infinite or NaN values.
        """
        tables: dict[str, Tensor] = {}
        for name, samples in row_samples(self, states).items():
            x = torch.cat([x for _, x in samples], dim=-2)
            if x.shape[-2] > self.sample_rows:
                rng = torch.Generator().manual_seed(0)
                x = x[..., torch.randperm(x.shape[-2], generator=rng)[: self.sample_rows], :]
            tables |= {f"{name}.{table}": t for table, t in self.learn(x).items()}
        return dataclasses.replace(self, tables=tables)
