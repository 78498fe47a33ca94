"""New events through `gistrec.kernels.step`, for stacks whose layers all have a compiled form.

Shapes: B users, S new events, M held slots, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gistrec import kernels
from gistrec.backbones._batch import next_position
from gistrec.backbones._blocks import first_seconds, position_bucket
from gistrec.backbones._layer import Layer
from gistrec.kernels.step import Events, Stack, Stepped
from gistrec.state import UserState


class Fused:
    """A backbone's layers as compiled, packed anew when a weight changes.

    Args:
        net: The backbone.
        layers: Lowest first.
        num_heads: Of all layers.
        table: Items' vectors.
        scale: What they are multiplied by.
        uses_time: Whether layers know times.
    """

    def __init__(
        self,
        net: nn.Module,
        layers: Sequence[Layer],
        *,
        num_heads: int,
        table: nn.Embedding,
        scale: float,
        uses_time: bool,
    ) -> None:
        self._layers, self._table = layers, table
        self._num_heads, self._scale, self._uses_time = num_heads, scale, uses_time
        # where weights are looked up, not the weights: they may be replaced
        self._weights = [(m._parameters, name) for m in net.modules() for name in m._parameters]
        self._kept: tuple[list[tuple[int, int]], Stack | None] | None = None

    def stack(self) -> Stack | None:
        """What to run; None where another way was chosen or a layer has no such form."""
        if not kernels.native():
            return None
        found = [where[name] for where, name in self._weights]
        written = [(w.data_ptr(), w._version) for w in found if w is not None]
        if self._kept is None or self._kept[0] != written:
            self._kept = written, self._pack()
        return self._kept[1]

    def _pack(self) -> Stack | None:
        if self._table.weight.device.type != "cpu":
            return None
        layers = [layer.packed() for layer in self._layers]
        packed = [layer for layer in layers if layer is not None]
        if len(packed) < len(layers):
            return None
        return Stack(
            packed,
            num_heads=self._num_heads,
            item_VD=self._table.weight.detach(),
            scale=self._scale,
            position_bucket=position_bucket(torch.arange(1 << 16)),
            least_time=first_seconds()[1:] if self._uses_time else torch.zeros(0),
        )

    def run(
        self,
        stack: Stack,
        states: Sequence[UserState],
        items: Sequence[Tensor],
        times: Sequence[Tensor],
        at: Sequence[Tensor],
        *,
        outputs: bool,
        note: bool = False,
    ) -> list[Stepped]:
        """Each state's new events."""
        users = []
        for state, item_S, time_S, at_S in zip(states, items, times, at, strict=True):
            tensors = state.tensors
            rows = [_plain(tensors[f"{n}.{k}"]) for k in range(len(self._layers)) for n in "kv"]
            held = [tensors[n].long() if n in tensors else None for n in ("time", "pos")]
            position = next_position(state)
            users.append(Events(item_S, time_S, at_S, position, rows, held[0], held[1]))
        return stack.run(users, outputs=outputs, note=note)


def _plain(rows: Tensor) -> Tensor:
    """Rows in fp32, each in one piece."""
    rows = rows.float()
    return rows if rows.stride(-1) == 1 else rows.contiguous()
