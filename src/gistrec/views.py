"""One user seen closely: the history, what a recipe keeps of it, and what it then recommends.

Either the state as it is stored, or what another version, or another chain of codecs, would keep
of the same history; for that nothing is written.
"""

import itertools
import threading
from typing import NamedTuple

from gistrec import codecs
from gistrec.codecs import SLOTS, Chain
from gistrec.dataset import Ints
from gistrec.errors import BusyError, ConfigError, DataError
from gistrec.fates import Run, fates
from gistrec.log_blocks import Logged
from gistrec.recipe import Recipe
from gistrec.recommender import Recommender
from gistrec.served import Scored, Served, scored
from gistrec.state import UserState
from gistrec.wire import split_bytes

_FIT_USERS = 32
_FIT_EVENTS = 256
"""A recipe that is only looked at is fitted on the newest events of so many users."""
_RECIPES = 8
"""So many of them are kept."""

_LAST = 1 << 30
"""Who looks at a long history comes after all who wait for a rebuild of theirs."""


class Kept(NamedTuple):
    """What a recipe keeps of a user."""

    version: str
    backbone: str
    codec: str
    stored: bool
    """Whether this is what the store holds, or what it would hold."""
    slots: int
    state_bytes: int
    parts: dict[str, int]
    """Bytes by kind, before byte codecs."""
    fates: list[Run]
    """Of all events, oldest first."""
    items: list[Scored]
    """What is recommended."""


class History(NamedTuple):
    """A part of a user's log."""

    length: int
    """Events of the whole log."""
    log_bytes: int
    start: int
    """Place of the first event of the part."""
    events: Logged
    titles: list[str]


class Views:
    """Looks at users through a recommender.

    Args:
        recommender: Whose users.
    """

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._fitted: dict[tuple[str, str], Recipe] = {}
        self._fitting = threading.Lock()

    def history(self, user_id: str, *, newest: int, before: int | None = None) -> History:
        """The newest events of a user, or those before a place.

        Args:
            user_id: Whose.
            newest: How many at most.
            before: Place in the history at which the part ends; None: its end.
        """
        recommender = self._recommender
        length = recommender.log.length(user_id)
        end = length if before is None else min(before, length)
        start = max(end - newest, 0)
        events = recommender.log.read(user_id, start).part(0, end - start)
        titles = recommender.items.titles
        named = [titles.get(item, str(item)) for item in events.item_id.tolist()]
        return History(length, recommender.log.nbytes(user_id), start, events, named)

    def stored(self, user_id: str, *, k: int) -> Kept:
        """What the version that serves keeps of a user; its state is brought up to the log.

        Args:
            user_id: Whose.
            k: Length of the list.
        """
        served = self._recommender.served
        held = served.current(user_id)
        logged = self._recommender.log.read(user_id).part(0, held.state.length)
        kept = self._kept(served, served.recipe, logged, held.encoded, k)
        return kept._replace(stored=True, state_bytes=held.stored_bytes)

    def tried(
        self, user_id: str, *, k: int, version: str | None = None, codec: str | None = None
    ) -> Kept:
        """What another version, or other codecs, would keep of a user if it were encoded now.

        Args:
            user_id: Whose.
            k: Length of the list.
            version: One that the recommender was given; None: the one that serves.
            codec: Spec of a chain; None: the version's own. If it learns anything, it does so from
                the histories of users of this store.

        Raises:
            ConfigError: there is no such version. CodecError: a wrong chain.
            BusyError: another recipe is being fitted.
        """
        versions = self._recommender.versions
        if version is not None and version not in versions:
            raise ConfigError(
                f"this process was not given version {version!r}, it has {', '.join(versions)}: "
                "start it with that --model as well"
            )
        served = self._recommender.served if version is None else versions[version]
        recipe = served.recipe if codec is None else self._recipe(served, codecs.parse(codec))
        logged = self._recommender.log.read(user_id)
        return self._kept(served, recipe, logged, None, k)

    def _kept(
        self,
        served: Served,
        recipe: Recipe,
        logged: Logged,
        stored: UserState | None,
        k: int,
    ) -> Kept:
        chooses = any(codec.stage == SLOTS for codec in recipe.chain.codecs)
        if stored is not None and not chooses:  # every slot of the model is there
            encoded = stored
            full = decoded = recipe.chain.decode(encoded)
        else:
            full = self._prefilled(served, logged)
            encoded = stored or recipe.chain.encode(full)
            decoded = recipe.chain.decode(encoded)
        index = served.items.indices(logged.item_id)
        seen: Ints = index[index >= 0]
        if served.scheme != "leave_last_out":
            seen = seen[:0]
        (best,) = served.backbone.top_k([decoded], k, exclude=[seen], at=[None])
        return Kept(
            version=served.version,
            backbone=str(served.backbone.spec),
            codec=str(recipe.chain),
            stored=False,
            slots=decoded.num_slots,
            state_bytes=len(recipe.pack(encoded)) if len(index) else 0,
            parts=split_bytes(encoded, recipe.manifest),
            fates=fates(decoded, full, recipe.chain, index >= 0),
            items=scored(served.items, best.item_index, best.score.tolist()),
        )

    def _prefilled(self, served: Served, logged: Logged) -> UserState:
        history = served.history(logged)
        with self._recommender.rebuilds.turn(len(history), model=_LAST):
            return served.backbone.prefill([history], hints=True)[0]

    def _recipe(self, served: Served, chain: Chain) -> Recipe:
        """The chain fitted to users of the store, once."""
        key = (served.version, str(chain))
        if (found := self._fitted.get(key)) is not None:
            return found
        if not self._fitting.acquire(blocking=False):
            raise BusyError(
                "another recipe is being fitted for somebody: try again in a few seconds",
                retry_after_s=3.0,
            )
        try:
            model = served.backbone.fingerprint()
            recipe = Recipe.fit(chain, self._samples(served), model=model)
        finally:
            self._fitting.release()
        while len(self._fitted) >= _RECIPES:
            self._fitted.pop(next(iter(self._fitted)))
        self._fitted[key] = recipe
        return recipe

    def _samples(self, served: Served) -> list[UserState]:
        log = self._recommender.log
        some = itertools.islice(log.users(), _FIT_USERS)
        histories = [served.history(log.read(user))[-_FIT_EVENTS:] for user in some]
        longest = max(histories, key=len, default=None)
        if not longest:
            raise DataError(
                "no user of this store has events of items that the model knows, so no recipe can "
                "be fitted: append events first"
            )
        short = [longest[:n] for n in (0, 1, 2, 3, 8)]
        return served.backbone.prefill([*histories, *short], hints=True)
