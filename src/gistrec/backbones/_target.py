"""Target attention: one layer in which candidates ask the history, and events do not ask anything.

Shapes: B users, S events, M slots, N candidates, D width, H heads, K head width.

    k_j, v_j = memory(x_j)                    of an event: functions of its item and action alone
    y_i = W_o sum_j w(q_i, k_j) v_j           q_i = W_q x_i

So the state may be any memory's, and a table of items makes it without loss. A ranker is the
weights w: subclass `TargetAttention` and give its `Reader`.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from gistrec import memories
from gistrec.backbones._absorbed import Ran, grow
from gistrec.backbones._batch import next_position
from gistrec.backbones._lain import Lain, Told
from gistrec.backbones._ranker import (
    Ranker,
    event_tensors,
    mean_until,
    require_rows,
    values_of,
    with_kinds,
)
from gistrec.backbones._weights import softmax_of_best
from gistrec.dataset import History
from gistrec.errors import ConfigError
from gistrec.impressions import ImpressionBatch
from gistrec.memories import Context, Held, Memory, Reader, Size
from gistrec.state import UserState, positions


class TargetReader(Reader):
    """How one ranker weighs slots; made for each step.

    Args:
        net: The ranker, for its weights.
        context: Where candidates and slots stand.
        asked: Of whom, and what.
    """

    def __init__(self, net: "TargetAttention", context: Context, asked: "Asked") -> None:
        self.net, self.context, self.asked = net, context, asked
        self.prompt_BHNP: Tensor | None = None
        """What prompts weigh, after `read`."""

    @property
    def keep(self) -> int | None:
        """How many slots a candidate attends to; None: all."""
        return None

    def seen(self, visible: Tensor | None) -> Tensor | None:
        """Where candidates may see slots: (B, 1 or H, N, T); None: everywhere."""
        if visible is None and not self.asked.whole:
            return self.context.visible_BQT[:, None]
        return visible

    def weigh(self, score: Tensor, visible: Tensor | None = None) -> Tensor:
        """Softmax over the best of what is visible."""
        score = score * self.net.head_dim**-0.5
        return softmax_of_best(score, visible, keep=self.keep)[0]

    def read(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """Softmax attention over the best of what a candidate may see."""
        return self.softmax(q_BHQK, k_BHTK, v_BHTV, self.seen(visible))

    def softmax(
        self,
        q_BHNK: Tensor,
        k_BHTK: Tensor,
        v_BHTV: Tensor,
        seen: Tensor | None,
        by: Tensor | None = None,
    ) -> Tensor:
        """Outputs; the best are those by the scores or `by` other numbers."""
        scale, told = self.net.head_dim**-0.5, self.asked.told
        side = None if told is None else (told.side_BHNP - told.shift_BHN1) * scale
        score_BHNT = (q_BHNK * scale) @ k_BHTK.transpose(-1, -2)
        weight_BHNT, self.prompt_BHNP = softmax_of_best(
            score_BHNT, seen, keep=self.keep, by=by, side_BHNP=side
        )
        return weight_BHNT @ v_BHTV


@dataclasses.dataclass
class Asked:
    """What a request tells a reader."""

    x_BND: Tensor
    """Candidates."""
    item_BN: Tensor
    """Their items; empty where nobody knows them."""
    length_BN: Tensor
    """Events of the histories; N may be 1."""
    whole: bool = False
    """Whether candidates may see all slots."""
    told: Told | None = None


class TargetAttention(Ranker):
    """A ranker of one target attention layer over a memory.

    Args:
        num_items: V, from the data.
        width: D.
        num_heads: H; divides the width.
        memory: Spec of what events write and candidates read.
        labels: How many labels there are to predict.
        item_features: Most feature rows that an item has; training sets it.
        dropout: Share of units dropped in training.
        lain: Whether attention is told how long the history is (see `_lain`).
    """

    reader: ClassVar[type[TargetReader]] = TargetReader
    decoded: ClassVar[bool] = False
    """Whether the reader needs keys as they are, not in a form that scores alike."""

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 32,
        num_heads: int = 2,
        memory: str = "full()",
        labels: int = 1,
        item_features: int = 0,
        dropout: float = 0.1,
        lain: bool = False,
    ) -> None:
        if width % num_heads:
            raise ConfigError(f"width {width} is not a multiple of num_heads {num_heads}")
        super().__init__(
            num_items, width=width, labels=labels, item_features=item_features, dropout=dropout
        )
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.memory = memories.build(memory, Size(width, num_heads, num_items, silu=False))
        require_rows(self.memory)
        # slots may get out of reach; the others then need their positions
        self.drops = not bool(self.memory.reach(torch.arange(1 << 16), 1 << 16).all())
        self.query = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.lain = Lain(width, num_heads) if lain else None
        self._written: tuple[Held, Tensor] | None = None

    def read(self, batch: ImpressionBatch, x_BSD: Tensor, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        """By attention over each impression's part of its stretch; the mean value of that part."""
        real_BS = batch.item_BS < self.num_items
        slot_BT = torch.arange(real_BS.shape[1], device=real_BS.device).expand_as(real_BS)
        context = Context(batch.position_BN, slot_BT, real_BS, real_BS, batch.item_BS)
        asked = Asked(x_BND, batch.item_BN, batch.length_BN)
        y_BND, held = self._attend(x_BSD, None, context, asked)
        self._written = held, real_BS
        v_BSD = values_of(self.memory, held, batch.item_BS) * real_BS[..., None]
        return y_BND, mean_until(
            v_BSD, batch.position_BN, self.memory.reach if self.drops else None
        )

    def read_state(
        self, state: UserState, x_ND: Tensor, at: int | None, item_N: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """By attention over the slots; their mean value."""
        device, slots = x_ND.device, state.num_slots
        names = [n for n in state.tensors if n.endswith(".0")]
        held = {n.removesuffix(".0"): state.tensors[n][None].to(device) for n in names}
        items = state.tensors.get("item", torch.zeros(slots, dtype=torch.int64))
        item_BT = items.long()[None].to(device)
        context = Context(
            torch.full((1, len(x_ND)), next_position(state) - 1, device=device),
            positions(state)[None].to(device),
            torch.ones_like(item_BT, dtype=torch.bool),
            torch.ones(1, 0, dtype=torch.bool, device=device),
            item_BT,
        )
        candidates = item_BT[:, :0] if item_N is None else item_N[None]
        length_B1 = torch.full((1, 1), state.length, device=device)
        asked = Asked(x_ND[None], candidates, length_B1, whole=True)
        y_BND, held = self._attend(x_ND.new_zeros(1, 0, self.width), held, context, asked)
        return y_BND[0], values_of(self.memory, held, item_BT)[0].sum(0) / max(slots, 1)

    def penalty(self, batch: ImpressionBatch) -> Tensor:
        """Of the memory."""
        return torch.zeros(()) if self._written is None else self.memory.penalty(*self._written)

    @torch.no_grad()
    def empty(self, *, hints: bool = False) -> UserState:
        """No slots."""
        if self.training:
            self.eval()
        nothing = torch.zeros(0, dtype=torch.int64)
        named = {"item": self.reads_items, "pos": self.drops}
        tensors = {name: nothing for name, kept in named.items() if kept}
        if hints:
            tensors["hint.item"] = nothing
        tensors |= {f"{n}.0": t[0].cpu() for n, t in self.memory.empty().items()}
        return UserState(tensors, 0, self.fingerprint())

    @torch.no_grad()
    def append(self, states: Sequence[UserState], events: Sequence[History]) -> list[UserState]:
        """Each state followed by what its new events write."""
        if self.training:
            self.eval()
        out = []
        for state, new in zip(states, events, strict=True):
            if not len(new):
                out.append(state)
                continue
            item_S, action_S, time_S = event_tensors(new)
            device = self.item.weight.device
            x_BSD = self.events(item_S.to(device), action_S.to(device))[None]
            rows = {f"{n}.0": t[0].cpu() for n, t in self.memory.write(x_BSD).items()}
            grown = grow(state, item_S, time_S, Ran(x_BSD[0, -1], rows, None))
            grown = with_kinds(grown, state, item_S, action_S, self.num_items)
            if self.drops:
                kept_M = self.memory.reach(positions(grown), next_position(grown) - 1)
                grown = grown.select(kept_M.nonzero()[:, 0])
            out.append(grown.replace(grown.tensors, length=state.length + len(new)))
        return out

    def state_bytes(self, num_events: int) -> int:
        """Bytes of the uncompressed state after `num_events` events."""
        empty = self.empty()
        per_slot = sum(
            t.element_size() * (1 if t.ndim == 1 else t.shape[0] * t.shape[-1])
            for _, t in empty.slots()
        )
        slots = torch.arange(num_events)
        kept = int(self.memory.reach(slots, num_events - 1).sum()) if self.drops else num_events
        return per_slot * kept

    # ---- what rankers change ----

    @property
    def reads_items(self) -> bool:
        """Whether the items of slots are needed."""
        return self.memory.reads_items

    # ---- internals ----

    def _attend(
        self, x_BSD: Tensor, held: Held | None, context: Context, asked: Asked
    ) -> tuple[Tensor, Held]:
        q_BHNK = memories.heads(self.query(asked.x_BND), self.num_heads)
        if self.lain is not None:
            asked.told = self.lain(q_BHNK, asked.length_BN)
            q_BHNK = asked.told.q_BHNK
        reader = self.reader(self, context, asked)
        attend = partial(Memory.attend, self.memory) if self.decoded else self.memory.attend
        y_BHNK, held = attend(x_BSD, q_BHNK, held, reader)
        if asked.told is not None and reader.prompt_BHNP is not None:
            y_BHNK = y_BHNK + asked.told.of_prompts(reader.prompt_BHNP)
        y_BND: Tensor = self.project(y_BHNK.transpose(1, 2).flatten(2))
        return y_BND, held
