"""What a request takes, in ms, through the real recommender, codecs and store, one at a time.

Random users in random order; the kinds of requests take turns, so that a slow moment of the
machine hits all of them alike. Rows hold p50 and p99 over `Rules.requests` requests of each kind.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import numpy as np
import torch

from gistrec.dataset import Ints
from gistrec.history_log import HistoryLog
from gistrec.measure import Timed, log_history
from gistrec.recipe import Recipe
from gistrec.recommender import Event, Recommender
from gistrec.results import Row
from gistrec.served import ItemId, history_of
from gistrec.stores import open_store

_WARM_UP = 3

Request = Callable[[int, int], object]
"""Called with the user's place in the sample and the number of the request."""


def served(timed: Timed, recipe: Recipe) -> Row:
    """Append one event, rank 100 and 1,000 candidates, recommend: from the state in the store.

    An append loads and decodes the state, steps the model, encodes and stores.
    """
    items = timed.model.items
    names = _names(timed)
    with Recommender(timed.model, recipe, open_store(timed.store)) as recommender:
        for name, history, state in zip(names, timed.histories, timed.states, strict=True):
            recommender.forget(name)  # what a killed run left in a store that lasts
            log_history(recommender.log, name, items, history)
            recommender.states.save(name, state)

        def append(user: int, number: int) -> None:
            event = Event(_next(timed, user), timed.at[user] + number)
            recommender.observe(names[user], [event])

        def rank(candidates: Ints, user: int, _: int) -> None:
            recommender.rank(names[user], items.ids[candidates].tolist(), at=timed.at[user])

        def recommend(user: int, _: int) -> None:
            recommender.recommend(names[user], at=timed.at[user])

        row = _times(timed, append, rank, recommend)
        for name in names:
            recommender.forget(name)
    return row


def recomputed(timed: Timed) -> Row:
    """The same requests with nothing stored but the log: read it, run the model over it, score."""
    items, backbone = timed.model.items, timed.model.backbone
    seen_again = timed.model.training.scheme == "last_basket"
    names = _names(timed)
    with open_store(timed.store) as store:
        log = HistoryLog(store)
        for name, history in zip(names, timed.histories, strict=True):
            log.forget(name)
            log_history(log, name, items, history)

        def append(user: int, number: int) -> None:
            log.append(names[user], [_next(timed, user)], [timed.at[user] + number])

        def rank(candidates: Ints, user: int, _: int) -> None:
            states = backbone.prefill([history_of(log.read(names[user]), items)])
            score_BN = backbone.score(states, torch.from_numpy(candidates), at=[timed.at[user]])
            score_BN.argsort(dim=1, descending=True, stable=True)

        def recommend(user: int, _: int) -> None:
            history = history_of(log.read(names[user]), items)
            seen = history.item_index[: 0 if seen_again else None]
            states = backbone.prefill([history])
            backbone.top_k(states, 10, exclude=[seen], at=[timed.at[user]])

        row = _times(timed, append, rank, recommend)
        for name in names:
            log.forget(name)
    return row


def _names(timed: Timed) -> list[str]:
    return [f"timed-{n}" for n in range(len(timed.histories))]


def _next(timed: Timed, user: int) -> ItemId:
    (item,) = timed.model.items.ids[timed.next_item[user] :][:1].tolist()
    return cast(ItemId, item)


def _times(
    timed: Timed, append: Request, rank: Callable[[Ints, int, int], object], recommend: Request
) -> Row:
    rng = np.random.default_rng(4)
    requests: dict[str, Request] = {"append": append, "recommend": recommend}
    for kind, count in (("rank", 100), ("rank_1000", 1000)):
        if count <= len(timed.model.items):
            candidates = rng.choice(len(timed.model.items), count, replace=False)
            requests[kind] = partial(rank, candidates)
    ms: Mapping[str, list[float]] = {kind: [] for kind in requests}
    for number in range(timed.requests + _WARM_UP):
        for kind, request in requests.items():
            user = int(rng.integers(len(timed.histories)))
            start = time.perf_counter()
            request(user, number)
            ms[kind].append((time.perf_counter() - start) * 1e3)
    return {
        f"{kind}_ms_p{p}": float(np.percentile(taken[_WARM_UP:], p))
        for kind, taken in ms.items()
        for p in (50, 99)
    }
