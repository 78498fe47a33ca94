"""The object that serves: observe events, recommend, rank, forget.

The history log is the truth, the state is derived from it. Every call first brings the state up to
the log (see `served`), so a state can be lost, evicted or outdated without losing anything. Several
versions can stand ready on one store, each with states of its own; one of them serves.

Two rules. Events older than the newest one are logged as they are, and the model sees them at the
newest time (its history never goes back). Items that the model does not know are logged and
skipped by the model, until a model that knows them rebuilds the state.
"""

import collections
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from gistrec.backbones import Backbone
from gistrec.candidates import Told, best_first, known_index
from gistrec.dataset import Vocabulary
from gistrec.errors import BusyError, ConfigError, ConflictError, DataError
from gistrec.history_log import HistoryLog
from gistrec.rebuilds import DEFAULT_LIMITS, RebuildLimits, Rebuilds
from gistrec.recipe import Recipe
from gistrec.served import (
    Growing,
    ItemId,
    Scored,
    Served,
    Watch,
    identity_recipe,
    scored,
    version_in,
)
from gistrec.state import UserState
from gistrec.state_cache import CacheStats, StateCache
from gistrec.store_settings import StoreSettings
from gistrec.stores import StateStore, open_store
from gistrec.sweep import sweeping
from gistrec.train import Model

__all__ = ["Event", "Observed", "Recommender", "Scored", "Told", "UserReport", "identity_recipe"]

log = logging.getLogger(__name__)


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


class Recommender:
    """A model, a recipe and a store, as one service; or several versions, of which one serves.

    Args:
        model: What scores.
        recipe: How a state becomes bytes.
        store: Where they are kept; closed with the recommender.
        standby: Further models with their recipes. The one that the store's settings name serves
            (`gistrec state switch`), within a second of the change; the first one, if they name
            none of these.
        rebuilds: How many long rebuilds it takes on.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        store: StateStore,
        *,
        standby: Sequence[tuple[Model, Recipe]] = (),
        rebuilds: RebuildLimits = DEFAULT_LIMITS,
    ) -> None:
        self.log = HistoryLog(store)
        self.settings = StoreSettings(store)
        self.rebuilds = Rebuilds(rebuilds)
        self.store = store
        self._watch = Watch()
        self._closing = contextlib.ExitStack()
        self._closing.callback(store.close)
        made = [
            Served(*pair, store, self.settings, self._watch, self.rebuilds)
            for pair in ((model, recipe), *standby)
        ]
        self.versions = {served.version: served for served in made}
        """By name, the first one first."""
        self._unknown = ""

    @property
    def served(self) -> Served:
        """The version that answers now."""
        first = next(iter(self.versions.values()))
        if len(self.versions) == 1:
            return first
        asked = self.settings.recent().serving
        if asked and asked not in self.versions and asked != self._unknown:
            self._unknown = asked
            log.warning(
                "the store asks for version %s, this process has %s: the first one serves",
                asked,
                ", ".join(self.versions),
            )
        return self.versions.get(asked, first)

    @property
    def model(self) -> Model:
        """What scores now."""
        return self.served.model

    @property
    def backbone(self) -> Backbone:
        """Of the model that scores now."""
        return self.served.backbone

    @property
    def items(self) -> Vocabulary:
        """Of the model that scores now."""
        return self.served.items

    @property
    def recipe(self) -> Recipe:
        """How states become bytes now."""
        return self.served.recipe

    @property
    def states(self) -> StateCache:
        """Of the version that serves now."""
        return self.served.states

    @property
    def scheme(self) -> str:
        """What the model that scores now was trained to predict."""
        return self.served.scheme

    @property
    def empty(self) -> UserState:
        """What is kept of a user without events."""
        return self.served.empty

    @property
    def counts(self) -> collections.Counter[str]:
        """How often a state was fresh, replayed, missing, stale or corrupt, or a save clashed.

        Or was touched (written anew because it is old and in use), or refused because its rebuild
        was long and too many others were under way.
        """
        return self._watch.counts

    @property
    def on_stage(self) -> Callable[[str, float], None]:
        """Called after every stage of a request with its name and seconds, where the work is done.

        `load`: states and histories are read; `decode`: bytes to a state; `compute`: the model;
        `store`: events and states are encoded and written. One request may go through a stage
        several times; what is left over is the caller's.
        """
        return self._watch.on_stage

    @on_stage.setter
    def on_stage(self, call: Callable[[str, float], None]) -> None:
        self._watch.on_stage = call

    @classmethod
    def load(
        cls,
        *paths: str | Path,
        store: str = "ram://",
        titles: Path | None = None,
        sweep_every_s: float | None = None,
        rebuilds: RebuildLimits = DEFAULT_LIMITS,
    ) -> Self:
        """Open folders that `save`, `gistrec train` or `gistrec demo` wrote, on one store.

        A folder without a recipe keeps states uncompressed.

        Args:
            paths: The first one serves, unless the store names another.
            store: Its URL.
            titles: Parquet or CSV file with `item_id` and `title`, for models that lack them.
            sweep_every_s: Apply the store's limits that often, in a thread, until it is closed;
                of several processes with one store, one at a time.
            rebuilds: How many long rebuilds it takes on.

        Raises:
            DataError: not a model folder. StoreUnavailableError: the store can't be opened.
        """
        if not paths:
            raise ConfigError("no model folder given: give one, or several of which one serves")
        (model, recipe), *others = [version_in(Path(p), titles) for p in paths]
        made = cls(model, recipe, open_store(store), standby=others, rebuilds=rebuilds)
        if sweep_every_s is not None:
            made._closing.enter_context(sweeping(made.store, every_s=sweep_every_s))
        return made

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
        served = self.served
        _check(events, served.items)
        actions = [e.action for e in events]
        kept = None if all(a is None for a in actions) else [a or 0 for a in actions]
        items, times = [e.item_id for e in events], [e.timestamp for e in events]
        # a state that is up to the log is written with the events, in one go
        growing, begun = Growing(served, user_id), time.perf_counter()
        logged = self.log.append_beside(
            growing,
            user_id,
            items,
            times,
            kept,
            event_ids=[e.event_id for e in events],
            expected_length=expected_length,
        )
        if logged.beside:
            self.on_stage("compute", growing.seconds)
        self.on_stage("store", time.perf_counter() - begun - growing.seconds)
        if logged.beside:
            self.counts["replayed"] += 1
            return Observed(logged.length, growing.state_bytes, logged.nbytes)
        try:
            state_bytes = served.current(user_id, wait=False).stored_bytes
        except (ConflictError, BusyError):
            # the events are safe, and the next request that reads brings the state up
            state_bytes = served.states.stored_bytes(user_id)
        return Observed(logged.length, state_bytes, logged.nbytes)

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
            BusyError: the state must be rebuilt, and too many others are.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, given {k}")
        served = self.served
        if exclude_seen is None:
            exclude_seen = served.scheme == "leave_last_out"
        best = served.top_k(user_id, k, exclude_seen=exclude_seen, at=at)
        return scored(served.items, best.item_index, best.score.tolist())

    def rank(
        self,
        user_id: str,
        item_ids: Sequence[ItemId],
        *,
        at: int | None = None,
        told: Told | None = None,
    ) -> list[Scored]:
        """Candidates in the order of their scores, best first; equal scores keep their order.

        A ranker may be told more of a request, answers with the probabilities of its labels, and
        scores items that it does not know, too (see `candidates`).

        Raises:
            DataError: a candidate is not in the catalogue of a model that is no ranker, or the
                model can't be told this.
            BusyError: the state must be rebuilt, and too many others are.
        """
        if not item_ids:
            return []
        served, told = self.served, told or Told()
        index = known_index(served, item_ids, told)
        return best_first(served, user_id, item_ids, index, told=told, at=at)

    def sizes(self, user_id: str) -> Observed:
        """A user's events and bytes, without reading the state (0 if there is none)."""
        return Observed(
            self.log.length(user_id), self.states.stored_bytes(user_id), self.log.nbytes(user_id)
        )

    def forget(self, user_id: str) -> bool:
        """Erase a user's log and the states of all versions; whether there was anything."""
        states = self.states
        had_state = states.forget(user_id)
        had_log = self.log.forget(user_id)
        # a request that was under way may have saved a state in between
        return states.forget(user_id) or had_log or had_state

    def describe(self, user_id: str) -> UserReport | None:
        """What is stored about a user, or None."""
        length = self.log.length(user_id)
        if not length:
            return None
        served = self.served
        current = served.current(user_id)
        return UserReport(
            user_id=user_id,
            length=length,
            covered=current.state.length,
            slots=current.state.num_slots,
            state_bytes=current.stored_bytes,
            log_bytes=self.log.nbytes(user_id),
            model=current.state.model,
            codec=served.recipe.manifest.codec,
        )

    def stats(self) -> CacheStats:
        """Users and bytes of the stored states of the version that serves."""
        return self.states.stats()

    def close(self) -> None:
        """Close the store."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _check(events: Sequence[Event], items: Vocabulary) -> None:
    kind = int if items.ids.dtype != object else str
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
