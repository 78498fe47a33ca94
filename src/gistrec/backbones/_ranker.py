"""What rankers share: candidates beside what the history says of them, and a loss on labels.

Shapes: B users, S events, N candidates, D width, T labels, C context columns, F item features.

A ranker is trained on impressions and their labels, not on the next item. Its state is kept,
appended to and compressed like any other. `score` gives logits of the first label, so that ranking
candidates and recommending from the catalogue work as they do for other backbones.

    x_i = E[i] + sum_f T[feature row f of item i]        a candidate
    x_e = x_i + A[action]                                an event
    logits = MLP([x_i ; y ; y * x_i ; c ; m])            y: what the history says of the candidate
    c: sum of T over the request's context rows; m: mean of what is held, and log(1 + events)

The mean tells how a user answers on the whole, which no candidate's own interest says.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gistrec.backbones import Backbone
from gistrec.dataset import History
from gistrec.errors import ConfigError, DataError
from gistrec.impressions import FEATURE_ROWS, ImpressionBatch
from gistrec.memories import Context, Held, Memory
from gistrec.state import UserState

_ACTIONS = 256
_PAIRS = 1 << 22
"""Candidates times slots that are looked at together: 32 MB for each head."""


class Ranker(Backbone):
    """A backbone that scores candidates by what they are to the history.

    Args:
        num_items: V, from the data.
        width: D.
        labels: T, how many labels there are to predict.
        item_features: F, most feature rows that an item has.
        dropout: Share of units dropped in training.
    """

    feature_VF: Tensor

    def __init__(
        self, num_items: int, *, width: int, labels: int, item_features: int, dropout: float
    ) -> None:
        super().__init__(num_items)
        if labels < 1 or item_features < 0:
            raise ConfigError(
                f"labels must be at least 1 and item_features at least 0, given {labels} and "
                f"{item_features}"
            )
        self.width, self.labels = width, labels
        self.item = nn.Embedding(num_items + 1, width)
        self.action = nn.Embedding(_ACTIONS + 1, width)  # the last one where nobody knows
        self.feature = nn.Embedding(FEATURE_ROWS, width)
        for table in (self.item, self.action, self.feature):
            nn.init.normal_(table.weight, std=0.3 * width**-0.5)
        features = torch.full((num_items + 1, item_features), -1)
        self.register_buffer("feature_VF", features)
        self.hidden = nn.Sequential(
            nn.Linear(5 * width + 1, 2 * width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.SiLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, labels)

    def set_features(self, feature_VF: Tensor) -> None:
        """Give the items' feature rows, -1 where an item has fewer.

        Raises:
            ConfigError: their number is not the option `item_features`.
        """
        own = self.feature_VF
        if feature_VF.shape[1] != own.shape[1]:
            raise ConfigError(
                f"{self.spec.name}(item_features={own.shape[1]}) was given items with "
                f"{feature_VF.shape[1]} features: leave the option out, training sets it"
            )
        own[: self.num_items] = feature_VF

    # ---- what a ranker is ----

    @abstractmethod
    def read(self, batch: ImpressionBatch, x_BSD: Tensor, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        """What histories say, in training: of each candidate y_BND, and on the whole m_BND.

        Args:
            batch: Stretches of histories and impressions.
            x_BSD: The events.
            x_BND: The candidates.
        """

    @abstractmethod
    def read_state(
        self, state: UserState, x_ND: Tensor, at: int | None, item_N: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What a state says of candidates, y_ND, and on the whole, m_D.

        Args:
            state: One user's.
            x_ND: The candidates.
            at: The request's time.
            item_N: Their items, where they are items.
        """

    def penalty(self, batch: ImpressionBatch) -> Tensor:
        """A training loss of the ranker's own, of the latest `read`."""
        return torch.zeros(())

    # ---- what all do ----

    def candidates(self, item: Tensor) -> Tensor:
        """Vectors of items, (..., D)."""
        vector: Tensor = self.item(item) + self._sum(self.feature_VF[item])
        return vector

    def events(self, item: Tensor, action: Tensor) -> Tensor:
        """Vectors of events, (..., D)."""
        return self.acted(self.candidates(item), action)

    def acted(self, x: Tensor, action: Tensor) -> Tensor:
        """Vectors of items as those of events."""
        vector: Tensor = x + self.action(action.where(action >= 0, _ACTIONS))
        return vector

    def inputs(self, batch: ImpressionBatch) -> tuple[Tensor, Tensor]:
        """Vectors of a batch's events and candidates in training."""
        both = torch.cat([batch.item_BS, batch.item_BN], 1)
        item, place = both.unique(return_inverse=True)  # an item's features are summed up once
        x = F.embedding(place, self.candidates(item))
        x_BSD, x_BND = x.split([batch.item_BS.shape[1], batch.item_BN.shape[1]], 1)
        return self.dropout(self.acted(x_BSD, batch.action_BS)), self.dropout(x_BND)

    def logits_of(self, batch: ImpressionBatch) -> Tensor:
        """Of a batch's impressions: (B, N, T)."""
        x_BSD, x_BND = self.inputs(batch)
        y_BND, m_BND = self.read(batch, x_BSD, x_BND)
        c_BND = self._sum(batch.context_BNC)
        return self._logits(x_BND, y_BND, c_BND, m_BND, batch.length_BN)

    def loss(self, batch: Any, *, rng: torch.Generator | None = None) -> Tensor:
        """Binary cross-entropy of what is known, and the ranker's own penalty.

        What is known are labels and, of a student, its teacher's answers; both weigh the same.
        """
        if not isinstance(batch, ImpressionBatch):
            raise DataError(
                f"{self.spec.name} is trained on impressions with labels, not on a log of events: "
                "give --data \"labelled(path='log.parquet', label='is_click')\""
            )
        logits_BNT, label_BNT = self.logits_of(batch), batch.label_BNT
        loss = _cross_entropy(logits_BNT, label_BNT)
        if not batch.soft_BNT.isnan().all():
            loss = (loss + _cross_entropy(logits_BNT, batch.soft_BNT)) / 2
        return loss + self.penalty(batch)

    @torch.no_grad()
    def predict(
        self,
        state: UserState,
        item_index: Tensor,
        *,
        at: int | None = None,
        context: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Logits of candidates: (N, T).

        A candidate that the model does not know (`num_items`) is nothing but its features.

        Args:
            state: One user's.
            item_index: (N,).
            at: The request's time, Unix seconds; None: unknown.
            context: Feature rows of the request (C,) or of each candidate (N, C), -1 where missing.
            features: Feature rows of unknown candidates (N, F), -1 where there are fewer; others
                have those of `set_features`.
        """
        if self.training:
            self.eval()
        item_index = item_index.to(self.item.weight.device)
        limit = max(_PAIRS // (state.num_slots + 1), 1)
        if len(item_index) > limit:
            each = (context, features)
            own = [t is not None and t.ndim == 2 and len(t) == len(item_index) for t in each]
            found = []
            for n in range(0, len(item_index), limit):
                part = slice(n, n + limit)
                context, features = (
                    t[part] if mine and t is not None else t
                    for t, mine in zip(each, own, strict=True)
                )
                some = item_index[part]
                found.append(self.predict(state, some, at=at, context=context, features=features))
            return torch.cat(found)
        count, known_N1 = len(item_index), (item_index < self.num_items)[:, None]
        given = torch.full((count, 0), -1) if features is None else features
        x_ND = self.candidates(item_index).where(known_N1, self._sum(given.to(item_index.device)))
        rows = torch.zeros(count, 0, dtype=torch.long) if context is None else context
        c_ND = self._sum(rows.expand(count, -1).to(item_index.device))
        y_ND, m_D = self.read_state(state, x_ND, at, item_index)
        length_N = torch.full((count,), state.length, device=item_index.device)
        return self._logits(x_ND, y_ND, c_ND, m_D.expand(count, -1), length_N).cpu()

    @torch.no_grad()
    def score(
        self,
        states: Sequence[UserState],
        item_index: Tensor | None = None,
        *,
        at: Sequence[int | None] | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Logits of the first label: score_BN. See `predict`."""
        item_index = torch.arange(self.num_items) if item_index is None else item_index
        times = [None] * len(states) if at is None else at
        found = [
            self.predict(state, item_index, at=time, context=context)[:, 0]
            for state, time in zip(states, times, strict=True)
        ]
        return torch.stack(found) if found else torch.zeros(0, len(item_index))

    def _sum(self, rows: Tensor) -> Tensor:
        """Sum of the feature rows that are there."""
        vector: Tensor = (self.feature(rows.clamp(min=0)) * (rows >= 0)[..., None]).sum(-2)
        return vector

    def _logits(self, x: Tensor, y: Tensor, c: Tensor, m: Tensor, length: Tensor) -> Tensor:
        known = (1 + length.float()).log()[..., None] / 10
        logits: Tensor = self.out(self.hidden(torch.cat([x, y, y * x, c, m, known], -1)))
        return logits


def _cross_entropy(logits_BNT: Tensor, wanted_BNT: Tensor) -> Tensor:
    known = ~wanted_BNT.isnan()
    return F.binary_cross_entropy_with_logits(logits_BNT[known], wanted_BNT[known])


def require_rows(memory: Memory) -> None:
    """Of a ranker's memory.

    Raises:
        ConfigError: it does not keep rows of events.
    """
    if memory.suffix or any(name.startswith("fixed.") for name in memory.empty()):
        raise ConfigError(
            f"{memory} does not keep rows of events, which a candidate could attend to: "
            "give one that does, such as full or mla"
        )


def values_of(memory: Memory, held: Held, item_BT: Tensor) -> Tensor:
    """Values of what is held, all heads side by side: (B, T, D)."""
    real = torch.ones_like(item_BT, dtype=torch.bool)
    _, v_BHTK = memory.keys_values(held, Context(item_BT[:, :0], item_BT, real, real, item_BT))
    return v_BHTK.transpose(1, 2).expand(-1, -1, memory.size.num_heads, -1).flatten(2)


def mean_until(
    v_BSD: Tensor, position_BN: Tensor, reach: Callable[[Tensor, int], Tensor] | None = None
) -> Tensor:
    """Mean of the rows held behind each position, that one included: (B, N, D); zeros for none.

    Args:
        v_BSD: Rows of events; zeros where there is none.
        position_BN: Positions, -1 for none.
        reach: Which slots a query at a position may read (`Memory.reach`); None: all. A candidate
            stands where the newest event does.
    """
    users, events, width = v_BSD.shape
    if reach is None:
        total = torch.cat([v_BSD.new_zeros(users, 1, width), v_BSD.cumsum(1)], 1)
        count_E = torch.arange(events + 1, device=v_BSD.device).clamp(min=1)
        mean_BED = total / count_E[:, None]
    else:
        slot_S = torch.arange(events)
        held = [reach(slot_S, n - 1) & (slot_S < n) for n in range(events + 1)]
        held_ES = torch.stack(held).to(v_BSD)
        mean_BED = (held_ES / held_ES.sum(-1, keepdim=True).clamp(min=1)) @ v_BSD
    return mean_BED.gather(1, (position_BN[..., None] + 1).expand(-1, -1, width))


def event_tensors(events: History) -> tuple[Tensor, Tensor, Tensor]:
    """Items, actions (-1 where the log has none) and times of events, each (S,)."""
    item_S, time_S = (
        torch.from_numpy(a.astype("int64", copy=True))
        for a in (events.item_index, events.timestamp)
    )
    if events.action is None:
        return item_S, torch.full_like(item_S, -1), time_S
    return item_S, torch.from_numpy(events.action.astype("int64", copy=True)), time_S


def with_kinds(
    grown: UserState, before: UserState, item_S: Tensor, action_S: Tensor, num_items: int
) -> UserState:
    """What codecs take for an event's item (`hint.item`): one number for item and action.

    An event's rows in the lowest layer are functions of both, so a table of items must tell them
    apart. Unknown actions come first: numbers below `num_items` are items of events without one.
    """
    if (known := before.tensors.get("hint.item")) is None:
        return grown
    both_S = item_S + num_items * (action_S + 1)
    return grown.replace({**grown.tensors, "hint.item": torch.cat([known, both_S])})
