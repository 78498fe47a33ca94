"""One ranker on its impressions, measured: accuracy and bytes of a recipe, offline and online.

Shapes: N impressions, U users, T labels, V items.

`RankSubject` holds what all recipes share: the uncompressed answers, the users who are answered
from states, and the states that recipes are fitted on.
"""

import dataclasses
from functools import cached_property

import numpy as np

from gistrec import measure, ranking
from gistrec.codecs import Chain
from gistrec.dataset import History, Ints
from gistrec.errors import ConfigError, DataError
from gistrec.impressions import Impressions, Part
from gistrec.measure import TIMED_USERS, Timed
from gistrec.metrics import Floats
from gistrec.ranking import Replayed
from gistrec.recipe import Recipe
from gistrec.state import UserState
from gistrec.train import Model

_KINDS_PER_STATE = 4096
_STRETCH = 32
"""Events of a stretch that is there for one item."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankRules:
    """How to measure a ranker. Samples are drawn with a fixed seed, so all meet the same users."""

    part: Part = "test"
    """Which impressions are answered."""
    users: int | None = 200
    """Users answered from states, with all their impressions of the part; None for all. Without
    states, all are answered in any case."""
    online: bool = True
    """Whether these users are replayed as well, encoded after every event."""
    fit_users: int = 256
    """Users whose states a recipe is fitted on; not those evaluated, if there are enough others."""
    fit_kinds: int = 4000
    """Where rows depend on what came before: so many pairs of item and action at most that none of
    these users has had are learned from stretches of others' histories, frequent ones first. In one
    layer of target attention they do not, and all pairs of an item and an action are learned."""
    probe_users: int = 48
    """Users whose states a budget is measured on."""
    requests: int = 20
    """Requests of each kind that are timed; 0 for none."""
    store: str = "ram://"
    """Where the timed states live."""

    def __post_init__(self) -> None:
        least = {"users": 1, "fit_users": 1, "fit_kinds": 0, "probe_users": 1, "requests": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name} must be at least {low}, given {value}")


class RankSubject:
    """A ranker and the impressions it is measured on.

    Args:
        model: A ranker.
        impressions: What it was trained on.
        rules: How to measure.
    """

    def __init__(self, model: Model, impressions: Impressions, rules: RankRules) -> None:
        if not np.array_equal(model.items.ids, impressions.items.ids):
            raise DataError(
                f"the model's {len(model.items)} items are not those {impressions.num_items} of "
                "the impressions: measure on what the model was trained on"
            )
        if model.labels != impressions.labels:
            raise DataError(
                f"the model's labels are {', '.join(model.labels) or 'none (it is no ranker)'}, "
                f"those of the impressions {', '.join(impressions.labels)}: give the same data"
            )
        self.model, self.impressions, self.rules = model, impressions, rules
        self.backbone = model.backbone.eval()
        self.numbers = impressions.part(rules.part)
        """Impressions answered from raw histories, (N,)."""

    @cached_property
    def full_NT(self) -> Floats:
        """The uncompressed model's answers to all of them, each from the whole history."""
        longest = int(np.diff(self.impressions.dataset.offsets).max())
        return ranking.logits(
            self.backbone, self.impressions, self.numbers, max_len=max(longest, 2)
        )

    @cached_property
    def sample(self) -> Ints:
        """Impressions answered from states: all of some users', by place in `numbers`."""
        user = self.impressions.user[self.numbers]
        users = np.unique(user)
        if self.rules.users is not None and self.rules.users < len(users):
            users = np.random.default_rng(2).choice(users, self.rules.users, replace=False)
        return np.flatnonzero(np.isin(user, users))

    def offline(self, recipe: Recipe) -> Replayed:
        """Every state made anew, encoded once."""
        asked = self.numbers[self.sample]
        return ranking.encoded_once(self.backbone, self.impressions, asked, recipe)

    def online(self, recipe: Recipe) -> Replayed:
        """Encoded after every event, as a server does."""
        return ranking.replay(self.backbone, self.impressions, self.numbers[self.sample], recipe)

    @cached_property
    def histories(self) -> list[History]:
        """Of the sample's users, up to their last impression."""
        asked = self.numbers[self.sample]
        last = np.flatnonzero(np.append(np.diff(self.impressions.user[asked]), 1))
        return [self.impressions.history(int(asked[n])) for n in last]

    @cached_property
    def log_bytes(self) -> Ints:
        """What the history log stores of each of them, (U,), actions included."""
        return measure.log_bytes(self.impressions.items, self.histories)

    # ---- recipes ----

    @cached_property
    def _known(self) -> list[tuple[int, int]]:
        """Rows of each user's history when the part begins; those evaluated come last."""
        data = self.impressions.dataset
        begin = self.impressions.timestamp[self.numbers].min()
        ends = [
            int(a + np.searchsorted(data.timestamp[a:b], begin))
            for a, b in zip(data.offsets[:-1], data.offsets[1:], strict=True)
        ]
        asked = np.unique(self.impressions.user[self.numbers[self.sample]])
        order = np.random.default_rng(1).permutation(data.num_users)
        order = np.concatenate([order[~np.isin(order, asked)], order[np.isin(order, asked)]])
        found = [
            (int(data.offsets[u]), ends[u]) for u in order.tolist() if ends[u] > data.offsets[u]
        ]
        if not found:
            raise DataError(f"no user has a history before the {self.rules.part} part begins")
        return found

    @cached_property
    def _short_states(self) -> list[UserState]:
        """States of the first 0, 1, ... events: a served state starts empty."""
        first, end = max(self._known, key=lambda rows: rows[1] - rows[0])
        rows = self.impressions.dataset.rows
        ends = [min(first + n, end) for n in (0, 1, 2, 3, 8)]
        return self.backbone.prefill([rows(first, end) for end in ends], hints=True)

    @cached_property
    def fit_states(self) -> list[UserState]:
        """States of some users, and very short ones."""
        rows = self.impressions.dataset.rows
        some = [rows(*r) for r in self._known[: self.rules.fit_users]]
        return self.backbone.prefill(some, hints=True) + self._short_states

    @cached_property
    def kind_states(self) -> list[UserState]:
        """States that show what an item's rows are like with an action, for those not yet seen."""
        if self._short_states[-1].layers() == [0]:
            return self.backbone.prefill(self._all_kinds(), hints=True)
        return self.backbone.prefill(self._stretches(), hints=True)

    def _all_kinds(self) -> list[History]:
        """Every item with every action: what one layer writes depends on nothing else."""
        data = self.impressions.dataset
        actions = np.array([-1])
        if data.action is not None:
            actions = np.union1d(actions, data.action)
        item, action = (a.ravel() for a in np.meshgrid(np.arange(data.num_items), actions))
        time = np.zeros_like(item)
        whole = History(item, time, action)
        return [whole[n : n + _KINDS_PER_STATE] for n in range(0, len(whole), _KINDS_PER_STATE)]

    def _stretches(self) -> list[History]:
        """Of others' histories, that end a little behind an item and action not seen yet."""
        data = self.impressions.dataset
        action = np.zeros_like(data.item_index) if data.action is None else data.action
        kind = data.item_index + data.num_items * action
        start = np.full(len(kind), -1)  # of each row's user, if the row is known by then
        for first, end in self._known:
            start[first:end] = first
        of_fit = np.isin(start, [first for first, _ in self._known[: self.rules.fit_users]])
        rows = np.flatnonzero((start >= 0) & ~np.isin(kind, kind[of_fit]))
        _, first_of, count = np.unique(kind[rows], return_index=True, return_counts=True)
        rows = rows[first_of[np.argsort(-count, kind="stable")[: self.rules.fit_kinds]]]
        starts = np.maximum(start[rows], rows - _STRETCH + 2)
        # with the event behind it, since backbones absorb an event when the next one comes
        ends = [r + 1 + int((start[r + 1 : r + 2] == start[r]).any()) for r in rows.tolist()]
        return [data.rows(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]

    def fit(self, chain: Chain) -> Recipe:
        """The recipe, fitted."""
        states = self.fit_states + (self.kind_states if "item" in chain.needs else [])
        return Recipe.fit(chain, states, model=self.backbone.fingerprint())

    def at_budget(self, chain: Chain, budget_bytes: int) -> Chain:
        """The chain with its dial turned so that a state takes at most so many bytes on average.

        Raises:
            BudgetError: no setting fits.
        """
        return measure.at_budget(
            chain,
            budget_bytes,
            self._probe_states,
            self._short_states,
            model=self.backbone.fingerprint(),
        )

    @cached_property
    def _probe_states(self) -> list[UserState]:
        """Of every n-th user of the sample by history length, shuffled."""
        order = np.argsort([len(h) for h in self.histories], kind="stable")
        count = min(self.rules.probe_users, len(order))
        chosen = order[((np.arange(count) + 0.5) * len(order) / count).astype(int)]
        chosen = np.random.default_rng(5).permutation(chosen)
        return self.backbone.prefill([self.histories[n] for n in chosen], hints=True)

    # ---- requests ----

    @cached_property
    def timed(self) -> Timed:
        """Users of the sample, as requests of whom are timed."""
        some = np.random.default_rng(3).permutation(len(self.histories))[:TIMED_USERS]
        histories = [self.histories[n] for n in some if len(self.histories[n])]
        return Timed(
            self.model,
            histories,
            self.backbone.prefill(histories, hints=True),
            [int(h.timestamp[-1]) + 1 for h in histories],
            [int(h.item_index[-1]) for h in histories],
            self.rules.requests,
            self.rules.store,
        )


def fit_recipe(model: Model, impressions: Impressions, chain: Chain, *, users: int = 256) -> Recipe:
    """A recipe for a ranker, fitted on the states of some users, as they were before the test.

    Args:
        model: Who writes the states.
        impressions: What it was trained on.
        chain: The codecs.
        users: How many, drawn at random (always the same ones).
    """
    return RankSubject(model, impressions, RankRules(fit_users=users)).fit(chain)
