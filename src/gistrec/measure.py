"""One model on one data set, measured: accuracy and bytes of a recipe, offline and online.

Shapes: U users of the task, N users of the online sample, K items of a list.

`Subject` holds what all recipes share, so that it is computed once: prefilled states, the lists of
the uncompressed model, the log's bytes, and where the online replay begins.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np

from gistrec.codecs import Chain, Codec
from gistrec.dataset import Dataset, History, Ints, Scheme, Vocabulary
from gistrec.errors import ConfigError, DataError
from gistrec.evaluate import Task
from gistrec.history_log import HistoryLog
from gistrec.recipe import Recipe
from gistrec.state import UserState
from gistrec.stores import open_store
from gistrec.train import Model
from gistrec.wire import manifest_of, pack, split_bytes

_HELD_BYTES = 3 << 30
"""Prefilled states kept in memory; what exceeds it is prefilled again for every recipe."""
_STRETCH = 32
"""Events of a stretch that is there for one item."""
_PROBES_AT_ONCE = 16
"""States encoded before it is looked whether the budget is exceeded already."""
_SPLIT_USERS = 64
"""Users, about, whose bytes are divided by kind."""
TIMED_USERS = 64
"""Users whose requests are timed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """How to measure. Samples are drawn with a fixed seed, so all models meet the same users."""

    users: int | None = None
    """Users evaluated; None for all."""
    online_users: int = 128
    """Of these, how many are replayed event by event; 0 for none."""
    online_events: int | None = 64
    """How many of a user's newest events are replayed; None for all, from the empty state."""
    fit_users: int = 256
    """Users whose states a recipe is fitted on; not those evaluated, if there are enough others."""
    fit_items: int = 1000
    """Items that none of these users has had, the most frequent ones: codecs that need items learn
    so many at most from stretches of others' histories."""
    probe_users: int = 48
    """Users whose states a budget is measured on."""
    requests: int = 100
    """Requests of each kind that are timed; 0 for none."""
    store: str = "ram://"
    """Where the timed states live."""

    def __post_init__(self) -> None:
        least = {"users": 1, "online_users": 0, "online_events": 1, "fit_users": 1, "requests": 0}
        least |= {"fit_items": 0, "probe_users": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name} must be at least {low}, given {value}")


@dataclasses.dataclass(frozen=True)
class Held:
    """What a recipe keeps of some users, and what is recommended from it."""

    lists: Ints
    """(U, K) item indices, best first."""
    blob_bytes: Ints
    """Stored bytes of each user's state, (U,)."""
    parts: dict[str, float]
    """Mean bytes by kind, before byte codecs, of some of the users."""


@dataclasses.dataclass(frozen=True)
class Timed:
    """Users whose requests are timed."""

    model: Model
    histories: list[History]
    states: list[UserState]
    """Of these histories."""
    at: list[int]
    """Times of the requests."""
    next_item: list[int]
    """Index of what each of them has next."""
    requests: int
    """Of each kind."""
    store: str
    """Where the states live."""


class Subject:
    """A model and the task it is measured on.

    Args:
        model: The model.
        dataset: The log that it was trained on.
        rules: How to measure.
        holdout: 0 for the test split, 1 for the validation split.
        held_bytes: Prefilled states kept in memory; others are prefilled for every recipe.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        rules: Rules,
        *,
        holdout: int = 0,
        held_bytes: int = _HELD_BYTES,
    ) -> None:
        if not np.array_equal(model.items.ids, dataset.items.ids):
            raise DataError(
                f"the model's {len(model.items)} items are not the log's {dataset.num_items}: "
                "measure on the log (and min_events) that the model was trained on"
            )
        self.model, self.dataset, self.rules = model, dataset, rules
        self.backbone = model.backbone.eval()
        self.scheme: Scheme = model.training.scheme
        self.task = Task.of(dataset, self.scheme, holdout=holdout, users=rules.users)
        self._holdout, self._may_hold_bytes = holdout, held_bytes
        self._held: dict[int, list[UserState]] = {}
        self._held_bytes = 0

    def states(self) -> Iterator[tuple[Ints, list[UserState]]]:
        """All users in batches, with the states of their whole histories."""
        for users in self.task.batches():
            if (first := int(users[0])) in self._held:
                yield users, self._held[first]
                continue
            states = self.backbone.prefill([self.task.history(n) for n in users], hints=True)
            size = sum(s.nbytes for s in states)
            if self._held_bytes + size <= self._may_hold_bytes:
                self._held[first] = states
                self._held_bytes += size
            yield users, states

    def lists_of(self, users: Ints, states: Sequence[UserState]) -> Ints:
        """What is recommended to some users from these states, at their request times."""
        at = self.task.request_times[users].tolist()
        return self.task.top_k(self.backbone.score(states, at=at), users)

    @cached_property
    def full(self) -> Held:
        """The uncompressed model: lists, and bytes of the fp32 tensors in memory."""
        lists = np.empty((len(self.task), min(10, self.dataset.num_items)), np.int64)
        sizes = np.empty(len(self.task), np.int64)
        for users, states in self.states():
            lists[users] = self.lists_of(users, states)
            sizes[users] = [s.nbytes for s in states]
        return Held(lists, sizes, {})

    @cached_property
    def log_bytes(self) -> Ints:
        """What the history log stores of each user, (U,)."""
        users = range(len(self.task))
        return log_bytes(self.dataset.items, (_plain(self.task.history(n)) for n in users))

    # ---- recipes ----

    @cached_property
    def _short_states(self) -> list[UserState]:
        """States of the first 0, 1, ... events: a served state starts empty."""
        longest = self.task.history(int(self.task.lengths.argmax()))
        return self.backbone.prefill([longest[:n] for n in (0, 1, 2, 3, 8)], hints=True)

    @cached_property
    def _fit_histories(self) -> list[History]:
        """Of users that recipes are fitted on, who are not evaluated if there are others."""
        everybody = Task.of(self.dataset, self.scheme, holdout=self._holdout)
        pool = np.flatnonzero(~np.isin(everybody.split.user, self.task.split.user))
        if len(pool) < self.rules.fit_users:
            pool = np.arange(len(everybody))
        rng = np.random.default_rng(1)
        chosen = rng.choice(pool, min(self.rules.fit_users, len(pool)), replace=False)
        return [everybody.history(n) for n in chosen]

    @cached_property
    def fit_states(self) -> list[UserState]:
        """The states of these users, and very short ones."""
        return self.backbone.prefill(self._fit_histories, hints=True) + self._short_states

    @cached_property
    def item_states(self) -> list[UserState]:
        """States of a stretch of somebody's history for each item that those users have not had.

        Codecs that learn what an item's rows are like shall know all items.
        """
        dataset = self.dataset
        split = dataset.split(self.scheme, holdout=self._holdout)
        wanted = np.ones(dataset.num_items, bool)
        for history in self._fit_histories:
            wanted[history.item_index[:-1]] = False  # the last event waits in the tail
        absorbed = np.zeros(len(dataset.item_index) + 1, np.int64)
        absorbed[split.history_start] += 1
        absorbed[split.target_start - 1] -= 1
        rows = np.flatnonzero(absorbed.cumsum()[:-1] * wanted[dataset.item_index])
        _, first, count = np.unique(dataset.item_index[rows], return_index=True, return_counts=True)
        rows = rows[first[np.argsort(-count, kind="stable")[: self.rules.fit_items]]]
        owner = np.searchsorted(dataset.offsets, rows, side="right") - 1
        starts = np.maximum(dataset.offsets[owner], rows - _STRETCH + 2)
        stretches = zip(starts.tolist(), rows.tolist(), strict=True)
        return self.backbone.prefill(
            [dataset.rows(start, row + 2) for start, row in stretches], hints=True
        )

    @cached_property
    def _probe_states(self) -> list[UserState]:
        """States that budgets are measured on: every n-th user by history length, shuffled."""
        by_length = np.argsort(self.task.lengths, kind="stable")
        count = min(self.rules.probe_users, len(by_length))
        chosen = by_length[((np.arange(count) + 0.5) * len(by_length) / count).astype(int)]
        chosen = np.random.default_rng(5).permutation(chosen)
        return self.backbone.prefill([self.task.history(n) for n in chosen], hints=True)

    def fit(self, chain: Chain) -> Recipe:
        """The recipe, fitted."""
        states = self.fit_states + (self.item_states if "item" in chain.needs else [])
        return Recipe.fit(chain, states, model=self.backbone.fingerprint())

    def at_budget(self, chain: Chain, budget_bytes: int) -> Chain:
        """The chain with its dial turned so that a state takes at most so many bytes on average.

        Raises:
            BudgetError: no setting fits.
        """
        model = self.backbone.fingerprint()
        return at_budget(chain, budget_bytes, self._probe_states, self._short_states, model=model)

    def offline(self, recipe: Recipe) -> Held:
        """Encode every user's whole history once, and recommend from what is decoded.

        Packing loses nothing, so only the bytes' number is of interest.
        """
        lists = np.empty_like(self.full.lists)
        sizes = np.empty(len(self.task), np.int64)
        sample: list[UserState] = []
        for users, states in self.states():
            encoded = recipe.chain.encode_many(states)
            lists[users] = self.lists_of(users, recipe.chain.decode_many(encoded))
            sizes[users] = [len(recipe.pack(s)) for s in encoded]
            sample += encoded[:: len(self.task) // _SPLIT_USERS + 1]
        return Held(lists, sizes, _parts(recipe, sample))

    @cached_property
    def timed_sample(self) -> tuple[Ints, list[UserState]]:
        """Some users, and their states."""
        count = min(TIMED_USERS, len(self.task))
        users = np.random.default_rng(3).choice(len(self.task), count, replace=False)
        return users, self.backbone.prefill([self.task.history(n) for n in users], hints=True)

    @cached_property
    def timed(self) -> Timed:
        """These users, as requests of whom are timed."""
        users, states = self.timed_sample
        return Timed(
            self.model,
            [_plain(self.task.history(n)) for n in users],
            states,
            self.task.request_times[users].tolist(),
            [int(self.task.targets(n)[0]) for n in users],
            self.rules.requests,
            self.rules.store,
        )

    # ---- online ----

    @cached_property
    def online_sample(self) -> Ints:
        """User numbers that are replayed, (N,)."""
        count = min(self.rules.online_users, len(self.task))
        return np.sort(np.random.default_rng(2).choice(len(self.task), count, replace=False))

    @cached_property
    def _replay(self) -> tuple[list[UserState], list[History]]:
        """Where each replayed user starts, and the events that follow."""
        histories = [self.task.history(n) for n in self.online_sample]
        newest = self.rules.online_events
        cuts = [0 if newest is None else max(len(h) - newest, 0) for h in histories]
        starts = self.backbone.prefill(
            [h[:c] for h, c in zip(histories, cuts, strict=True)], hints=True
        )
        return starts, [h[c:] for h, c in zip(histories, cuts, strict=True)]

    def online(self, recipe: Recipe) -> Held:
        """Encode after every event, as a server does, and recommend from the last state."""
        starts, events = self._replay
        encoded = recipe.chain.encode_many(starts)
        states = recipe.chain.decode_many(encoded)
        for step in range(max(map(len, events))):
            active = [n for n, e in enumerate(events) if len(e) > step]
            one = [events[n][step : step + 1] for n in active]
            grown = self.backbone.append([states[n] for n in active], one)
            now = recipe.chain.encode_grown(grown, [encoded[n] for n in active])
            for n, code, state in zip(active, *now, strict=True):
                encoded[n], states[n] = code, state
        sizes = np.array([len(recipe.pack(s)) for s in encoded])
        sample = encoded[:: len(encoded) // _SPLIT_USERS + 1]
        return Held(self.lists_of(self.online_sample, states), sizes, _parts(recipe, sample))


def at_budget(
    chain: Chain,
    budget_bytes: int,
    probes: Sequence[UserState],
    short: Sequence[UserState],
    *,
    model: str,
) -> Chain:
    """A chain with its dial turned so that states like the probes take so many bytes on average.

    Args:
        chain: Codecs, one of them with a dial.
        budget_bytes: What a state may take.
        probes: States to measure on.
        short: States of the first events: a served state starts empty.
        model: Fingerprint of the model that wrote them.

    Raises:
        BudgetError: no setting fits.
    """
    longest = sorted(probes, key=lambda s: s.num_slots)[-2:]
    fitted = Recipe.fit(chain, [*probes, *short], model=model).chain
    # tables learned once serve all settings, unless the dial is of a codec that learns
    refit = bool(next((c.tables for c in fitted.codecs if c.dial), {}))

    def measure(codec: Codec) -> float:
        part = codec if isinstance(codec, Chain) else Chain((codec,))
        part = part.fit([*probes, *short]) if refit else part
        seen = part.encode_many([*short, *longest])
        manifest = manifest_of(seen, model=model, codec=str(part), tables={})
        sizes: list[int] = []
        for start in range(0, len(probes), _PROBES_AT_ONCE):
            encoded = part.encode_many(probes[start : start + _PROBES_AT_ONCE])
            sizes += [len(pack(s, manifest, compress=part.compress)) for s in encoded]
            if sum(sizes) > budget_bytes * len(probes):
                break  # too big, whatever the others take
        return float(np.mean(sizes))

    return fitted.at_budget(budget_bytes, measure)


def log_history(log: HistoryLog, user_id: str, items: Vocabulary, history: History) -> None:
    """Write a history into the log, by external ids; actions are kept where they are known."""
    action = history.action
    known = None if action is None or (action < 0).any() else action.tolist()
    ids = items.ids[history.item_index].tolist()
    log.append(user_id, ids, history.timestamp.tolist(), known)


def log_bytes(items: Vocabulary, histories: Iterable[History]) -> Ints:
    """What the history log stores of each history, (U,)."""
    sizes = []
    with open_store("ram://") as store:
        log = HistoryLog(store)
        for history in histories:
            if len(history):
                log_history(log, "one", items, history)
            sizes.append(log.nbytes("one") if len(history) else 0)
            log.forget("one")
    return np.array(sizes, np.int64)


def _plain(history: History) -> History:
    """Without actions, which no model of next items reads."""
    return dataclasses.replace(history, action=None)


def _parts(recipe: Recipe, encoded: Sequence[UserState]) -> dict[str, float]:
    split = [split_bytes(state, recipe.manifest) for state in encoded]
    return {kind: float(np.mean([part[kind] for part in split])) for kind in split[0]}
