"""Target attention: one layer in which candidates ask the history, and events do not ask anything.

Shapes: B users, S events, M slots, N candidates, D width, H heads, K head width.

    k_j, v_j = memory(x_j)                    of an event: functions of its item and action alone
    y_i = W_o sum_j w(q_i, k_j) v_j           q_i = W_q x_i

So the state may be any memory's, and a table of items makes it without loss. A ranker is the
weights w: subclass `TargetAttention` and give its `Reader`.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from gistrec import memories
from gistrec.backbones._absorbed import Ran, grow
from gistrec.backbones._batch import next_position
from gistrec.backbones._ranker import Ranker, event_tensors, kind_of
from gistrec.dataset import History
from gistrec.errors import ConfigError
from gistrec.impressions import ImpressionBatch
from gistrec.memories import Context, Held, Reader, Size
from gistrec.state import UserState, positions


class TargetReader(Reader):
    """How one ranker weighs slots; made for each step.

    Args:
        net: The ranker, for its weights.
        context: Where candidates and slots stand.
    """

    def __init__(self, net: "TargetAttention", context: Context) -> None:
        self.net, self.context = net, context

    def seen(self, visible: Tensor | None) -> Tensor:
        """Where candidates may see slots: (B, 1 or H, N, T)."""
        return self.context.visible_BQT[:, None] if visible is None else visible

    def weigh(self, score: Tensor, visible: Tensor | None = None) -> Tensor:
        """Softmax; 0 where nothing is visible."""
        score = score * score.new_tensor(self.net.head_dim).rsqrt()
        return masked_softmax(score, visible)

    def read(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """Softmax attention over all that a candidate may see."""
        return self.weigh(q_BHQK @ k_BHTK.transpose(-1, -2), self.seen(visible)) @ v_BHTV


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
    """

    reader: ClassVar[type[TargetReader]] = TargetReader

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
    ) -> None:
        if width % num_heads:
            raise ConfigError(f"width {width} is not a multiple of num_heads {num_heads}")
        super().__init__(
            num_items, width=width, labels=labels, item_features=item_features, dropout=dropout
        )
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.memory = memories.build(memory, Size(width, num_heads, num_items, silu=False))
        if self.memory.suffix or any(name.startswith("fixed.") for name in self.memory.empty()):
            raise ConfigError(
                f"{memory} does not keep rows of events, which a candidate could attend to: "
                "give one that does, such as full or mla"
            )
        # slots may get out of reach; the others then need their positions
        self.drops = not bool(self.memory.reach(torch.arange(1 << 16), 1 << 16).all())
        self.query = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self._written: tuple[Held, Tensor] | None = None

    def read(self, batch: ImpressionBatch, x_BSD: Tensor, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        """By attention over each impression's part of its stretch; the mean value of that part."""
        real_BS = batch.item_BS < self.num_items
        slot_BT = torch.arange(real_BS.shape[1], device=real_BS.device).expand_as(real_BS)
        context = Context(batch.position_BN, slot_BT, real_BS, real_BS, batch.item_BS)
        y_BND, held = self._attend(x_BSD, x_BND, None, context)
        self._written = held, real_BS
        v_BSD = self._values(held, batch.item_BS) * real_BS[..., None]
        total = torch.cat([v_BSD.new_zeros(len(v_BSD), 1, self.width), v_BSD.cumsum(1)], 1)
        end_BN = batch.position_BN + 1
        sum_BND = total.gather(1, end_BN[..., None].expand(-1, -1, self.width))
        return y_BND, sum_BND / end_BN.clamp(min=1)[..., None]

    def read_state(self, state: UserState, x_ND: Tensor, at: int | None) -> tuple[Tensor, Tensor]:
        """By attention over the slots; their mean value."""
        device, slots = x_ND.device, state.num_slots
        if not slots:
            return self.project(torch.zeros_like(x_ND)), x_ND.new_zeros(self.width)
        names = [n for n in state.tensors if n.endswith(".0")]
        held = {n.removesuffix(".0"): state.tensors[n][None].to(device) for n in names}
        items = state.tensors.get("item", torch.zeros(slots, dtype=torch.int64))
        item_BT = items.long()[None].to(device)
        context = Context(
            torch.full((1, len(x_ND)), next_position(state), device=device),
            positions(state)[None].to(device),
            torch.ones_like(item_BT, dtype=torch.bool),
            torch.ones(1, 0, dtype=torch.bool, device=device),
            item_BT,
        )
        y_BND, held = self._attend(x_ND.new_zeros(1, 0, self.width), x_ND[None], held, context)
        return y_BND[0], self._values(held, item_BT)[0].mean(0)

    def penalty(self) -> Tensor:
        """Of the memory."""
        return torch.zeros(()) if self._written is None else self.memory.penalty(*self._written)

    @torch.no_grad()
    def empty(self, *, hints: bool = False) -> UserState:
        """No slots."""
        if self.training:
            self.eval()
        nothing = torch.zeros(0, dtype=torch.int64)
        named = {"item": self.memory.reads_items, "pos": self.drops}
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
            if (known := state.tensors.get("hint.item")) is not None:
                both_S = kind_of(item_S, action_S, self.num_items)
                grown = grown.replace({**grown.tensors, "hint.item": torch.cat([known, both_S])})
            if self.drops:
                kept_M = self.memory.reach(positions(grown), next_position(grown))
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
        kept = int(self.memory.reach(slots, num_events).sum()) if self.drops else num_events
        return per_slot * kept

    # ---- internals ----

    def _attend(
        self, x_BSD: Tensor, x_BND: Tensor, held: Held | None, context: Context
    ) -> tuple[Tensor, Held]:
        q_BHNK = memories.heads(self.query(x_BND), self.num_heads)
        y_BHNK, held = self.memory.attend(x_BSD, q_BHNK, held, self.reader(self, context))
        y_BND: Tensor = self.project(y_BHNK.transpose(1, 2).flatten(2))
        return y_BND, held

    def _values(self, held: Held, item_BT: Tensor) -> Tensor:
        real = torch.ones_like(item_BT, dtype=torch.bool)
        context = Context(item_BT[:, :0], item_BT, real, real, item_BT)
        _, v_BHTK = self.memory.keys_values(held, context)
        return v_BHTK.transpose(1, 2).expand(-1, -1, self.num_heads, -1).flatten(2)


def masked_softmax(score: Tensor, visible: Tensor | None) -> Tensor:
    """Softmax over the last axis where `visible`; zeros where nothing is."""
    if visible is None:
        return score.softmax(-1)
    weight = score.masked_fill(~visible, torch.finfo(score.dtype).min).softmax(-1)
    return weight * visible
