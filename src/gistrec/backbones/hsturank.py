"""HSTU as a ranker: layers encode the history, candidates pass through them beside it.

    events:      X' = X + W_o (LN(A V) * U), as in `hstu`; an event is its item and what was done
    candidates:  the same layers; a candidate reads the history of its time and itself:
                 y_i = (sum_j SiLU(q_i k_j + b) v_j + SiLU(q_i k_ii) v_ii) / n
    logits from the last layer's output of the candidate, see `_ranker`

Level: architecture
Source: Zhai et al. 2024, arXiv 2402.17152, sections 3.1 (target-aware ranking) and 3.3 (candidates
in micro-batches against cached keys and values).
Differs: the paper interleaves items and actions as tokens, so that a candidate is the next token;
here one event is both, half as many slots, and a candidate is a query without an action, with
position and time biases and a key and value of its own. Time biases of events are between events,
those of candidates from the request; so an event is final when it arrives and waits in no tail.
The mean of the lowest layer's values goes into the head, as in all rankers.
Cost: 2 * width numbers per event and layer with the full memory, plus 8 bytes for its time.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec import memories
from gistrec.backbones._absorbed import HINTS, Ran, grow
from gistrec.backbones._batch import absorbed, held_rows, joined_batch, next_position, pad
from gistrec.backbones._blocks import POSITION_BUCKETS, TIME_BUCKETS, RelativeBias
from gistrec.backbones._hstu import HSTULayer, HSTUReader, N
from gistrec.backbones._lain import Lain
from gistrec.backbones._layer import Step
from gistrec.backbones._ranker import (
    Ranker,
    event_tensors,
    mean_until,
    require_rows,
    values_of,
    with_kinds,
)
from gistrec.dataset import History
from gistrec.errors import ConfigError
from gistrec.impressions import ImpressionBatch
from gistrec.memories import Held, Size
from gistrec.registry import Spec
from gistrec.state import UserState, positions

_MICRO_BATCH = 1024
"""Candidates that pass through the layers at once when there are no gradients."""


class _Reader(HSTUReader):
    """With what the history's length adds to every event's score."""

    shift_BHN1: Tensor | None = None

    def read(
        self, q_BHQK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        if self.shift_BHN1 is not None:  # as one more column
            q_BHQK = torch.cat([q_BHQK, self.shift_BHN1], -1)
            k_BHTK = F.pad(k_BHTK, (0, 1), value=1.0)
        return super().read(q_BHQK, k_BHTK, v_BHTV, visible)


class _Layer(HSTULayer):
    def __init__(self, memory: Spec, size: Size, dropout: float, lain: bool) -> None:
        super().__init__(memory, size, dropout)
        self.own = nn.Linear(size.width, 2 * size.width)
        self.asked_position = RelativeBias(size.num_heads, POSITION_BUCKETS)
        self.asked_time = RelativeBias(size.num_heads, TIME_BUCKETS)
        self.lain = Lain(size.width, size.num_heads) if lain else None

    def ask(self, x_BND: Tensor, held: Held, step: Step, length_BN: Tensor) -> Tensor:
        """Outputs of candidates, which read what is held and themselves."""
        num_heads = self.memory.size.num_heads
        n_BND = self.norm_in(x_BND)
        u_BND, q_BND = F.silu(self.gate_query(n_BND)).chunk(2, dim=-1)
        q_BHNK = memories.heads(q_BND, num_heads)
        reader = _Reader(step, self.asked_position, self.asked_time, after=1 / N)
        told = None if self.lain is None else self.lain(q_BHNK, length_BN)
        if told is not None:
            q_BHNK, reader.shift_BHN1 = told.q_BHNK, told.shift_BHN1
        y_BHNK, _ = self.memory.attend(n_BND, q_BHNK, held, reader)
        k_BHNK, v_BHNK = (
            memories.heads(rows, num_heads) for rows in F.silu(self.own(n_BND)).chunk(2, dim=-1)
        )
        y_BHNK = y_BHNK + reader.weigh((q_BHNK * k_BHNK).sum(-1, keepdim=True)) * v_BHNK
        if told is not None:
            y_BHNK = y_BHNK + told.of_prompts(reader.weigh(told.side_BHNP))
        y_BND = y_BHNK.transpose(1, 2).flatten(2)
        out_BND: Tensor = self.out(self.dropout(self.norm_out(y_BND) * u_BND))
        return x_BND + out_BND


class HSTURank(Ranker):
    """A ranker of several layers.

    Args:
        num_items: V, from the data.
        width: D.
        num_layers: L.
        num_heads: H; divides the width.
        memory: Spec of what layers write and read: one for all, or one each, lowest first.
        labels: How many labels there are to predict.
        item_features: Most feature rows that an item has; training sets it.
        dropout: Share of units dropped in training.
        lain: Whether candidates' attention is told how long the history is (see `_lain`).
    """

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 32,
        num_layers: int = 2,
        num_heads: int = 2,
        memory: str = "full()",
        labels: int = 1,
        item_features: int = 0,
        dropout: float = 0.1,
        lain: bool = False,
    ) -> None:
        if width % num_heads:
            raise ConfigError(f"hsturank: width {width} is not a multiple of num_heads {num_heads}")
        super().__init__(
            num_items, width=width, labels=labels, item_features=item_features, dropout=dropout
        )
        size = Size(width, num_heads, num_items, silu=True)
        parts = memories.each_layer(memory, num_layers)
        self.layers = nn.ModuleList(_Layer(part, size, dropout, lain) for part in parts)
        for layer in self._layers():
            require_rows(layer.memory)
        self.norm = nn.LayerNorm(width)
        self.num_heads = num_heads
        self._written: tuple[list[Held], Tensor] | None = None
        self.drops = not bool(self._reach(torch.arange(1 << 16), 1 << 16).all())
        self.reads_items = any(layer.reads_items for layer in self._layers())

    def finish(self) -> None:
        """Biases of distances and ages that no training window had."""
        for part in self.modules():
            if isinstance(part, RelativeBias):
                part.extend()

    def read(self, batch: ImpressionBatch, x_BSD: Tensor, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Candidates behind the events of their time; the mean of these events' lowest values."""
        real_BS = batch.item_BS < self.num_items
        slot_1S = torch.arange(real_BS.shape[1], device=real_BS.device)[None]
        whole, time_BS = torch.ones_like(slot_1S[:, :1], dtype=torch.bool), batch.time_BS
        step = Step(slot_1S, slot_1S, whole, real_BS, batch.item_BS, times=(time_BS, time_BS))
        _, after = self._encode(x_BSD, None, step)
        self._written = after, real_BS
        asked = Step(
            *(batch.position_BN, slot_1S, whole, real_BS[:, :0], batch.item_BS),
            times=(batch.time_BN, time_BS),
        )
        y_BND = self._ask(x_BND, after, asked, batch.length_BN)
        first = self._layers()[0].memory
        v_BSD = values_of(first, after[0], batch.item_BS) * real_BS[..., None]
        return y_BND, mean_until(v_BSD, batch.position_BN, self._reach if self.drops else None)

    def read_state(
        self, state: UserState, x_ND: Tensor, at: int | None, item_N: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Candidates behind the slots, in micro-batches; the mean of the lowest values."""
        device, slots = x_ND.device, state.num_slots
        held = self._held([state], slots)
        time_1T, item_1T = (
            state.tensors.get(name, torch.zeros(slots, dtype=torch.int64)).long()[None].to(device)
            for name in ("time", "item")
        )
        newest = int(time_1T[0, -1]) if slots else 0
        at = newest if at is None else max(at, newest)
        one = torch.ones(1, 1, dtype=torch.bool, device=device)
        length_11 = torch.full((1, 1), state.length, device=device)
        out = []
        for some_ND in x_ND.split(_MICRO_BATCH):
            query_1N = torch.full((1, len(some_ND)), next_position(state) - 1, device=device)
            times = torch.full_like(query_1N, at), time_1T
            where = query_1N, positions(state)[None].to(device), one, one[:, :0], item_1T
            step = Step(*where, times=times)
            out.append(self._ask(some_ND[None], held, step, length_11)[0])
        v_BTD = values_of(self._layers()[0].memory, held[0], item_1T)
        return torch.cat(out), v_BTD[0].sum(0) / max(slots, 1)

    def penalty(self, batch: ImpressionBatch) -> Tensor:
        """Of the memories."""
        total = torch.zeros(())
        if self._written is not None:
            for layer, held in zip(self._layers(), self._written[0], strict=True):
                total = total + layer.penalty(held, self._written[1])
        return total

    # ---- states ----

    @torch.no_grad()
    def empty(self, *, hints: bool = False) -> UserState:
        """No slots."""
        if self.training:
            self.eval()
        nothing = torch.zeros(0, dtype=torch.int64)
        named = {"item": self.reads_items, "time": True, "pos": self.drops}
        tensors = {name: nothing for name, kept in named.items() if kept}
        for number, layer in enumerate(self._layers()):
            tensors |= {f"{n}.{number}": t[0].cpu() for n, t in layer.empty().items()}
        if hints:
            tensors |= {"hint.item": nothing} | dict.fromkeys(HINTS, torch.zeros(0))
        return UserState(tensors, 0, self.fingerprint())

    @torch.no_grad()
    def append(self, states: Sequence[UserState], events: Sequence[History]) -> list[UserState]:
        """Each state followed by what its new events write."""
        if self.training:
            self.eval()
        return absorbed(states, events, self.num_heads, self._absorb)

    def state_bytes(self, num_events: int) -> int:
        """Bytes of the uncompressed state after `num_events` events."""
        empty = self.empty()
        per_slot = sum(
            t.element_size() * (1 if t.ndim == 1 else t.numel() or t.shape[0] * t.shape[-1])
            for _, t in empty.slots()
        )
        kept = int(self._reach(torch.arange(num_events), num_events - 1).sum())
        return per_slot * kept

    # ---- internals ----

    def _layers(self) -> list[_Layer]:
        return list(self.layers)  # type: ignore[arg-type]  # a ModuleList is typed as of Modules

    def _reach(self, position_M: Tensor, following: int) -> Tensor:
        found = [layer.reach(position_M, following) for layer in self._layers()]
        return torch.stack(found).any(0)

    def _encode(
        self, x_BSD: Tensor, held: list[Held] | None, step: Step
    ) -> tuple[Tensor, list[Held]]:
        after = []
        for number, layer in enumerate(self._layers()):
            x_BSD, rows = layer(x_BSD, held[number] if held else None, step)
            after.append(rows)
        return x_BSD, after

    def _ask(self, x_BND: Tensor, held: list[Held], step: Step, length_BN: Tensor) -> Tensor:
        for layer, rows in zip(self._layers(), held, strict=True):
            x_BND = layer.ask(x_BND, rows, step, length_BN)
        y_BND: Tensor = self.norm(x_BND)
        return y_BND

    def _held(self, states: Sequence[UserState], slots: int) -> list[Held]:
        device = self.item.weight.device
        return [
            {n: rows.to(device) for n, rows in layer.items()}
            for layer in held_rows(states, len(self.layers), slots)
        ]

    def _absorb(self, states: Sequence[UserState], events: Sequence[History]) -> list[UserState]:
        """States with at least one new event each, absorbed in one go."""
        items, actions, times = zip(*(event_tensors(e) for e in events), strict=True)
        batch = joined_batch(states, items, times, times, filling=self.num_items)
        device = self.item.weight.device
        step = Step(
            batch.query_BS.to(device),
            batch.pos_BT.to(device),
            batch.slot_real_BT.to(device),
            batch.real_BS.to(device),
            batch.item_BT.to(device),
            times=(batch.at_BS.to(device), batch.time_BT.to(device)),
        )
        if any(name in s.tensors for s in states for name in HINTS):
            size = (len(states), *batch.item_BS.shape[1:], batch.pos_BT.shape[1])
            step.received_BST = torch.zeros(size, device=device)
        action_BS = pad(actions, batch.item_BS.shape[1])
        x_BSD = self.events(batch.item_BS.to(device), action_BS.to(device))
        x_BSD, after = self._encode(x_BSD, self._held(states, batch.slots), step)
        out = []
        for b, rows in enumerate(batch.added(after)):
            received = None
            if step.received_BST is not None:
                received = step.received_BST[b].cpu()[: batch.new[b], batch.slot_real_BT[b]]
            grown = grow(states[b], items[b], times[b], Ran(x_BSD[b, -1], rows, received))
            grown = with_kinds(grown, states[b], items[b], actions[b], self.num_items)
            if self.drops:
                kept_M = self._reach(positions(grown), next_position(grown) - 1)
                grown = grown.select(kept_M.nonzero()[:, 0])
            out.append(grown.replace(grown.tensors, length=states[b].length + len(events[b])))
        return out
