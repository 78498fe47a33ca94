"""States as the store holds them: asked and grown without being decoded, where that is compiled.

Shapes: S new events, D width, C candidates, T events of a user.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gistrec.backbones import Direct, Layout, Ranking
from gistrec.backbones._blocks import ItemHead
from gistrec.backbones._scores import Asked, best, scores
from gistrec.dataset import History, Ints
from gistrec.kernels.packed import Coded, Grown, Role, States, Stored
from gistrec.kernels.step import Stack
from gistrec.manifest import DTYPES, RAW, Manifest

_ROLES: dict[str, Role] = {
    "item": "item",
    "hint.item": "item",
    "time": "time",
    "pos": "position",
    "tail.item": "tail item",
    "tail.time": "tail time",
}


def stored_tensors(manifest: Manifest, rows: Sequence[Coded]) -> list[Stored] | None:
    """A manifest for the kernel; None if it holds what is no row and no known number."""
    parts = {part for coded in rows for part in coded.parts}
    out = []
    for spec in manifest.tensors:
        is_row = spec.name in parts
        if not is_row and (spec.name not in _ROLES or spec.dtype != "int64" or spec.shape != (-1,)):
            return None
        size = DTYPES[spec.dtype].itemsize if spec.dtype in RAW else 0
        base = spec.name.removeprefix("tail.") if spec.in_tail else ""
        role: Role = "row" if is_row else _ROLES[spec.name]
        out.append(Stored(spec.name, size, spec.shape, spec.part, role, base))
    return out


class DirectStates(Direct):
    """Of backbones whose layers have a compiled form.

    Args:
        states: The compiled layers and layout.
        head: Scores of items.
        request_time: Whether a query knows when it is asked.
    """

    def __init__(self, states: States, head: ItemHead, *, request_time: bool) -> None:
        self._states, self._head, self._request_time = states, head, request_time

    @torch.no_grad()
    def top_k(
        self,
        state: bytes,
        block: bytes | None,
        length: int,
        k: int,
        *,
        exclude: Ints,
        at: int | None = None,
    ) -> Ranking | None:
        """The k best items."""
        asked = self._asked(state, block, length, at)
        return None if asked is None else best(self._head, asked, k, [exclude])[0]

    @torch.no_grad()
    def score(
        self,
        state: bytes,
        block: bytes | None,
        length: int,
        item_index: Tensor,
        *,
        at: int | None = None,
    ) -> Tensor | None:
        """Scores of candidates, (C,)."""
        asked = self._asked(state, block, length, at)
        if asked is None:
            return None
        once, place_N = item_index.unique(return_inverse=True)
        return scores(self._head, asked, once)[0, place_N]

    def grow(
        self,
        state: bytes,
        block: bytes | None,
        length: int,
        events: History,
        *,
        counted: int,
        tail_bytes: int,
    ) -> Grown | None:
        """The state after new events."""
        item_S, time_S = events.item_index, events.timestamp
        return self._states.grow(
            state, block, length, item_S, time_S, counted=counted, tail_bytes=tail_bytes
        )

    def _asked(
        self, state: bytes, block: bytes | None, length: int, at: int | None
    ) -> Asked | None:
        repeats = self._head.repeats
        found = self._states.newest(state, block, length, at, events=repeats is not None)
        if found is None:
            return None
        out_D, events = found
        if repeats is None or events is None:
            return Asked(out_D[None])
        newest = int(events.time[-1])
        asked_at = max(at, newest) if self._request_time and at is not None else newest
        elapsed_1T = torch.from_numpy(asked_at - events.time)[None]
        weight_1T = repeats.weight(elapsed_1T, torch.ones(1, 1, dtype=torch.bool))
        return Asked(out_D[None], torch.from_numpy(events.item.copy())[None], weight_1T)


def direct(
    stack: Stack | None, head: ItemHead, layout: Layout, *, request_time: bool
) -> DirectStates | None:
    """States of a layout; None where layers (no stack) or a codec have no compiled form."""
    if stack is None:
        return None
    names = [f"{kind}.{layer}" for layer in range(len(stack.groups)) for kind in "kv"]
    rows = [coded for name in names if (coded := layout.coded(name)) is not None]
    if layout.stays is None or len(rows) < len(names):
        return None
    tensors = stored_tensors(layout.manifest, rows)
    needed = {"tail item", "tail time"}
    needed |= {"time"} if len(stack.least_time) else set()
    needed |= {"item"} if any(coded.kind == "items" for coded in rows) else set()
    needed |= {"item", "time"} if head.repeats is not None else set()
    if tensors is None or needed - {tensor.role for tensor in tensors}:
        return None
    states = States(
        stack,
        layout.manifest.id,
        tensors,
        rows,
        stays=layout.stays,
        request_time=request_time,
        grows=layout.grows,
        whole_bytes=layout.whole_bytes,
    )
    return DirectStates(states, head, request_time=request_time)
