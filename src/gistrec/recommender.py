"""The object that serves: observe events, recommend, rank, forget.

The history log is the truth, the state is derived from it. Every call first brings the state up to
the log: behind -> the tail is replayed; missing, damaged, or of another model or recipe -> it is
rebuilt from the log. So a state can be lost, evicted or outdated without losing anything.

Two rules. Events older than the newest one are logged as they are, and the model sees them at the
newest time (its history never goes back). Items that the model does not know are logged and
skipped by the model, until a model that knows them rebuilds the state.
"""

import collections
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, ParamSpec, Self, TypeVar

import numpy as np
import torch

from gistrec.dataset import History, Ints
from gistrec.errors import (
    ConfigError,
    ConflictError,
    CorruptStateError,
    DataError,
    FormatVersionError,
    StaleStateError,
)
from gistrec.history_log import HistoryLog
from gistrec.log_blocks import Logged
from gistrec.state_cache import CacheStats, Held, Recipe, StateCache
from gistrec.stores import StateStore, open_store
from gistrec.train import Model

ItemId = int | str
P = ParamSpec("P")
T = TypeVar("T")


class Event(NamedTuple):
    """One interaction to be observed."""

    item_id: ItemId
    timestamp: int
    """Unix seconds."""
    action: int | None = None
    """What the user did, 0..255."""
    event_id: str | None = None
    """Of the caller, 1 to 256 bytes: an event that comes again with its id is not logged again, as
    long as it is among the user's newest 64 that have one."""


class Scored(NamedTuple):
    """An item and its score, best first in lists."""

    item_id: ItemId
    score: float
    title: str


class Observed(NamedTuple):
    """What is kept after observing."""

    length: int
    """Events in the user's log."""
    state_bytes: int
    log_bytes: int


class UserReport(NamedTuple):
    """What is stored about a user."""

    user_id: str
    length: int
    """Events in the log."""
    covered: int
    """Events that the stored state covers."""
    slots: int
    """Slots it holds."""
    state_bytes: int
    log_bytes: int
    model: str
    codec: str


def unwatched(stage: str, seconds: float) -> None:
    """Nobody wants to know how long a stage took; then nothing is timed."""


class Recommender:
    """A model, a recipe and a store, as one service.

    Args:
        model: What scores.
        recipe: How a state becomes bytes.
        store: Where they are kept; closed with the recommender.
    """

    def __init__(self, model: Model, recipe: Recipe, store: StateStore) -> None:
        self.model = model
        self.backbone = model.backbone
        self.items = model.items
        self.recipe = recipe
        self.scheme = model.training.scheme
        self.log = HistoryLog(store)
        self.states = StateCache(recipe, store)
        self._empty = recipe.chain.encode(self.backbone.empty(hints=True))
        self.empty = recipe.chain.decode(self._empty)
        """What is kept of a user without events: no hints but those that the recipe needs."""
        self.counts: collections.Counter[str] = collections.Counter()
        """How often a state was fresh, replayed, missing, stale or corrupt, or a save clashed."""
        self.on_stage: Callable[[str, float], None] = unwatched
        """Called after every stage of a request with its name and seconds, in the thread that does
        the work: `load` (states and histories are read), `decode` (bytes to a state), `compute`
        (the model), `store` (events and states are encoded and written). One request may go through
        a stage several times; what is left over is the caller's."""
        self._store = store

    @classmethod
    def load(cls, path: str | Path, *, store: str = "ram://") -> Self:
        """Open a folder that `save`, `gistrec train` or `gistrec demo` wrote.

        A folder without a recipe keeps states uncompressed.

        Raises:
            DataError: not a model folder. StoreUnavailableError: the store can't be opened.
        """
        model = Model.load(path)
        recipe_folder = Path(path) / "recipe"
        if recipe_folder.exists():
            recipe = Recipe.load(recipe_folder)
            if recipe.manifest.model != model.backbone.fingerprint():
                raise StaleStateError(
                    f"{recipe_folder} was fitted for model {recipe.manifest.model}, not for "
                    f"{model.backbone.fingerprint()}: fit it again with `gistrec state fit`"
                )
        else:
            recipe = identity_recipe(model)
        return cls(model, recipe, open_store(store))

    def save(self, path: str | Path) -> None:
        """Write the model and the recipe; users stay in the store."""
        self.model.save(path)
        self.recipe.save(Path(path) / "recipe")

    def observe(
        self, user_id: str, events: Sequence[Event], *, expected_length: int | None = None
    ) -> Observed:
        """Log events (they are safe then) and bring the state up to them.

        A call that failed may be repeated, if its events have ids or it gives the expected length.

        Args:
            user_id: Whose they are.
            events: In the order in which they are logged.
            expected_length: Log them only if the user has this many events now; if these very
                events follow that many already, they are not logged again.

        Raises:
            DataError: an event's id, time or action is wrong; nothing is logged.
            ConflictError: the user has another number of events than expected.
            StoreUnavailableError: it is not known what was logged.
        """
        if not events:
            raise DataError("no event given: give at least one")
        self._check(events)
        actions = [e.action for e in events]
        kept = None if all(a is None for a in actions) else [a or 0 for a in actions]
        items, times = [e.item_id for e in events], [e.timestamp for e in events]
        ids = [e.event_id for e in events]
        length = self._timed(
            "store",
            self.log.append,
            user_id,
            items,
            times,
            kept,
            event_ids=ids,
            expected_length=expected_length,
        )
        try:
            state_bytes = self._current(user_id).stored_bytes
        except ConflictError:  # the events are safe, and the next request brings the state up
            state_bytes = self.states.stored_bytes(user_id)
        return Observed(length, state_bytes, self.log.nbytes(user_id))

    def recommend(
        self,
        user_id: str,
        *,
        k: int = 10,
        exclude_seen: bool | None = None,
        at: int | None = None,
    ) -> list[Scored]:
        """The k best items of the catalogue, best first.

        Args:
            user_id: Anyone; users without events get popular items.
            k: How many, at least 1.
            exclude_seen: Leave out items of the user's log; None: as the model was trained (a
                basket model keeps them, since people buy again).
            at: When the recommendation is asked for, Unix seconds; None: right after the user's
                newest event. Models without `request_time` ignore it.

        Raises:
            ConfigError: k is not positive.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, given {k}")
        state = self._current(user_id).state
        seen = np.zeros(0, np.int64)
        if self.scheme == "leave_last_out" if exclude_seen is None else exclude_seen:
            seen = self._history(self._timed("load", self.log.read, user_id)).item_index
        (best,) = self._timed("compute", self.backbone.top_k, [state], k, exclude=[seen], at=[at])
        return self._scored(best.item_index, best.score.tolist())

    def rank(
        self, user_id: str, item_ids: Sequence[ItemId], *, at: int | None = None
    ) -> list[Scored]:
        """Candidates in the order of their scores, best first; equal scores keep their order.

        Raises:
            DataError: a candidate is not in the catalogue.
        """
        index = [self.items.index(i) for i in item_ids]
        if -1 in index:
            raise DataError(
                f"item {item_ids[index.index(-1)]!r} is not in the model's catalogue of "
                f"{len(self.items)} items: leave it out or train a model that knows it"
            )
        if not index:
            return []
        state = self._current(user_id).state
        score = self._timed("compute", self.backbone.score, [state], torch.tensor(index), at=[at])
        score_N = score[0]
        order = score_N.argsort(descending=True, stable=True)
        return self._scored(np.array(index)[order.numpy()], score_N[order].tolist())

    def sizes(self, user_id: str) -> Observed:
        """A user's events and bytes, without reading the state (0 if there is none)."""
        return Observed(
            self.log.length(user_id), self.states.stored_bytes(user_id), self.log.nbytes(user_id)
        )

    def forget(self, user_id: str) -> bool:
        """Erase a user's log and state; whether there was anything."""
        had_state = self.states.forget(user_id)
        return self.log.forget(user_id) or had_state

    def describe(self, user_id: str) -> UserReport | None:
        """What is stored about a user, or None."""
        length = self.log.length(user_id)
        if not length:
            return None
        current = self._current(user_id)
        return UserReport(
            user_id=user_id,
            length=length,
            covered=current.state.length,
            slots=current.state.num_slots,
            state_bytes=current.stored_bytes,
            log_bytes=self.log.nbytes(user_id),
            model=current.state.model,
            codec=self.recipe.manifest.codec,
        )

    def stats(self) -> CacheStats:
        """Users and bytes of all stored states."""
        return self.states.stats()

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- internals ----

    def _check(self, events: Sequence[Event]) -> None:
        kind = int if self.items.ids.dtype != object else str
        for n, event in enumerate(events):
            where = f"event {n + 1} of {len(events)}"
            if not isinstance(event.item_id, kind) or isinstance(event.item_id, bool):
                raise DataError(
                    f"{where}: item_id is {event.item_id!r}; this model's items have "
                    f"{'whole numbers' if kind is int else 'texts'} as ids"
                )
            if not isinstance(event.timestamp, int) or not 0 <= event.timestamp < 2**40:
                raise DataError(
                    f"{where}: timestamp is {event.timestamp!r}; give Unix seconds "
                    f"(a whole number, now {int(time.time())})"
                )
            if event.action is not None and not 0 <= event.action <= 255:
                raise DataError(f"{where}: action is {event.action}; allowed: 0 to 255")

    def _history(self, logged: Logged, *, not_before: int = 0) -> History:
        """Logged events as the model sees them: known items, times that never go back."""
        index = self.items.indices(logged.item_id)
        times = np.maximum.accumulate(np.concatenate([[not_before], logged.timestamp]))[1:]
        known = index >= 0
        return History(index[known], times[known])

    def _current(self, user_id: str) -> Held:
        """The user's state, up to the log; saved if it was not."""
        for _ in range(5):
            try:
                return self._caught_up(user_id)
            except ConflictError:
                # somebody else saved this user's state in between: go on from theirs
                self.counts["conflict"] += 1
        raise ConflictError(
            f"user {user_id!r}: five writers in a row were faster: route a user's events to one "
            "server, or try again"
        )

    def _caught_up(self, user_id: str) -> Held:
        length = self._timed("load", self.log.length, user_id)
        stored = self._timed("load", self.states.read, user_id)
        held = None
        try:
            found = self._timed("decode", self.states.decode, user_id, stored)
        except (StaleStateError, CorruptStateError, FormatVersionError) as error:
            self.counts["corrupt" if isinstance(error, CorruptStateError) else "stale"] += 1
        else:
            if found is not None and found.state.length <= length:
                held = found
                if held.state.length == length:
                    self.counts["fresh"] += 1
                    return held
                self.counts["replayed"] += 1
            elif found is not None:  # the log was erased and begun anew under this state
                self.counts["stale"] += 1
            elif length:
                self.counts["missing"] += 1
        held = held or Held(self.empty, stored.version, 0, self._empty)
        if not length:
            return held
        tail = held.state.tensors["tail.time"]
        newest = int(tail[-1]) if len(tail) else 0
        logged = self._timed("load", self.log.read, user_id, held.state.length)
        if not len(logged.timestamp):  # the user was forgotten a moment ago
            return held
        new = self._history(logged, not_before=newest)
        state = self._timed("compute", self.backbone.append, [held.state], [new])[0]
        # counted as read: since the length was asked for, more may have been logged
        state = state.replace(state.tensors, length=held.state.length + len(logged.timestamp))
        # as the store will give it back, so that a second request equals the first
        return self._timed("store", self.states.save, user_id, state, grown_from=held)

    def _timed(self, stage: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self.on_stage is unwatched:
            return call(*args, **kwargs)
        begun = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            self.on_stage(stage, time.perf_counter() - begun)

    def _scored(self, index: Ints, scores: Sequence[float]) -> list[Scored]:
        titles = self.items.titles
        return [
            Scored(item, score, titles.get(item, str(item)))
            for item, score in zip(self.items.ids[index].tolist(), scores, strict=True)
        ]


def identity_recipe(model: Model) -> Recipe:
    """States kept as they are, fp32."""
    empty = model.backbone.empty()
    one = History(np.zeros(1, np.int64), np.zeros(1, np.int64))
    five = History(np.zeros(5, np.int64), np.arange(5))
    probes = [empty, *model.backbone.prefill([one, five])]
    return Recipe.fit("identity()", probes, model=model.backbone.fingerprint())
