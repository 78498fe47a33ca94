"""Several users in one call: each gets an answer, or an error of its own.

Ranked users' states are read one by one, and the model is called once for many of them: hstu takes
a third less processor time for 64 users and 100 candidates each. Appends run in a few threads, so
that they share a store's flushes (lmdb: a third of the time) or are under way together (redis).
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from gistrec.backbones import Backbone
from gistrec.candidates import Told
from gistrec.dataset import Ints, Vocabulary
from gistrec.recommender import Event, Observed, Recommender
from gistrec.served import ItemId, Scored, Served, scored
from gistrec.state import UserState

_USERS_PER_CALL = 32
"""So many states are decoded at the same time."""
_SCORES_PER_CALL = 1 << 18
"""Users times the candidates of all of them: what a call computes, wanted or not."""
T = TypeVar("T")


class NewEvents(NamedTuple):
    """Events to append to a user's history."""

    user_id: str
    events: Sequence[Event]
    expected_length: int | None = None


class Candidates(NamedTuple):
    """Items to put in order for a user."""

    user_id: str
    item_ids: Sequence[ItemId]
    at: int | None = None
    told: Told | None = None
    """Of a ranker's request."""


class _Asked(NamedTuple):
    """What a call of the model needs of a request."""

    place: int
    items: Ints
    state: UserState
    at: int | None


def observe_many(
    recommender: Recommender, requests: Sequence[NewEvents], threads: Executor
) -> list[Observed | Exception]:
    """`Recommender.observe` for every request; a failed one leaves the others alone.

    Args:
        recommender: Who observes.
        requests: Of different users: nothing is said about the order of one user's requests.
        threads: What they run in.
    """

    def observe(request: NewEvents) -> Observed | Exception:
        user_id, events, expected = request
        return _tried(lambda: recommender.observe(user_id, events, expected_length=expected))

    return list(threads.map(observe, requests))


def rank_many(
    recommender: Recommender, requests: Sequence[Candidates]
) -> list[list[Scored] | Exception]:
    """`Recommender.rank` for every request; a failed one leaves the others alone."""
    if recommender.served.model.labels or any(any(request.told or ()) for request in requests):
        # a ranker looks at one user's candidates at a time anyway
        return [_tried(functools.partial(_rank, recommender, request)) for request in requests]
    answers: list[list[Scored] | Exception] = [[] for _ in requests]
    served = recommender.served

    def asked() -> Iterator[_Asked]:
        for place, request in enumerate(requests):
            found = _tried(lambda request=request: _look_up(served, request))  # type: ignore[misc]
            if isinstance(found, Exception):
                answers[place] = found
            elif found is not None:
                answers[place] = []
                yield _Asked(place, *found, request.at)

    for group in _groups(asked()):
        begun = time.perf_counter()
        scores = _tried(lambda group=group: _scores(served.backbone, group))  # type: ignore[misc]
        recommender.on_stage("compute", time.perf_counter() - begun)
        for row, one in enumerate(group):
            if isinstance(scores, Exception):
                answers[one.place] = scores
            else:
                answers[one.place] = _best_first(served.items, one.items, scores[row])
    return answers


def _rank(recommender: Recommender, request: Candidates) -> list[Scored]:
    user_id, item_ids, at, told = request
    return recommender.rank(user_id, item_ids, at=at, told=told)


def _look_up(served: Served, request: Candidates) -> tuple[Ints, UserState] | None:
    """Candidates and state; None where nothing is to be put in order."""
    items = served.items.known(request.item_ids)
    return (np.array(items), served.current(request.user_id).state) if items else None


def _groups(asked: Iterator[_Asked]) -> Iterator[list[_Asked]]:
    """Requests that the model is called for together."""
    group: list[_Asked] = []
    items: set[int] = set()
    for one in asked:
        new = items.union(one.items.tolist())
        if group and (
            len(group) == _USERS_PER_CALL or (len(group) + 1) * len(new) > _SCORES_PER_CALL
        ):
            yield group
            group, new = [], set(one.items.tolist())
        group.append(one)
        items = new
    if group:
        yield group


def _scores(backbone: Backbone, group: Sequence[_Asked]) -> list[Tensor]:
    """Each user's scores of the user's own candidates: a part of all users' of all candidates."""
    all_N, where = np.unique(np.concatenate([a.items for a in group]), return_inverse=True)
    states, at = [a.state for a in group], [a.at for a in group]
    score_BN = backbone.score(states, torch.from_numpy(all_N), at=at)
    ends = np.cumsum([len(a.items) for a in group])[:-1]
    own = [torch.from_numpy(places) for places in np.split(where, ends)]
    return [score_N[places] for score_N, places in zip(score_BN, own, strict=True)]


def _best_first(vocabulary: Vocabulary, items: Ints, score_N: Tensor) -> list[Scored]:
    order = score_N.argsort(descending=True, stable=True)
    return scored(vocabulary, items[order.numpy()], score_N[order].tolist())


def _tried(call: Callable[[], T]) -> T | Exception:
    try:
        return call()
    except Exception as error:
        return error
