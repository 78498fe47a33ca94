"""One version at work: a model and its recipe, and how a user's state of it is kept up to the log.

Behind the log, the tail is replayed; missing, damaged or not of this version, the state is rebuilt.
"""

import collections
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
from torch import Tensor

from gistrec.backbones import Ranking
from gistrec.dataset import History, Ints, Vocabulary
from gistrec.errors import (
    BusyError,
    ConflictError,
    CorruptStateError,
    FormatVersionError,
    StaleStateError,
)
from gistrec.events import read_titles
from gistrec.history_log import HistoryLog, head_key, head_of
from gistrec.log_blocks import Logged, LogHead
from gistrec.rebuilds import Rebuilds
from gistrec.recipe import Recipe
from gistrec.state_cache import WHOLE_BYTES, Held, StateCache, Stored
from gistrec.store_settings import StoreSettings
from gistrec.stores import Entry, Put, StateStore
from gistrec.train import Model

P = ParamSpec("P")
T = TypeVar("T")
ItemId = int | str


def unwatched(stage: str, seconds: float) -> None:
    """Nobody wants to know how long a stage took; then nothing is timed."""


class Scored(NamedTuple):
    """An item and its score, best first in lists."""

    item_id: ItemId
    score: float
    """Of a ranker, the first label's log odds."""
    title: str
    labels: dict[str, float] | None = None
    """Of a ranker that was given candidates: how probable each label is."""
    known: bool = True
    """Whether the model knows the item."""


class Watch:
    """What is counted and timed while requests are answered, of all versions of a process."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.on_stage: Callable[[str, float], None] = unwatched

    def timed(self, stage: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A call's result; its seconds are told to `on_stage`."""
        if self.on_stage is unwatched:
            return call(*args, **kwargs)
        begun = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            self.on_stage(stage, time.perf_counter() - begun)


class Found(NamedTuple):
    """What the store holds of a user, as of one moment."""

    head: LogHead | None
    """Of the history."""
    stored: Stored
    """The state."""

    @property
    def length(self) -> int:
        """Events of the history."""
        return self.head.length if self.head else 0

    @property
    def as_stored(self) -> tuple[bytes, bytes | None, int] | None:
        """The state, its block and the length, if there is a state."""
        entry, block = self.stored
        return None if entry is None else (entry.blob, block and block.blob, self.length)


class Growing:
    """A state that is grown and written together with the events that it gains.

    Args:
        served: Whose version it is.
        user_id: Whose state.
    """

    def __init__(self, served: "Served", user_id: str) -> None:
        self.keys: Sequence[str] = served.states.keys(user_id)
        self.state_bytes = 0
        """Of the state that was to be written last."""
        self.seconds = 0.0
        """What growing took."""
        self._served, self._user_id = served, user_id

    def puts(self, entries: Sequence[Entry | None], length: int, events: Logged) -> list[Put]:
        """The state's writes; none where it can't be read as it stands, or does not cover `length`.

        It then is left behind the log, and `Served.current` brings it up.
        """
        begun = time.perf_counter()
        served, stored = self._served, Stored(entries[0], entries[1])
        puts = []
        if served.direct is not None and stored.entry is not None:
            counted = len(events.timestamp)
            new = served.history(events)
            puts = served.states.grown(
                served.direct, self._user_id, stored, length, new, counted=counted
            )
            kept = 0 if len(puts) > 1 or stored.block is None else len(stored.block.blob)
            self.state_bytes = kept + sum(len(put.blob) for put in puts if put.blob is not None)
        self.seconds += time.perf_counter() - begun
        return puts


class Served:
    """A version, and its states on a store.

    Args:
        model: What scores.
        recipe: How a state becomes bytes.
        store: Where they are kept.
        settings: Of the store.
        watch: Who counts.
        rebuilds: Who says how many long rebuilds run at once.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        store: StateStore,
        settings: StoreSettings,
        watch: Watch,
        rebuilds: Rebuilds,
    ) -> None:
        self.model = model
        self.backbone = model.backbone
        self.items = model.items
        self.recipe = recipe
        self.scheme = model.training.scheme
        self.log = HistoryLog(store)
        self.states = StateCache(recipe, store, settings)
        self.version = self.states.version
        self._settings = settings
        self._empty = recipe.chain.encode(self.backbone.empty(hints=True))
        self.empty = recipe.chain.decode(self._empty)
        """What is kept of a user without events: no hints but those that the recipe needs."""
        self.direct = recipe.direct(self.backbone, whole_bytes=WHOLE_BYTES)
        """Reads and grows states as they are stored; None where that is not compiled."""
        self._store = store
        self.timed = watch.timed
        self._watch = watch
        self._rebuilds = rebuilds

    def history(self, logged: Logged, *, not_before: int = 0) -> History:
        """Logged events as the model sees them (see `history_of`)."""
        return history_of(logged, self.items, not_before=not_before)

    def find(self, user_id: str) -> Found:
        """What there is of a user, in one read.

        Raises:
            CorruptStateError: the head of the history is damaged.
        """
        keys = [head_key(user_id), *self.states.keys(user_id)]
        head, entry, block = self.timed("load", self._store.get_many, keys)
        return Found(head_of(user_id, head), Stored(entry, block))

    def top_k(self, user_id: str, k: int, *, exclude_seen: bool, at: int | None = None) -> Ranking:
        """The user's best items, from the state as it is stored where that is up to the log.

        Raises:
            What `current` does.
        """
        found, timed = self.find(user_id), self.timed
        seen = np.zeros(0, np.int64)
        if exclude_seen and found.head:
            logged = timed("load", self.log.read, user_id, head=found.head)
            index = self.items.indices(logged.item_id)
            seen = index[index >= 0]
        best = None
        if self.direct and (stored := found.as_stored):
            best = timed("compute", self.direct.top_k, *stored, k, exclude=seen, at=at)
        if best is not None:
            self._noted_fresh(user_id, found.stored)
            return best
        state, top_k = self.current(user_id).state, self.backbone.top_k
        return timed("compute", top_k, [state], k, exclude=[seen], at=[at])[0]

    def score(self, user_id: str, item_N: Tensor, *, at: int | None = None) -> Tensor:
        """Scores of candidates, in the same way.

        Raises:
            What `current` does.
        """
        found, timed = self.find(user_id), self.timed
        score_N = None
        if self.direct and (stored := found.as_stored):
            score_N = timed("compute", self.direct.score, *stored, item_N, at=at)
        if score_N is not None:
            self._noted_fresh(user_id, found.stored)
            return score_N
        state = self.current(user_id).state
        return timed("compute", self.backbone.score, [state], item_N, at=[at])[0]

    def _noted_fresh(self, user_id: str, stored: Stored) -> None:
        self._watch.counts["fresh"] += 1
        if self.states.touch(user_id, stored):
            self._watch.counts["touched"] += 1

    def current(self, user_id: str, *, wait: bool = True) -> Held:
        """The user's state, up to the log; saved if it was not.

        Args:
            user_id: Whose.
            wait: Whether to wait for others who are rebuilt first.

        Raises:
            BusyError: it must be rebuilt, and too many others are.
            ConflictError: others wrote it again and again.
        """
        for _ in range(5):
            try:
                return self._caught_up(user_id, wait)
            except ConflictError:
                # somebody else saved this user's state in between: go on from theirs
                self._watch.counts["conflict"] += 1
        raise ConflictError(
            f"user {user_id!r}: five writers in a row were faster: route a user's events to one "
            "server, or try again"
        )

    def _caught_up(self, user_id: str, wait: bool) -> Held:
        counts, timed = self._watch.counts, self.timed
        there = self.find(user_id)
        length, stored, held = there.length, there.stored, None
        try:
            found = timed("decode", self.states.decode, user_id, stored)
        except (StaleStateError, CorruptStateError, FormatVersionError) as error:
            counts["corrupt" if isinstance(error, CorruptStateError) else "stale"] += 1
        else:
            if found is not None and found.state.length <= length:
                held = found
                if held.state.length == length:
                    self._noted_fresh(user_id, stored)
                    return held
                counts["replayed"] += 1
            elif found is not None:  # the log was erased and begun anew under this state
                counts["stale"] += 1
            elif length:
                counts["missing"] += 1
        held = held or Held(self.empty, stored.version, 0, self._empty)
        if not length:
            return held
        try:
            with self._rebuilds.turn(
                length - held.state.length, model=self._place_by_age(), wait=wait
            ):
                return self._replayed(user_id, held, there.head)
        except BusyError:
            counts["refused"] += 1
            raise

    def _place_by_age(self) -> int:
        """Among the versions that the store knows, in the order in which it came to know them."""
        known = list(self._settings.recent().versions)
        return known.index(self.version) if self.version in known else len(known)

    def _replayed(self, user_id: str, held: Held, head: LogHead | None) -> Held:
        timed = self.timed
        tail = held.state.tensors.get("tail.time")
        newest = int(tail[-1]) if tail is not None and len(tail) else 0
        logged = timed("load", self.log.read, user_id, held.state.length, head=head)
        if not len(logged.timestamp):  # the user was forgotten a moment ago
            return held
        new = self.history(logged, not_before=newest)
        state = timed("compute", self.backbone.append, [held.state], [new])[0]
        # counted as read: since the length was asked for, more may have been logged
        state = state.replace(state.tensors, length=held.state.length + len(logged.timestamp))
        # as the store will give it back, so that a second request equals the first
        saved = timed("store", self.states.save, user_id, state, grown_from=held)
        if not held.version:
            self.drop_forgotten({user_id: state.length})
        return saved

    def drop_forgotten(self, covered: Mapping[str, int]) -> None:
        """Remove states that were saved while their users were being forgotten.

        To be called with the users who had no state before, after it was saved. Whoever forgets
        removes states after the history, so one of both sees what the other did. (A state that was
        there before is safe: forgetting it changes its version, and saving clashes.)

        Args:
            covered: How many events each of the saved states covers.
        """
        for user_id, length in zip(covered, self.log.lengths(list(covered)), strict=True):
            if length is not None and length < covered[user_id]:
                self.states.forget(user_id)


def history_of(logged: Logged, items: Vocabulary, *, not_before: int = 0) -> History:
    """Logged events as a model sees them: known items, times that never go back."""
    index = items.indices(logged.item_id)
    times = np.maximum.accumulate(np.concatenate([[not_before], logged.timestamp]))[1:]
    known = index >= 0
    action = None if logged.action is None else logged.action[known]
    return History(index[known], times[known], action)


def version_in(folder: Path, titles: Path | None = None) -> tuple[Model, Recipe]:
    """The model and the recipe of a folder; without a recipe, one that keeps states as they are.

    Args:
        folder: As `gistrec train` writes it.
        titles: Parquet or CSV file with `item_id` and `title`, before the titles of the folder.

    Raises:
        DataError: not a model folder, or no such file of titles. StaleStateError: the recipe is
            another model's.
    """
    model = Model.load(folder)
    if titles is not None:
        known = {**model.items.titles, **read_titles(titles, model.items.ids)}
        model = replace(model, items=replace(model.items, titles=known))
    recipe_folder = folder / "recipe"
    if not recipe_folder.exists():
        return model, identity_recipe(model)
    recipe = Recipe.load(recipe_folder)
    if recipe.manifest.model != model.backbone.fingerprint():
        raise StaleStateError(
            f"{recipe_folder} was fitted for model {recipe.manifest.model}, not for "
            f"{model.backbone.fingerprint()}: fit it again with `gistrec state fit`"
        )
    return model, recipe


def identity_recipe(model: Model) -> Recipe:
    """States kept as they are, fp32."""
    empty = model.backbone.empty()
    one = History(np.zeros(1, np.int64), np.zeros(1, np.int64))
    five = History(np.zeros(5, np.int64), np.arange(5))
    probes = [empty, *model.backbone.prefill([one, five])]
    return Recipe.fit("identity()", probes, model=model.backbone.fingerprint())


def scored(items: Vocabulary, index: Ints, scores: Sequence[float]) -> list[Scored]:
    """Items with their names."""
    return [
        Scored(item, score, items.titles.get(item, str(item)))
        for item, score in zip(items.ids[index].tolist(), scores, strict=True)
    ]
