"""What is kept about one user between requests, and the arithmetic of its size.

Shapes: M slots, H heads, K head width, T tail events.

Names and axes (a state is self-describing by these rules, so codecs need no backbone):

- `<what>.<layer>` belongs to one layer (`k.0`, `v.1`), other names to all (`time`, `item`).
- A tensor with two or more dimensions has its slots on axis -2: `k.0` is (H, M, K).
- A one-dimensional tensor has one entry per slot: `time` is (M,).
- `tail.item`, `tail.time` are events that the layers have not absorbed yet, newest last, (T,).
  They are not slots and no codec touches them.
- `fixed.<what>.<layer>`, `fixed.<what>` sum up the whole history in a constant size; rows on
  axis -2, but no slots.
- `hint.<what>` (M,) is known of a slot and of use to codecs only, no backbone reads it:
  `hint.item` (of rankers a number for item and action together), and the attention that a slot
  received: `hint.total` from all queries, `hint.recent` with half of it forgotten every 16 events,
  `hint.last` from the newest query. A chain stores a hint only if one of its codecs needs it. A
  hint may be shorter than M: the entries of the newest slots are then 0.
- `pos` (M,) is every slot's index in the history. It appears when slots stop being consecutive;
  without it slot j is event j.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class UserState:
    """One user's state: named tensors, immutable, no batch dimension.

    Everything that costs bytes is in `tensors`.
    """

    tensors: Mapping[str, Tensor]
    """Name -> tensor; see the module's naming rules."""
    length: int
    """How many events of the user's log this state covers, the tail included."""
    model: str = ""
    """Fingerprint of the model that wrote it."""
    _num_slots: int = dataclasses.field(default=-1, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors in memory, as they are; hints are not counted."""
        kept = (t for name, t in self.tensors.items() if not name.startswith("hint."))
        return sum(t.numel() * t.element_size() for t in kept)

    @property
    def num_slots(self) -> int:
        """M: how many slots are held (0 if the state has no slot tensor)."""
        if self._num_slots < 0:  # asked for often, and the tensors do not change
            sizes = {n: t.shape[slot_axis(n, t)] for n, t in self.slots()}
            whole = (size for name, size in sizes.items() if not name.startswith("hint."))
            hinted = 0 if self._is_constant else max(sizes.values(), default=0)
            object.__setattr__(self, "_num_slots", int(next(whole, hinted)))
        return self._num_slots

    @property
    def _is_constant(self) -> bool:
        """Whether it sums the history up in a constant size; its hints are then of no slots."""
        return any(name.startswith("fixed.") for name in self.tensors)

    def slots(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that have one entry per slot."""
        return ((n, t) for n, t in self.tensors.items() if not n.startswith(("tail.", "fixed.")))

    def replace(self, tensors: Mapping[str, Tensor], *, length: int | None = None) -> "UserState":
        """The same user and model with other tensors."""
        return UserState(tensors, self.length if length is None else length, self.model)

    def select(self, index_M: Tensor) -> "UserState":
        """Keep the slots `index_M` (ascending) of every slot tensor; `pos` says which they were.

        A state without slot tensors, of a constant size, stays as it is.
        """
        if self._is_constant and all(name.startswith("hint.") for name, _ in self.slots()):
            return self
        count = len(index_M)
        first = int(index_M[0]) if count else 0
        window = not count or int(index_M[-1]) - first + 1 == count
        kept = dict(self.tensors)
        for name, tensor in {"pos": positions(self), **dict(self.slots())}.items():
            whole = self.hint(name) if name.startswith("hint.") else tensor
            axis = slot_axis(name, whole)
            if window:  # no copy
                kept[name] = whole.narrow(axis, first, count)
            else:
                kept[name] = whole.index_select(axis, index_M)
        return self.replace(kept)

    def hint(self, name: str) -> Tensor:
        """A hint, filled up with 0 for slots that it says nothing of: (M,)."""
        hint_M = self.tensors[name]
        missing = self.num_slots - len(hint_M)
        return torch.cat([hint_M, hint_M.new_zeros(missing)]) if missing else hint_M

    def layers(self) -> list[int]:
        """The layers that hold something, ascending."""
        return sorted(
            {
                int(n.split(".")[1])
                for n in self.tensors
                if n.split(".")[1:2] and n.split(".")[1].isdigit()
            }
        )


def item_name(state: UserState) -> str:
    """The tensor that holds each slot's item, whether the backbone reads it or codecs alone."""
    return "hint.item" if "hint.item" in state.tensors else "item"


def slot_axis(name: str, tensor: Tensor) -> int:
    """The axis of a tensor along which its slots lie."""
    return -1 if tensor.ndim == 1 else -2


def equal(a: UserState, b: UserState) -> bool:
    """Bit-for-bit equality: same names, dtypes, shapes, values, length and model."""
    return (
        a.length == b.length
        and a.model == b.model
        and a.tensors.keys() == b.tensors.keys()
        and all(
            t.dtype == b.tensors[n].dtype
            and t.shape == b.tensors[n].shape
            and torch.equal(t, b.tensors[n])
            for n, t in a.tensors.items()
        )
    )


def positions(state: UserState) -> Tensor:
    """Each slot's index in the history, (M,) int64: `pos`, or 0..M-1 without it."""
    pos = state.tensors.get("pos")
    return torch.arange(state.num_slots) if pos is None else pos
