"""One layer of a backbone, and the step that all layers of a request share.

Shapes: B users, S new events, Q queries, M held slots, T = M + S slots in all, H heads, K head
width, D width.
"""

import dataclasses
from abc import abstractmethod
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from gistrec.backbones._blocks import RelativeBias, first_seconds, position_bucket, time_bucket
from gistrec.kernels import attention
from gistrec.kernels import step as kernel
from gistrec.memories import Context, Held, Memory, Reader


@dataclasses.dataclass
class Step(Context):
    """What all layers see of a step; B may be 1 where all users are alike."""

    times: tuple[Tensor, Tensor] | None = None
    """When each query's request came (B, Q) and each slot's event (B, T), if layers read times."""
    received_BST: Tensor | None = None
    """Where given, `note` adds up here what each new event's queries pay to each slot."""

    def note(self, weight_BHQT: Tensor) -> None:
        """Count attention, for codecs that evict by it."""
        if self.received_BST is not None:
            self.received_BST += weight_BHQT[:, :, : self.num_events].abs().mean(1)

    @cached_property
    def position_BQT(self) -> Tensor:
        """Bucket of the distance in events between query and slot."""
        return position_bucket(self.query_BQ[:, :, None] - self.slot_BT[:, None])

    @cached_property
    def time_BQT(self) -> Tensor | None:
        """Bucket of the seconds between a slot's event and the query's request, if there is."""
        if self.times is None:
            return None
        return time_bucket(self.times[0][:, :, None] - self.times[1][:, None])

    @cached_property
    def places(self) -> attention.Places:
        """Positions, for the compiled attention."""
        query_BQ, slot_BT = self.query_BQ.int(), self.slot_BT.int()
        some = query_BQ.numel() and slot_BT.numel()
        largest = int(query_BQ.max()) - int(slot_BT.min()) if some else 0
        return attention.Places(query_BQ, slot_BT, self.slot_real_BT, max(largest, 0) + 1)

    @cached_property
    def bytes_BQT(self) -> Tensor | None:
        """What `time_BQT` is, for the compiled attention."""
        if self.times is None:
            return None
        return attention.time_buckets(*self.times, first_seconds())

    @cached_property
    def distance_D(self) -> Tensor:
        """Bucket of every distance there is."""
        return position_bucket(torch.arange(self.places.distances))


class Layer(nn.Module):
    """One layer: inputs of the new events and what is held in, outputs and what is held out."""

    @property
    def suffix(self) -> int:
        """Further queries per event that the layer needs (registers)."""
        return 0

    @property
    def reads_items(self) -> bool:
        """Whether the layer needs the slots' items."""
        return False

    @abstractmethod
    def forward(self, x_BQD: Tensor, held: Held | None, step: Step) -> tuple[Tensor, Held]:
        """Outputs, and the held rows followed by those of the new events (None held: none)."""

    @abstractmethod
    def empty(self) -> Held:
        """What is held before the first event, for one user."""

    def packed(self) -> kernel.Layer | None:
        """Its weights for the compiled step; None: it has no compiled form."""
        return None

    @property
    def holds_slots(self) -> bool:
        """Whether it holds rows of events, not only sums of a constant size."""
        return any(not name.startswith("fixed.") for name in self.empty())

    def reach(self, position_M: Tensor, following: int) -> Tensor:
        """Of a layer that holds slots: which of them a query at `following` or later may read."""
        return torch.ones(len(position_M), dtype=torch.bool)

    def penalty(self, held: Held, mask_BS: Tensor) -> Tensor:
        """A training loss of the layer's own, a scalar."""
        return torch.zeros(())


class MemoryLayer(Layer):
    """A layer that reads and writes a memory."""

    memory: Memory

    @property
    def suffix(self) -> int:
        """Of the memory."""
        return self.memory.suffix

    @property
    def reads_items(self) -> bool:
        """Of the memory."""
        return self.memory.reads_items

    def empty(self) -> Held:
        """Of the memory."""
        return self.memory.empty()

    def reach(self, position_M: Tensor, following: int) -> Tensor:
        """Of the memory."""
        return self.memory.reach(position_M, following)

    def penalty(self, held: Held, mask_BS: Tensor) -> Tensor:
        """Of the memory."""
        return self.memory.penalty(held, mask_BS)


class StepReader(Reader):
    """A reader of one step: compiled where it can be, else by `read_eagerly`.

    Args:
        step: The step.
        position: Bias by distance.
        time: Bias by elapsed time.
        scale: Factor of dot products.
        after: Factor of outputs.
    """

    softmax: ClassVar[bool]
    """Whether weights are a softmax of scores, or their SiLU."""

    def __init__(
        self,
        step: Step,
        position: RelativeBias,
        time: RelativeBias | None = None,
        *,
        scale: float = 1.0,
        after: float = 1.0,
    ) -> None:
        self.context = self.step = step
        self.position, self.time = position, time
        self.scale, self.after = scale, after

    def read(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """Fused, unless somebody counts attention."""
        step = self.step
        if step.received_BST is not None or not attention.compiled(q_BHQK, k_BHTK, v_BHTV):
            return self.read_eagerly(q_BHQK, k_BHTK, v_BHTV, visible)
        timed = self.time is not None and step.times is not None
        return attention.attend(
            q_BHQK,
            k_BHTK,
            v_BHTV,
            step.places,
            self.position.of(step.distance_D),
            far_HN=self.time.table if self.time is not None and timed else None,
            bucket_BQT=step.bytes_BQT if timed else None,
            visible=visible,
            softmax=self.softmax,
            scale=self.scale,
            after=self.after,
        )

    @abstractmethod
    def read_eagerly(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None
    ) -> Tensor:
        """What `read` computes, in PyTorch; counts attention if asked."""

    @cached_property
    def bias_BHQT(self) -> Tensor:
        """Both biases."""
        bias_BHQT: Tensor = self.position(self.step.position_BQT)
        if self.time is not None and self.step.time_BQT is not None:
            bias_BHQT = bias_BHQT + self.time(self.step.time_BQT)
        return bias_BHQT

    def seen(self, visible: Tensor | None) -> Tensor:
        """Where queries may see slots: (B, 1 or H, Q, T)."""
        return self.step.visible_BQT[:, None] if visible is None else visible
