"""One layer of a backbone, and the step that all layers of a request share.

Shapes: B users, S new events, Q queries, M held slots, T = M + S slots in all, H heads, K head
width, D width.
"""

import dataclasses
from abc import abstractmethod

import torch
from torch import Tensor, nn

from gistrec.kernels import step as kernel
from gistrec.memories import Context, Held, Memory, Reader


@dataclasses.dataclass
class Step(Context):
    """What all layers see of a step; B may be 1 where all users are alike."""

    position_BQT: Tensor = dataclasses.field(kw_only=True)
    """Bucket of the distance in events between query and slot."""
    time_BQT: Tensor | None = dataclasses.field(kw_only=True)
    """Bucket of the seconds between a slot's event and the query's request."""
    received_BST: Tensor | None = None
    """Where given, `note` adds up here what each new event's queries pay to each slot."""

    def note(self, weight_BHQT: Tensor) -> None:
        """Count attention, for codecs that evict by it."""
        if self.received_BST is not None:
            self.received_BST += weight_BHQT[:, :, : self.num_events].abs().mean(1)


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
    """A reader of one step."""

    def __init__(self, step: Step, bias_BHQT: Tensor) -> None:
        self.context = self.step = step
        self.bias_BHQT = bias_BHQT

    def seen(self, visible: Tensor | None) -> Tensor:
        """Where queries may see slots: (B, 1 or H, Q, T)."""
        return self.step.visible_BQT[:, None] if visible is None else visible
