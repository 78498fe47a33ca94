"""What causal attention backbones share: running layers over held states, loss, append, score.

Shapes: B users, S new events, M held slots, T = M + S slots a query may see, H heads, D width.

The newest event of a state is held raw, in `tail.item` and `tail.time`. With the request's own
time as an input of the query, an event's output (and so its keys and values in the layers above)
is final only when the next event's time is known; and scoring needs its output anyway. So an
append absorbs the tail and all new events but the last, and a score runs the tail's step without
keeping it. The append law then holds exactly, whatever the bias is a function of.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gistrec.backbones import Backbone, Direct, Layout, Ranking
from gistrec.backbones._absorbed import HINTS, Ran, grow
from gistrec.backbones._batch import (
    absorbed,
    groups,
    held_rows,
    joined,
    joined_batch,
    next_position,
    pad,
)
from gistrec.backbones._blocks import ItemHead, RelativeBias
from gistrec.backbones._direct import direct
from gistrec.backbones._fused import Fused
from gistrec.backbones._layer import Layer, Step
from gistrec.backbones._scores import Asked, best, scores
from gistrec.dataset import Batch, History, Ints
from gistrec.kernels.dropout import Dropout
from gistrec.memories import Held
from gistrec.state import UserState, positions


class Causal(Backbone):
    """A stack of causal attention layers over item vectors."""

    def __init__(
        self,
        num_items: int,
        *,
        width: int,
        num_heads: int,
        layers: Sequence[Layer],
        dropout: float,
        temperature: float,
        negatives: int,
        repeats: bool,
        uses_time: bool,
        request_time: bool,
    ) -> None:
        super().__init__(num_items)
        self.num_heads = num_heads
        self.layers = nn.ModuleList(layers)
        self.head = ItemHead(
            num_items, width, temperature=temperature, negatives=negatives, repeats=repeats
        )
        self.dropout = Dropout(dropout)
        if suffix := max(layer.suffix for layer in layers):
            self.registers = nn.Parameter(torch.randn(suffix, width) * 0.16)
        self.suffix, self._rows = suffix, num_heads * (1 + suffix)
        self.uses_time, self.request_time = uses_time, request_time
        self._with_slots = [layer for layer in layers if layer.holds_slots]
        reads_items = repeats or any(layer.reads_items for layer in layers)
        reads_times = repeats or (uses_time and bool(self._with_slots))
        # some slots may get out of every layer's reach; the others then need their positions
        self.drops = not bool(self._reach(torch.arange(1 << 16), 1 << 16).all())
        named = {"item": reads_items, "time": reads_times, "pos": self.drops}
        self.keeps = tuple(name for name, kept in named.items() if kept)
        self._fused = Fused(
            self,
            self._layers(),
            num_heads=num_heads,
            table=self.head.table,
            scale=math.sqrt(width),
            uses_time=uses_time,
        )

    def set_popularity(self, count_V: Tensor) -> None:
        """Give the event counts by which users without a history are served."""
        self.head.prior.copy_((count_V + 1).log())

    def finish(self) -> None:
        """Biases of distances and ages that no training window had."""
        for part in self.modules():
            if isinstance(part, RelativeBias):
                part.extend()

    def loss(self, batch: Batch, *, rng: torch.Generator | None = None) -> Tensor:
        """Cross-entropy of the batch's pairs plus the memories' own penalties."""
        span = torch.arange(batch.item_BS.shape[1], device=batch.item_BS.device)
        at_BS = batch.next_time_BS if self.request_time else batch.time_BS
        mask_BS = batch.item_BS < self.num_items
        whole = torch.ones(1, 1, dtype=torch.bool, device=span.device)
        step = self._step(
            span[None], span[None], at_BS, batch.time_BS, batch.item_BS, whole, mask_BS
        )
        x_BSD = self.dropout(self.head.embed(batch.item_BS))
        x_BSD, after = self._run(x_BSD, None, step)
        penalty = x_BSD.new_zeros(())
        for layer, held in zip(self._layers(), after, strict=True):
            penalty = penalty + layer.penalty(held, mask_BS)
        return penalty + self.head.loss(x_BSD, batch, at_BS, rng)

    @torch.no_grad()
    def empty(self, *, hints: bool = False) -> UserState:
        """No slots and an empty tail."""
        self.eval()
        nothing = torch.zeros(0, dtype=torch.int64)
        tensors: dict[str, Tensor] = dict.fromkeys(self.keeps, nothing)
        for number, layer in enumerate(self._layers()):
            tensors |= {f"{n}.{number}": t[0].cpu() for n, t in layer.empty().items()}
        if any(name.startswith("fixed.") for name in tensors):
            tensors["fixed.count"] = torch.zeros(1, dtype=torch.int64)
        if hints and self._with_slots:
            paid = dict.fromkeys(HINTS, torch.zeros(0))
            tensors |= ({} if "item" in tensors else {"hint.item": nothing}) | paid
        tensors |= {"tail.item": nothing, "tail.time": nothing}
        return UserState(tensors, 0, self.fingerprint())

    @torch.no_grad()
    def append(self, states: Sequence[UserState], events: Sequence[History]) -> list[UserState]:
        """Each state followed by its user's new events.

        Users are batched by length and histories absorbed in chunks, so memory stays bounded.
        """
        if self.training:
            self.eval()
        return absorbed(states, events, self._rows, self._absorb)

    @torch.no_grad()
    def score(
        self,
        states: Sequence[UserState],
        item_index: Tensor | None = None,
        *,
        at: Sequence[int | None] | None = None,
    ) -> Tensor:
        """Score candidates for each state; users without known events get the items' popularity."""
        if self.training:
            self.eval()
        if item_index is not None:  # a candidate given twice is scored once
            item_index, place_N = item_index.unique(return_inverse=True)
            count = len(item_index)
        else:
            count = self.num_items
        prior = self.head.prior if item_index is None else self.head.prior[item_index]
        out = prior.cpu().expand(len(states), count).clone()
        for group, asked in self._asking(states, at):
            out[group] = scores(self.head, asked, item_index)
        return out if item_index is None else out[:, place_N]

    @torch.no_grad()
    def top_k(
        self,
        states: Sequence[UserState],
        k: int,
        *,
        exclude: Sequence[Ints] | None = None,
        at: Sequence[int | None] | None = None,
    ) -> list[Ranking]:
        """The k best items for each state, by a scan of the catalogue."""
        if self.training:
            self.eval()
        left_out = exclude or [np.zeros(0, np.int64)] * len(states)
        out: dict[int, Ranking] = {}
        for group, asked in self._asking(states, at) if self.device.type == "cpu" else ():
            found = best(self.head, asked, k, [left_out[n] for n in group])
            out |= zip(group, found, strict=True)
        if rest := [n for n in range(len(states)) if n not in out]:
            parts = [states[n] for n in rest], [left_out[n] for n in rest]
            later = None if at is None else [at[n] for n in rest]
            out |= zip(rest, super().top_k(parts[0], k, exclude=parts[1], at=later), strict=True)
        return [out[n] for n in range(len(states))]

    @torch.no_grad()
    def item_vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors of length 1 and, with repeats, biases: what new items are scored by."""
        items_VD, bias_V = self.eval().head.vectors()
        return items_VD.cpu(), bias_V.cpu()

    @torch.no_grad()
    def user_vectors(
        self, states: Sequence[UserState], *, at: Sequence[int | None] | None = None
    ) -> Tensor:
        """Outputs of the newest events, of length 1 / temperature; zeros for users without any."""
        out = torch.zeros(len(states), self.head.table.embedding_dim)
        for group, asked in self.eval()._asking(states, at):
            out[group] = self.head.direction(asked.h_BD).cpu()
        return out

    def direct(self, layout: Layout) -> Direct | None:
        """Where all layers have a compiled form."""
        stack = None if self.drops else self.eval()._fused.stack()
        return direct(stack, self.head, layout, request_time=self.request_time)

    def state_bytes(self, num_events: int) -> int:
        """Bytes of the uncompressed state after `num_events` events."""
        empty = self.empty()
        if not num_events:
            return empty.nbytes
        kept = {n: t for n, t in empty.slots() if not n.startswith("hint.")}
        # a row's numbers: all but the slot axis, which is empty here
        per_slot = sum(
            t.element_size()
            * (t.shape[0] * t.shape[-1] if t.ndim == 3 else t.ndim == 1 or t.shape[-1])
            for t in kept.values()
        )
        absorbed = num_events - 1
        slots = int(self._reach(torch.arange(absorbed), absorbed).sum()) if self.drops else absorbed
        return empty.nbytes + slots * per_slot + 16

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.table.weight.device

    # ---- internals ----

    def _layers(self) -> list[Layer]:
        return list(self.layers)  # type: ignore[arg-type]  # a ModuleList is typed as of Modules

    def _reach(self, position_M: Tensor, following: int) -> Tensor:
        """Which slots some layer may still read; all of them where no layer holds any."""
        found = [layer.reach(position_M, following) for layer in self._with_slots]
        return torch.stack(found).any(0) if found else torch.ones(len(position_M)) > 0

    def _step(
        self,
        query_BS: Tensor,
        slot_BT: Tensor,
        at_BS: Tensor,
        time_BT: Tensor,
        item_BT: Tensor,
        slot_real_BT: Tensor,
        real_BS: Tensor,
    ) -> Step:
        each = (1, 1 + self.suffix)
        query_BQ, at_BQ = query_BS.repeat(each), at_BS.repeat(each)
        times = (at_BQ, time_BT) if self.uses_time else None
        return Step(query_BQ, slot_BT, slot_real_BT, real_BS, item_BT, times=times)

    def _run(
        self, x_BSD: Tensor, held: Sequence[Held] | None, step: Step
    ) -> tuple[Tensor, list[Held]]:
        """All layers: the events' outputs, and what each layer then holds."""
        x_BQD, after = x_BSD, []
        if self.suffix:
            one = (len(x_BSD), -1, x_BSD.shape[1], -1)
            x_BQD = torch.cat([x_BSD, self.registers[None, :, None].expand(one).flatten(1, 2)], 1)
        for number, layer in enumerate(self._layers()):
            x_BQD, rows = layer(x_BQD, held[number] if held else None, step)
            after.append(rows)
        return x_BQD[:, : x_BSD.shape[1]], after

    def _through(
        self,
        states: Sequence[UserState],
        items: Sequence[Tensor],
        times: Sequence[Tensor],
        at: Sequence[Tensor],
        *,
        outputs: bool = True,
        note: bool = False,
    ) -> list[Ran]:
        """Run new events, at least one each, behind the users' slots.

        Args:
            states: B states.
            items: Of each user's events, (S,).
            times: Their times.
            at: The times of their queries.
            outputs: Whether outputs are wanted, or only what layers then hold.
            note: Whether the attention that slots receive is wanted.
        """
        if not states:
            return []
        if (stack := self._fused.stack()) is None:
            return self._batched(states, items, times, at, note=note)
        found = self._fused.run(stack, states, items, times, at, outputs=outputs, note=note)
        names = [f"{n}.{k}" for k in range(len(self.layers)) for n in "kv"]
        return [Ran(s.out_D, dict(zip(names, s.rows, strict=True)), s.received_ST) for s in found]

    def _batched(
        self,
        states: Sequence[UserState],
        items: Sequence[Tensor],
        times: Sequence[Tensor],
        at: Sequence[Tensor],
        *,
        note: bool,
    ) -> list[Ran]:
        """All users at once, filled up to one size; runs where the weights are."""
        batch = joined_batch(states, items, times, at, filling=self.num_items)
        alike = bool((batch.pos_BT == batch.pos_BT[:1]).all())  # one user's distances: everybody's
        some = slice(0, 1 if alike else None)
        where = (
            batch.query_BS[some],
            batch.pos_BT[some],
            batch.at_BS,
            batch.time_BT if "time" in self.keeps else batch.time_BS,
            batch.item_BT if "item" in self.keeps else batch.item_BS,
            batch.slot_real_BT,
            batch.real_BS,
        )
        step = self._step(*(t.to(self.device) for t in where))
        if note:
            size = (len(states), *batch.item_BS.shape[1:], batch.pos_BT.shape[1])
            step.received_BST = torch.zeros(size, device=self.device)
        held = [
            {n: rows.to(self.device) for n, rows in layer.items()}
            for layer in held_rows(states, len(self.layers), batch.slots)
        ]
        x_BSD, after = self._run(self.head.embed(batch.item_BS.to(self.device)), held, step)
        out = []
        for b, rows in enumerate(batch.added(after)):
            received = None
            if step.received_BST is not None:
                received = step.received_BST[b].cpu()[: batch.new[b], batch.slot_real_BT[b]]
            out.append(Ran(x_BSD[b, batch.new[b] - 1], rows, received))
        return out

    def _absorb(self, states: Sequence[UserState], events: Sequence[History]) -> list[UserState]:
        """States with at least one new event each, absorbed in one go."""
        pairs = list(zip(states, events, strict=True))
        items = [joined(s.tensors["tail.item"], e.item_index) for s, e in pairs]
        times = [joined(s.tensors["tail.time"], e.timestamp) for s, e in pairs]
        whole = [n for n, i in enumerate(items) if len(i) > 1]  # the others' event only waits
        ran = self._through(
            [states[n] for n in whole],
            [items[n][:-1] for n in whole],
            [times[n][:-1] for n in whole],
            [times[n][1:] if self.request_time else times[n][:-1] for n in whole],
            outputs=False,
            note=any(name in s.tensors for s in states for name in HINTS),
        )
        grown = {
            n: self._within_reach(grow(states[n], items[n][:-1], times[n][:-1], found))
            for n, found in zip(whole, ran, strict=True)
        }
        out = []
        for n, (state, event) in enumerate(pairs):
            tensors = dict(grown.get(n, state).tensors)
            tensors["tail.item"] = items[n][-1:].clone()
            tensors["tail.time"] = times[n][-1:].clone()
            out.append(state.replace(tensors, length=state.length + len(event)))
        return out

    def _within_reach(self, state: UserState) -> UserState:
        if not self.drops:
            return state
        kept_M = self._reach(positions(state), next_position(state))
        return state if bool(kept_M.all()) else state.select(kept_M.nonzero()[:, 0])

    def _asking(
        self, states: Sequence[UserState], at: Sequence[int | None] | None
    ) -> Iterator[tuple[list[int], Asked]]:
        """Users with events, in batches, and what they ask of the head."""
        todo = [n for n, s in enumerate(states) if len(s.tensors["tail.item"])]
        todo.sort(key=lambda n: states[n].num_slots)
        for group in groups(todo, [s.num_slots for s in states], self._rows):
            times = [None if at is None else at[n] for n in group]
            yield group, self._asked([states[n] for n in group], times)

    def _asked(self, states: Sequence[UserState], times: Sequence[int | None]) -> Asked:
        """What the newest events, run behind the slots, ask of the head."""
        items = [s.tensors["tail.item"][-1:] for s in states]
        newest = [s.tensors["tail.time"][-1:] for s in states]
        at = newest
        if self.request_time:  # a request is never before the newest event
            at = [
                time_1 if time is None else time_1.clamp(min=time)
                for time, time_1 in zip(times, newest, strict=True)
            ]
        ran = self._through(states, items, newest, at)
        h_BD = torch.stack([r.out_D for r in ran])
        if self.head.repeats is None:
            return Asked(h_BD)
        count_B = torch.tensor([s.num_slots + 1 for s in states])
        slots = int(count_B.max())
        item_BT, time_BT = (
            pad([torch.cat([s.tensors[name], new[b]]) for b, s in enumerate(states)], slots)
            for name, new in (("item", items), ("time", newest))
        )
        real_BT = torch.arange(slots) < count_B[:, None]
        weight_BT = self.head.repeats.weight(
            (torch.stack(at) - time_BT).to(self.device), real_BT.to(self.device)
        )
        return Asked(h_BD, item_BT.to(self.device), weight_BT)
